"""The past of a store, kept as changes: each row that a scan changes or removes, once.

Wrapped around a writing step inside the caller's transaction: the rows that the step may touch are
set aside, and those that came out different are kept with the scan that ended them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import duckdb

from ..lineage.records import ModelInfo
from .staging import identity_key, staged, text


class _Kept(NamedTuple):
    """A table with history: its versions, what identifies a row, what alone makes no version."""

    versions: str
    born: str
    keys: tuple[str, ...]
    ignored: tuple[str, ...]


_TABLES = {
    "models": _Kept("model_versions", "first_seen_scan", ("id",), ("last_seen_scan", "downloads")),
    "edges": _Kept("edge_versions", "first_seen_scan", ("child", "parent"), ("last_seen_scan",)),
    "findings": _Kept("finding_versions", "first_scan", ("finding_id",), ("last_scan",)),
    "scores": _Kept(
        "score_versions",
        "scan",
        ("revision", "probe", "probe_version", "prompt_set", "judge"),
        ("scan", "seconds", "scored_at"),
    ),
}

_BEFORE = """
CREATE OR REPLACE TEMP TABLE before_{table} AS SELECT * FROM internal.{table} t
WHERE t.{born} < $scan AND ({condition})
"""

# A row that was born, or has already been kept, in this scan never stood at the end of another.
_KEEP = """
INSERT INTO internal.{versions} BY NAME
SELECT b.*, $scan::INTEGER AS until_scan FROM before_{table} b
SEMI JOIN (
    SELECT * EXCLUDE ({ignored}) FROM before_{table}
    EXCEPT SELECT * EXCLUDE ({ignored}) FROM internal.{table} t WHERE {again}
) x USING ({keys})
ANTI JOIN (SELECT * FROM internal.{versions} WHERE until_scan = $scan) v USING ({keys})
ORDER BY ALL
"""

_TOUCHED = """t.key IN (SELECT key FROM touched_in)
    OR t.name_key IN (SELECT md5_number_lower(name) FROM touched_in)"""
_TOUCHED_EDGES = "t.child IN (SELECT id FROM before_models)"


@contextmanager
def versions_kept(
    connection: duckdb.DuckDBPyConnection, table: str, *, scan: int, condition: str = "true"
) -> Iterator[None]:
    """Keep the old versions of the rows of a table that the block changes or removes.

    Parameters
    ----------
    table : models, edges, findings or scores.
    condition : which rows `t` the block may touch, written by this package.
    """
    kept = _TABLES[table]
    # The test of the birth lets a first listing read nothing.
    before = _BEFORE.format(table=table, born=kept.born, condition=condition)
    connection.execute(before, {"scan": scan})
    yield
    keys = ", ".join(kept.keys)
    first = kept.keys[0]
    connection.execute(
        _KEEP.format(
            versions=kept.versions,
            table=table,
            keys=keys,
            ignored=", ".join(kept.ignored),
            again=f"t.{first} IN (SELECT {first} FROM before_{table})",
        ),
        {"scan": scan},
    )


@contextmanager
def listing_kept(
    connection: duckdb.DuckDBPyConnection,
    infos: Iterable[ModelInfo],
    *,
    names: Iterable[str] = (),
    scan: int,
) -> Iterator[None]:
    """Keep what a page or a batch of visits changes of models, and of the edges they claim."""
    rows: list[tuple[int | None, str | None]] = [
        (identity_key(one.source, one.source_id), text(one.name)) for one in infos
    ]
    rows += [(None, text(name)) for name in names]
    with ExitStack() as stack:
        with staged(connection, "touched_in", {"key": "uint64", "name": "string"}, rows):
            stack.enter_context(versions_kept(connection, "models", scan=scan, condition=_TOUCHED))
        stack.enter_context(versions_kept(connection, "edges", scan=scan, condition=_TOUCHED_EDGES))
        yield


@contextmanager
def inference_kept(
    connection: duckdb.DuckDBPyConnection, children: Collection[str] | None, *, scan: int
) -> Iterator[None]:
    """Keep what inference changes of edges, and of the hidden models it needs no longer."""
    rows = [(text(name),) for name in children or ()]
    scope = "true" if children is None else (
        "t.child IN (SELECT m.id FROM internal.models m WHERE m.hidden OR m.name IN "
        "(SELECT name FROM scope_in))"
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(versions_kept(connection, "models", scan=scan, condition="t.hidden"))
        with staged(connection, "scope_in", {"name": "string"}, rows):
            stack.enter_context(versions_kept(connection, "edges", scan=scan, condition=scope))
        yield


@contextmanager
def scores_kept(
    connection: duckdb.DuckDBPyConnection, models: Collection[str], *, scan: int
) -> Iterator[None]:
    """Keep probe results that the block replaces."""
    condition = "t.model IN (SELECT m.id FROM internal.models m SEMI JOIN scored_in USING (name))"
    rows = [(text(name),) for name in models]
    with ExitStack() as stack:
        with staged(connection, "scored_in", {"name": "string"}, rows):
            stack.enter_context(versions_kept(connection, "scores", scan=scan, condition=condition))
        yield
