"""The header of a GGUF file, read in growing steps and bounded before anything is built from it.

Versions 2 and 3, little-endian. Of the key-value pairs scalars and short strings are kept; arrays
(a tokenizer's are the bulk of a header) are walked over. Every count is held against the bytes
that are left, so a file of 49 bytes that promises 2^63 strings costs 49 bytes.

References
----------
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from ...lineage.errors import LimitExceeded, MalformedFile, TruncatedRead, UnsupportedFormat
from ..bytes import ByteSource
from .gguf_blocks import BLOCK_TYPES, PLAIN_TYPES

MAX_HEADER = 64 * 1024 * 1024
MAX_PAIRS = 65_536
MAX_TENSORS = 200_000
MAX_STRINGS = 4_000_000
MAX_DIMENSION = 1 << 40
FIRST_READ = 262_144
STEP = 65_536
AIMED_READS = 10

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_RANK = 4
_KEPT_TEXT = 4_096
_NAME_BYTES = 256
_KEY_BYTES = 65_535
_STRING, _ARRAY, _BOOL = 8, 9, 7
_ARRAY_DEPTH = 3
_MAX_ALIGNMENT = 1 << 20
# Of usual headers: what a pair without an array, and the description of a tensor, come to.
_PAIR_BYTES, _TENSOR_BYTES = 64, 72
_SCALARS: Mapping[int, struct.Struct] = {
    code: struct.Struct("<" + letter) for code, letter in enumerate("BbHhIif?")
} | {code: struct.Struct("<" + letter) for code, letter in ((10, "Q"), (11, "q"), (12, "d"))}

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor: `shape` in the order of numpy, `type` the stored type, bytes [begin, end).

    `type` is a name of `BLOCK_TYPES` or `PLAIN_TYPES`, or "type N" for one not known, whose size
    is not known either: `end` is then the end of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    code: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What the header says; `size` bytes were read for it."""

    version: int
    pairs: Mapping[str, Scalar]
    tensors: tuple[GgufTensor, ...]
    size: int


class _NeedMore(Exception):
    """The header goes on beyond the bytes at hand, to `end` at least and as far as `likely`."""

    def __init__(self, end: int, likely: int) -> None:
        super().__init__(end)
        self.end = end
        self.likely = max(end, likely)


async def read_gguf_header(source: ByteSource, *, first_read: int = FIRST_READ) -> GgufHeader:
    """Read a header by ranges: few requests, and never the whole of a lying file.

    How far a read goes is guessed from what was seen, the mean length of the strings of a tokenizer
    so far, so that hardly a byte of the weights is read for nothing; the few bytes a guess is short
    by are read after it. A header that escapes ten guesses is read by ranges that double.

    Raises
    ------
    MalformedFile : not GGUF, or a header that contradicts itself or the file's size.
    UnsupportedFormat : version 1, or big-endian.
    LimitExceeded : more pairs, tensors, strings or bytes than a header may have.
    TruncatedRead : the file ends inside its header or its tensors.
    """
    data = await source.read(0, min(first_read, source.size))
    reads = 1
    while True:
        try:
            return parse_gguf_header(data, path=source.path, file_size=source.size)
        except _NeedMore as more:
            further = len(data) + (STEP if reads < AIMED_READS else len(data))
            end = min(max(more.likely, further), source.size, MAX_HEADER)
            if more.end > end or end <= len(data):
                _fail_short(more.end, path=source.path, file_size=source.size)
        data += await source.read(len(data), end)
        reads += 1


def parse_gguf_header(data: bytes, *, path: str, file_size: int) -> GgufHeader:
    """Parse the beginning of a file; `_NeedMore` when `data` ends before the header does."""
    cursor = _Cursor(data, path=path, file_size=file_size)
    version = _version(cursor)
    n_tensors, n_pairs = cursor.u64(), cursor.u64()
    cursor.at_most(n_tensors, MAX_TENSORS, what="too many tensors")
    cursor.at_most(n_pairs, MAX_PAIRS, what="too many key-value pairs")
    # A pair has at least 13 bytes, a tensor 32: more than fit are not looked for.
    cursor.promise(13 * n_pairs + 32 * n_tensors)
    cursor.after = _PAIR_BYTES * n_pairs + _TENSOR_BYTES * n_tensors
    pairs = _pairs(cursor, n_pairs)
    described = [_describe(cursor) for _ in range(n_tensors)]
    begin = _data_begin(cursor, pairs) if described else cursor.at
    tensors = tuple(_place(one, begin, cursor) for one in described)
    _check_tensors(tensors, path)
    return GgufHeader(version=version, pairs=pairs, tensors=tensors, size=cursor.at)


