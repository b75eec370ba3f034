"""One hop, all hops, and counts: the kin of a model in a public copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..database import Database
from ..names import find_id
from ..staging import utc
from .paging import Page, Record, page, records

_KIN = """
    n.name AS model, l.relation, l.detail, l.confidence, l.share, l.declared, l.inferred, n.hidden,
    n.source, n.created_at, n.downloads, n.license, n.direct, n.total, n.lost, n.lost_below,
    n.refusal, n.refusal_low, n.refusal_high, count(*) OVER () AS matched
"""

_CHILDREN = f"""
SELECT {_KIN} FROM explorer.children n
WHERE n.parent = $model{{kept}} ORDER BY n.total DESC, n.name LIMIT $limit OFFSET $offset
""".replace("l.", "n.")

_PARENTS = f"""
SELECT {_KIN} FROM explorer.links l JOIN explorer.nodes n ON n.id = l.parent
WHERE l.child = $model{{kept}} ORDER BY l.confidence DESC, n.name LIMIT $limit OFFSET $offset
"""

_BY_RELATION = """
SELECT n.relation, count(*) AS models, count(*) FILTER (WHERE n.lost) AS lost
FROM explorer.children n WHERE n.parent = ? GROUP BY n.relation ORDER BY models DESC, n.relation
"""

_WITHIN = """k.{near} = $model AND k.confidence >= $min_confidence
    AND ($max_depth IS NULL OR k.distance <= $max_depth)"""
_CLOSURE = f"""
SELECT k.{{far}} AS id, n.name AS model, k.distance, k.confidence, n.hidden, n.lost
FROM internal.{{table}} k JOIN explorer.nodes n ON n.id = k.{{far}}
WHERE {_WITHIN} AND k.{{far}} > $after
ORDER BY k.{{far}} LIMIT $limit
"""
_CLOSURE_SIZE = f"SELECT count(*) FROM internal.{{table}} k WHERE {_WITHIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosurePage:
    """Rows (model, distance, confidence, hidden, lost), the position after them (None when they
    were the last), and how many there are in all."""

    rows: Sequence[tuple[Any, ...]]
    after: int | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KinFilter:
    """Which kin to list: by relation, confidence of the edge, date, downloads, loss of safety.

    `lost` keeps models that lost safety training and those with such a model below them.
    """

    relations: tuple[str, ...] = ()
    min_confidence: float = 0.0
    since: datetime | None = None
    until: datetime | None = None
    min_downloads: int | None = None
    lost: bool = False

    def conditions(self) -> dict[str, tuple[str, Any]]:
        """The conditions that are set, each with the value of its parameter.

        Those that are not stand in no query: planning them costs as much as the answer.
        """
        wanted: dict[str, tuple[str, Any, bool]] = {
            "relations": (
                "list_contains($relations::VARCHAR[], l.relation)",
                list(self.relations),
                bool(self.relations),
            ),
            "confidence": (
                "l.confidence >= $confidence", self.min_confidence, self.min_confidence > 0,
            ),
            "since": ("n.created_at >= $since", utc(self.since), self.since is not None),
            "until": ("n.created_at < $until", utc(self.until), self.until is not None),
            "downloads": (
                "n.downloads >= $downloads", self.min_downloads, self.min_downloads is not None,
            ),
            "lost": ("(n.lost OR n.lost_below > 0) = $lost", True, self.lost),
        }  # fmt: skip
        return {name: (text, value) for name, (text, value, is_set) in wanted.items() if is_set}


def children(
    database: Database, model: str, *, keep: KinFilter, limit: int, offset: int, up: bool
) -> Page:
    """One hop down from a model (up with `up`), each with counts of the whole store."""
    conditions = keep.conditions()
    kept = "".join(f" AND {text}" for text, _ in conditions.values())
    query = _PARENTS.format(kept=kept) if up else _CHILDREN.format(kept=kept.replace("l.", "n."))
    values = {name: value for name, (_, value) in conditions.items()}
    place = {"model": find_id(database, model), "limit": limit, "offset": offset}
    return page(database, query, {**values, **place})


def node(database: Database, model: str) -> Record:
    """Counts and loss of one model."""
    found = records(
        database,
        "SELECT n.* EXCLUDE (id, name), n.name AS model FROM explorer.nodes n WHERE n.id = ?",
        [find_id(database, model)],
    )
    return found[0]


def children_by_relation(database: Database, model: str) -> list[Record]:
    """How many children a model has by relation."""
    return database.records(_BY_RELATION, [find_id(database, model)])


def closure(
    database: Database,
    model: str,
    *,
    up: bool,
    limit: int,
    after: int,
    max_depth: int | None,
    min_confidence: float,
) -> ClosurePage:
    """All descendants (ancestors with `up`) in a fixed order, from a position on."""
    near, far, table = ("ancestor", "descendant", "closure")
    if up:
        near, far, table = far, near, "closure_up"
    asked = {
        "model": find_id(database, model),
        "max_depth": max_depth,
        "min_confidence": min_confidence,
    }
    rows = database.rows(
        _CLOSURE.format(near=near, far=far, table=table),
        {**asked, "after": after, "limit": limit + 1},
    )
    ((total,),) = database.rows(_CLOSURE_SIZE.format(near=near, table=table), asked)
    more = len(rows) > limit
    rows = rows[:limit]
    return ClosurePage(
        rows=[row[1:] for row in rows], after=int(rows[-1][0]) if more else None, total=int(total)
    )
