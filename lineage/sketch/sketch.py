"""The sketch of one revision: the sampled bytes, in the dtype they were published in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dtypes import to_float32
from ..records import RoleKey
from .plan import Span

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchBlock:
    """The bytes of one span.

    `shape` is the whole tensor's stored shape, `start` the flat element the span begins at;
    `transposed` marks [in, out] storage (GPT-2).
    """

    key: RoleKey
    shape: tuple[int, ...]
    transposed: bool
    start: int
    count: int
    dtype: str
    data: bytes

    @property
    def name(self) -> str:
        """Text key of the tensor, the same in every sketch of the plan."""
        return str(self.key)

    def values(self) -> Float32:
        """(count,) float32; widening from the published dtype is exact (float64 is rounded)."""
        return to_float32(self.data, self.dtype)

    @property
    def columns(self) -> int:
        """Length of a stored row; the whole tensor for vectors."""
        return self.shape[-1] if len(self.shape) > 1 else max(1, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """All sampled blocks of one revision, in plan order, with the plan's version."""

    plan: str
    blocks: Mapping[str, SketchBlock]

    def __iter__(self) -> Iterator[SketchBlock]:
        return iter(self.blocks.values())

    @property
    def nbytes(self) -> int:
        """Bytes of weights held."""
        return sum(len(block.data) for block in self)

    def digest(self) -> str:
        """sha256 over plan, places, dtypes and bytes: equal iff the sketches are the same."""
        h = hashlib.sha256(self.plan.encode())
        for name in sorted(self.blocks):
            block = self.blocks[name]
            h.update(f"|{name}|{block.dtype}|{block.shape}|{block.start}|".encode())
            h.update(block.data)
        return h.hexdigest()


def complete_rows(values: Float32, *, start: int, columns: int) -> tuple[int, Float32]:
    """The whole rows inside a span.

    Returns
    -------
    (index of the first whole row, (rows, columns) view of `values`); zero rows when the span
    holds none.
    """
    first = -(-start // columns)
    offset = first * columns - start
    rows = (values.size - offset) // columns if values.size > offset else 0
    return first, values[offset : offset + rows * columns].reshape(rows, columns)


def block_of(
    span: Span, *, shape: tuple[int, ...], transposed: bool, dtype: str, data: bytes
) -> SketchBlock:
    """The block that `data`, the bytes of `span`, make."""
    return SketchBlock(
        key=span.key,
        shape=shape,
        transposed=transposed,
        start=span.start,
        count=span.count,
        dtype=dtype,
        data=data,
    )
