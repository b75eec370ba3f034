"""Unpublished models between a parent and the children that share a path from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..records import Clue, InferredEdge, Relation
from .decision import Placement
from .evidence import sum_confidence
from .specimen import Specimen, content_key


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenModel:
    """A model that nobody published, inferred from children that share a path.

    `node` is `hidden:<digest>`; `children` and `parent` are nodes of published models.
    """

    node: str
    parent: str
    children: tuple[str, ...]


def insert_hidden(
    member: Callable[[int], Specimen],
    placed: Mapping[int, Placement],
    edges: Sequence[InferredEdge],
) -> tuple[list[InferredEdge], list[HiddenModel]]:
    """Put an unpublished model between siblings that share a path and their common parent.

    Parameters
    ----------
    member : the specimen of a number in `placed`.
    """
    groups = _sharing_groups(placed)
    hidden: list[HiddenModel] = []
    moved: dict[tuple[str, str], HiddenModel] = {}
    for parent, children in groups:
        names = sorted(member(c).node for c in children)
        digest = hashlib.sha256(
            "".join(sorted(content_key(member(c)) for c in children)).encode()
        ).hexdigest()[:16]
        node = HiddenModel(
            node=f"hidden:{digest}", parent=member(parent).node, children=tuple(names)
        )
        hidden.append(node)
        moved |= {(name, node.parent): node for name in names}
    kept = [_through(edge, moved.get((edge.child, edge.parent))) for edge in edges]
    return [*kept, *(_to_hidden(node) for node in hidden)], hidden


def _sharing_groups(placed: Mapping[int, Placement]) -> list[tuple[int, set[int]]]:
    groups: list[tuple[int, set[int]]] = []
    for child, decision in placed.items():
        other = decision.sibling
        # A sibling that is not decided now keeps the parent it has.
        if other is None or other not in placed or placed[other].parents != decision.parents:
            continue
        joined = next((g for p, g in groups if p == decision.parents[0] and other in g), None)
        if joined is None:
            groups.append((decision.parents[0], {child, other}))
        else:
            joined.add(child)
    return groups


def _through(edge: InferredEdge, node: HiddenModel | None) -> InferredEdge:
    return edge if node is None else replace(edge, parent=node.node)


def _to_hidden(node: HiddenModel) -> InferredEdge:
    clue = Clue(
        kind="geometry",
        statistic="children that share a path",
        value=len(node.children),
        n=len(node.children),
        llr=1.0,
    )
    return InferredEdge(
        child=node.node,
        parent=node.parent,
        relation=Relation.FINETUNE,
        confidence=sum_confidence([clue], prior=0.0),
        direction_confidence=sum_confidence([clue], prior=0.0),
        detail={"published": False},
        clues=(clue,),
    )
