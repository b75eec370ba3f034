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
from dataclasses import dataclass

import numpy as np

from ..lineage.architectures.roles import Place, assign_roles
from ..lineage.dtypes import itemsize_bits
from ..lineage.errors import MalformedFile, NotComparable, UnsupportedFormat
from ..lineage.records import ModelInfo, RoleKey, TensorSpec
from ..lineage.sketch.plan import PLAN_VERSION, Span, choose_places, shape_key, spans_of
from ..lineage.sketch.sketch import Sketch, SketchBlock, block_of
from .bytes import ByteSource, Traffic
from .formats.safetensors_file import read_header
from .formats.sharded import MAX_INDEX, WeightLayout, check_index, parse_index
from .sources.base import Source

MAX_REQUESTS = 40
MAX_BYTES = 2_000_000
MAX_GAP = 24_576
MAX_SPAN_BYTES = MAX_BYTES // 4
MIN_SPANS = 8
SHARD_REQUESTS = 2
FIRST_READ = 65_536
ENTRY_BYTES = 112
METADATA_BYTES = 512
BUFFER_ROLES = frozenset({"buffer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """What the headers that were read say of a model.

    `tensors` holds the places whose spec is known; `places` every place that is named, also in
    shards that were not opened. `sources` are the open files by path.
    """

    tensors: Mapping[RoleKey, tuple[TensorSpec, Place]]
    places: tuple[RoleKey, ...]
    sources: Mapping[str, ByteSource]
    n_params: int | None

    @property
    def shapes(self) -> dict[RoleKey, tuple[int, ...]]:
        """Stored shapes of the planned places that are known, in plan order."""
        planned = choose_places(self.places)
        return {k: self.tensors[k][0].shape for k in planned if k in self.tensors}

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
    """A span as absolute bytes of a file."""

    span: Span
    spec: TensorSpec
    begin: int
    end: int


async def map_weights(
    source: Source, info: ModelInfo, layout: WeightLayout, *, traffic: Traffic
) -> WeightMap:
    """Read the headers that the plan needs.

    Raises
    ------
    FormatError : an index or a header contradicts itself, or names nothing.
    AccessDenied, ModelNotFound, TransientError : from the source.
    """
    model_type = info.config.get("model_type")
    hint = model_type if isinstance(model_type, str) else None
    if layout.index is None:
        paths: tuple[str, ...] = tuple(layout.files)
        names: dict[str, str] | None = None
    else:
        data = await source.read(info, layout.index, limit=MAX_INDEX, traffic=traffic)
        names = parse_index(data, path=layout.index)
        _check_shards(names, info)
        paths = _needed_shards(names, hint, requests=traffic.requests)
    sources = dict(zip(paths, await _open_all(source, info, paths, traffic), strict=True))
    sizes = _header_sizes(names)
    reads = (read_header(s, first_read=sizes.get(path, FIRST_READ)) for path, s in sources.items())
    headers = dict(zip(paths, await asyncio.gather(*reads), strict=True))
    if names is not None:
        check_index({t: f for t, f in names.items() if f in headers}, headers)
    specs = {spec.name: spec for header in headers.values() for spec in header.tensors}
    shapes = dict.fromkeys(names or (), ()) | {n: s.shape for n, s in specs.items()}
    placed = assign_roles(list(shapes.items()), model_type=hint)
    whole = names is None or len(headers) == len(set(names.values()))
    return WeightMap(
        tensors=_by_place(specs, placed),
        places=tuple(p.key for p in placed.values() if p.key.role not in BUFFER_ROLES),
        sources=sources,
        n_params=sum(math.prod(s.shape) for s in specs.values()) if whole else None,
    )


async def read_sketch(weights: WeightMap, *, traffic: Traffic) -> Sketch:
    """Read the planned spans.

    Parameters
    ----------
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
    if not wanted:
        path = next(iter(weights.sources), "")
        raise UnsupportedFormat("no tensor of a known role, number type and size", path=path)
    chosen = _within_budget(wanted, traffic)
    pieces = await asyncio.gather(
        *(_read_run(weights.sources[run[0].spec.path], run) for run in _runs(chosen))
    )
    read = {w.span.name: (w, data) for piece in pieces for w, data in piece}
    blocks: dict[str, SketchBlock] = {}
    for want in chosen:
        _, data = read[want.span.name]
        blocks[want.span.name] = _block(want, weights.tensors[want.span.key][1], data)
    return Sketch(plan=PLAN_VERSION, blocks=blocks)


def _check_shards(names: Mapping[str, str], info: ModelInfo) -> None:
    """Refuse an index that names a shard which the listing does not have."""
    listed = {file.path for file in info.files}
    missing = sorted(set(names.values()) - listed)
    if missing:
        raise MalformedFile("the index names this shard, and it is missing", path=missing[0])


def _needed_shards(names: Mapping[str, str], hint: str | None, *, requests: int) -> tuple[str, ...]:
    """The shards of the plan, as far as opening them leaves requests for what they hold.

    A later place whose shard is not worth its requests is left out, so that the spans before it
    are not dropped for it.
    """
    placed = assign_roles([(name, ()) for name in names], model_type=hint)
    by_key = {place.key: name for name, place in placed.items()}
    planned = choose_places([k for k in by_key if k.role not in BUFFER_ROLES])
    opened: dict[str, None] = {}
    for at, key in enumerate(planned):
        shard = names[by_key[key]]
        cost = 1 if shard in opened else 1 + SHARD_REQUESTS
        if requests + cost > MAX_REQUESTS and at >= MIN_SPANS:
            continue
        requests += cost
        opened[shard] = None
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
    specs: Mapping[str, TensorSpec], placed: Mapping[str, Place]
) -> dict[RoleKey, tuple[TensorSpec, Place]]:
    return {
        placed[name].key: (spec, placed[name])
        for name, spec in specs.items()
        if placed[name].key.role not in BUFFER_ROLES
    }


def _wanted(weights: WeightMap) -> list[_Wanted]:
    """Byte ranges in plan order; tensors of a type that cannot be widened are left out."""
    wanted = []
    for span in spans_of(weights.shapes):
        spec, _ = weights.tensors[span.key]
        try:
            bits = itemsize_bits(spec.dtype)
        except NotComparable:
            continue
        if bits % 8 or not spec.dtype.startswith(("F", "BF")):
            continue
        begin = spec.begin + span.start * bits // 8
        end = begin + span.count * bits // 8
        if end - begin > MAX_SPAN_BYTES:
            continue
        wanted.append(_Wanted(span=span, spec=spec, begin=begin, end=end))
    return wanted


def _within_budget(wanted: Sequence[_Wanted], traffic: Traffic) -> list[_Wanted]:
    chosen = list(wanted)
    while len(chosen) > MIN_SPANS:
        runs = list(_runs(chosen))
        size = sum(run[-1].end - run[0].begin for run in runs)
        requests = traffic.requests + len(runs)
        if requests <= MAX_REQUESTS and traffic.bytes + size <= MAX_BYTES:
            break
        chosen.pop()
    return chosen


def _runs(wanted: Iterable[_Wanted]) -> Iterable[list[_Wanted]]:
    """Neighbouring spans of one file that are cheaper read in one request."""
    run: list[_Wanted] = []
    for want in sorted(wanted, key=lambda w: (w.spec.path, w.begin)):
        near = run and want.spec.path == run[-1].spec.path
        if near and want.begin - run[-1].end <= MAX_GAP:
            run.append(want)
            continue
        if run:
            yield run
        run = [want]
    if run:
        yield run


async def _read_run(source: ByteSource, run: list[_Wanted]) -> list[tuple[_Wanted, bytes]]:
    first, last = run[0].begin, run[-1].end
    data = await source.read(first, last)
    return [(want, data[want.begin - first : want.end - first]) for want in run]


def _block(want: _Wanted, place: Place, data: bytes) -> SketchBlock:
    block = block_of(
        want.span,
        shape=want.spec.shape,
        transposed=place.transposed,
        dtype=want.spec.dtype,
        data=data,
    )
    if not np.isfinite(block.values()).all():
        raise MalformedFile(
            f"the tensor {want.spec.name} holds NaN or infinite weights",
            path=want.spec.path,
            offset=want.begin,
        )
    return block
