"""The sketch of one revision: the sampled bytes, in the dtype they were published in.

Weights of a packed type (GGUF blocks, GPTQ, NF4 ...) are kept as the float32 values they decode to,
with the step of the grid at each: how far rounding can have moved it is half of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..dtypes import to_float32
from ..records import RoleKey
from .plan import Span

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchBlock:
    """The bytes of one span.

    `shape` is the whole tensor's stored shape, `start` the flat element the span begins at, `count`
    how many weights are held; `transposed` marks [in, out] storage (GPT-2). `step` is float32 with
    one step for each `count / n` weights in a row, None for weights that were published as they
    are. `width` is set where only that many leading weights of each row are held.
    """

    key: RoleKey
    shape: tuple[int, ...]
    transposed: bool
    start: int
    count: int
    dtype: str
    data: bytes
    step: bytes | None = None
    width: int | None = None

    @property
    def name(self) -> str:
        """Text key of the tensor, the same in every sketch of the plan."""
        return str(self.key)

    def values(self) -> Float32:
        """(count,) float32; widening from the published dtype is exact (float64 is rounded)."""
        return to_float32(self.data, self.dtype)

    def steps(self) -> Float32 | None:
        """(count,) float32 step of the grid at each weight; None where there is no grid."""
        if self.step is None:
            return None
        steps = np.frombuffer(self.step, dtype="<f4")
        return np.repeat(steps, self.count // max(1, steps.size)).astype(np.float32)

    @property
    def columns(self) -> int:
        """Length of a stored row; the whole tensor for vectors."""
        return self.shape[-1] if len(self.shape) > 1 else max(1, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """All sampled blocks of one revision, in plan order, with the plan's version.

    `packing` says how the weights were packed (`format`, `type`, `bits`), and for an adapter that
    the blocks are a change to another model's weights; empty for a plain model.
    """

    plan: str
    blocks: Mapping[str, SketchBlock]
    packing: Mapping[str, str] = field(default_factory=dict)

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
            h.update(block.step or b"")
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
    span: Span,
    *,
    shape: tuple[int, ...],
    transposed: bool,
    dtype: str,
    data: bytes,
    step: Float32 | None = None,
    width: int | None = None,
) -> SketchBlock:
    """The block that `data`, the bytes of `span`, make.

    Parameters
    ----------
    step : (count,) the step at each weight; what repeats is kept once.
    width : weights of each row that are there; `data` then holds whole rows of that length.
    """
    columns = shape[-1] if len(shape) > 1 else 1
    held = span.count if width is None else span.count // columns * width
    return SketchBlock(
        key=span.key,
        shape=shape,
        transposed=transposed,
        start=span.start,
        count=held,
        dtype=dtype,
        data=data,
        step=None if step is None else _without_repeats(step).astype("<f4").tobytes(),
        width=width,
    )


def _without_repeats(step: Float32) -> Float32:
    """Every n-th step, for the largest power of two n whose runs of weights share theirs."""
    for run in (256, 128, 64, 32, 16, 8, 4, 2):
        if step.size and step.size % run == 0:
            runs = step.reshape(-1, run)
            if (runs == runs[:, :1]).all():
                return np.ascontiguousarray(runs[:, 0])
    return step
