"""From a revision's files to its sketch, within a budget of bytes and requests.

Headers say where each tensor lies, the plan says which weights are wanted, and what is wanted is
read in as few ranges as the budget allows. For a sharded model only the shards that hold planned
tensors are opened.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..lineage.architectures.roles import Place, assign_roles
from ..lineage.errors import LimitExceeded, MalformedFile, UnsupportedFormat
from ..lineage.infer.adapters import magnitude_key
from ..lineage.records import ModelInfo, RoleKey
from ..lineage.sketch.plan import (
    PLAN_VERSION,
    Span,
    choose_places,
    is_matrix,
    shape_key,
    spans_of,
)
from ..lineage.sketch.sketch import Sketch, SketchBlock, block_of
from .bytes import ByteSource, Traffic
from .formats.adapters import LoraWeight, adapter_weights
from .formats.base import ByteRange, Decoded, Located, Packing, Weight, WeightFile
from .formats.gguf_file import MAX_SHARDS, gguf_weights
from .formats.gguf_header import read_gguf_header
from .formats.packed import group_parts, unpack
from .formats.safetensors_file import read_header
from .formats.sharded import MAX_INDEX, WeightLayout, check_index, parse_index
from .formats.torch_file import read_torch_header
from .sources.base import Source

MAX_REQUESTS = 40
MAX_BYTES = 2_000_000
MAX_GAP = 24_576
MAX_SPAN_BYTES = MAX_BYTES // 4
MIN_SPANS = 8
PART_SPANS = 8
MIN_OUTSIDE = 4
SHARD_REQUESTS = 2
SHARDS_OPENED = 12
FIRST_READ = 65_536
GGUF_READ = 262_144
ENTRY_BYTES = 112
METADATA_BYTES = 512
BUFFER_ROLES = frozenset({"buffer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """What the headers that were read say of a model.

    `tensors` holds the places whose weight is known; `places` every place that is named, also in
    shards that were not opened; `shapes` those of the planned places that are known, in plan
    order. `sources` are the open files by path. `free` are bytes of the
    headers that do not count against a sketch's budget: a tokenizer inside of a weight file.
    """

    tensors: Mapping[RoleKey, tuple[Weight, Place]]
    places: tuple[RoleKey, ...]
    shapes: Mapping[RoleKey, tuple[int, ...]]
    sources: Mapping[str, ByteSource]
    n_params: int | None
    packing: Packing | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    free: int = 0

    @property
    def shape_key(self) -> str:
        """The bucket the model is compared in."""
        return shape_key(self.places, self.shapes)

    @property
    def dtype(self) -> str | None:
        """Storage types of the planned tensors, joined."""
        kinds = {self.tensors[key][0].dtype for key in self.shapes}
        return "+".join(sorted(kinds)) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A span with the bytes that hold it."""

    span: Span
    weight: Weight
    place: Place
    located: Located


async def map_weights(
    source: Source,
    info: ModelInfo,
    layout: WeightLayout,
    *,
    traffic: Traffic,
    every_shard: bool = False,
) -> WeightMap:
    """Read the headers that the plan needs, or with `every_shard` all of them.

    Raises
    ------
    FormatError : an index or a header contradicts itself, or names nothing.
    AccessDenied, ModelNotFound, TransientError : from the source.
    """
    if layout.format == "gguf":
        return await _map_gguf(source, info, layout, traffic, every_shard=every_shard)
    hint = _hint(info)
    if layout.index is None:
        paths: tuple[str, ...] = tuple(layout.files)
        names: dict[str, str] | None = None
    else:
        data = await source.read(info, layout.index, limit=MAX_INDEX, traffic=traffic)
        names = parse_index(data, path=layout.index)
        _check_shards(names, info)
        needed = _needed_shards(names, hint, requests=traffic.requests)
        paths = tuple(sorted(set(names.values()))) if every_shard else needed
    sources = dict(zip(paths, await _open_all(source, info, paths, traffic), strict=True))
    sizes = _header_sizes(names)
    reads = (
        read_torch_header(one)
        if layout.format == "pytorch"
        else read_header(one, first_read=sizes.get(path, FIRST_READ))
        for path, one in sources.items()
    )
    headers = dict(zip(paths, await asyncio.gather(*reads), strict=True))
    if names is not None:
        check_index({t: f for t, f in names.items() if f in headers}, headers)
    specs = {spec.name: spec for header in headers.values() for spec in header.tensors}
    file = unpack(specs, config=info.config)
    named = group_parts(names or ())
    complete = names is None or len(headers) == len(set(names.values()))
    return _mapped(file, named, sources, hint=hint, whole=complete)


