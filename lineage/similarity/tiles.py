"""Rows as they come to the device: the next tile is on its way while this one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class Rows(Protocol):
    """(n, d) floats that are sliced and indexed by row: an array, a memory map, a torch tensor."""

    @property
    def shape(self) -> Any:
        """(n, d)."""
        ...

    def __getitem__(self, at: Any, /) -> Any:
        """Rows of a slice, or those of an array of numbers."""
        ...


class Some:
    """Some rows of others, by number, in that order."""

    def __init__(self, rows: Rows, numbers: Ints) -> None:
        self._rows = rows
        self._numbers = numbers

    @property
    def shape(self) -> tuple[int, int]:
        """(how many, d)."""
        return self._numbers.size, int(self._rows.shape[1])

    def __getitem__(self, at: Any, /) -> Any:
        """Rows of a slice or of an array of places."""
        chosen = self._numbers[at]
        if isinstance(self._rows, Tensor):
            return self._rows[torch.from_numpy(chosen).to(self._rows.device)]
        return self._rows[chosen]


def tiles(rows: Rows, *, size: int, stride: int, device: str) -> Iterator[tuple[int, Tensor]]:
    """Every `stride`-th coordinate of all rows, `size` rows at a time, in their own type.

    Returns
    -------
    (number of the first row, (t, ceil(d / stride)) tensor on the device), valid until the next is
    asked for. On CUDA rows of the host go through two pinned buffers on a stream of their own.
    """
    starts = range(0, rows.shape[0], size)
    if device == "cpu" or is_on(rows, device):
        for start in starts:
            yield start, as_tensor(rows[start : start + size], stride=stride)
        return
    yield from _carried(rows, starts, stride=stride, device=device)


def take(rows: Rows, at: Ints, *, device: str) -> Tensor:
    """(len(at), d) float32 rows by number, on the device."""
    if isinstance(rows, Tensor):
        found = rows[torch.from_numpy(at).to(rows.device)]
    else:
        found = as_tensor(rows[at], stride=1)
    return found.to(device).float()


def is_on(rows: Rows, device: str) -> bool:
    """Whether the rows lie on the device."""
    if isinstance(rows, Some):
        return is_on(rows._rows, device)
    return isinstance(rows, Tensor) and rows.device.type == device


def as_tensor(part: Any, *, stride: int) -> Tensor:
    """Rows as a tensor without a copy where that can be: a read-only map is copied."""
    if isinstance(part, Tensor):
        return part[:, ::stride]
    thin = part[:, ::stride]
    return torch.from_numpy(thin if thin.flags.writeable else np.array(thin))


@dataclass(slots=True, kw_only=True)
class _Lane:
    """One pinned buffer, its twin on the device, and who may touch them when."""

    host: Tensor
    device: Tensor
    arrived: Any
    free: Any


def _carried(
    rows: Rows, starts: range, *, stride: int, device: str
) -> Iterator[tuple[int, Tensor]]:
    cuda: Any = torch.cuda
    stream = cuda.Stream()
    width = -(-rows.shape[1] // stride)
    dtype = as_tensor(rows[:1], stride=stride).dtype
    lanes = [_lane((min(starts.step, rows.shape[0]), width), dtype, device) for _ in range(2)]

    def send(at: int) -> None:
        lane, start = lanes[at % 2], starts[at]
        # What was sent from this buffer before has to be on the device.
        lane.arrived.synchronize()
        part = as_tensor(rows[start : start + starts.step], stride=stride)
        lane.host[: len(part)].copy_(part)
        stream.wait_event(lane.free)
        with cuda.stream(stream):
            lane.device[: len(part)].copy_(lane.host[: len(part)], non_blocking=True)
            lane.arrived.record(stream)

    send(0)
    for at, start in enumerate(starts):
        if at + 1 < len(starts):
            send(at + 1)
        lane = lanes[at % 2]
        current = cuda.current_stream()
        current.wait_event(lane.arrived)
        yield start, lane.device[: min(starts.step, rows.shape[0] - start)]
        lane.free.record(current)


def _lane(shape: tuple[int, int], dtype: torch.dtype, device: str) -> _Lane:
    cuda: Any = torch.cuda
    return _Lane(
        host=torch.empty(shape, dtype=dtype, pin_memory=True),
        device=torch.empty(shape, dtype=dtype, device=device),
        arrived=cuda.Event(),
        free=cuda.Event(),
    )
