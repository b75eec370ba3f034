"""The socket every weight format stands behind.

A `WeightFile` is one file, or one set of shards, whose header has been read. Its `Weight`s have
the names and shapes of the plain model, whatever the file packs them into: a span of a weight is
asked for by its place in the plain tensor, and the weight says which bytes hold it and how they
are decoded. So one plan samples every format, and reads of all weights can be put together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...lineage.errors import FormatError, MalformedFile

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class ByteRange(NamedTuple):
    """Bytes [begin, end) of the file named `path`."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Weights of one span.

    Attributes
    ----------
    dtype, data : the weights as published, or F32 where they were decoded from a packed type.
    step : (n,) float32 or None
        For decoded weights the quantization step at each: what rounding moved it by is at most
        half of that. None for weights that stand in the file as they are.
    width : int or None
        Leading elements of each row that are held, where a format does not let whole rows be
        read; None for a run without gaps.
    """

    dtype: str
    data: bytes
    step: Float32 | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a span lies: the ranges to read, and what makes weights of their bytes.

    `decode` takes the bytes of each range, in order, and gives the weights; call it through
    `decoded`, which names the file where they make no sense.
    """

    ranges: tuple[ByteRange, ...]
    decode: Callable[[Sequence[bytes]], Decoded]

    def decoded(self, parts: Sequence[bytes], *, name: str) -> Decoded:
        """The weights that the bytes of each range, in order, hold.

        Parameters
        ----------
        name : of the tensor, for people.

        Raises
        ------
        FormatError : the bytes contradict the header, or each other.
        """
        try:
            return self.decode(parts)
        except FormatError:
            raise
        except (ValueError, IndexError, ArithmeticError) as error:
            first = self.ranges[0]
            raise MalformedFile(
                f"the parts of {name[:200]!r} contradict each other: {error}",
                path=first.path,
                offset=first.begin,
            ) from error

    @property
    def size(self) -> int:
        """Bytes of all ranges."""
        return sum(r.end - r.begin for r in self.ranges)


class Weight(Protocol):
    """One tensor of the plain model, wherever and however it is stored."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the plain model."""
        ...

    @property
    def dtype(self) -> str:
        """How it is stored: a safetensors type, a GGUF type, or the name of a packing."""
        ...

    @property
    def path(self) -> str:
        """The file it stands in."""
        ...

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """The bytes of flat elements [start, start + count).

        Parameters
        ----------
        budget : bytes that one span may cost; a format that cannot hold to it by whole rows
            narrows the rows.

        Returns
        -------
        None where the type cannot be decoded or the span is not worth its bytes.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a model's weights are packed: `format` (gguf, gptq, ...), `type` (Q4_K_M, nf4) and bits.

    `bits` of one weight of most matrices, without scales.
    """

    format: str
    type: str
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """The weights of a model as far as its headers were read.

    Attributes
    ----------
    weights : by name.
    packing : None for weights that stand in the files as they are.
    metadata : free text of the author: a claim, never an instruction.
    skipped : names of tensors whose type cannot be decoded, by that type.
    """

    weights: Mapping[str, Weight]
    packing: Packing | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
