"""Stored number formats: bytes to float32, the spacing of a format, rounding into it.

Names are the safetensors spellings. A floating-point format with e exponent and m mantissa bits
holds ±(1 + f) 2^k with f a multiple of 2^-m; below its smallest normal exponent the spacing stays
that of the smallest normal number.

References
----------
IEEE Std 754-2019 (binary16, binary32, binary64). OCP 8-bit Floating Point Specification (2023)
for F8_E4M3 and F8_E5M2. OCP Microscaling Formats (2023), 5.4.1 for F8_E8M0.
Noune et al. (2022), arXiv 2206.02915 for the FNUZ formats (no negative zero, one NaN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import NotComparable

Floats = npt.NDArray[np.float32]

ITEMSIZE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8,
        "U8": 8,
        "I8": 8,
        "U16": 16,
        "I16": 16,
        "U32": 32,
        "I32": 32,
        "U64": 64,
        "I64": 64,
        "F16": 16,
        "BF16": 16,
        "F32": 32,
        "F64": 64,
        "C64": 64,
        "F8_E4M3": 8,
        "F8_E5M2": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "F4": 4,
    }
)
"""Bits of one element, for every element type that a safetensors file may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Mantissa bits and the exponents of the smallest and largest normal number."""

    mantissa: int
    lowest: int
    highest: int


_GRIDS: Mapping[str, _Grid] = MappingProxyType(
    {
        # A float64 tensor reaches this module as float32, whose spacing is then the coarser one.
        "F64": _Grid(mantissa=23, lowest=-126, highest=127),
        "F32": _Grid(mantissa=23, lowest=-126, highest=127),
        "BF16": _Grid(mantissa=7, lowest=-126, highest=127),
        "F16": _Grid(mantissa=10, lowest=-14, highest=15),
        "F8_E4M3": _Grid(mantissa=3, lowest=-6, highest=8),
        "F8_E5M2": _Grid(mantissa=2, lowest=-14, highest=15),
        "F8_E4M3FNUZ": _Grid(mantissa=3, lowest=-7, highest=7),
        "F8_E5M2FNUZ": _Grid(mantissa=2, lowest=-15, highest=15),
        "F8_E8M0": _Grid(mantissa=0, lowest=-127, highest=127),
    }
)

_NUMPY: Mapping[str, str] = MappingProxyType(
    {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "BF16": "<u2",
        "BOOL": "|u1",
        "U8": "|u1",
        "I8": "|i1",
        "U16": "<u2",
        "I16": "<i2",
        "U32": "<u4",
        "I32": "<i4",
        "U64": "<u8",
        "I64": "<i8",
        "F8_E4M3": "|u1",
        "F8_E5M2": "|u1",
        "F8_E4M3FNUZ": "|u1",
        "F8_E5M2FNUZ": "|u1",
        "F8_E8M0": "|u1",
    }
)


def itemsize_bits(dtype: str) -> int:
    """Bits of one element of `dtype`; 4 and 6 for the packed formats.

    Raises
    ------
    NotComparable : the name is not one that safetensors knows.
    """
    try:
        return ITEMSIZE_BITS[dtype]
    except KeyError:
        raise NotComparable(f"unknown element type {dtype!r}") from None


def to_float32(data: bytes, dtype: str) -> Floats:
    """Values of little-endian `data`, widened to float32.

    Parameters
    ----------
    data : bytes
        A whole number of elements.
    dtype : str
        Any safetensors element type but the packed (F4, F6_*) and the complex one.

    Returns
    -------
    (n,) float32, writable, not a view of `data`. Exact for F32 and narrower floats and for
    integers of up to 24 bits; F64 and wider integers are rounded to nearest, ties to even (an F64
    beyond the range becomes inf). BOOL gives 0 and 1.

    Raises
    ------
    NotComparable : `dtype` cannot be decoded here, or `data` ends inside an element.
    """
    if dtype not in _NUMPY:
        raise NotComparable(f"element type {dtype!r} cannot be widened to float32")
    if len(data) * 8 % ITEMSIZE_BITS[dtype]:
        raise NotComparable(f"{len(data)} bytes are not a whole number of {dtype} elements")
    stored = np.frombuffer(data, dtype=_NUMPY[dtype])
    if dtype == "F32":
        return np.array(stored, dtype=np.float32)
    if dtype == "BF16":
        return _high_half(stored)
    if dtype.startswith("F8_"):
        return np.take(_f8_table(dtype), stored)
    if dtype == "BOOL":
        stored = stored != 0
    # A signalling NaN raises "invalid" and a large float64 "overflow"; both have a defined result.
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        return np.asarray(stored.astype(np.float32))


def ulp(values: Floats, dtype: str) -> Floats:
    """Spacing of `dtype` at each value: the distance to the next larger magnitude.

    Parameters
    ----------
    values : float32, any shape
    dtype : str
        A float format, or an integer one (whose spacing is 1).

    Returns
    -------
    float32, shape of `values`, > 0; NaN where the value is not finite. A value beyond the largest
    number of `dtype` has the spacing at that number. F64 counts as F32, the width that values
    arrive in.

    Raises
    ------
    NotComparable : `dtype` has no spacing known here.

    Notes
    -----
    2^(max(k, k_min) - m) for |value| in [2^k, 2^(k+1)), with m mantissa bits and the exponent
    k_min of the smallest normal number: BF16 2^(k-7), F16 2^(k-10), F32 2^(k-23).
    """
    values = np.asarray(values, dtype=np.float32)
    finite = np.isfinite(values)
    if dtype in _GRIDS:
        grid = _GRIDS[dtype]
        _, exponent = np.frexp(np.where(finite, values, np.float32(0)))
        # frexp puts the mantissa in [1/2, 1), and gives 0 the exponent 0.
        k = np.where(values == 0, grid.lowest, exponent - 1)
        k = np.clip(k, grid.lowest, grid.highest)
        spacing = np.ldexp(np.float32(1), k - grid.mantissa)
    elif dtype in _NUMPY:
        spacing = np.ones(values.shape, dtype=np.float32)
    else:
        raise NotComparable(f"element type {dtype!r} has no spacing known here")
    return np.where(finite, spacing, np.float32(np.nan)).astype(np.float32)


@cache
def f8_codes(dtype: str) -> tuple[Floats, Floats]:
    """What each byte of an 8-bit float stands for, and the spacing there: `ulp` of the values.

    Returns
    -------
    (256,) float32, read-only, twice; indexed by the stored byte.

    Raises
    ------
    NotComparable : another `dtype`.
    """
    if not dtype.startswith("F8_") or dtype not in _GRIDS:
        raise NotComparable(f"element type {dtype!r} is no 8-bit float")
    values = _f8_table(dtype)
    spacing = ulp(values, dtype)
    spacing.setflags(write=False)
    return values, spacing


def float_grid(dtype: str) -> tuple[int, int, int] | None:
    """Mantissa bits and the exponents of the smallest and largest normal number, as `ulp` has them.

    None for integers, whose spacing is 1.

    Raises
    ------
    NotComparable : `dtype` has no spacing known here.
    """
    if dtype in _GRIDS:
        grid = _GRIDS[dtype]
        return grid.mantissa, grid.lowest, grid.highest
    if dtype in _NUMPY:
        return None
    raise NotComparable(f"element type {dtype!r} has no spacing known here")


def round_to(values: Floats, dtype: str) -> Floats:
    """What is left of `values` after a cast to BF16, F16 or F32 and back.

    Round to nearest, ties to even; beyond the range ±inf; NaN stays NaN.

    Raises
    ------
    NotComparable : another `dtype`.
    """
    values = np.asarray(values, dtype=np.float32)
    if dtype == "F32":
        return values.copy()
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        return _round_bf16(values)
    raise NotComparable(f"rounding into {dtype!r} is not defined here")


def _round_bf16(values: Floats) -> Floats:
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Adding 0x7FFF, and one more when the kept part is odd, carries exactly when RNE rounds up.
    kept = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
    kept = np.where(np.isnan(values), np.uint32(0x7FC00000), kept)
    return kept.astype(np.uint32).view(np.float32).reshape(values.shape)


def _high_half(stored: npt.NDArray[Any]) -> Floats:
    return (stored.astype(np.uint32) << 16).view(np.float32)


@cache
def _f8_table(dtype: str) -> Floats:
    """The 256 values of an 8-bit float, float32, indexed by the stored byte."""
    codes = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":
        table = (codes << 8).view(np.float16).astype(np.float32)
    elif dtype == "F8_E8M0":
        table = np.ldexp(np.float32(1), np.minimum(codes.astype(np.int32), 254) - 127)
        table[255] = np.nan
    else:
        table = _small_floats(codes, grid=_GRIDS[dtype])
        unsigned_zero = dtype.endswith("FNUZ")
        table[[0x80] if unsigned_zero else [0x7F, 0xFF]] = np.nan
    table.setflags(write=False)
    return table


def _small_floats(codes: npt.NDArray[np.uint16], *, grid: _Grid) -> Floats:
    sign = np.where(codes & 0x80, np.float32(-1), np.float32(1))
    field = (codes & 0x7F) >> grid.mantissa
    fraction = (codes & ((1 << grid.mantissa) - 1)) + np.where(field > 0, 1 << grid.mantissa, 0)
    k = np.maximum(field.astype(np.int32), 1) - 1 + grid.lowest - grid.mantissa
    return np.asarray(sign * np.ldexp(fraction.astype(np.float32), k), dtype=np.float32)
