"""Adapters: which merged model has an adapter in it, and so which base the adapter changes.

An adapter says nothing of the weights it was trained on, only how it changes them. Where its
change is the whole difference between two models down to the rounding of their types, one of them
is its base and the other has it merged in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..records import Clue, InferredEdge, Relation
from .evidence import EXACT, sum_confidence
from .specimen import Block, Specimen, comparable

ALIKE = 0.9
ROUNDING = 6.0
MIN_BLOCKS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """An adapter found in a step: `ratio` the residual over rounding, `share` what it explains."""

    adapter: str
    base: str
    child: str
    ratio: float
    share: float
    n: int


def place_adapters(
    adapters: Sequence[Specimen], models: Mapping[str, Specimen], edges: Sequence[InferredEdge]
) -> tuple[list[InferredEdge], list[InferredEdge]]:
    """Bases of adapters that were merged into a known child of them.

    Parameters
    ----------
    adapters : specimens whose blocks are changes to weights.
    models : plain specimens by node.
    edges : what is believed among the models.

    Returns
    -------
    (edges from adapters to their bases, edges of the models again): the step of a child that has
    an adapter merged into it names the adapter in its detail.
    """
    steps = [e for e in edges if e.relation is Relation.FINETUNE]
    steps = [e for e in steps if e.child in models and e.parent in models]
    found = [
        merged
        for adapter in adapters
        for step in steps
        if (merged := explain(adapter, models[step.child], models[step.parent])) is not None
    ]
    named = {(m.child, m.base): m for m in found}
    again = [_with_adapter(edge, named.get((edge.child, edge.parent))) for edge in edges]
    best: dict[str, Merged] = {}
    for merged in sorted(found, key=lambda m: m.ratio):
        best.setdefault(merged.adapter, merged)
    packings = {one.node: one.packing for one in adapters}
    return [_edge(m, packings[m.adapter]) for m in best.values()], again


def explain(adapter: Specimen, child: Specimen, base: Specimen) -> Merged | None:
    """Whether the adapter's change is the step from base to child, within rounding.

    Notes
    -----
    Rounding of both sides leaves (ulp^2 + ulp^2) / 12 a weight; the adapter's own type is finer
    than the sum it was added to.
    """
    names = [name for name in adapter.blocks if _comparable(name, adapter, child, base)]
    if len(names) < MIN_BLOCKS:
        return None
    residual = floor = moved = 0.0
    n = 0
    for name in names:
        change = adapter.blocks[name].values.astype(np.float64)
        step = (child.blocks[name].values - base.blocks[name].values).astype(np.float64)
        residual += float(((step - change) ** 2).sum())
        moved += float((step**2).sum())
        floor += child.blocks[name].floor + base.blocks[name].floor
        n += step.size
    if moved <= 0 or 1 - residual / moved < ALIKE or residual > ROUNDING * floor:
        return None
    return Merged(
        adapter=adapter.node,
        base=base.node,
        child=child.node,
        ratio=residual / max(floor, 1e-30),
        share=1 - residual / moved,
        n=n,
    )


def fits(adapter: Specimen, base: Specimen) -> bool:
    """Whether every weight that the adapter changes has its shape in the base.

    A weight that was not sampled in the base says nothing.
    """
    return all(
        mine.shape == base.blocks[name].shape
        for name, mine in adapter.blocks.items()
        if name in base.blocks
    )


def _comparable(name: str, adapter: Specimen, child: Specimen, base: Specimen) -> bool:
    mine = adapter.blocks[name]
    return all(
        name in other.blocks and _same_place(mine, other.blocks[name]) for other in (child, base)
    )


def _same_place(mine: Block, theirs: Block) -> bool:
    return theirs.step is None and comparable(replace(mine, transposed=theirs.transposed), theirs)


def _with_adapter(edge: InferredEdge, merged: Merged | None) -> InferredEdge:
    if merged is None:
        return edge
    return replace(edge, detail={**edge.detail, "adapter": merged.adapter})


def _edge(merged: Merged, packing: Mapping[str, str]) -> InferredEdge:
    clue = Clue(
        kind="rounding_floor",
        statistic="step to a merged child less the adapter, over rounding",
        value=merged.ratio,
        n=merged.n,
        llr=EXACT,
    )
    detail = {"format": packing.get("format", ""), "type": packing.get("type", "")}
    return InferredEdge(
        child=merged.adapter,
        parent=merged.base,
        relation=Relation.ADAPTER,
        confidence=sum_confidence([clue]),
        direction_confidence=sum_confidence([clue], prior=0.0),
        detail={**detail, "merged_into": merged.child},
        clues=(clue,),
    )
