"""What one model's weights say of themselves: a quantization grid, pruned zeros.

A model whose weights lie on a coarse grid, or hold many exact zeros, has been through a lossy
step. Nothing on a finer grid can come from it unchanged, so such models are nearly always leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sketch.sketch import complete_rows
from .specimen import Block, Specimen

Float32 = NDArray[np.float32]

GRID_BITS = (2, 3, 4, 5, 6, 8)
GRID_GROUPS = (256, 128, 64, 32, 16)
MIN_ON_GRID = 0.995
MIN_ROUNDED = 0.98
LEAST_ROUNDED = 0.8
PROBE_ROWS = 16
HEAD_SHARE = 16
# Relative rounding of the published dtype: half a unit in the last place, at most.
RELATIVE_HALF_ULP = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24, "F64": 2.0**-24}
ZEROS_OF_A_PRUNED_BLOCK = 0.02
SPARSE_BLOCKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A uniform grid that a block's weights lie on: `bits`, group length, symmetric or not."""

    bits: int
    group: int
    symmetric: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Per block: the grid, if any, and the share of exact zeros in [0, 1]."""

    grids: Mapping[str, Grid]
    zeros: Mapping[str, float]

    @property
    def quantized(self) -> bool:
        """Whether most matrices lie on a grid."""
        return len(self.grids) * 2 > len(self.zeros) > 0

    @property
    def sparse(self) -> bool:
        """Whether many matrices, those of the MLPs say, hold more zeros than training leaves."""
        many = sum(share > ZEROS_OF_A_PRUNED_BLOCK for share in self.zeros.values())
        return many * SPARSE_BLOCKS >= len(self.zeros) > 0

    @property
    def lossy(self) -> bool:
        """Whether the model has been through a step that cannot be undone."""
        return self.quantized or self.sparse


def measure_traits(one: Specimen) -> Traits:
    """Look at each matrix block of a specimen on its own.

    Notes
    -----
    O(weights) per grid tried; a block that fails on its first 16 rows is not tried further, nor a
    model in which half of the blocks failed.
    """
    blocks = {name: b for name in one.matrices() if (b := one.blocks[name]).values.size}
    zeros = {name: float(np.mean(block.values == 0)) for name, block in blocks.items()}
    grids: dict[str, Grid] = {}
    for tried, (name, block) in enumerate(blocks.items()):
        if (tried - len(grids)) * 2 >= len(blocks):
            break
        grid = find_grid(block)
        if grid is not None:
            grids[name] = grid
    return Traits(grids=grids, zeros=zeros)


def find_grid(block: Block) -> Grid | None:
    """The coarsest uniform grid that the block's rows lie on, or None.

    Scales are not published with dequantized weights, so they are read off each group: the
    largest weight is the last step of a symmetric grid, the range is the whole of an asymmetric
    one. Only weights whose own rounding is small against the step can vote.
    """
    _, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    if rows.shape[0] == 0 or not np.isfinite(rows).all() or not rows.any():
        return None
    relative = RELATIVE_HALF_ULP.get(block.dtype, 0.0)
    probe = rows[:PROBE_ROWS]
    columns = rows.shape[1]
    groups = [columns, *(g for g in GRID_GROUPS if g < columns and columns % g == 0)]
    kinds = [(group, symmetric) for group in groups for symmetric in (True, False)]
    possible = {
        (group, symmetric): _not_refuted(probe, relative, group=group, symmetric=symmetric)
        for group, symmetric in kinds
    }
    for bits in GRID_BITS:
        for kind in kinds:
            if bits not in possible[kind]:
                continue
            grid = Grid(bits=bits, group=kind[0], symmetric=kind[1])
            if _lies_on(probe, grid, relative) and _lies_on(rows, grid, relative):
                return grid
    return None


def grid_step(block: Block, grid: Grid) -> tuple[int, Float32]:
    """The step of the grid at each weight of the block's whole rows.

    Returns
    -------
    (first whole row, (rows, columns) float32 steps).
    """
    first, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    grouped = rows.reshape(-1, grid.group)
    _, step = _levels(grouped, grid)
    return first, np.broadcast_to(step, grouped.shape).reshape(rows.shape)


def _levels(grouped: Float32, grid: Grid) -> tuple[Float32, Float32]:
    """Position of each weight on the grid and the step, (groups, group) and (groups, 1)."""
    if grid.symmetric:
        top = np.abs(grouped).max(axis=1, keepdims=True)
        step = top / np.float32(2 ** (grid.bits - 1) - 1)
        origin = np.zeros_like(step)
    else:
        origin = grouped.min(axis=1, keepdims=True)
        span = grouped.max(axis=1, keepdims=True) - origin
        step = span / np.float32(2**grid.bits - 1)
    safe = np.where(step > 0, step, np.float32(1))
    return (grouped - origin) / safe, step


def _lies_on(rows: Float32, grid: Grid, relative: float) -> bool:
    grouped = rows.reshape(-1, grid.group)
    levels, step = _levels(grouped, grid)
    safe = np.where(step > 0, step, np.float32(1))
    size = np.abs(grouped) + (0 if grid.symmetric else np.abs(grouped).max(axis=1, keepdims=True))
    # Rounding of the weight itself and of the extreme that the step was read from.
    slack = 2 * relative * size / safe + 1e-5
    votes = (slack < 0.1) & (step > 0)
    if grid.symmetric:
        votes &= levels != 0
    if np.count_nonzero(votes) < 64:
        return False
    off = np.abs(levels - np.round(levels))[votes]
    return bool(np.mean(off <= slack[votes]) >= MIN_ON_GRID)


def rounded_grid(child: Block, parent: Block) -> Grid | None:
    """The grid that takes the parent's weights to the child's, or None.

    Where a step is no larger than the rounding of the published type, weights do not show the grid
    they lie on; but rounding the parent to it gives the child, weight by weight.
    """
    _, mine = complete_rows(child.values, start=child.start, columns=child.columns)
    _, theirs = complete_rows(parent.values, start=parent.start, columns=parent.columns)
    mine, theirs = mine[:PROBE_ROWS], theirs[:PROBE_ROWS]
    if mine.size == 0 or np.array_equal(mine, theirs):
        return None
    relative = np.float32(RELATIVE_HALF_ULP.get(child.dtype, 0.0))
    columns = mine.shape[1]
    for bits in GRID_BITS:
        for group in (columns, *(g for g in GRID_GROUPS if g < columns and columns % g == 0)):
            for symmetric in (True, False):
                grid = Grid(bits=bits, group=group, symmetric=symmetric)
                # One row refutes nearly every grid; the rest is looked at where it does not.
                if _rounds_to(mine[:1], theirs[:1], grid, relative, least=LEAST_ROUNDED) and (
                    _rounds_to(mine, theirs, grid, relative, least=MIN_ROUNDED)
                ):
                    return grid
    return None


def _rounds_to(
    mine: Float32, theirs: Float32, grid: Grid, relative: np.float32, *, least: float
) -> bool:
    """Whether rounding the other's rows to the grid gives `least` of the weights, up to a cast."""
    slack = np.abs(mine) * relative + np.float32(1e-12)
    roundings = _roundings(theirs, grid)
    return any(float((np.abs(r - mine) <= slack).mean()) >= least for r in roundings)


