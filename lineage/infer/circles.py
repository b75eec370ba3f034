"""Edges found apart from each other, kept from closing a circle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..records import InferredEdge, Relation


def without_circles(
    added: Iterable[InferredEdge], known: Iterable[InferredEdge]
) -> list[InferredEdge]:
    """The edges that can be added to known ones, in the order given, with no model its own kin.

    Notes
    -----
    Without dates two searches can each take the other's model for the older one. O(ancestors) an
    edge.
    """
    parents: dict[str, set[str]] = defaultdict(set)
    for edge in known:
        parents[edge.child].add(edge.parent)
    kept = []
    for edge in added:
        if not _reaches(edge.parent, edge.child, parents):
            parents[edge.child].add(edge.parent)
            kept.append(edge)
    return kept


def settled_edge(child: str, parent: str, relation: Relation) -> InferredEdge:
    """An edge believed before, for what only asks who comes from whom and how."""
    return InferredEdge(
        child=child, parent=parent, relation=relation, confidence=1.0, direction_confidence=1.0
    )


def _reaches(start: str, wanted: str, parents: dict[str, set[str]]) -> bool:
    pending, seen = [start], set[str]()
    while pending:
        at = pending.pop()
        if at == wanted:
            return True
        if at not in seen:
            seen.add(at)
            pending += parents.get(at, ())
    return False
