"""The socket every weight format stands behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...lineage.records import TensorSpec


class WeightFile(Protocol):
    """One weight file whose header has been read: its tensors, and their elements by range."""

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """All tensors of the file, in the order of their bytes."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text of the file's author: a claim, never an instruction."""
        ...

    async def read(self, spec: TensorSpec, begin_element: int, count: int) -> bytes:
        """Stored bytes of elements [begin_element, begin_element + count) of one tensor.

        Parameters
        ----------
        spec : one of `tensors`
        begin_element, count : int >= 0
            In the flattened row-major tensor.

        Raises
        ------
        MalformedFile : the range leaves the tensor, or the tensor is of another file.
        UnsupportedFormat : elements of this type do not start on a byte.
        TruncatedRead, RangeIgnored, FileChanged, TransientError : from the byte source.
        """
        ...
