"""Weights that stand in a file as they are: one range, no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...lineage.dtypes import ITEMSIZE_BITS
from ...lineage.errors import MalformedFile
from ...lineage.records import TensorSpec
from .base import ByteRange, Decoded, Located


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainWeight:
    """A tensor of a float type, contiguous and row-major (a `Weight`).

    `called` is its name where it is not that of the stored tensor: the first expert of a stack.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    called: str | None = None

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.called or self.spec.name

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.spec.dtype

    @property
    def path(self) -> str:
        """The file it stands in."""
        return self.spec.path

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """The one range of the span; None for types that are no floats, or do not fill bytes."""
        bits = ITEMSIZE_BITS.get(self.dtype, 1)
        if bits % 8 or not self.dtype.startswith(("F", "BF")):
            return None
        found = element_range(self.spec, start, count)
        if found.end - found.begin > budget:
            return None

        def decode(parts: Sequence[bytes]) -> Decoded:
            return Decoded(dtype=self.dtype, data=parts[0])

        return Located(ranges=(found,), decode=decode)


def plain(spec: TensorSpec) -> PlainWeight:
    """A tensor under its own shape."""
    return PlainWeight(spec=spec, shape=spec.shape)


def element_range(spec: TensorSpec, start: int, count: int) -> ByteRange:
    """Bytes of elements [start, start + count) of a contiguous tensor.

    Raises
    ------
    MalformedFile : the elements lie outside the tensor, or do not start on a byte.
    """
    bits = ITEMSIZE_BITS[spec.dtype]
    begin, end = spec.begin + start * bits // 8, spec.begin + (start + count) * bits // 8
    inside = start >= 0 and count >= 0 and spec.begin <= begin <= end <= spec.end
    if not inside or start * bits % 8 or count * bits % 8:
        raise MalformedFile(
            f"elements {start}+{count} of {spec.name[:200]!r} do not exist",
            path=spec.path,
            offset=spec.begin,
        )
    return ByteRange(spec.path, begin, end)
