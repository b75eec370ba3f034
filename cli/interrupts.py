"""Signals: the first one asks a scan to stop at its next checkpoint."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..lineage.errors import TransientError

STEP = 0.2


class Interrupts:
    """Remembers the signal that asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._number = 0

    @property
    def number(self) -> int:
        """The signal that came, or 0."""
        return self._number

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + self._number

    def stopped(self) -> bool:
        """Whether a signal asked to stop."""
        return self._event.is_set()

    def stop(self) -> None:
        """Ask to stop without a signal: a deadline has passed."""
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Wait before another attempt.

        Raises
        ------
        TransientError : a signal came; there is no other attempt.
        """
        if self._event.wait(seconds):
            raise TransientError("interrupted while waiting to ask again")

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, on an event loop."""
        until = time.monotonic() + seconds
        while not self._event.is_set() and time.monotonic() < until:
            await asyncio.sleep(min(STEP, max(0.0, until - time.monotonic())))
        self.sleep(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM in the block; a second SIGINT interrupts at once."""
        before = {n: signal.signal(n, self._catch) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._number = number
        self._event.set()
