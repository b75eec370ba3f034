"""The socket that engines stand behind, and what a worker needs to make its own source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ...store.facts import RevisionFacts
from ..fetching import Batch, Fetched
from ..sources.base import Source
from ..sources.retry import RetryPolicy

Known = Callable[[str], RevisionFacts | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """How a worker opens the source; the token is never shown or written."""

    endpoint: str
    token: str | None = field(default=None, repr=False)
    connections: int = 64
    user_agent: str | None = None
    folder: str | None = None

    def open(self, *, retry: RetryPolicy | None = None) -> Source:
        """A source of its own."""
        if self.folder is not None:
            from pathlib import Path

            from ..sources.folder import FolderSource

            return FolderSource(Path(self.folder))
        from ..sources.hub import HubSource

        return HubSource(
            endpoint=self.endpoint,
            token=self.token,
            connections=self.connections,
            user_agent=self.user_agent,
            retry=retry,
        )


class Engine(Protocol):
    """Runs `fetch_batch` on batches.

    Results come in the order of the batches, whatever order they end in, so that two engines
    leave the same rows. A batch that a killed worker had is run again.
    """

    def run(self, batches: Iterable[Batch]) -> Iterator[Fetched]:
        """Fetch batches; several may be in flight."""
        ...

    def close(self) -> None:
        """Give back workers."""
        ...
