"""How long to wait and how often to ask again: one policy for API calls and ranged reads."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ...lineage.errors import TransientError, TruncatedRead

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """Bounds of one request; what is above them is a fault, not patience.

    `connect`, `total` and `window` are seconds; a read of n bytes may take `total` plus
    n / `min_rate`. `min_rate` is bytes a second, measured over each `window`. `page_bytes` bounds
    one JSON answer after decompression.
    """

    connect: float = 10.0
    total: float = 60.0
    window: float = 15.0
    min_rate: float = 50_000.0
    page_bytes: int = 64 * 2**20

    def deadline(self, size: int) -> float:
        """Seconds that a body of `size` bytes may take."""
        return self.total + size / self.min_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter; a wait that the server names comes first.

    `attempts` counts the first try. `base`, `cap` and `longest_wait` are seconds: the last one
    bounds what a server may ask for (the Hub's window is 300 s); a longer wish ends the tries.
    """

    attempts: int = 6
    base: float = 1.0
    cap: float = 30.0
    longest_wait: float = 330.0
    sleep: Callable[[float], None] = time.sleep
    sleep_async: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    def run(self, once: Callable[[], T]) -> T:
        """The first success of `once`.

        Raises
        ------
        TransientError, TruncatedRead : the last failure, when the attempts are used up.
        """
        attempt = 1
        while True:
            try:
                return once()
            except (TransientError, TruncatedRead) as error:
                wait = self._wait_after(error, attempt=attempt)
                if wait is None:
                    raise
            self.sleep(wait)
            attempt += 1

    async def run_async(self, once: Callable[[], Awaitable[T]]) -> T:
        """The first success of the awaited `once`; errors as `run`."""
        attempt = 1
        while True:
            try:
                return await once()
            except (TransientError, TruncatedRead) as error:
                wait = self._wait_after(error, attempt=attempt)
                if wait is None:
                    raise
            await self.sleep_async(wait)
            attempt += 1

    def _wait_after(self, error: TransientError | TruncatedRead, *, attempt: int) -> float | None:
        if attempt >= self.attempts:
            return None
        asked = error.retry_after if isinstance(error, TransientError) else None
        if asked is not None:
            # The spread keeps a thousand waiting reads from coming back in the same instant.
            return None if asked > self.longest_wait else asked + self.chance()
        return float(min(self.cap, self.base * 2 ** (attempt - 1)) * self.chance())


class Hold:
    """A pause that everybody who shares a rate-limit bucket keeps.

    The Hub says with each answer how many requests are left; when none is, asking before the
    window ends only costs another 429.
    """

    def __init__(self, *, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest = longest
        self._clock = clock
        self._until = 0.0

    def note(self, seconds: float | None) -> None:
        """Keep still for `seconds` from now (None: nothing was asked)."""
        if seconds is not None:
            self._until = max(self._until, self._clock() + min(seconds, self._longest))

    def remaining(self) -> float:
        """Seconds until the next request may go out."""
        return max(0.0, self._until - self._clock())


class RateWatch:
    """Ends a body that drips: total deadline, and a least rate over each window."""

    def __init__(
        self,
        limits: ReadLimits,
        *,
        size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._window_from = clock()
        self._deadline = self._window_from + limits.deadline(size)
        self._seen = 0

    def saw(self, size: int) -> None:
        """Count `size` more bytes.

        Raises
        ------
        TransientError : past the deadline, or a whole window below the least rate.
        """
        now = self._clock()
        self._seen += size
        if now > self._deadline:
            raise TransientError("the answer took longer than its deadline")
        if now - self._window_from < self._limits.window:
            return
        rate = self._seen / (now - self._window_from)
        if rate < self._limits.min_rate:
            raise TransientError(f"the answer drips at {rate:,.0f} bytes/s")
        self._window_from, self._seen = now, 0
