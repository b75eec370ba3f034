"""Names taken out of all text of a store, in whatever spelling and wherever they stand in it.

A name of two parts is one wherever it is whole: in a sentence, a tag or an address. A name of one
part may be a word of the registry itself (a folder called `merge`): columns that hold such words
are left alone, and of JSON only whole values are names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb

from .staging import json_text, staged

Replace = Callable[[str, str | None], str]

WORDS = frozenset(
    {
        "architecture", "declared_relation", "dtype", "format", "gated", "judge", "kind",
        "library", "license", "method", "outcome", "probe", "probe_version", "relation",
        "severity", "source", "stage", "statistic", "status", "tier", "tombstone_reason", "unit",
        "verdict", "via",
    }
)  # fmt: skip
"""Columns, and keys of JSON, that hold words of the registry or of a file format."""

_TEXTS = """
SELECT table_name, column_name, data_type FROM duckdb_columns()
WHERE schema_name = 'internal' AND database_name = current_database() AND NOT internal
    AND data_type IN ('VARCHAR', 'JSON', 'VARCHAR[]')
    AND table_name IN (SELECT t.table_name FROM duckdb_tables() t WHERE t.schema_name = 'internal')
ORDER BY ALL
"""
# Whose they are is known by id, not by text.
_BY_ID = {(table, name) for table in ("models", "model_versions") for name in ("name", "source_id")}
_KIND = {"VARCHAR": "string", "JSON": "string", "VARCHAR[]": "list"}


def mask_everywhere(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], *, mask: str
) -> None:
    """Put `mask` for some names into every text of the store, inside the caller's transaction."""
    for table, column, kind in connection.execute(_TEXTS).fetchall():
        wanted = [name for name in names if "/" in name or column not in WORDS]
        if wanted and (table, column) not in _BY_ID:
            _mask_column(connection, (table, column, kind), wanted, mask=mask)


def _mask_column(
    connection: duckdb.DuckDBPyConnection,
    place: tuple[str, str, str],
    names: Sequence[str],
    *,
    mask: str,
) -> None:
    table, column, kind = place
    sought = [_escaped(name) if kind == "JSON" else name for name in names]
    found = connection.execute(
        f'SELECT DISTINCT "{column}" FROM internal."{table}" WHERE len(list_filter('
        f'$names, lambda one: contains(lower("{column}"::VARCHAR), lower(one)))) > 0',
        {"names": sought},
    ).fetchall()
    steps = [_replacing(name, kind=kind, mask=mask) for name in names]
    replaced = _replaced_json if kind == "JSON" else _replaced
    rows = [(old, new) for (old,) in found if (new := replaced(old, steps)) != old]
    if rows:
        columns = {"old": _KIND[kind], "new": _KIND[kind]}
        with staged(connection, "masked_in", columns, rows):
            connection.execute(
                f'UPDATE internal."{table}" t SET "{column}" = s.new::{kind} FROM masked_in s '
                f'WHERE t."{column}" = s.old::{kind}'
            )


def _replaced(value: Any, steps: Sequence[Replace]) -> Any:
    if isinstance(value, list):
        return [_replaced(one, steps) for one in value]
    for step in steps if isinstance(value, str) else ():
        value = step(value, None)
    return value


def _replaced_json(value: str, steps: Sequence[Replace]) -> str:
    read = json.loads(value)
    new = read
    for step in steps:
        new = _walked(new, step)
    return value if new == read else json_text(new)


def _replacing(name: str, *, kind: str, mask: str) -> Replace:
    """What puts the mask for one name into a text of a column of this kind.

    Of JSON it is asked for every string, with the key that the string stands under.
    """
    escaped = re.escape(name)
    if "/" in name:
        # A name inside a longer one (org/x in org/x2, in org/x.5) is another model's.
        whole = re.compile(rf"(?<![\w.-]){escaped}(?![\w-]|\.\w)", re.IGNORECASE)
    elif kind == "JSON":
        return lambda value, key: (
            mask
            if value.lower() == name.lower() and key is not None and key not in WORDS
            else value
        )
    elif kind == "VARCHAR[]":
        # Tags name a model behind a colon alone: base_model:finetune:NAME.
        whole = re.compile(rf"(?<=:){escaped}$", re.IGNORECASE)
    else:
        whole = re.compile(rf"(?<![\w./-]){escaped}(?![\w/-]|\.\w)", re.IGNORECASE)
    return lambda value, _: whole.sub(lambda _: mask, value)


def _walked(value: Any, put: Replace, key: str | None = "") -> Any:
    """JSON with every text replaced; keys are texts under no key, what stands in a list is under
    the list's."""
    match value:
        case str():
            return put(value, key)
        case dict():
            return {put(name, None): _walked(one, put, name) for name, one in value.items()}
        case list() | tuple():
            return [_walked(one, put, key) for one in value]
    return value


def _escaped(name: str) -> str:
    """A name as it stands inside a string of JSON."""
    return json.dumps(name, ensure_ascii=False)[1:-1]


_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+")


def masked_text(text: str, hold: Callable[[str], bool], *, mask: str) -> str:
    """A text in which the names of two parts that `hold` knows are masked.

    The names themselves are not needed: it asks for every name that could stand there.
    """
    return _PATH.sub(lambda found: "/".join(_parts(found[0].split("/"), hold, mask=mask)), text)


def _parts(parts: Sequence[str], hold: Callable[[str], bool], *, mask: str) -> Iterator[str]:
    at = 0
    while at < len(parts):
        name = "/".join(parts[at : at + 2])
        bare = name.rstrip(".")
        if at + 1 < len(parts) and hold(bare):
            yield mask + name[len(bare) :]
            at += 2
        else:
            yield parts[at]
            at += 1


def masked_value(value: Any, hold: Callable[[str], bool], *, mask: str) -> Any:
    """JSON with its texts masked, keys among them."""
    return _walked(value, lambda text, _: masked_text(text, hold, mask=mask))