def _roundings(rows: Float32, grid: Grid) -> Iterator[Float32]:
    """What rounding to a grid leaves; an asymmetric one may start at the smallest weight, or at a
    whole number of steps from zero."""
    grouped = rows.reshape(-1, grid.group)
    levels, step = _levels(grouped, grid)
    low = grouped.min(axis=1, keepdims=True)
    origin = np.zeros_like(low) if grid.symmetric else low
    yield (np.round(levels) * step + origin).reshape(rows.shape)
    if not grid.symmetric:
        most = np.float32(2**grid.bits - 1)
        low = np.minimum(low, 0)
        step = (np.maximum(grouped.max(axis=1, keepdims=True), 0) - low) / most
        safe = np.where(step > 0, step, np.float32(1))
        zero = np.round(-low / safe)
        levels = np.clip(np.round(grouped / safe) + zero, 0, most) - zero
        yield (levels * step).reshape(rows.shape)


def _not_refuted(
    probe: Float32, relative: float, *, group: int, symmetric: bool
) -> tuple[int, ...]:
    """Bits of the grids that the first groups of the probe leave possible, all tried at once.

    A quick look that keeps in doubt: a grid goes only when more weights are off it here, by twice
    their slack, than all of the probe may have.
    """
    grouped = probe.reshape(-1, group)
    head = grouped[: max(1, grouped.shape[0] // HEAD_SHARE)]
    unit = Grid(bits=2 if symmetric else 1, group=group, symmetric=symmetric)
    levels, step = _levels(head, unit)  # of a grid of one step
    size = np.abs(head) + (0 if symmetric else np.abs(head).max(axis=1, keepdims=True))
    finest = np.array([2 ** (b - symmetric) - 1 for b in GRID_BITS], dtype=np.float32)
    finer = finest[:, None, None]  # steps of each grid in the one step
    slack = finer * (2 * relative * size / np.where(step > 0, step, np.float32(1))) + 1e-5
    votes = (slack < 0.09) & (step > 0)
    if symmetric:
        votes &= levels != 0
    found = finer * levels
    off = np.count_nonzero(votes & (np.abs(found - np.round(found)) > 2 * slack), axis=(1, 2))
    return tuple(
        b for b, n in zip(GRID_BITS, off, strict=True) if n <= (1 - MIN_ON_GRID) * probe.size
    )
