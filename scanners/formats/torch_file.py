"""PyTorch checkpoints: which bytes hold which tensor, without unpickling and without torch.

A zip of stored entries since 1.6: its end, its directory and `data.pkl` are read, and where the
storages lie follows from the directory. Before that a row of pickles and then the storages. The
pickles are walked by `pickle_ops`.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Mapping

from ...lineage.dtypes import ITEMSIZE_BITS
from ...lineage.errors import (
    LimitExceeded,
    MalformedFile,
    TruncatedRead,
    UnsupportedFormat,
)
from ...lineage.records import TensorSpec
from ..bytes import ByteSource
from .pickle_ops import EndOfData, Walker
from .pickle_values import StorageRef, TensorRef, flatten
from .safetensors_file import Header
from .torch_zip import ZipEntry, read_directory

MAX_PICKLE = 64 * 1024 * 1024

_ZIP = b"PK\x03\x04"
_LEGACY = bytes.fromhex("8002 8a0a 6cfc9c46f9206aa85019 2e")
# A pickle this short is walked in milliseconds, which is less than a thread may take to begin.
_SHORT = 32_768
_HEAD = 65_536
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
_STATES = ("optimizer", "lr_scheduler", "scheduler", "scaler", "ema_optimizer", "loops")


async def read_torch_header(source: ByteSource, *, lenient: bool = False) -> Header:
    """The tensors of a checkpoint, as `read_header` gives those of a safetensors file.

    Parameters
    ----------
    lenient : as of `Walker`.

    Raises
    ------
    UnsafePickle : unpickling it would reach a name that no tensors need.
    UnsupportedFormat : neither of the two forms, or a zip that torch did not write.
    MalformedFile, TruncatedRead, LimitExceeded : it contradicts itself, or is larger than is safe.
    """
    head = await source.read(0, min(_HEAD, source.size))
    if head.startswith(_ZIP):
        tensors = await _read_zip(source, head, lenient)
    elif head.startswith(_LEGACY):
        tensors = await _read_legacy(source, head, lenient)
    elif head[:1] == b"\x80" and head[2:3]:
        # A bare pickle holds no tensors as torch writes them; it is walked for what it would do.
        await _walk_bare(source, head, lenient)
        raise UnsupportedFormat("a pickle that is no torch checkpoint", path=source.path, offset=0)
    else:
        raise UnsupportedFormat("no torch checkpoint", path=source.path, offset=0)
    return Header(tensors=tensors, metadata={}, data_begin=0)


async def _walk_bare(source: ByteSource, head: bytes, lenient: bool) -> None:
    data = head
    while True:
        complete = len(data) == source.size or len(data) >= MAX_PICKLE
        try:
            walker = Walker(data, path=source.path, complete=complete, lenient=lenient)
            await asyncio.to_thread(walker.walk)
        except EndOfData:
            end = min(source.size, MAX_PICKLE, 4 * len(data))
            data += await source.read(len(data), end)
            continue
        return


async def _read_zip(source: ByteSource, head: bytes, lenient: bool) -> tuple[TensorSpec, ...]:
    entries = await read_directory(source)
    pickles = [e for e in entries.values() if e.name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise UnsupportedFormat("a zip without one data.pkl", path=source.path)
    pickled = pickles[0]
    root = pickled.name.removesuffix("data.pkl")
    data = await _read_entry(source, pickled, head)
    walker = Walker(data, path=source.path, offset=pickled.begin, lenient=lenient)
    value = walker.walk() if len(data) <= _SHORT else await asyncio.to_thread(walker.walk)
    found = flatten(value, path=source.path)
    starts: dict[str, tuple[int, int]] = {}
    for key in walker.storages:
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            raise MalformedFile(f"storage {key[:80]!r} is missing", path=source.path)
        starts[key] = (entry.begin, entry.end)
    return _specs(found, starts, source)


async def _read_entry(source: ByteSource, entry: ZipEntry, start: bytes) -> bytes:
    """The data of an entry, its local header checked on the way."""
    if entry.size > MAX_PICKLE:
        raise LimitExceeded(
            "pickle too long", path=source.path, limit=MAX_PICKLE, actual=entry.size
        )
    if entry.end <= len(start):
        raw = start[entry.offset : entry.end]
    else:
        raw = await source.read(entry.offset, min(entry.end, source.size))
    head = raw[:30]
    name_bytes, extra = struct.unpack("<HH", head[26:30]) if len(head) == 30 else (0, 0)
    method = struct.unpack("<H", head[8:10])[0] if len(head) == 30 else -1
    name = raw[30 : 30 + name_bytes]
    if head[:4] != _ZIP or method != 0 or name != entry.name.encode("utf-8", "surrogateescape"):
        raise MalformedFile(
            "the zip's directory and its local header contradict each other",
            path=source.path,
            offset=entry.offset,
        )
    if entry.offset + 30 + name_bytes + extra != entry.begin:
        raise UnsupportedFormat(
            "a zip that is not aligned as torch writes it", path=source.path, offset=entry.offset
        )
    return raw[entry.begin - entry.offset :]


async def _read_legacy(source: ByteSource, head: bytes, lenient: bool) -> tuple[TensorSpec, ...]:
    data = head
    while True:
        complete = len(data) == source.size
        try:
            return await asyncio.to_thread(_parse_legacy, data, complete, source, lenient)
        except EndOfData:
            end = min(source.size, MAX_PICKLE, 4 * len(data))
            if end <= len(data):
                raise LimitExceeded(
                    "pickles too long", path=source.path, limit=MAX_PICKLE, actual=source.size
                ) from None
            data += await source.read(len(data), end)


def _parse_legacy(
    data: bytes, complete: bool, source: ByteSource, lenient: bool
) -> tuple[TensorSpec, ...]:
    """Magic, protocol, system, object and storage keys, each a pickle; then the storages."""
    at = 0
    value, storages, keys = None, {}, None
    for which in range(5):
        walker = Walker(data, path=source.path, at=at, complete=complete, lenient=lenient)
        found = walker.walk()
        at = walker.at
        if which == 3:
            value, storages = found, walker.storages
        if which == 4:
            keys = found
    if not isinstance(keys, list):
        raise MalformedFile("no list of storages", path=source.path, offset=at)
    starts: dict[str, tuple[int, int]] = {}
    for key in map(str, keys):
        storage = storages.get(key)
        if storage is None:
            raise MalformedFile(f"storage {key[:80]!r} is not described", path=source.path)
        begin = at + 8
        at = begin + _bytes_of(storage)
        starts[key] = (begin, at)
    if at > source.size:
        raise TruncatedRead(
            f"the storages end at {at} and the file has {source.size} bytes",
            path=source.path,
            offset=source.size,
        )
    return _specs(flatten(value, path=source.path), starts, source)


def _bytes_of(storage: StorageRef) -> int:
    return storage.count * ITEMSIZE_BITS[storage.dtype] // 8


def _specs(
    found: Mapping[str, TensorRef], starts: Mapping[str, tuple[int, int]], source: ByteSource
) -> tuple[TensorSpec, ...]:
    """Tensors that lie in rows, with their bytes; a view that does not is left out."""
    specs = []
    for name, tensor in found.items():
        if name.split(".")[0] in _STATES or not _is_contiguous(tensor):
            continue
        if tensor.storage.key not in starts:
            raise MalformedFile(f"{name[:80]!r} has no storage", path=source.path)
        begin, last = starts[tensor.storage.key]
        item = ITEMSIZE_BITS[tensor.dtype] // 8
        start = begin + tensor.offset * item
        end = start + math.prod(tensor.shape) * item
        if end > min(last, source.size):
            raise MalformedFile(
                f"{name[:80]!r} ends at {end}, beyond its storage", path=source.path, offset=begin
            )
        specs.append(
            TensorSpec(
                name=name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                path=source.path,
                begin=start,
                end=end,
            )
        )
    return tuple(sorted(_unwrapped(specs), key=lambda spec: (spec.begin, spec.end, spec.name)))


def _is_contiguous(tensor: TensorRef) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and stride != expected:
            return math.prod(tensor.shape) == 0
        expected *= size
    return True


def _unwrapped(specs: list[TensorSpec]) -> list[TensorSpec]:
    """Names without the key that a trainer keeps a whole model under."""
    firsts = {spec.name.partition(".")[0] for spec in specs}
    for wrapper in _WRAPPERS:
        if wrapper not in firsts:
            continue
        inside = [spec for spec in specs if spec.name.startswith(wrapper + ".")]
        if inside and len(inside) * 2 > len(specs) and wrapper != "model":
            return [
                TensorSpec(
                    name=spec.name.removeprefix(wrapper + "."),
                    dtype=spec.dtype,
                    shape=spec.shape,
                    path=spec.path,
                    begin=spec.begin,
                    end=spec.end,
                )
                for spec in inside
            ]
    return specs
