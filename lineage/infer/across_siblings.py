"""Models of one derived shape: siblings, or each cut from a model of another shape.

Two models that lost different layers of one parent have a shape in common, and the layers that
both kept make them kin. Neither nearness nor those layers are then a sign of descent: a model more
of whose layers are those of a model of another shape comes from that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..records import InferredEdge, Relation
from .specimen import Specimen

# Whole layers that nothing moved are no sibling's; a few blocks left alone by chance are.
MOSTLY_UNCHANGED = 0.5


def doubtful(
    groups: Iterable[Sequence[Specimen]],
    edges: Sequence[InferredEdge],
    across: Sequence[InferredEdge],
) -> list[Specimen]:
    """Models that were put, as tuned from it, under a model of their own, derived shape.

    Parameters
    ----------
    groups : the models of each shape.
    edges : what is believed inside the shapes.
    across : edges to models of that shape from models of another.
    """
    derived = {edge.child for edge in across}
    tuned = {edge.child for edge in edges if edge.relation is Relation.FINETUNE}
    return [
        one
        for group in groups
        if any(member.node in derived for member in group)
        for one in group
        if one.node in tuned
    ]


def outweighing(
    across: Sequence[InferredEdge], edges: Sequence[InferredEdge]
) -> list[InferredEdge]:
    """The edges to another shape with more unchanged weights than those inside the shape have."""
    inside = {edge.child: _unchanged(edge) for edge in edges}
    return [
        edge
        for edge in across
        if _unchanged(edge) >= MOSTLY_UNCHANGED and _unchanged(edge) > inside.get(edge.child, 0.0)
    ]


def _unchanged(edge: InferredEdge) -> float:
    return max((clue.value for clue in edge.clues if clue.kind == "frozen"), default=0.0)
