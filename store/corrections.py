"""Reviewed decisions about edges: read from a file, applied on top of inference.

The file is the truth: applying it replaces what an earlier one said. Inference never touches it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from ..lineage.errors import LimitExceeded, MalformedFile
from ..lineage.records import Relation
from .facts import ASSERTED, DENIED
from .staging import staged, utc

MAX_BYTES = 4 * 1024 * 1024
VERDICTS = (ASSERTED, DENIED)

_KEYS = {"child", "parent", "verdict", "relation", "reason", "by", "date"}
_COLUMNS = {
    "child": "string",
    "parent": "string",
    "verdict": "string",
    "relation": "string",
    "reason": "string",
    "decided_by": "string",
    "decided_at": "timestamp",
}

_APPLY = """
INSERT INTO internal.corrections BY NAME
SELECT c.*, internal.find_model(c.child) AS child_id, internal.find_model(c.parent) AS parent_id,
    $scan::INTEGER AS scan
FROM corrections_in c ORDER BY c.child, c.parent
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A decision about one edge: `asserted` (it is there) or `denied` (it is not)."""

    child: str
    parent: str
    verdict: str
    reason: str
    relation: Relation | None = None
    by: str | None = None
    at: datetime | None = None


def read_corrections(path: Path) -> tuple[Correction, ...]:
    """Read a corrections file: TOML, one `[[edge]]` a decision.

    Each has `child`, `parent`, `verdict` (asserted or denied) and `reason`, and may have `relation`
    (of an asserted edge), `by` and `date`.

    Raises
    ------
    MalformedFile : not TOML, an unknown key, or a decision that lacks something or is made twice.
    LimitExceeded : above 4 MiB.
    """
    try:
        content = path.read_bytes()[: MAX_BYTES + 1]
    except OSError as error:
        raise MalformedFile(f"cannot be read: {error.strerror}", path=str(path)) from error
    if len(content) > MAX_BYTES:
        raise LimitExceeded(
            "the file is too large", path=str(path), limit=MAX_BYTES, actual=len(content)
        )
    try:
        raw = tomllib.loads(content.decode("utf-8"))
        if set(raw) - {"edge"}:
            raise ValueError(f"unknown table {min(set(raw) - {'edge'})!r:.80}")
        entries = raw.get("edge", [])
        found = tuple(_correction(entry, number) for number, entry in enumerate(entries, start=1))
        _refuse_twice(found)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedFile(str(error), path=str(path)) from error
    return found


def replace_corrections(
    connection: duckdb.DuckDBPyConnection, corrections: Sequence[Correction], *, scan: int
) -> list[str]:
    """Make these the decisions of the store; return the names that it does not hold.

    Runs inside the caller's transaction; the closure is the caller's to bring up to date.
    """
    rows = [
        (c.child, c.parent, c.verdict, None if c.relation is None else c.relation.value, c.reason,
         c.by, utc(c.at))
        for c in corrections
    ]  # fmt: skip
    connection.execute("DELETE FROM internal.corrections")
    with staged(connection, "corrections_in", _COLUMNS, rows):
        connection.execute(_APPLY, {"scan": scan})
    missing = connection.execute(
        "SELECT child FROM internal.corrections WHERE child_id IS NULL UNION "
        "SELECT parent FROM internal.corrections WHERE parent_id IS NULL ORDER BY 1"
    ).fetchall()
    return [name for (name,) in missing]


def _correction(raw: Mapping[str, Any], number: int) -> Correction:
    unknown = set(raw) - _KEYS
    if unknown:
        raise ValueError(f"edge {number}: unknown key {min(unknown)!r:.80}")
    texts = {key: raw.get(key) for key in ("child", "parent", "verdict", "reason")}
    for key, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"edge {number}: {key!r} must be text")
    if raw["verdict"] not in VERDICTS:
        raise ValueError(f"edge {number}: a verdict is asserted or denied, not {raw['verdict']!r}")
    if raw["child"] == raw["parent"]:
        raise ValueError(f"edge {number}: {raw['child']!r:.80} cannot be its own parent")
    relation = raw.get("relation")
    return Correction(
        child=raw["child"],
        parent=raw["parent"],
        verdict=raw["verdict"],
        reason=raw["reason"],
        relation=None if relation is None else Relation(relation),
        by=None if raw.get("by") is None else str(raw["by"]),
        at=_moment(raw.get("date"), number),
    )


def _moment(value: Any, number: int) -> datetime | None:
    match value:
        case None | datetime():
            return value
        case date():
            return datetime(value.year, value.month, value.day)
    raise ValueError(f"edge {number}: a date is written as 2026-11-24")


def _refuse_twice(found: Sequence[Correction]) -> None:
    seen: set[tuple[str, str]] = set()
    for number, one in enumerate(found, start=1):
        if (one.child, one.parent) in seen:
            raise ValueError(f"edge {number}: {one.child!r} <- {one.parent!r} is decided twice")
        seen.add((one.child, one.parent))
