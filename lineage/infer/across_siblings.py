"""Models of one derived shape: siblings, or each cut from a model of another shape.

Two models that lost different layers of one parent have a shape in common, and the layers that
both kept make them kin. Nearness inside the shape is then no sign of descent: a model all of whose
layers are those of a model of another shape comes from that one.
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
    """Models that nearness alone put under a model of their own, derived shape.

    Parameters
    ----------
    groups : the models of each shape.
    edges : what is believed inside the shapes.
    across : edges to models of that shape from models of another.
    """
    derived = {edge.child for edge in across}
    by_nearness = {
        edge.child for edge in edges if edge.relation is Relation.FINETUNE and not _unchanged(edge)
    }
    return [
        one
        for group in groups
        if any(member.node in derived for member in group)
        for one in group
        if one.node in by_nearness
    ]


def outweighing(across: Sequence[InferredEdge]) -> list[InferredEdge]:
    """The edges to another shape that unchanged weights prove."""
    return [edge for edge in across if _unchanged(edge)]


def _unchanged(edge: InferredEdge) -> bool:
    return any(c.kind == "frozen" and c.value >= MOSTLY_UNCHANGED for c in edge.clues)