def _fail_short(end: int, *, path: str, file_size: int) -> NoReturn:
    if end > file_size:
        raise TruncatedRead(
            f"the header needs {end} bytes and the file has {file_size}",
            path=path,
            offset=file_size,
        )
    raise LimitExceeded("header too long", path=path, limit=MAX_HEADER, actual=end, offset=0)


class _Cursor:
    """A place in the bytes at hand; every step forward is checked."""

    def __init__(self, data: bytes, *, path: str, file_size: int) -> None:
        self.data = data
        self.path = path
        self.file_size = file_size
        self.at = 0
        self.strings = 0
        self.after = 0

    def fail(self, message: str) -> NoReturn:
        raise MalformedFile(message, path=self.path, offset=self.at)

    def at_most(self, actual: int, limit: int, *, what: str) -> None:
        if actual > limit:
            raise LimitExceeded(what, path=self.path, limit=limit, actual=actual, offset=self.at)

    def promise(self, count: int) -> None:
        """Refuse a length that the file cannot have."""
        if self.at + count > self.file_size:
            raise TruncatedRead(
                f"{count} bytes are promised and {self.file_size - self.at} are left",
                path=self.path,
                offset=self.at,
            )

    def need(self, end: int, *, left: float = 0) -> NoReturn:
        """Ask for the bytes up to `end`, for `left` likely ones and for what stands behind."""
        raise _NeedMore(end, end + int(left) + self.after)

    def skip(self, count: int) -> int:
        """Step over `count` bytes and give where they begin."""
        begin, end = self.at, self.at + count
        if end > len(self.data):
            self.promise(count)
            self.need(end)
        self.at = end
        return begin

    def u32(self) -> int:
        begin = self.skip(4)
        return int.from_bytes(self.data[begin : begin + 4], "little")

    def u64(self) -> int:
        begin = self.skip(8)
        return int.from_bytes(self.data[begin : begin + 8], "little")

    def raw(self, *, limit: int, what: str) -> bytes:
        length = self.u64()
        self.promise(length)
        self.at_most(length, limit, what=what)
        begin = self.skip(length)
        return self.data[begin : begin + length]

    def text(self, *, limit: int, what: str) -> str:
        at = self.at
        try:
            return self.raw(limit=limit, what=what).decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedFile("not UTF-8", path=self.path, offset=at) from None

    def skip_strings(self, count: int) -> None:
        """Step over strings; a length that leaves the bytes at hand or the file is caught."""
        self.strings += count
        self.at_most(self.strings, MAX_STRINGS, what="too many strings")
        self.promise(8 * count)
        data, at, unpack = self.data, self.at, struct.Struct("<Q").unpack_from
        end = len(data) - 8
        for _seen in range(count):
            if at > end:
                break
            at += 8 + unpack(data, at)[0]
        else:
            self.skip(at - self.at)
            return
        self.promise(at + 8 - self.at)
        mean = (at - self.at) / _seen if _seen else 8
        self.need(at + 8, left=mean * (count - _seen))


def _version(cursor: _Cursor) -> int:
    begin = cursor.skip(4)
    if cursor.data[begin : begin + 4] != _MAGIC:
        cursor.at = begin
        cursor.fail("not a GGUF file")
    version = cursor.u32()
    if version in _VERSIONS:
        return version
    if version == 1 or int.from_bytes(version.to_bytes(4, "little"), "big") <= max(_VERSIONS):
        kind = "version 1" if version == 1 else "big-endian"
        raise UnsupportedFormat(f"GGUF, {kind}", path=cursor.path, offset=4)
    cursor.at = 4
    cursor.fail(f"GGUF version {version} is not known")


def _pairs(cursor: _Cursor, count: int) -> dict[str, Scalar]:
    kept: dict[str, Scalar] = {}
    seen: set[str] = set()
    for _ in range(count):
        at = cursor.at
        key = cursor.text(limit=_KEY_BYTES, what="key too long")
        if key in seen:
            cursor.at = at
            cursor.fail(f"key {key[:80]!r} stands twice")
        seen.add(key)
        value = _value(cursor, cursor.u32(), depth=0)
        if value is not None:
            kept[key] = value
    return kept


