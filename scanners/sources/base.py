"""The socket every source stands behind: list, describe, open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from ...lineage.records import ModelInfo
from ..bytes import ByteSource, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingPage:
    """One page of a listing; `next_cursor` resumes after it, None at the end."""

    models: tuple[ModelInfo, ...]
    next_cursor: str | None


Order = Literal["created", "modified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingFilter:
    """What a listing is narrowed to; every field is optional and they are combined with AND.

    `order` is by creation, which stands still while it is read, or by last change; newest first.
    """

    author: str | None = None
    search: str | None = None
    tags: tuple[str, ...] = ()
    order: Order = "created"


class Source(Protocol):
    """A place that lists models and hands out their files.

    `pages` and `info` are blocking (callers run them in a thread); reads are asynchronous.
    Every method that costs traffic takes the `Traffic` it is counted on.
    """

    @property
    def kind(self) -> str:
        """`hub` or `dir`."""
        ...

    def pages(
        self, *, cursor: str | None = None, narrow: ListingFilter, traffic: Traffic
    ) -> Iterator[ListingPage]:
        """The listing, newest first on the Hub, page by page from `cursor`."""
        ...

    def info(self, model: str, *, traffic: Traffic) -> ModelInfo:
        """One model at its current revision, with its files, sizes and digests.

        Raises
        ------
        ModelNotFound : no such model, or hidden from this client.
        AccessDenied : disabled.
        TransientError : worth another try later.
        """
        ...

    async def open(self, info: ModelInfo, path: str, *, traffic: Traffic) -> ByteSource:
        """A ranged reader of one file, pinned to `info.sha`; one resolve per call.

        Raises
        ------
        AccessDenied : gated and not granted, or disabled.
        ModelNotFound : the file or the revision is gone.
        """
        ...

    async def read(self, info: ModelInfo, path: str, *, limit: int, traffic: Traffic) -> bytes:
        """A whole small file (card, config). `LimitExceeded` when longer than `limit` bytes."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
