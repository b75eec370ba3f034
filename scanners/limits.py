"""What a scan may cost, and when it has to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..lineage.errors import BudgetExceeded
from .bytes import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """Bounds of one scan; None is unbounded.

    `max_bytes` and `max_requests` count everything the scan sends and receives; `deadline` is in
    seconds from the start. Visits in flight when a bound is met are finished.
    """

    max_bytes: int | None = None
    max_requests: int | None = None
    deadline: float | None = None


@dataclass(slots=True, kw_only=True)
class Meter:
    """Traffic of a scan measured against its limits.

    `interrupted` is asked between steps: a signal handler sets what it reads. `clock` gives
    monotonic seconds.
    """

    limits: ScanLimits = field(default_factory=ScanLimits)
    interrupted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    traffic: Traffic = field(default_factory=Traffic)
    started: float = 0.0

    def start(self) -> None:
        """Begin to count the deadline."""
        self.started = self.clock()

    @property
    def stopped(self) -> bool:
        """Whether a signal asked the scan to stop."""
        return self.interrupted()

    def check(self) -> None:
        """Raise once a limit is met.

        Raises
        ------
        BudgetExceeded : naming the limit.
        """
        for what, limit, actual in self._state():
            if limit is not None and actual >= limit:
                raise BudgetExceeded(
                    f"the budget of {limit:,} {what} is used up; --resume goes on from here",
                    limit=int(limit),
                    actual=int(actual),
                )

    @property
    def exhausted(self) -> bool:
        """Whether a limit is met."""
        return any(limit is not None and actual >= limit for _, limit, actual in self._state())

    def _state(self) -> tuple[tuple[str, float | None, float], ...]:
        limits = self.limits
        return (
            ("bytes", limits.max_bytes, self.traffic.bytes),
            ("requests", limits.max_requests, self.traffic.requests),
            ("seconds", limits.deadline, self.clock() - self.started),
        )
