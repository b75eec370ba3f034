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
from dataclasses import dataclass

from ...lineage.dtypes import ITEMSIZE_BITS
from ...lineage.errors import (
    LimitExceeded,
    MalformedFile,
    TruncatedRead,
    UnsupportedFormat,
)
from ...lineage.records import TensorSpec
from ..bytes import ByteSource
from .pickle_ops import EndOfData, StorageRef, TensorRef, Walker, flatten
from .safetensors_file import Header

MAX_PICKLE = 64 * 1024 * 1024
MAX_ENTRIES = 100_000
MAX_DIRECTORY = 16 * 1024 * 1024

_ZIP = b"PK\x03\x04"
_LEGACY = bytes.fromhex("8002 8a0a 6cfc9c46f9206aa85019 2e")
# A pickle this short is walked in milliseconds, which is less than a thread may take to begin.
_SHORT = 32_768
_TAIL = 16_384
_HEAD = 65_536
_END = b"PK\x05\x06"
_END64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
_ALIGNMENT = 64
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
_STATES = ("optimizer", "lr_scheduler", "scheduler", "scaler", "ema_optimizer", "loops")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipEntry:
    """One entry of a zip directory: stored bytes and where its local header begins."""

    name: str
    size: int
    offset: int
    name_bytes: int

    @property
    def begin(self) -> int:
        """Where its data begins: torch pads local headers so that data is aligned."""
        bare = self.offset + 30 + self.name_bytes
        return -(-(bare + 4) // _ALIGNMENT) * _ALIGNMENT

    @property
    def end(self) -> int:
        """Where its data ends."""
        return self.begin + self.size


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


async def read_directory(source: ByteSource) -> dict[str, ZipEntry]:
    """The entries of a zip by name, from its end alone.

    Raises
    ------
    MalformedFile : no directory, a name twice, entries that overlap or are compressed, encrypted
        or outside of the file.
    LimitExceeded : over 100,000 entries or 16 MiB of directory.
    """
    begin = max(0, source.size - _TAIL)
    tail = await source.read(begin, source.size)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise MalformedFile("no zip directory at the end", path=source.path, offset=begin)
    count, size, offset = struct.unpack("<HII", tail[at + 10 : at + 20])
    if 0xFFFF in (count,) or 0xFFFFFFFF in (size, offset):
        count, size, offset = await _zip64(source, tail, begin, at)
    if count > MAX_ENTRIES or size > MAX_DIRECTORY:
        raise LimitExceeded(
            "zip directory too large",
            path=source.path,
            limit=MAX_ENTRIES if count > MAX_ENTRIES else MAX_DIRECTORY,
            actual=max(count, size),
        )
    if offset + size > source.size:
        raise MalformedFile("a zip directory outside of the file", path=source.path, offset=begin)
    if offset >= begin:
        data = tail[offset - begin : offset - begin + size]
    else:
        data = await source.read(offset, offset + size)
    return _parse_directory(data, count=count, at=offset, source=source)


async def _zip64(source: ByteSource, tail: bytes, begin: int, at: int) -> tuple[int, int, int]:
    where = tail.rfind(_END64, 0, at)
    if where < 0 or len(tail) < where + 20:
        raise MalformedFile("no zip64 directory", path=source.path, offset=begin + at)
    (offset,) = struct.unpack("<Q", tail[where + 8 : where + 16])
    if offset + 56 > source.size:
        raise MalformedFile(
            "a zip64 directory outside of the file", path=source.path, offset=begin + where
        )
    if offset >= begin:
        record = tail[offset - begin : offset - begin + 56]
    else:
        record = await source.read(offset, offset + 56)
    if record[:4] != b"PK\x06\x06":
        raise MalformedFile("no zip64 record", path=source.path, offset=offset)
    count, size, start = struct.unpack("<QQQ", record[32:56])
    return count, size, start


def _parse_directory(
    data: bytes, *, count: int, at: int, source: ByteSource
) -> dict[str, ZipEntry]:
    entries: dict[str, ZipEntry] = {}
    place = 0
    while place < len(data):
        entry, place = _parse_entry(data, place, at, source)
        if entry.name in entries:
            _bad(f"entry {entry.name[:80]!r} stands twice", source, at + place)
        entries[entry.name] = entry
    if len(entries) != count:
        _bad(f"{count} entries are promised and {len(entries)} are there", source, at)
    _check_entries(entries, source, at)
    return entries


def _parse_entry(data: bytes, place: int, at: int, source: ByteSource) -> tuple[ZipEntry, int]:
    head = data[place : place + 46]
    if len(head) < 46 or head[:4] != _ENTRY:
        _bad("an entry of the zip directory is cut or has no mark", source, at + place)
    flags, method = struct.unpack("<HH", head[8:12])
    packed, size, name_bytes, extra, comment = struct.unpack("<IIHHH", head[20:34])
    (offset,) = struct.unpack("<I", head[42:46])
    end = place + 46 + name_bytes + extra + comment
    if end > len(data):
        _bad("an entry of the zip directory is cut", source, at + place)
    name = data[place + 46 : place + 46 + name_bytes].decode("utf-8", "surrogateescape")
    more = data[place + 46 + name_bytes : place + 46 + name_bytes + extra]
    size, packed, offset = _wide(more, size, packed, offset)
    if flags & 0x41:
        _bad(f"entry {name[:80]!r} is encrypted", source, at + place)
    if method != 0 or packed != size:
        _bad(f"entry {name[:80]!r} is compressed: torch stores", source, at + place)
    return ZipEntry(name=name, size=size, offset=offset, name_bytes=name_bytes), end


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset from the zip64 field, where the plain ones are full."""
    values = [size, packed, offset]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        body = extra[at + 4 : at + 4 + length]
        if kind == 1:
            for which in range(3):
                if values[which] == 0xFFFFFFFF and len(body) >= 8:
                    values[which] = int.from_bytes(body[:8], "little")
                    body = body[8:]
        at += 4 + length
    return values[0], values[1], values[2]


def _check_entries(entries: Mapping[str, ZipEntry], source: ByteSource, at: int) -> None:
    last_end, last = 0, ""
    for entry in sorted(entries.values(), key=lambda e: e.offset):
        # What torch does not write need not be aligned: such an entry may begin sooner.
        if entry.offset + 30 + entry.name_bytes + entry.size > at:
            _bad(f"entry {entry.name[:80]!r} runs into the directory", source, entry.offset)
        if entry.offset < last_end:
            _bad(f"entries {last[:80]!r} and {entry.name[:80]!r} overlap", source, entry.offset)
        last_end, last = entry.offset + 30 + entry.name_bytes + entry.size, entry.name


def _bad(message: str, source: ByteSource, offset: int) -> None:
    raise MalformedFile(message, path=source.path, offset=offset)


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
