"""The tree below (or above) a model, ready to print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .database import Database
from .facts import TreeRow
from .names import find_id
from .one_model import mapping

# `near` is the end of an edge towards the root of the tree, `far` the other. Each node hangs under
# its surest neighbour one step nearer to the root, so that the rows form a tree even where the
# graph has merges or cycles.
_NODES = """
WITH members AS (
    SELECT k.{far} AS id, k.distance FROM internal.{closure} k
    WHERE k.{near} = $root AND ($depth IS NULL OR k.distance <= $depth)
    UNION ALL SELECT $root, 0
), held AS (
    SELECT b.child, b.parent, b.confidence, b.{far_end} AS id, b.{near_end} AS under,
        n.distance = m.distance - 1 AS nearer
    FROM {believed} b
    JOIN members m ON m.id = b.{far_end}
    JOIN members n ON n.id = b.{near_end}
), hung AS (
    SELECT h.id, h.under, h.nearer, h.confidence, e.detail, e.share,
        coalesce(c.relation, e.relation) AS relation, coalesce(e.declared, false) AS declared,
        coalesce(e.inferred, false) AS inferred
    FROM held h
    LEFT JOIN internal.edges e ON e.child = h.child AND e.parent = h.parent
    LEFT JOIN (
        SELECT child_id, parent_id, any_value(relation) AS relation FROM internal.corrections
        WHERE verdict = 'asserted' GROUP BY ALL
    ) c ON c.child_id = h.child AND c.parent_id = h.parent
), ranked AS (
    SELECT h.*, row_number() OVER (
        PARTITION BY h.id
        ORDER BY h.nearer DESC, h.confidence DESC, h.share DESC NULLS LAST, h.under
    ) AS place
    FROM hung h
), others AS (
    SELECT r.id, list(o.name ORDER BY r.place) AS others
    FROM ranked r JOIN internal.models o ON o.id = r.under WHERE r.place > 1 GROUP BY r.id
), total AS (
    SELECT k.{near} AS id, count(*) AS total, count(*) FILTER (k.distance = 1) AS direct
    FROM internal.{closure} k WHERE k.{near} IN (SELECT id FROM members) GROUP BY k.{near}
)
SELECT m.id, t.name, r.under, m.distance, r.relation, r.detail, r.confidence, r.share,
    coalesce(r.declared, false) AS declared, coalesce(r.inferred, false) AS inferred, t.hidden,
    m.id IN (
        SELECT f.model FROM internal.findings f
        WHERE f.kind = 'stripped_safety' AND f.status IN ('new', 'open')) AS stripped,
    coalesce(s.direct, 0) AS direct, coalesce(s.total, 0) AS total, o.others
FROM members m
JOIN internal.models t ON t.id = m.id
LEFT JOIN ranked r ON r.id = m.id AND r.place = 1 AND r.nearer AND m.id <> $root
LEFT JOIN others o ON o.id = m.id AND m.id <> $root
LEFT JOIN total s ON s.id = m.id
ORDER BY coalesce(s.total, 0) DESC, t.name
"""


class _Node(NamedTuple):
    id: int
    name: str
    under: int | None
    distance: int
    relation: str | None
    detail: str | None
    confidence: float | None
    share: float | None
    declared: bool
    inferred: bool
    hidden: bool
    stripped: bool
    direct: int
    total: int
    others: list[str] | None


def tree(database: Database, name: str, *, depth: int | None, up: bool) -> list[TreeRow]:
    """The tree of a model, parents before children, larger branches first.

    Parameters
    ----------
    depth : generations to show, None for all; the counts are of the whole store all the same.
    up : the ancestors instead of the descendants.
    """
    root = find_id(database, name)
    down = {
        "near": "ancestor",
        "far": "descendant",
        "near_end": "parent",
        "far_end": "child",
        "closure": "closure",
    }
    above = {
        "near": "descendant",
        "far": "ancestor",
        "near_end": "child",
        "far_end": "parent",
        "closure": "closure_up",
    }
    believed = "internal.closure_edges"
    if not database.rows("SELECT 1 FROM internal.closure_edges LIMIT 1"):
        believed = "internal.believed"  # a store from before the closure kept its edges
    query = _NODES.format(believed=believed, **(above if up else down))
    nodes = [_Node(*row) for row in database.rows(query, {"root": root, "depth": depth})]
    return list(_in_order(nodes, root=root))


def _in_order(nodes: list[_Node], *, root: int) -> Iterator[TreeRow]:
    by_id = {node.id: node for node in nodes}
    below: dict[int, list[_Node]] = {}
    for node in nodes:
        if node.id != root:
            # Claims that changed after the closure was built can leave a node without its edge.
            below.setdefault(root if node.under is None else node.under, []).append(node)
    waiting = [by_id[root]]
    while waiting:
        node = waiting.pop()
        above = by_id.get(node.under) if node.under is not None else None
        yield _row(node, under=None if above is None else above.name)
        waiting.extend(reversed(below.get(node.id, [])))


def _row(node: _Node, *, under: str | None) -> TreeRow:
    values: dict[str, Any] = node._asdict()
    del values["id"]
    values["model"] = values.pop("name")
    values["depth"] = values.pop("distance")
    values["detail"] = mapping(node.detail)
    values["others"] = tuple(node.others or ())
    values["under"] = under
    return TreeRow(**values)
