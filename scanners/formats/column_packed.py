"""GPTQ and AWQ: packed matrices that lie transposed, input by input.

The first rows of the plain matrix are the first columns of such a tensor, and no range holds
them. What is read instead are its first inputs, for all outputs: the leading weights of the rows
that the plan wants come with them. A span is so narrowed to `width` weights a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...lineage.errors import MalformedFile
from ...lineage.records import TensorSpec
from .base import ByteRange, Decoded, Located
from .row_packed import decoded, numbers

Ints = NDArray[np.int32]

NARROW_BYTES = 98_304
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPacked:
    """A matrix packed by AutoGPTQ, GPTQModel or AutoAWQ (a `Weight`); shape [out, in].

    Attributes
    ----------
    weight : I32; GPTQ [in bits / 32, out], AWQ [in, out / 8] in the order of its nibbles.
    zeros : I32 [groups, out bits / 32]; None where all are the middle of the range.
    scales : F16 or BF16 [groups, out].
    order : I32 [in], the group of each input, where inputs were quantized out of order.
    plus_one : whether zeros are stored less one (GPTQ version 1).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    weight: TensorSpec
    scales: TensorSpec
    zeros: TensorSpec | None
    order: TensorSpec | None
    awq: bool = False
    plus_one: bool = False

    @property
    def path(self) -> str:
        """The file of the packed weights."""
        return self.weight.path

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return -(-self.shape[1] // max(1, self.scales.shape[0]))

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """The first inputs, as many as are cheap, of the rows that lie wholly in the span."""
        rows, inputs = self.shape
        first, last = -(-start // inputs), (start + count) // inputs
        width = self._width(min(budget, NARROW_BYTES))
        if first >= last or width == 0 or last > rows:
            return None
        ranges = self._ranges(width)
        if sum(r.end - r.begin for r in ranges) > budget:
            return None

        def decode(parts: Sequence[bytes]) -> Decoded:
            return self._decode(parts, first, last, width)

        return Located(ranges=tuple(ranges), decode=decode)

    def _unit(self) -> tuple[int, int]:
        """Inputs, and stored rows that hold them, that cannot be parted."""
        if self.awq:
            return 1, 1
        return (32 // self.bits, 1) if 32 % self.bits == 0 else (32, self.bits)

    def _width(self, budget: int) -> int:
        inputs, lines = self._unit()
        size = 4 * self.weight.shape[1] * lines
        units = min(budget // max(1, size), self.shape[1] // inputs)
        return units * inputs

    def _ranges(self, width: int) -> list[ByteRange]:
        inputs, lines = self._unit()
        ranges = [_lines(self.weight, width // inputs * lines)]
        groups = -(-width // self.group) if self.order is None else self.scales.shape[0]
        ranges.append(_lines(self.scales, groups))
        if self.zeros is not None:
            ranges.append(_lines(self.zeros, groups))
        if self.order is not None:
            ranges.append(_lines(self.order, width))
        return ranges

    def _decode(self, parts: Sequence[bytes], first: int, last: int, width: int) -> Decoded:
        left = list(parts[1:])
        q = self._integers(parts[0], width)[:, first:last]  # (width, rows)
        scales = numbers(left.pop(0), self.scales).reshape(-1, self.shape[0])[:, first:last]
        zeros: Ints | int = 1 << (self.bits - 1)
        if self.zeros is not None:
            zeros = self._zero_points(left.pop(0), scales.shape[0])[:, first:last]
        group = np.arange(width) // self.group
        if self.order is not None:
            group = np.frombuffer(left.pop(0), dtype="<i4")
            if group.min(initial=0) < 0 or group.max(initial=0) >= scales.shape[0]:
                raise MalformedFile(
                    f"an input of {self.name[:200]!r} is of a group without a scale",
                    path=self.order.path,
                    offset=self.order.begin,
                )
        steps = scales[group]
        shift = zeros if isinstance(zeros, int) else zeros[group]
        values = ((q - shift) * steps).T.astype(np.float32)
        found = decoded(np.ascontiguousarray(values), np.ascontiguousarray(steps.T), 0, values.size)
        whole = width == self.shape[1] and values.size
        return (
            found
            if whole
            else Decoded(dtype=found.dtype, data=found.data, step=found.step, width=width)
        )

    def _integers(self, data: bytes, width: int) -> Ints:
        words = np.frombuffer(data, dtype="<u4").reshape(-1, self.weight.shape[1])
        if self.awq:
            return _awq_fields(words)
        return _fields_down(words, self.bits)[:width]

    def _zero_points(self, data: bytes, groups: int) -> Ints:
        words = np.frombuffer(data, dtype="<u4").reshape(groups, -1)
        if self.awq:
            return _awq_fields(words)
        zeros = _fields_down(np.ascontiguousarray(words.T), self.bits).T[:, : self.shape[0]]
        return zeros + 1 if self.plus_one else zeros


def _lines(spec: TensorSpec, count: int) -> ByteRange:
    size = (spec.end - spec.begin) // max(1, spec.shape[0])
    return ByteRange(spec.path, spec.begin, spec.begin + min(count, spec.shape[0]) * size)


def _fields_down(words: NDArray[np.uint32], bits: int) -> Ints:
    """Integers of a dense bit stream that runs down each column, (n, columns)."""
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)[None, :, None]
        fields = (words[:, None, :] >> shifts) & np.uint32((1 << bits) - 1)
        return fields.reshape(-1, words.shape[1]).astype(np.int32)
    raw = np.ascontiguousarray(words.T).view(np.uint8)
    stream = np.unpackbits(raw, axis=1, bitorder="little")
    whole = stream[:, : stream.shape[1] // bits * bits].reshape(words.shape[1], -1, bits)
    places = (1 << np.arange(bits)).astype(np.int32)
    return np.asarray((whole @ places).T, dtype=np.int32)


def _awq_fields(words: NDArray[np.uint32]) -> Ints:
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    fields = (words[:, :, None] >> shifts & np.uint32(15))[:, :, list(_AWQ_ORDER)]
    return fields.reshape(words.shape[0], -1).astype(np.int32)
