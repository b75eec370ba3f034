"""bitsandbytes 4-bit: codes of the flattened matrix, two a byte, with a scale for each block.

With double quantization the scales are themselves 8-bit codes with a scale for each 256 of them.
Block sizes and the offset stand in a small JSON text inside of the file, which is read with the
span; code tables are the fixed ones of the library.

References
----------
Dettmers et al. (2023), arXiv 2305.14314; Dettmers et al. (2022), arXiv 2110.02861 for the dynamic
8-bit map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...lineage.errors import MalformedFile, UnsupportedFormat
from ...lineage.records import TensorSpec
from .base import ByteRange, Decoded, Located
from .bounded_json import JsonLimits, parse_object
from .codebooks import pair_tables, pairs_at
from .plain import element_range
from .row_packed import decoded, numbers

Float32 = NDArray[np.float32]

MAX_BLOCK = 65_536
NESTED = 256
_STATE_LIMITS = JsonLimits(size=4096, depth=4, objects=4, elements=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class BnbWeight:
    """A matrix in NF4 or FP4 (a `Weight`).

    `weight` U8 [n / 2, 1], the high nibble first; `absmax` F32, or U8 with `nested` and
    `nested_map`; `codes` F32 [16]; `state` the JSON text as U8.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weight: TensorSpec
    absmax: TensorSpec
    codes: TensorSpec
    state: TensorSpec
    nested: TensorSpec | None
    nested_map: TensorSpec | None
    block: int

    @property
    def path(self) -> str:
        """The file of the codes."""
        return self.weight.path

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """Codes, scales, and what the scales are made of."""
        end = start + count
        first = start // self.block * self.block
        blocks = (first // self.block, -(-end // self.block))
        ranges = [
            element_range(self.weight, first // 2, -(-end // 2) - first // 2),
            element_range(self.absmax, blocks[0], blocks[1] - blocks[0]),
            _whole(self.state),
            _whole(self.codes),
        ]
        outer = (blocks[0] // NESTED, -(-blocks[1] // NESTED))
        if self.nested is not None and self.nested_map is not None:
            ranges.append(element_range(self.nested, outer[0], outer[1] - outer[0]))
            ranges.append(_whole(self.nested_map))
        if sum(r.end - r.begin for r in ranges) > budget:
            return None

        def decode(parts: Sequence[bytes]) -> Decoded:
            scales = self._scales(parts, blocks)
            raw = np.frombuffer(parts[0], dtype=np.uint8)
            book = numbers(parts[3], self.codes).astype("<f4", copy=False)
            scale = np.repeat(scales, self.block)[: end - first]
            codes, widths = (
                pairs_at(held, raw)[: end - first]
                for held in pair_tables(book.tobytes(), high_first=True)
            )
            return decoded(codes * scale, widths * scale, start - first, count)

        return Located(ranges=tuple(ranges), decode=decode)

    def _scales(self, parts: Sequence[bytes], blocks: tuple[int, int]) -> Float32:
        state = parse_state(parts[2], self.state)
        if state.get("blocksize", self.block) != self.block:
            raise self._wrong("another block size than its scales")
        if state.get("shape") != list(self.shape):
            raise UnsupportedFormat(
                f"{self.name[:200]!r} is no matrix of {self.shape}", path=self.state.path
            )
        if self.nested is None or self.nested_map is None:
            return numbers(parts[1], self.absmax)
        offset = state.get("nested_offset", 0.0)
        if not isinstance(offset, int | float) or state.get("nested_blocksize") != NESTED:
            raise self._wrong("scales of scales that are not described")
        code = numbers(parts[5], self.nested_map)[np.frombuffer(parts[1], dtype=np.uint8)]
        outer = np.repeat(numbers(parts[4], self.nested), NESTED)
        lead = blocks[0] - blocks[0] // NESTED * NESTED
        scales: Float32 = code * outer[lead : lead + code.size] + np.float32(offset)
        return scales

    def _wrong(self, what: str) -> MalformedFile:
        return MalformedFile(
            f"{self.name[:200]!r} has {what}", path=self.state.path, offset=self.state.begin
        )


def parse_state(data: bytes, spec: TensorSpec) -> Mapping[str, Any]:
    """The JSON text of a quantization state."""
    return parse_object(data, path=spec.path, limits=_STATE_LIMITS, offset=spec.begin, floats=True)


def block_size(count: int, scales: int) -> int:
    """Weights of a block, a power of two, from how many weights and scales there are."""
    return 1 << max(0, math.ceil(math.log2(max(1, count / max(1, scales)))))


def _whole(spec: TensorSpec) -> ByteRange:
    return ByteRange(spec.path, spec.begin, spec.end)
