"""Two whole models, tensor by tensor: the next is read while this one is compared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..lineage.compute import Compute
from ..lineage.errors import NotComparable, UnsupportedFormat
from ..lineage.full_delta import FullComparison, FullDelta, StoredTensor, TensorDelta
from ..lineage.records import RoleKey
from .bytes import Traffic
from .formats.base import ByteRange, Weight
from .formats.sharded import choose_weight_files
from .sketching import WeightMap, map_weights
from .sources.base import Source

PIECE = 64 << 20
PERMUTED = ("attn.q", "attn.k")
_NO_BUDGET = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class FullReport:
    """What the comparison came to; `skipped` tensors with the reason, `bytes_read` of both."""

    a: str
    b: str
    delta: FullDelta
    skipped: Mapping[str, str]
    bytes_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One model whose headers were read."""

    name: str
    weights: WeightMap

    @property
    def gguf(self) -> bool:
        packing = self.weights.packing
        return packing is not None and packing.format == "gguf"


async def compare_full(
    source: Source,
    a: str,
    b: str,
    *,
    compute: Compute,
    watch: Callable[[TensorDelta], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> FullReport:
    """Compare all weights of two models of a source.

    Parameters
    ----------
    watch : called after each tensor.
    stopped : asked before each tensor; what was compared so far is then the result.

    Raises
    ------
    NotComparable : no tensor has the same place and shape in both.
    ModelNotFound, AccessDenied, TransientError, FormatError : from the source and its files.

    Notes
    -----
    Two tensors of each model are held at most: the pair that is compared and the one being read.
    """
    traffic = Traffic()
    first, second = await asyncio.gather(
        _mapped(source, a, traffic=traffic), _mapped(source, b, traffic=traffic)
    )
    shared, skipped = _shared(first, second)
    if not shared:
        raise NotComparable(f"{a} and {b} share no tensor of the same place and shape")
    comparison = FullComparison(compute=compute)
    ahead = asyncio.create_task(_pair(first, second, shared[0]))
    try:
        for at, key in enumerate(shared):
            try:
                pair = await ahead
            except UnsupportedFormat as error:
                pair = None
                skipped[str(key)] = str(error)
            if stopped():
                break
            if at + 1 < len(shared):
                ahead = asyncio.create_task(_pair(first, second, shared[at + 1]))
            if pair is not None:
                found = await asyncio.to_thread(comparison.add, *pair)
                if math.isfinite(found.distance):
                    watch(found)
                else:
                    skipped[str(key)] = "NaN or infinite weights"
            del pair
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
    return FullReport(
        a=a, b=b, delta=comparison.result(), skipped=skipped, bytes_read=traffic.bytes
    )


async def _mapped(source: Source, name: str, *, traffic: Traffic) -> _Side:
    info = await asyncio.to_thread(source.info, name, traffic=traffic)
    layout = choose_weight_files([file.path for file in info.files])
    if layout.kind not in ("single", "sharded"):
        raise NotComparable(f"{name} holds no whole model: {layout.kind}")
    # Headers count as nothing here: all of the model is read anyway.
    weights = await map_weights(source, info, layout, traffic=traffic, every_shard=True)
    return _Side(name=name, weights=weights)


def _shared(first: _Side, second: _Side) -> tuple[list[RoleKey], dict[str, str]]:
    """Places that both hold in one shape, in the order of the first one's bytes; the others."""
    skipped: dict[str, str] = {}
    shared = []
    for key, (weight, place) in first.weights.tensors.items():
        other = second.weights.tensors.get(key)
        if other is None:
            skipped[str(key)] = f"only in {first.name}"
        elif _plain(weight, place.transposed) != _plain(other[0], other[1].transposed):
            skipped[str(key)] = f"{weight.shape} against {other[0].shape}"
        elif first.gguf != second.gguf and key.role.endswith(PERMUTED):
            skipped[str(key)] = "the conversion to GGUF permutes it"
        else:
            shared.append(key)
    for key in second.weights.tensors.keys() - first.weights.tensors.keys():
        skipped[str(key)] = f"only in {second.name}"
    return shared, skipped


def _plain(weight: Weight, transposed: bool) -> tuple[int, ...]:
    return weight.shape[::-1] if transposed else weight.shape


async def _pair(first: _Side, second: _Side, key: RoleKey) -> tuple[StoredTensor, StoredTensor]:
    a, b = await asyncio.gather(_read(first, key), _read(second, key))
    return a, b


async def _read(side: _Side, key: RoleKey) -> StoredTensor:
    weight, place = side.weights.tensors[key]
    count = 1
    for length in weight.shape:
        count *= length
    located = weight.locate(0, count, budget=_NO_BUDGET)
    if located is None:
        raise UnsupportedFormat(f"{weight.dtype} cannot be decoded here", path=weight.path)
    parts = [await _bytes(side.weights, part) for part in located.ranges]
    decoded = located.decoded(parts, name=weight.name)
    return StoredTensor(
        key=key,
        name=weight.name,
        shape=weight.shape,
        transposed=place.transposed,
        dtype=decoded.dtype,
        data=decoded.data,
        step=decoded.step,
    )


async def _bytes(weights: WeightMap, part: ByteRange) -> bytes:
    """A range, in pieces where it is long: no server has to send gigabytes in one answer."""
    source = weights.sources[part.path]
    if part.end - part.begin <= PIECE:
        return await source.read(part.begin, part.end)
    out = bytearray()
    for begin in range(part.begin, part.end, PIECE):
        out += await source.read(begin, min(begin + PIECE, part.end))
    return bytes(out)
