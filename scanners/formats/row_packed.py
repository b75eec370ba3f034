"""Packed weights whose rows are the plain model's: a span is some rows of each part.

Packed integers, scales and zero points all have a row for each row of the plain matrix, or one
for a block of them, so the rows of a span lie together in every part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...lineage.codes import FP4
from ...lineage.dtypes import f8_codes, to_float32
from ...lineage.errors import MalformedFile
from ...lineage.records import TensorSpec
from .base import ByteRange, Decoded, Located
from .codebooks import pair_tables, pairs_at, power_of_two

Float32 = NDArray[np.float32]
Codes = NDArray[np.uint8]
Pair = tuple[Float32, Float32]

_FP4 = np.array(FP4, dtype="<f4").tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows [first, last) of a matrix with this many columns."""

    first: int
    last: int
    columns: int

    @property
    def count(self) -> int:
        """How many rows."""
        return self.last - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stored tensor: a row of it for `every` rows of the matrix; the whole of it for 0."""

    spec: TensorSpec
    every: int = 1

    def range_of(self, rows: Rows) -> ByteRange:
        """The bytes that belong to some rows of the matrix."""
        spec = self.spec
        if self.every == 0 or not spec.shape:
            return ByteRange(spec.path, spec.begin, spec.end)
        size = (spec.end - spec.begin) // max(1, spec.shape[0])
        first, last = rows.first // self.every, -(-rows.last // self.every)
        if last > spec.shape[0]:
            raise MalformedFile(
                f"{spec.name[:200]!r} has {spec.shape[0]} rows and {last} are needed",
                path=spec.path,
                offset=spec.begin,
            )
        return ByteRange(spec.path, spec.begin + first * size, spec.begin + last * size)


Unpack = Callable[[Sequence[bytes], Rows], Pair]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPacked:
    """A matrix packed row by row (a `Weight`).

    `unpack` takes the bytes of each part, in order, and gives values and steps of whole rows,
    (rows, columns) float32 each.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...]
    unpack: Unpack

    @property
    def path(self) -> str:
        """The file of the packed weights."""
        return self.parts[0].spec.path

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """The rows that hold the span, in every part."""
        columns = self.shape[-1]
        rows = Rows(first=start // columns, last=-(-(start + count) // columns), columns=columns)
        if rows.last > math.prod(self.shape[:-1]):
            raise MalformedFile(
                f"row {rows.last} of {self.name[:200]!r} does not exist", path=self.path
            )
        ranges = tuple(part.range_of(rows) for part in self.parts)
        if sum(r.end - r.begin for r in ranges) > budget:
            return None
        offset = start - rows.first * columns

        def decode(parts: Sequence[bytes]) -> Decoded:
            with np.errstate(invalid="ignore", over="ignore"):
                values, steps = self.unpack(parts, rows)
            return decoded(values, steps, offset, count)

        return Located(ranges=ranges, decode=decode)


def decoded(values: Float32, steps: Float32, offset: int, count: int) -> Decoded:
    """`count` weights from flat place `offset` of what was unpacked."""
    flat = np.broadcast_to(steps, values.shape).reshape(-1)[offset : offset + count]
    return Decoded(
        dtype="F32",
        data=values.reshape(-1)[offset : offset + count].astype("<f4", copy=False).tobytes(),
        step=np.abs(flat).astype(np.float32, copy=False),
    )


def numbers(data: bytes, spec: TensorSpec) -> Float32:
    """Scales of any float type."""
    return to_float32(data, spec.dtype)


def spread(scales: Float32, rows: Rows) -> Float32:
    """Scales of groups along a row, (rows, groups), at each weight: (rows, columns)."""
    table_of = scales.reshape(rows.count, -1)
    group = -(-rows.columns // table_of.shape[1])
    return np.repeat(table_of, group, axis=1)[:, : rows.columns]


def bit_fields(data: bytes, bits: int, rows: int, columns: int) -> Codes:
    """Unsigned integers of a dense little-endian bit stream in each row, (rows, columns).

    Fields begin on a byte again every `lanes` fields, so those of one lane are cut alike: out of
    one byte, or of two that a field runs over.

    Raises
    ------
    ValueError : a row ends before its fields do.
    """
    raw = np.frombuffer(data, dtype=np.uint8).reshape(rows, -1)
    if raw.shape[1] * 8 < columns * bits:
        raise ValueError(f"{raw.shape[1]} bytes a row for {columns} integers of {bits} bits")
    if bits == 8:
        return raw[:, :columns]
    lanes = 8 // math.gcd(bits, 8)
    stride, turns = lanes * bits // 8, -(-columns // lanes)
    raw = raw[:, : turns * stride]
    if raw.shape[1] < turns * stride:
        raw = np.pad(raw, ((0, 0), (0, turns * stride - raw.shape[1])))
    fields = np.empty((rows, turns, lanes), dtype=np.uint8)
    for lane in range(lanes):
        byte, shift = divmod(lane * bits, 8)
        part = raw[:, byte::stride] >> shift
        if shift + bits > 8:
            part |= raw[:, byte + 1 :: stride] << (8 - shift)
        np.bitwise_and(part, (1 << bits) - 1, out=fields[:, :, lane])
    return fields.reshape(rows, -1)[:, :columns]


def fp8(weight: TensorSpec, scale: TensorSpec | None, every: int) -> Unpack:
    """FP8 with a scale for the tensor, for each row, or for blocks of `every` rows."""

    def unpack(parts: Sequence[bytes], rows: Rows) -> Pair:
        codes = np.frombuffer(parts[0], dtype=np.uint8).reshape(rows.count, rows.columns)
        values, steps = f8_codes(weight.dtype)
        factor = np.ones((1, 1), np.float32)
        if scale is not None:
            factor = _block_scales(numbers(parts[1], scale), scale, rows, every)
        if factor.size == 1:
            # One scale for all: it goes into the table and not into every weight.
            return (values * factor[0, 0]).take(codes), (steps * factor[0, 0]).take(codes)
        return values.take(codes) * factor, steps.take(codes) * factor

    return unpack


def _block_scales(scales: Float32, spec: TensorSpec, rows: Rows, every: int) -> Float32:
    """Scales at each weight, or in a shape that spreads to it."""
    if every == 0 or scales.size == 1:
        return scales.reshape(-1, 1) if scales.size == 1 else scales.reshape(1, -1)
    across = spec.shape[1] if len(spec.shape) > 1 else 1
    held = scales.reshape(-1, across)
    lines = np.arange(rows.first, rows.last) // every - rows.first // every
    group = -(-rows.columns // across)
    return np.repeat(held[lines], group, axis=1)[:, : rows.columns]


def integers(weight: TensorSpec, scale: TensorSpec, divisor: float = 1.0) -> Unpack:
    """Whole numbers of 8 bits times a scale for each row (bitsandbytes int8 divides by 127)."""

    def unpack(parts: Sequence[bytes], rows: Rows) -> Pair:
        kind = np.int8 if weight.dtype == "I8" else np.uint8
        q = np.frombuffer(parts[0], dtype=kind).reshape(rows.count, rows.columns)
        factor = numbers(parts[1], scale) / np.float32(divisor)
        column = factor.reshape(-1, 1)
        if column.shape[0] not in (1, rows.count):
            column = spread(factor, rows)
        return q.astype(np.float32) * column, column

    return unpack


def affine(bits: int, scale: TensorSpec, bias: TensorSpec) -> Unpack:
    """MLX: q * scale + bias in groups along the row."""

    def unpack(parts: Sequence[bytes], rows: Rows) -> Pair:
        q = bit_fields(parts[0], bits, rows.count, rows.columns)
        steps = spread(numbers(parts[1], scale), rows)
        return q.astype(np.float32) * steps + spread(numbers(parts[2], bias), rows), steps

    return unpack


def pack_quantized(
    bits: int, scale: TensorSpec, *, zero: TensorSpec | None, order: bool, pack: int
) -> Unpack:
    """compressed-tensors: signed integers in a bit stream, zero points packed along the rows."""

    def unpack(parts: Sequence[bytes], rows: Rows) -> Pair:
        left = list(parts[1:])
        q = bit_fields(parts[0], bits, rows.count, rows.columns).astype(np.float32)
        scales = numbers(left.pop(0), scale).reshape(rows.count, -1)
        middle: Float32 = np.full_like(scales, 1 << (bits - 1))
        if zero is not None:
            middle += _zero_points(left.pop(0), zero, rows, bits=bits, pack=pack)
        if not order:
            steps = spread(scales, rows)
            return (q - spread(middle, rows)) * steps, steps
        group = np.frombuffer(left.pop(0), dtype="<i4")
        if group.min(initial=0) < 0 or group.max(initial=0) >= scales.shape[1]:
            raise MalformedFile("a group that has no scale", path=scale.path, offset=scale.begin)
        steps = scales[:, group]
        return (q - middle[:, group]) * steps, steps

    return unpack


def _zero_points(data: bytes, spec: TensorSpec, rows: Rows, *, bits: int, pack: int) -> Float32:
    if spec.dtype == "I8":
        return np.frombuffer(data, np.int8).reshape(rows.count, -1).astype(np.float32)
    words = np.frombuffer(data, dtype="<i4").reshape(-1, spec.shape[1])
    down = np.ascontiguousarray(words.T)  # (groups, words)
    fields = bit_fields(down.tobytes(), bits, down.shape[0], down.shape[1] * 32 // bits)
    first = rows.first - rows.first // pack * pack
    return fields.T[first : first + rows.count].astype(np.float32) - np.float32(1 << (bits - 1))


def four_bit_float(
    scale: TensorSpec, second: TensorSpec | None = None, *, divide: bool = False
) -> Unpack:
    """FP4 codes, low nibble first, with scales of groups along the row and one for the tensor.

    A U8 scale is a power of two (MXFP4); compressed-tensors divides by the tensor's scale,
    ModelOpt multiplies.
    """

    def unpack(parts: Sequence[bytes], rows: Rows) -> Pair:
        raw = np.frombuffer(parts[0], dtype=np.uint8).reshape(rows.count, -1)
        if scale.dtype in ("U8", "F8_E8M0"):
            factor = power_of_two(np.frombuffer(parts[1], dtype=np.uint8))
        else:
            factor = numbers(parts[1], scale)
        if second is not None:
            whole = numbers(parts[2], second).reshape(-1)[0]
            factor = factor / whole if divide else factor * whole
        steps = spread(factor.astype(np.float32), rows)
        values, widths = (
            pairs_at(held, raw).reshape(rows.count, -1)[:, : rows.columns]
            for held in pair_tables(_FP4, high_first=False)
        )
        return values * steps, widths * steps

    return unpack
