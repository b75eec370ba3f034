"""Hostile and broken safetensors files, each with the error that a reader must end in.

`hostile_files()` yields (name, content, error class); other tests import it. Every file is small
enough to be made on the fly; what it claims to be is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from modelkin.lineage.errors import FormatError, LimitExceeded, MalformedFile, TruncatedRead

Case = tuple[str, bytes, type[FormatError]]


def pack(header: bytes | dict[str, Any], body: bytes = b"", *, length: int | None = None) -> bytes:
    """A file of this header and body; `length` is what it claims the header to be."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def entry(**changes: Any) -> dict[str, Any]:
    """A tensor of two float32, with some of its three fields changed."""
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def valid_file() -> bytes:
    """Two tensors and metadata: 8 bytes of length, the header, 24 bytes of data."""
    second = {"dtype": "BF16", "shape": [2, 4], "data_offsets": [8, 24]}
    return pack({"__metadata__": {"format": "pt"}, "a": entry(), "b": second}, bytes(range(24)))


def hostile_files() -> Iterator[Case]:
    """All of them."""
    yield from _lengths()
    yield from _truncated()
    yield from _not_json()
    yield from _entries()
    yield from _literals()
    yield from _tilings()
    yield from _metadata()
    yield from _large()


def _lengths() -> Iterator[Case]:
    yield "empty", b"", TruncatedRead
    yield "one byte", b"\x08", TruncatedRead
    yield "seven bytes", bytes(7), TruncatedRead
    yield "only a length of 0", bytes(8), MalformedFile
    yield "only a length of 2", (2).to_bytes(8, "little"), TruncatedRead
    yield "length 2^63", pack(b"{}", length=1 << 63), LimitExceeded
    yield "length 2^64-1", pack(b"{}", length=(1 << 64) - 1), LimitExceeded
    yield "length one above the bound", pack(b"{}", length=25_000_001), LimitExceeded
    yield "length at the bound", pack(b"{}", length=25_000_000), TruncatedRead
    yield "header longer than the file", pack(b"{}", length=3), TruncatedRead
    yield "header shorter than its JSON", pack(b'{"a":1}', length=4), MalformedFile
    yield "big-endian length", (2).to_bytes(8, "big") + b"{}", LimitExceeded
    yield "a pickle", b"\x80\x04\x95" + bytes(40), TruncatedRead
    yield "a zip", b"PK\x03\x04" + bytes(60), LimitExceeded
    yield "a gguf", b"GGUF\x03\0\0\0" + bytes(60), LimitExceeded
    yield "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", LimitExceeded
    yield "an HTML page", b"<!doctype html><html></html>", LimitExceeded


