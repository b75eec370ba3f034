"""Adapters: which merged model has an adapter in it, and so which base the adapter changes.

An adapter says nothing of the weights it was trained on, only how it changes them. Where its
change is the whole difference between two models down to the rounding of their types, one of them
is its base and the other has it merged in.

A DoRA adapter also holds the length that each row of base plus change is brought to. The lengths
of rows that a sketch holds whole are known, so its change to a given base is computed for those.

References
----------
Liu et al. (2024), DoRA, arXiv 2402.09353, equation 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..records import Clue, InferredEdge, Relation, RoleKey
from ..sketch.sketch import complete_rows
from .evidence import EXACT, sum_confidence
from .specimen import Block, Specimen, comparable

Float64 = NDArray[np.float64]

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
        after, before = child.blocks[name], base.blocks[name]
        rows, change = change_to(adapter, before, name)
        step = (after.values[rows] - before.values[rows]).astype(np.float64)
        residual += float(((step - change) ** 2).sum())
        moved += float((step**2).sum())
        floor += (after.floor + before.floor) * step.size / max(1, after.values.size)
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


def magnitude_key(key: RoleKey) -> RoleKey:
    """Where an adapter's sketch holds the lengths of a tensor's rows."""
    return replace(key, role=f"{key.role}.magnitude")


def change_to(adapter: Specimen, base: Block, name: str) -> tuple[slice, Float64]:
    """What an adapter adds to a base's weights.

    Returns
    -------
    (the weights of the block for which it is known, the change of each). All of them, or with
    magnitudes those of the rows that are whole in the sketch.
    """
    mine = adapter.blocks[name]
    change = mine.values.astype(np.float64)
    lengths = adapter.blocks.get(str(magnitude_key(mine.key)))
    if lengths is None:
        return slice(None), change
    first, rows = complete_rows(base.values, start=base.start, columns=base.columns)
    offset = first * base.columns - base.start
    held = slice(offset, offset + rows.size)
    summed = rows + change[held].reshape(rows.shape)
    norms = np.linalg.norm(summed, axis=1, keepdims=True)
    wanted = lengths.values[first - lengths.start :][: rows.shape[0], None].astype(np.float64)
    whole = wanted / np.maximum(norms, 1e-30) * summed - rows
    return held, whole.reshape(-1)


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