async def map_adapter(
    source: Source,
    info: ModelInfo,
    layout: WeightLayout,
    config: Mapping[str, Any],
    *,
    traffic: Traffic,
) -> WeightMap:
    """Read an adapter's header; its tensors are the changes it makes to its base's weights.

    Parameters
    ----------
    config : adapter_config.json; empty where there is none.

    Raises
    ------
    As `map_weights`.
    """
    (path,) = layout.files
    opened = await source.open(info, path, traffic=traffic)
    torch = layout.format == "pytorch"
    header = await (read_torch_header(opened) if torch else read_header(opened))
    specs = {spec.name: spec for spec in header.tensors}
    file = adapter_weights(specs, config)
    mapped = _mapped(file, (), {path: opened}, hint=_hint(info), whole=False)
    return replace(mapped, metadata=header.metadata)


async def _map_gguf(
    source: Source,
    info: ModelInfo,
    layout: WeightLayout,
    traffic: Traffic,
    *,
    every_shard: bool,
) -> WeightMap:
    paths = layout.files
    if len(paths) > MAX_SHARDS:
        raise LimitExceeded("too many shards", path=paths[0], limit=MAX_SHARDS, actual=len(paths))
    if len(paths) > SHARDS_OPENED and not every_shard:
        # Tensors stand in the order of the layers: the plan is at both ends and between.
        paths = (*paths[: SHARDS_OPENED // 2], *paths[-SHARDS_OPENED // 2 :])
    sources = dict(zip(paths, await _open_all(source, info, paths, traffic), strict=True))
    reads = [
        read_gguf_header(one, first_read=FIRST_READ if at else GGUF_READ)
        for at, one in enumerate(sources.values())
    ]
    headers = dict(zip(paths, await asyncio.gather(*reads), strict=True))
    file = gguf_weights(headers)
    free = sum(header.size for header in headers.values())
    return _mapped(file, (), sources, hint="gguf", whole=len(paths) == len(layout.files), free=free)


def _mapped(
    file: WeightFile,
    named: Iterable[str],
    sources: Mapping[str, ByteSource],
    *,
    hint: str | None,
    whole: bool,
    free: int = 0,
) -> WeightMap:
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(named, ())
    shapes |= {name: weight.shape for name, weight in file.weights.items()}
    placed = assign_roles(list(shapes.items()), model_type=hint)
    places = tuple(p.key for p in placed.values() if p.key.role not in BUFFER_ROLES)
    tensors = _by_place(file.weights, placed)
    planned = choose_places(places)
    return WeightMap(
        tensors=tensors,
        places=places,
        shapes={key: tensors[key][0].shape for key in planned if key in tensors},
        sources=sources,
        n_params=sum(math.prod(w.shape) for w in file.weights.values()) if whole else None,
        packing=file.packing,
        metadata=file.metadata,
        skipped=file.skipped,
        free=free,
    )


async def read_sketch(weights: WeightMap, *, traffic: Traffic, spans: int | None = None) -> Sketch:
    """Read the planned spans.

    Parameters
    ----------
    spans : so many of them at most, from all over the plan; None for the whole plan.
    traffic : what the model has cost so far; spans are dropped from the end of the plan until
        the rest fits in `MAX_REQUESTS` and `MAX_BYTES`, but `MIN_SPANS` of them are kept: less
        would not tell models apart, and only an index of many megabytes can bring it so far.

    Raises
    ------
    UnsupportedFormat : no planned tensor has a type that can be widened, or a row of a size that
        can be read.
    MalformedFile : a weight is NaN or infinite.
    """
    wanted = _wanted(weights)
    undecoded = weights.packing is not None and not any(is_matrix(w.span.key) for w in wanted)
    if not wanted or undecoded:
        path = next(iter(weights.sources), "")
        kinds = ", ".join(sorted(weights.skipped))
        told = "no tensor of a known role, number type and size"
        if kinds:
            told = f"weights packed as {kinds} cannot be decoded here"
        raise UnsupportedFormat(told, path=path)
    spent = Traffic(traffic.requests, traffic.bytes - weights.free)
    if spans is not None:
        wanted = wanted[:: -(-len(wanted) // spans)]
    chosen = _within_budget(wanted, spent)
    runs = list(_runs(chosen))
    read = await asyncio.gather(
        *(weights.sources[run.path].read(run.begin, run.end) for run in runs)
    )
    held = dict(zip(runs, read, strict=True))
    blocks = {want.span.name: _block(want, _pieces(want, held)) for want in chosen}
    return Sketch(plan=PLAN_VERSION, blocks=blocks, packing=_described(weights.packing))


def _described(packing: Packing | None) -> dict[str, str]:
    if packing is None:
        return {}
    return {"format": packing.format, "type": packing.type, "bits": str(packing.bits)}


def _hint(info: ModelInfo) -> str | None:
    model_type = info.config.get("model_type")
    return model_type if isinstance(model_type, str) else None


def _check_shards(names: Mapping[str, str], info: ModelInfo) -> None:
    """Refuse an index that names a shard which the listing does not have."""
    listed = {file.path for file in info.files}
    missing = sorted(set(names.values()) - listed)
    if missing:
        raise MalformedFile("the index names this shard, and it is missing", path=missing[0])


def _needed_shards(names: Mapping[str, str], hint: str | None, *, requests: int) -> tuple[str, ...]:
    """The shards of the plan, as far as opening them leaves requests for what they hold.

    A later place whose shards are not worth their requests is left out, so that the spans before
    it are not dropped for it.
    """
    parts = group_parts(names)
    placed = assign_roles([(name, ()) for name in parts], model_type=hint)
    by_key = {place.key: name for name, place in placed.items()}
    planned = choose_places([k for k in by_key if k.role not in BUFFER_ROLES])
    opened: dict[str, None] = {}
    for at, key in enumerate(planned):
        shards = {names[part] for part in parts[by_key[key]]}
        cost = 1 + SHARD_REQUESTS * len(shards - opened.keys())
        if requests + cost > MAX_REQUESTS and at >= MIN_SPANS:
            continue
        requests += cost
        opened |= dict.fromkeys(sorted(shards))
    return tuple(opened)


def _header_sizes(names: Mapping[str, str] | None) -> dict[str, int]:
    """Bytes that the header of each shard surely fits in, from the tensors an index names."""
    sizes: dict[str, int] = {}
    for name, path in (names or {}).items():
        entry = len(json.dumps(name)) + ENTRY_BYTES
        sizes[path] = min(FIRST_READ, sizes.get(path, METADATA_BYTES) + entry)
    return sizes


async def _open_all(
    source: Source, info: ModelInfo, paths: Sequence[str], traffic: Traffic
) -> list[ByteSource]:
    return list(await asyncio.gather(*(source.open(info, path, traffic=traffic) for path in paths)))


def _by_place(
    weights: Mapping[str, Weight], placed: Mapping[str, Place]
) -> dict[RoleKey, tuple[Weight, Place]]:
    return {
        placed[name].key: (weight, placed[name])
        for name, weight in weights.items()
        if placed[name].key.role not in BUFFER_ROLES
    }


def _wanted(weights: WeightMap) -> list[_Wanted]:
    """Spans in plan order with their bytes; what cannot be decoded is left out."""
    wanted = []
    for span in spans_of(weights.shapes):
        weight, place = weights.tensors[span.key]
        located = weight.locate(span.start, span.count, budget=MAX_SPAN_BYTES)
        if located is not None:
            wanted.append(_Wanted(span=span, weight=weight, place=place, located=located))
            wanted += _magnitudes(span, weight)
    return wanted


def _magnitudes(span: Span, weight: Weight) -> list[_Wanted]:
    """What an adapter brings the rows of a span to, beside its change to them."""
    held = weight.magnitude_of(span.start, span.count) if isinstance(weight, LoraWeight) else None
    if held is None:
        return []
    first, rows, values = held
    located = values.locate(first, rows, budget=MAX_SPAN_BYTES)
    if located is None:
        return []
    beside = Span(key=magnitude_key(span.key), start=first, count=rows)
    return [_Wanted(span=beside, weight=values, place=Place(key=beside.key), located=located)]


def _within_budget(wanted: Sequence[_Wanted], traffic: Traffic) -> list[_Wanted]:
    chosen = list(wanted)
    while len(chosen) > MIN_SPANS:
        runs = list(_runs(chosen))
        size = sum(run.end - run.begin for run in runs)
        requests = traffic.requests + len(runs)
        if requests <= MAX_REQUESTS and traffic.bytes + size <= MAX_BYTES:
            break
        _drop_one(chosen)
    return chosen


def _drop_one(chosen: list[_Wanted]) -> None:
    """Take out the span that is missed least.

    The last of the plan; where a matrix costs several requests (weights here, scales there) one
    of the middle layers goes before the few spans that stand in such files unpacked.
    """
    matrices = [at for at, want in enumerate(chosen) if is_matrix(want.span.key)]
    dear = any(len(want.located.ranges) > 1 for want in chosen)
    if dear and len(chosen) - len(matrices) <= MIN_OUTSIDE and matrices:
        del chosen[matrices[len(matrices) // 2]]
    else:
        chosen.pop()


def _runs(wanted: Iterable[_Wanted]) -> Iterable[ByteRange]:
    """Ranges that hold all that is wanted; neighbours that are cheaper read in one are joined."""
    run: ByteRange | None = None
    for part in sorted(part for want in wanted for part in want.located.ranges):
        if run and part.path == run.path and part.begin - run.end <= MAX_GAP:
            run = ByteRange(run.path, run.begin, max(run.end, part.end))
            continue
        if run:
            yield run
        run = part
    if run:
        yield run


def _pieces(want: _Wanted, held: Mapping[ByteRange, bytes]) -> list[bytes]:
    """The bytes of each range of a span, cut out of what was read."""
    pieces = []
    for part in want.located.ranges:
        run = next(
            r for r in held if r.path == part.path and r.begin <= part.begin and part.end <= r.end
        )
        pieces.append(held[run][part.begin - run.begin : part.end - run.begin])
    return pieces


def _block(want: _Wanted, pieces: Sequence[bytes]) -> SketchBlock:
    decoded = want.located.decoded(pieces, name=want.weight.name)
    block = block_of(
        want.span,
        shape=want.weight.shape,
        transposed=want.place.transposed,
        dtype=decoded.dtype,
        data=decoded.data,
        step=decoded.step,
        width=decoded.width,
    )
    _check_finite(want, block, decoded)
    return block


def _check_finite(want: _Wanted, block: SketchBlock, decoded: Decoded) -> None:
    finite = np.isfinite(block.values()).all()
    if not finite or (decoded.step is not None and not np.isfinite(decoded.step).all()):
        first = want.located.ranges[0]
        raise MalformedFile(
            f"the tensor {want.weight.name} holds NaN or infinite weights",
            path=first.path,
            offset=first.begin,
        )