def _truncated() -> Iterator[Case]:
    whole = valid_file()
    body = 8 + int.from_bytes(whole[:8], "little")
    for end, where in (
        (8, "behind the length"),
        (9, "behind the brace"),
        (body // 2, "inside the header"),
        (body - 1, "before the last brace"),
        (body, "behind the header"),
        (body + 4, "inside the first tensor"),
        (body + 8, "behind the first tensor"),
        (len(whole) - 1, "before the last byte"),
    ):
        yield f"cut {where}", whole[:end], TruncatedRead
    yield "one byte too many", whole + b"\0", MalformedFile
    yield "header cut, length mended", pack(whole[8 : body - 1]), MalformedFile


def _not_json() -> Iterator[Case]:
    for name, raw in (
        ("no JSON", b"hello"),
        ("only spaces", b"    "),
        ("a list", b"[]"),
        ("a string", b'"a"'),
        ("a null", b"null"),
        ("an open brace", b"{"),
        ("an open string", b'{"a'),
        ("a lone backslash", b'{"a\\'),
        ("a comma too many", b'{"a":{},}'),
        ("a comment", b"{}//"),
        ("two documents", b"{}{}"),
        ("zero bytes behind", b"{}\0\0"),
        ("a newline behind", b"{}\n"),
        ("a space before", b" {}"),
        ("a byte order mark", b"\xef\xbb\xbf{}"),
        ("UTF-16", '{"a":1}'.encode("utf-16-le")),
        ("not UTF-8", b'{"\xff":1}'),
        ("overlong UTF-8", b'{"\xc0\x80":1}'),
        ("a surrogate in UTF-8", b'{"\xed\xa0\x80":1}'),
        ("a raw control character", b'{"a\n":1}'),
        ("single quotes", b"{'a':1}"),
        ("a bad escape", b'{"\\x":1}'),
    ):
        yield name, pack(raw), MalformedFile
    surrogate = b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    yield "a lone surrogate as name", pack(surrogate), MalformedFile
    yield "a lone surrogate in metadata", pack(b'{"__metadata__":{"a":"\\udfff"}}'), MalformedFile
    yield "deep lists", pack(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), LimitExceeded
    yield "deep lists left open", pack(b"{" + b"[" * 2_000_000), LimitExceeded
    yield "deep objects", pack(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), LimitExceeded
    yield "quotes without end", pack(b"{" + b'"\\"' * 1_000_000 + b'"\\'), MalformedFile


def _entries() -> Iterator[Case]:
    body = bytes(8)
    for name, value in (
        ("entry is a list", ["F32", [2], [0, 8]]),
        ("entry is null", None),
        ("entry is a number", 1),
        ("entry is empty", {}),
        ("no dtype", {"shape": [2], "data_offsets": [0, 8]}),
        ("no shape", {"dtype": "F32", "data_offsets": [0, 8]}),
        ("no offsets", {"dtype": "F32", "shape": [2]}),
        ("a field too many", entry(extra=1)),
        ("unknown dtype", entry(dtype="F31")),
        ("lower-case dtype", entry(dtype="f32")),
        ("dtype is a number", entry(dtype=32)),
        ("dtype is a list", entry(dtype=["F32"])),
        ("dtype is null", entry(dtype=None)),
        ("shape is null", entry(shape=None)),
        ("shape is a number", entry(shape=2)),
        ("shape is an object", entry(shape={"0": 2})),
        ("dimension is true", entry(shape=[2, True])),
        ("dimension is a string", entry(shape=["2"])),
        ("dimension is negative", entry(shape=[-2])),
        ("two negative dimensions", entry(shape=[-1, -2])),
        ("shape too large for its bytes", entry(shape=[3])),
        ("shape too small for its bytes", entry(shape=[1])),
        ("offsets are null", entry(data_offsets=None)),
        ("one offset", entry(data_offsets=[0])),
        ("three offsets", entry(data_offsets=[0, 4, 8])),
        ("offsets reversed", entry(data_offsets=[8, 0])),
        ("offset is negative", entry(data_offsets=[-8, 0])),
        ("offset is true", entry(shape=[0], data_offsets=[True, True])),
        ("half a byte", entry(dtype="F4", shape=[1], data_offsets=[0, 1])),
        ("six bits", entry(dtype="F6_E2M3", shape=[1], data_offsets=[0, 1])),
    ):
        yield name, pack({"a": value}, body), MalformedFile


def _literals() -> Iterator[Case]:
    for name, shape, error in (
        ("dimension 2.0", b"2.0", MalformedFile),
        ("dimension 2e0", b"2e0", MalformedFile),
        ("dimension -0", b"-0", MalformedFile),
        ("dimension 02", b"02", MalformedFile),
        ("dimension NaN", b"NaN", MalformedFile),
        ("dimension Infinity", b"Infinity", MalformedFile),
        ("dimension -Infinity", b"-Infinity", MalformedFile),
        ("dimension 1e400", b"1e400", MalformedFile),
        ("dimension of 5,000 digits", b"1" * 5_000, LimitExceeded),
        ("dimension of a million digits", b"1" * 1_000_000, LimitExceeded),
        ("dimension with 5,000 decimals", b"2." + b"0" * 5_000, LimitExceeded),
        ("dimension 2^63", b"9223372036854775808", LimitExceeded),
        ("dimension 2^64", b"18446744073709551616", LimitExceeded),
        ("dimension 2^32", b"4294967296", LimitExceeded),
        ("product beyond 2^64", b"4294967295,4294967295,4294967295", LimitExceeded),
        ("product beyond 2^64, then 0", b"4294967295,4294967295,4294967295,0", LimitExceeded),
        ("product wraps to 2", b"2147483648,2147483648,4,2", LimitExceeded),
        ("70 dimensions", b",".join([b"1"] * 70), LimitExceeded),
    ):
        raw = b'{"a":{"dtype":"F32","shape":[' + shape + b'],"data_offsets":[0,8]}}'
        yield name, pack(raw, bytes(8)), error
    raw = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[18446744073709551616,0]}}'
    yield "offset 2^64", pack(raw), MalformedFile


