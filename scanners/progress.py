"""What a scan tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from ..lineage.records import Coverage


class Progress(Protocol):
    """Receives news of a running scan. Calls come from one thread and must return quickly."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` is the number of steps where it is known."""
        ...

    def listed(self, models: int) -> None:
        """So many more models were listed."""
        ...

    def step(self, label: str) -> None:
        """One more step of the stage is done."""
        ...

    def visited(self, coverage: Coverage) -> None:
        """One model was visited."""
        ...


class Silence:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int | None) -> None:
        """Say nothing."""

    def listed(self, models: int) -> None:
        """Say nothing."""

    def step(self, label: str) -> None:
        """Say nothing."""

    def visited(self, coverage: Coverage) -> None:
        """Say nothing."""