def _value(cursor: _Cursor, kind: int, *, depth: int) -> Scalar | None:
    """A scalar or a short string; None for an array or a long string, which are walked over."""
    if kind == _STRING:
        raw = cursor.raw(limit=MAX_HEADER, what="string too long")
        return raw.decode("utf-8", "replace") if len(raw) <= _KEPT_TEXT else None
    if kind == _ARRAY:
        _skip_array(cursor, depth=depth)
        return None
    if kind not in _SCALARS:
        cursor.fail(f"value type {kind} is not known")
    form = _SCALARS[kind]
    begin = cursor.skip(form.size)
    value: Scalar = form.unpack_from(cursor.data, begin)[0]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _skip_array(cursor: _Cursor, *, depth: int) -> None:
    if depth >= _ARRAY_DEPTH:
        cursor.fail("arrays nested too deeply")
    kind, count = cursor.u32(), cursor.u64()
    if kind == _STRING:
        cursor.promise(8 * count)
        cursor.skip_strings(count)
    elif kind == _ARRAY:
        cursor.promise(12 * count)
        cursor.strings += count
        cursor.at_most(cursor.strings, MAX_STRINGS, what="too many arrays")
        for _ in range(count):
            _skip_array(cursor, depth=depth + 1)
    elif kind in _SCALARS:
        cursor.skip(count * _SCALARS[kind].size)
    else:
        cursor.fail(f"element type {kind} is not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """A tensor before it is placed; `at` is where the header describes it."""

    at: int
    name: str
    shape: tuple[int, ...]
    code: int
    offset: int


def _describe(cursor: _Cursor) -> _Described:
    at = cursor.at
    name = cursor.text(limit=_NAME_BYTES, what="tensor name too long")
    rank = cursor.u32()
    cursor.at_most(rank, _RANK, what="tensor of too many dimensions")
    dims = tuple(cursor.u64() for _ in range(rank))
    for size in dims:
        cursor.at_most(size, MAX_DIMENSION, what="dimension too large")
    code, offset = cursor.u32(), cursor.u64()
    return _Described(at=at, name=name, shape=dims[::-1], code=code, offset=offset)


def _data_begin(cursor: _Cursor, pairs: Mapping[str, Scalar]) -> int:
    alignment = pairs.get("general.alignment", 32)
    whole = isinstance(alignment, int) and 0 < alignment <= _MAX_ALIGNMENT
    if not whole or int(alignment) & (int(alignment) - 1):
        cursor.fail(f"alignment {str(alignment)[:40]} is no power of two")
    return -(-cursor.at // int(alignment)) * int(alignment)


def _place(one: _Described, begin: int, cursor: _Cursor) -> GgufTensor:
    cursor.at = one.at
    start = begin + one.offset
    size = _size(one, cursor)
    end = cursor.file_size if size is None else start + size
    if end > cursor.file_size or start > end:
        raise TruncatedRead(
            f"tensor {one.name[:80]!r} ends at {end} and the file has {cursor.file_size} bytes",
            path=cursor.path,
            offset=one.at,
        )
    kind = BLOCK_TYPES.get(one.code)
    name = kind.name if kind else PLAIN_TYPES.get(one.code, f"type {one.code}")
    return GgufTensor(
        name=one.name, shape=one.shape, type=name, code=one.code, begin=start, end=end
    )


def _size(one: _Described, cursor: _Cursor) -> int | None:
    """Bytes of a tensor; None where the type is not known."""
    count = math.prod(one.shape)
    if one.code in PLAIN_TYPES:
        return count * _ITEM[PLAIN_TYPES[one.code]]
    kind = BLOCK_TYPES.get(one.code)
    if kind is None:
        return None
    columns = one.shape[-1] if one.shape else 1
    if columns % kind.weights:
        cursor.fail(f"rows of {columns} are no whole blocks of {kind.name}")
    return count // kind.weights * kind.size


_ITEM = {"F32": 4, "F16": 2, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F64": 8, "BF16": 2}


def _check_tensors(tensors: tuple[GgufTensor, ...], path: str) -> None:
    """No name twice, and no byte in two tensors."""
    names: set[str] = set()
    for one in tensors:
        if one.name in names:
            raise MalformedFile(f"tensor {one.name[:80]!r} stands twice", path=path)
        names.add(one.name)
    known = sorted((t for t in tensors if not t.type.startswith("type ")), key=lambda t: t.begin)
    for before, after in pairwise(known):
        if before.end > after.begin:
            raise MalformedFile(
                f"tensors {before.name[:80]!r} and {after.name[:80]!r} overlap",
                path=path,
                offset=after.begin,
            )
