"""safetensors: 8 bytes of header length, a JSON header, the tensors' bytes without a gap.

Stricter than the library where a file would be ambiguous (a key twice, leading spaces, entries
of another form) or dear (header length, number of tensors, rank): whatever the library rejects
is rejected here too.

References
----------
https://github.com/huggingface/safetensors#format (library 0.8.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ...lineage.dtypes import ITEMSIZE_BITS, itemsize_bits
from ...lineage.errors import LimitExceeded, MalformedFile, TruncatedRead, UnsupportedFormat
from ...lineage.records import TensorSpec
from ..bytes import ByteSource
from .bounded_json import JsonLimits, parse_object

MAX_HEADER = 25_000_000
MAX_TENSORS = 200_000

_PREFIX = 8
_MAX_DIMENSION = 1 << 32
_MAX_RANK = 64
_MAX_BITS = 1 << 64
_ENTRY = {"dtype", "shape", "data_offsets"}
_LIMITS = JsonLimits(
    size=MAX_HEADER,
    depth=4,
    # One object per tensor, the outer one and the metadata.
    objects=MAX_TENSORS + 2,
    # Metadata; then each tensor has 4 colons and 4 commas, and those of its shape.
    elements=100_000,
    per_object=12,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a safetensors header says; `tensors` in the order of their bytes.

    `data_begin` is the absolute offset of the first tensor byte.
    """

    tensors: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    data_begin: int


class SafetensorsFile:
    """A safetensors file whose header has been read (a `WeightFile`)."""

    def __init__(self, source: ByteSource, header: Header) -> None:
        self._source = source
        self._header = header

    @classmethod
    async def open(cls, source: ByteSource) -> SafetensorsFile:
        """Read the header of `source`; errors as `read_header`."""
        return cls(source, await read_header(source))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """All tensors of the file, in the order of their bytes."""
        return self._header.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """The author's `__metadata__`."""
        return self._header.metadata

    async def read(self, spec: TensorSpec, begin_element: int, count: int) -> bytes:
        """Stored bytes of elements [begin_element, begin_element + count) of one tensor.

        Raises
        ------
        UnsupportedFormat : a packed type (F4, F6_*), whose elements do not start on a byte.
        MalformedFile : the range leaves the tensor, or the tensor is of another file.
        """
        bits = itemsize_bits(spec.dtype)
        if bits % 8:
            raise UnsupportedFormat(
                f"elements of {spec.dtype} cannot be read by range",
                path=spec.path,
                offset=spec.begin,
            )
        begin = spec.begin + begin_element * bits // 8
        end = begin + count * bits // 8
        if spec.path != self._source.path or not spec.begin <= begin <= end <= spec.end:
            raise MalformedFile(
                f"elements {begin_element}+{count} of {spec.name!r} ({spec.path}) do not exist",
                path=self._source.path,
                offset=spec.begin,
            )
        return await self._source.read(begin, end)


async def read_header(source: ByteSource, *, first_read: int = 65536) -> Header:
    """Header of a file: one read, and a second for what a longer header has beyond it.

    Parameters
    ----------
    source : the file
    first_read : bytes asked for at once; most headers fit in 64 KiB

    Raises
    ------
    TruncatedRead : the file ends inside its length field, its header or its tensors.
    LimitExceeded : a header above 25 MB; nothing of it is read.
    MalformedFile : as `parse_header`.
    """
    head = await _read_exactly(source, begin=0, end=min(max(first_read, _PREFIX), source.size))
    length = _header_length(head, path=source.path, file_size=source.size)
    end = _PREFIX + length
    if len(head) < end:
        head += await _read_exactly(source, begin=len(head), end=end)
    return parse_header(head[_PREFIX:end], path=source.path, file_size=source.size)


def parse_header(data: bytes, *, path: str, file_size: int) -> Header:
    """Check a header against itself and against the size of its file.

    Parameters
    ----------
    data : the JSON, without the 8 bytes of its length
    path : name of the file, for messages and for the tensors
    file_size : bytes of the whole file

    Raises
    ------
    LimitExceeded : size, nesting, number of tensors, rank or a dimension above its bound.
    TruncatedRead : the tensors need more bytes than the file has.
    MalformedFile : anything else that the format does not allow.
    """
    document = parse_object(data, path=path, limits=_LIMITS, offset=_PREFIX)
    metadata = _metadata(document.pop("__metadata__", None), path=path)
    if len(document) > MAX_TENSORS:
        raise LimitExceeded(
            "too many tensors", path=path, limit=MAX_TENSORS, actual=len(document), offset=_PREFIX
        )
    data_begin = _PREFIX + len(data)
    entries = (
        _Entry(name=name, path=path, data_begin=data_begin).spec(value)
        for name, value in document.items()
    )
    tensors = tuple(sorted(entries, key=lambda spec: (spec.begin, spec.end, spec.name)))
    _check_tiling(tensors, path=path, data_begin=data_begin, file_size=file_size)
    return Header(tensors=tensors, metadata=metadata, data_begin=data_begin)


