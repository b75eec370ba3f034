"""Number formats of four bits, and the width of the cell that rounds to each of their values.

Rounding to the nearest value of an uneven codebook moves a weight by up to half the distance to
either neighbour. The cell width takes the place of the step of an even grid: 12 r^2 / width^2 is 1
on average over the cell, however unlike its two halves are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from ...lineage.codes import FP4, IQ4_NL

Float32 = NDArray[np.float32]


def cell_widths(codes: Sequence[float] | Float32) -> Float32:
    """The width of the cell around each code, in the order given.

    That of the even cell with the same mean square: with halves a and b of the distances to both
    neighbours, width^2 = 4 (a^3 + b^3) / (a + b). At either end the one distance there is. Codes of
    equal value (plus and minus zero) share their cell.
    """
    values = np.asarray(codes, dtype=np.float64)
    distinct = np.unique(values)
    gaps = np.diff(distinct)
    left = np.concatenate([gaps[:1], gaps]) / 2
    right = np.concatenate([gaps, gaps[-1:]]) / 2
    widths = np.sqrt(4 * (left**3 + right**3) / (left + right))
    return np.asarray(widths[np.searchsorted(distinct, values)], dtype=np.float32)


Pairs = NDArray[np.uint64]


def pairs_at(table_of: Pairs, codes: NDArray[np.uint8]) -> Float32:
    """The numbers that a table of pairs has for the two 4-bit codes of each byte, flat."""
    return table_of.take(codes.reshape(-1)).view(np.float32)


@lru_cache(maxsize=32)
def pair_tables(codes: bytes, *, high_first: bool) -> tuple[Pairs, Pairs]:
    """Values and cell widths of the two 4-bit codes of each of the 256 bytes.

    Parameters
    ----------
    codes : 16 little-endian F32; a file may bring its own.
    high_first : whether the high nibble comes first.

    Returns
    -------
    (256,) twice: two float32 as one number of 64 bits, so that a pair is looked up at once.
    """
    values = np.frombuffer(codes, dtype="<f4").astype(np.float32)
    byte = np.arange(256)
    nibbles = np.stack([byte >> 4, byte & 15] if high_first else [byte & 15, byte >> 4], axis=-1)
    made = [np.ascontiguousarray(held[nibbles]) for held in (values, cell_widths(values))]
    return made[0].view(np.uint64).reshape(256), made[1].view(np.uint64).reshape(256)


@cache
def table(name: str) -> tuple[Float32, Float32]:
    """Values and cell widths of FP4 or IQ4_NL, indexed by code."""
    codes = np.array({"FP4": FP4, "IQ4_NL": IQ4_NL}[name], dtype=np.float32)
    return codes, cell_widths(codes)


def power_of_two(exponents: NDArray[np.uint8]) -> Float32:
    """F8_E8M0: 2^(code - 127); code 255 is NaN."""
    scale = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127).astype(np.float32)
    return np.where(exponents == 255, np.float32(np.nan), scale).astype(np.float32)
