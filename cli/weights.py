"""Two stored sketches held against each other, block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..lineage.errors import NotComparable
from ..store.facts import SketchRow
from ..store.sketches import SketchStore

if TYPE_CHECKING:
    from ..lineage.infer.delta import BlockDelta, Delta, DeltaShape
    from ..lineage.infer.specimen import Block, Specimen


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockComparison:
    """One sampled tensor of two models.

    `relative_distance` is |a - b| / |b|, None where b is all zeros or the values are not finite;
    `same_share` the share of weights that differ by no more than the rounding of the two dtypes;
    `rank` the directions of a - b above that rounding, of the rows sampled (None for vectors and
    embeddings), `full_rank` whether there are too many for a low-rank update.
    """

    block: str
    relative_distance: float | None
    same_share: float
    rank: int | None
    full_rank: bool
    cosine: float | None
    sampled: int
    dtype_a: str
    dtype_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightComparison:
    """All comparable blocks, and the whole: matrices alone enter the distance and the form."""

    blocks: tuple[BlockComparison, ...]
    unchanged: int
    relative_distance: float | None
    same_share: float
    form: str


def compare_sketches(sketches: SketchStore, a: SketchRow, b: SketchRow) -> WeightComparison:
    """Compare the stored sketches of two revisions.

    Raises
    ------
    NotComparable : no block lies at the same place in both.
    RegistryError, MalformedFile : a sketch is missing or damaged.
    """
    # The arithmetic is imported where it is used: look-ups without it start fast.
    from ..lineage.infer.delta import compare, delta_shape
    from ..lineage.infer.specimen import specimen
    from ..scanners.sketch_records import load_sketch

    first, second = (
        specimen(row.model, load_sketch(sketches, row.sketch_path), created=row.created_at)
        for row in (a, b)
    )
    delta = compare(first, second)
    if not delta.blocks:
        raise NotComparable(f"{a.model} and {b.model} share no sampled block of the same shape")
    blocks = tuple(_block(first, second, one) for one in delta.blocks.values())
    base = math.fsum(_square(second.blocks[one.name]) for one in delta.matrices)
    total = sum(one.count for one in delta.blocks.values())
    return WeightComparison(
        blocks=blocks,
        unchanged=sum(one.unchanged for one in delta.blocks.values()),
        relative_distance=_ratio(delta.square, base),
        same_share=sum(one.same for one in delta.blocks.values()) / total if total else 0.0,
        form=_form(delta, delta_shape(first, second, delta)),
    )


def summary_of(one: WeightComparison) -> dict[str, Any]:
    """The whole without its blocks, as JSON has it."""
    return {
        "blocks": len(one.blocks),
        "unchanged": one.unchanged,
        "relative_distance": one.relative_distance,
        "same_share": one.same_share,
        "form": one.form,
    }


def _block(first: Specimen, second: Specimen, one: BlockDelta) -> BlockComparison:
    from ..lineage.infer.delta import Delta, delta_shape

    mine, theirs = first.blocks[one.name], second.blocks[one.name]
    shape = delta_shape(first, second, Delta(blocks={one.name: one}))
    return BlockComparison(
        block=one.name,
        relative_distance=_ratio(one.square, _square(theirs)),
        same_share=one.same / one.count if one.count else 0.0,
        rank=shape.rank if one.matrix else None,
        full_rank=shape.full,
        cosine=_cosine(mine, theirs),
        sampled=one.count,
        dtype_a=mine.dtype,
        dtype_b=theirs.dtype,
    )


def _form(delta: Delta, shape: DeltaShape) -> str:
    """What the whole difference looks like, in words."""
    if delta.exact:
        return "the matrices are the same up to a cast"
    if shape.is_edit:
        return f"a targeted edit of rank {shape.rank}"
    if shape.is_low_rank:
        return f"a low-rank difference (rank {shape.rank})"
    return "a difference of full rank" if shape.full else "a difference without clear form"


def _square(block: Block) -> float:
    values = block.values.astype("float64")
    return float(values @ values)


def _ratio(square: float, base: float) -> float | None:
    return math.sqrt(square / base) if base > 0 and math.isfinite(square / base) else None


def _cosine(a: Block, b: Block) -> float | None:
    scale = math.sqrt(_square(a)) * math.sqrt(_square(b))
    if not scale > 0 or not math.isfinite(scale):
        return None
    dot = float(a.values.astype("float64") @ b.values.astype("float64"))
    return max(-1.0, min(1.0, dot / scale))