def _tilings() -> Iterator[Case]:
    far = {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}
    near = {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}
    huge = {"dtype": "U8", "shape": [1 << 31], "data_offsets": [0, 1 << 31]}
    yield "a hole", pack({"a": entry(), "b": far}, bytes(24)), MalformedFile
    yield "a hole at the start", pack({"b": far}, bytes(24)), MalformedFile
    yield "an overlap", pack({"a": entry(), "b": near}, bytes(12)), MalformedFile
    yield "the same bytes twice", pack({"a": entry(), "b": entry()}, bytes(8)), MalformedFile
    yield (
        "an empty tensor inside another",
        pack({"a": entry(), "b": empty}, bytes(8)),
        MalformedFile,
    )
    yield "2 GiB claimed, none there", pack({"a": huge}), TruncatedRead
    yield "bytes without a tensor", pack({}, b"\0"), MalformedFile
    fields = b'"dtype":"F32","shape":[2],"data_offsets":[0,8]'
    twice = b'{"a":{' + fields + b'},"a":{' + fields + b"}}"
    yield "a name twice", pack(twice, bytes(8)), MalformedFile
    escaped = b'{"a":{' + fields + b'},"\\u0061":{' + fields + b"}}"
    yield "a name twice, once escaped", pack(escaped, bytes(8)), MalformedFile
    yield "a field twice", pack(b'{"a":{"dtype":"F16",' + fields + b"}}", bytes(8)), MalformedFile


def _metadata() -> Iterator[Case]:
    for name, value in (
        ("metadata is a list", []),
        ("metadata is a string", "pt"),
        ("metadata is false", False),
        ("metadata is 0", 0),
        ("metadata with a number", {"step": 1}),
        ("metadata with null", {"step": None}),
        ("metadata nested", {"step": {"a": "b"}}),
    ):
        yield name, pack({"__metadata__": value}), MalformedFile
    yield "metadata key twice", pack(b'{"__metadata__":{"a":"1","a":"2"}}'), MalformedFile
    yield "metadata twice", pack(b'{"__metadata__":{},"__metadata__":{}}'), MalformedFile


def _large() -> Iterator[Case]:
    field = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    many = b",".join(b'"%d":%s' % (i, field) for i in range(200_003))
    yield "200,003 tensors", pack(b"{" + many + b"}"), LimitExceeded
    yield "a million empty objects", pack(b'{"a":[' + b"{}," * 1_000_000 + b"{}]}"), LimitExceeded
    ones = b'{"a":{"dtype":"U8","shape":[' + b"1," * 5_000_000 + b'1],"data_offsets":[0,1]}}'
    yield "five million dimensions", pack(ones, b"\0"), LimitExceeded
    pairs = b",".join(b'"%d":""' % i for i in range(1_300_000))
    yield "a million metadata keys", pack(b'{"__metadata__":{' + pairs + b"}}"), LimitExceeded
