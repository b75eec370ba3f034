"""The matrices that write to the residual stream, whole and one at a time, from their source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...lineage.architectures.roles import WRITERS, Place
from ...lineage.dtypes import to_float32
from ...lineage.errors import LimitExceeded, UnsupportedFormat
from ...lineage.records import ModelInfo, RoleKey
from ..bytes import Traffic
from ..formats.base import Weight
from ..formats.sharded import choose_weight_files
from ..sketching import WeightMap, map_weights
from ..sources.base import Source

Float32 = NDArray[np.float32]
MAX_MATRIX: Final = 2 << 30
"""Largest matrix that is read, in bytes as float32."""
_PIECE: Final = 8 << 20


@dataclass(slots=True, kw_only=True)
class WholeWeights:
    """The writing matrices of one model; nothing of them is kept.

    `decoded` is False where the weights stand in the files as they are.
    """

    source: Source
    info: ModelInfo
    traffic: Traffic = field(default_factory=Traffic)
    _mapped: WeightMap | None = None

    async def open(self) -> None:
        """Read every header.

        Raises
        ------
        UnsupportedFormat : there is no weight file of its own, or none of its layers is known.
        FormatError, TransientError, AccessDenied : the files are broken or not handed out.
        """
        layout = choose_weight_files([file.path for file in self.info.files])
        if layout.kind not in ("single", "sharded"):
            raise UnsupportedFormat("no weights of its own", path=self.info.name)
        self._mapped = await map_weights(
            self.source, self.info, layout, traffic=self.traffic, every_shard=True
        )
        if not self.layers():
            raise UnsupportedFormat(
                "no matrix that is known to write to the residual stream", path=self.info.name
            )

    def layers(self) -> list[int]:
        """The layers that have writing matrices, in order."""
        assert self._mapped is not None
        return sorted({key.layer for key in self._writers() if key.layer is not None})

    def size(self) -> int:
        """Bytes of all writing matrices as float32: an upper bound of what is read."""
        return sum(4 * int(np.prod(weight.shape)) for weight, _ in self._writers().values())

    async def of_layer(self, layer: int) -> dict[str, Float32]:
        """The matrices of a layer by role, each [residual, inputs].

        Raises
        ------
        LimitExceeded : a matrix above `MAX_MATRIX`.
        UnsupportedFormat : it is packed in a way that is not decoded here.
        """
        found = {}
        for key, (weight, place) in self._writers().items():
            if key.layer == layer:
                matrix = await self._read(weight)
                found[key.role] = matrix.T if place.transposed else matrix
        return found

    def _writers(self) -> dict[RoleKey, tuple[Weight, Place]]:
        assert self._mapped is not None
        return {
            key: found
            for key, found in self._mapped.tensors.items()
            if key.role in WRITERS and len(found[0].shape) == 2
        }

    async def _read(self, weight: Weight) -> Float32:
        rows, columns = weight.shape
        if 4 * rows * columns > MAX_MATRIX:
            raise LimitExceeded(
                "a matrix too large to be read whole",
                path=weight.path,
                limit=MAX_MATRIX,
                actual=4 * rows * columns,
            )
        whole = np.empty((rows, columns), dtype=np.float32)
        async for first, part in self._pieces(weight):
            whole[first : first + part.shape[0]] = part
        return whole

    async def _pieces(self, weight: Weight) -> AsyncIterator[tuple[int, Float32]]:
        """Runs of whole rows, of which one is held at a time."""
        assert self._mapped is not None
        rows, columns = weight.shape
        step = max(1, _PIECE // (4 * columns))
        for first in range(0, rows, step):
            count = (min(rows, first + step) - first) * columns
            located = weight.locate(first * columns, count, budget=MAX_MATRIX)
            if located is None:
                raise UnsupportedFormat(f"weights packed as {weight.dtype}", path=weight.path)
            parts = await asyncio.gather(
                *(self._mapped.sources[r.path].read(r.begin, r.end) for r in located.ranges)
            )
            decoded = await asyncio.to_thread(located.decoded, parts, name=weight.name)
            if decoded.width is not None and decoded.width != columns:
                raise UnsupportedFormat(f"weights packed as {weight.dtype}", path=weight.path)
            yield first, to_float32(decoded.data, decoded.dtype).reshape(-1, columns)
