"""Weights that were rounded to a table of values and published in a wider type.

What is left of an 8-bit float after widening is its mantissas: whatever scale it was multiplied
by, no more of them occur than the format has, because the scale moves all alike and a power of two
moves none. NF4 keeps its largest weight a group, so each group tells its scale. One even step for
a whole tensor shows in the smallest weights, where the rounding of the published type is finest.

References
----------
Micikevicius et al. (2022), "FP8 formats for deep learning", arXiv:2209.05433: E4M3, E5M2. OCP
Microscaling Formats (2023): E2M1. Dettmers et al. (2023), arXiv:2305.14314: NF4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..codes import NF4
from ..sketch.sketch import complete_rows
from .specimen import Block
from .traits import MIN_ON_GRID, RELATIVE_HALF_ULP

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]

# Mantissas of the normal numbers; every subnormal has one of them too.
MANTISSAS = {"e2m1": 2, "e5m2": 4, "e4m3": 8}
BITS = {"e2m1": 4, "nf4": 4, "e5m2": 8, "e4m3": 8, "int4": 4, "int8": 8}
GROUPS = (128, 64, 32, 16)
NF4_GROUPS = (64, 128, 256, 32)
# A group says nothing of a format unless chance would show many more mantissas than it has.
A_MANTISSA = 8
MOST = 32_768
LEAST = 64
FINE = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """A number format that weights were rounded to."""

    name: str

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return BITS[self.name]


def find_table(block: Block) -> Table | None:
    """The coarsest table that a block's weights lie on, or None.

    Notes
    -----
    O(w log w) for the first `MOST` weights of the block's whole rows.
    """
    _, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    rows = rows[: max(1, MOST // max(1, rows.shape[1]))]
    if np.count_nonzero(rows) < LEAST or not np.isfinite(rows).all():
        return None
    relative = RELATIVE_HALF_ULP.get(block.dtype, 0.0)
    # Below its normal numbers float16 has fewer mantissas of its own.
    normal = np.where(np.abs(rows) < 2.0**-14, 0, rows) if block.dtype == "F16" else rows
    if _few_mantissas(normal, "e2m1"):
        return Table("e2m1")
    if _on_nf4(rows, relative):
        return Table("nf4")
    stepped = _one_step(normal, relative)
    # Values of an 8-bit float that are small enough lie on an even grid as well, with gaps.
    if stepped == Table("int4"):
        return stepped
    floats = (Table(name) for name in ("e5m2", "e4m3") if _few_mantissas(normal, name))
    return next(floats, stepped)


def _few_mantissas(rows: Float32, name: str) -> bool:
    """Whether the groups of some length, the rows, or the whole have no more mantissas than the
    format, most of them having weights enough to tell."""
    most, columns = MANTISSAS[name], rows.shape[1]
    mantissas, _ = np.frexp(np.abs(rows))
    for length in (rows.size, columns, *(g for g in GROUPS if g < columns and columns % g == 0)):
        # A few weights refute nearly every format.
        head, _ = _distinct(mantissas[:1, :length])
        if length < A_MANTISSA * most or head[0] > most:
            continue
        distinct, filled = _distinct(mantissas.reshape(-1, length))
        telling = filled * 2 >= A_MANTISSA * most
        if telling.mean() > 0.5 and (distinct[telling] <= most).all():
            return True
    return False


def _distinct(groups: Float32) -> tuple[Ints, Ints]:
    """(groups,) different values of each, and how many values: zeros not counted."""
    ordered = np.sort(groups, axis=1)
    new = (np.diff(ordered, axis=1, prepend=np.float32(0)) != 0) & (ordered != 0)
    return np.count_nonzero(new, axis=1), np.count_nonzero(ordered, axis=1)


def _on_nf4(rows: Float32, relative: float) -> bool:
    for length in NF4_GROUPS:
        if rows.shape[1] % length:
            continue
        groups = rows.reshape(-1, length)
        # One group refutes nearly everything else.
        if _off_nf4(groups[:1], relative) < 0.5 and _off_nf4(groups, relative) <= 1 - MIN_ON_GRID:
            return True
    return False


def _off_nf4(groups: Float32, relative: float) -> float:
    """Share of weights off the table, each group's largest taken for its scale."""
    codes = np.array(NF4, dtype=np.float32)
    top = np.abs(groups).max(axis=1, keepdims=True)
    scaled = groups / np.where(top > 0, top, np.float32(1))
    nearest = codes[np.searchsorted((codes[1:] + codes[:-1]) / 2, scaled)]
    off = np.abs(scaled - nearest) > 2 * relative * np.abs(nearest) + 1e-6
    return float(np.mean(off))


def _one_step(rows: Float32, relative: float) -> Table | None:
    """A symmetric grid with one step for all: what per-tensor quantization leaves."""
    sizes = np.abs(rows[rows != 0])
    levels = sizes / sizes.min()
    slack = 2 * relative * levels + 1e-5
    votes = slack < FINE
    if np.count_nonzero(votes) < LEAST or levels.max() > 127.5:
        return None
    off = np.abs(levels - np.round(levels))[votes]
    if np.mean(off <= slack[votes]) < MIN_ON_GRID:
        return None
    return Table("int4" if levels.max() < 7.5 else "int8")
