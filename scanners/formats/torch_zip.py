"""The directory of a zip that torch wrote: where each entry lies, told from the end alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ...lineage.errors import LimitExceeded, MalformedFile
from ..bytes import ByteSource

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 16 * 1024 * 1024

_TAIL = 16_384
_END = b"PK\x05\x06"
_END64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
_ALIGNMENT = 64


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