async def _read_exactly(source: ByteSource, *, begin: int, end: int) -> bytes:
    data = await source.read(begin, end)
    if len(data) != end - begin:
        raise TruncatedRead(
            f"{len(data)} of {end - begin} bytes came", path=source.path, offset=begin
        )
    return data


def _header_length(head: bytes, *, path: str, file_size: int) -> int:
    if len(head) < _PREFIX:
        raise TruncatedRead(
            f"{len(head)} bytes are too few for a header length", path=path, offset=0
        )
    length = int.from_bytes(head[:_PREFIX], "little")
    if length > MAX_HEADER:
        raise LimitExceeded("header too long", path=path, limit=MAX_HEADER, actual=length, offset=0)
    if _PREFIX + length > file_size:
        raise TruncatedRead(
            f"the header of {length} bytes does not fit in a file of {file_size}",
            path=path,
            offset=0,
        )
    return length


def _metadata(value: Any, *, path: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedFile("__metadata__ is not string to string", path=path, offset=_PREFIX)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry of the header, while it is checked."""

    name: str
    path: str
    data_begin: int

    def spec(self, value: Any) -> TensorSpec:
        if not isinstance(value, dict) or value.keys() != _ENTRY:
            self._fail("is not described by dtype, shape and data_offsets")
        dtype = value["dtype"]
        if not isinstance(dtype, str) or dtype not in ITEMSIZE_BITS:
            self._fail(f"has the unknown dtype {str(dtype)[:40]!r}")
        shape = self._integers(value["shape"], what="shape")
        offsets = self._integers(value["data_offsets"], what="data_offsets")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fail("has data_offsets that are no range")
        begin, end = offsets
        bits = self._bits(shape, itemsize=ITEMSIZE_BITS[dtype])
        if bits != (end - begin) * 8:
            self._fail(f"needs {bits} bits and has {end - begin} bytes")
        return TensorSpec(
            name=self.name,
            dtype=dtype,
            shape=shape,
            path=self.path,
            begin=self.data_begin + begin,
            end=self.data_begin + end,
        )

    def _integers(self, value: Any, *, what: str) -> tuple[int, ...]:
        # bool is an int in Python, not in JSON.
        if not isinstance(value, list) or set(map(type, value)) - {int}:
            self._fail(f"has a {what} that is no list of integers")
        if min(value, default=0) < 0:
            self._fail(f"has a negative number in its {what}")
        return tuple(value)

    def _bits(self, shape: Iterable[int], *, itemsize: int) -> int:
        """Bits of the whole tensor; every partial product stays in 64 bits, as in the library."""
        bits = itemsize
        for rank, dimension in enumerate(shape, start=1):
            if rank > _MAX_RANK:
                self._limit("too many dimensions", limit=_MAX_RANK, actual=rank)
            if dimension >= _MAX_DIMENSION:
                self._limit("dimension too large", limit=_MAX_DIMENSION - 1, actual=dimension)
            bits *= dimension
            if bits >= _MAX_BITS:
                self._limit("tensor too large (bits)", limit=_MAX_BITS - 1, actual=bits)
        return bits

    def _fail(self, message: str) -> NoReturn:
        raise MalformedFile(f"tensor {self.name[:200]!r} {message}", path=self.path, offset=_PREFIX)

    def _limit(self, message: str, *, limit: int, actual: int) -> NoReturn:
        raise LimitExceeded(
            f"tensor {self.name[:200]!r}: {message}",
            path=self.path,
            limit=limit,
            actual=actual,
            offset=_PREFIX,
        )


def _check_tiling(
    tensors: tuple[TensorSpec, ...], *, path: str, data_begin: int, file_size: int
) -> None:
    """Every byte behind the header belongs to exactly one tensor."""
    cursor = data_begin
    for spec in tensors:
        if spec.begin != cursor:
            what = "overlaps the one before" if spec.begin < cursor else "leaves a hole before it"
            raise MalformedFile(f"tensor {spec.name[:200]!r} {what}", path=path, offset=spec.begin)
        cursor = spec.end
    if cursor > file_size:
        raise TruncatedRead(
            f"the tensors end at {cursor}, the file at {file_size}", path=path, offset=file_size
        )
    if cursor < file_size:
        raise MalformedFile(
            f"{file_size - cursor} bytes belong to no tensor", path=path, offset=cursor
        )
