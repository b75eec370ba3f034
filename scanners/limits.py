"""What a scan may cost, and when it has to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from ..lineage.errors import BudgetExceeded, Interrupted
from .bytes import Traffic

LEASE = 100
"""Requests that are leased at a time: asking for each would cost as much as a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """Bounds of one scan; None is unbounded.

    `max_bytes` and `max_requests` count everything the scan sends and receives; `deadline` is in
    seconds from the start. A visit that began before a bound is met is finished.
    """

    max_bytes: int | None = None
    max_requests: int | None = None
    deadline: float | None = None


@dataclass(slots=True, kw_only=True)
class Meter:
    """Traffic of a scan measured against its limits.

    `interrupted` is asked between steps: a signal handler sets what it reads. `clock` gives
    monotonic seconds. Where other processes share the requests, `lease` gives some of those that
    are left to all, as many as asked for or fewer; `limits.max_requests` is what it has given.
    """

    limits: ScanLimits = field(default_factory=ScanLimits)
    interrupted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    traffic: Traffic = field(default_factory=Traffic)
    started: float = 0.0
    lease: Callable[[int], int] | None = None

    def start(self) -> None:
        """Begin to count the deadline."""
        self.started = self.clock()

    @property
    def stopped(self) -> bool:
        """Whether a signal asked the scan to stop."""
        return self.interrupted()

    def go_on(self) -> None:
        """Raise once a signal asked the scan to stop.

        Raises
        ------
        Interrupted : what is committed stays, the rest is left.
        """
        if self.stopped:
            raise Interrupted("stopped by a signal or the deadline")

    def check(self) -> None:
        """Raise once a limit is met.

        Raises
        ------
        BudgetExceeded : naming the limit.
        """
        for what, limit, actual in self._state(Traffic()):
            if limit is not None and actual >= limit:
                raise BudgetExceeded(
                    f"the budget of {limit:,} {what} is used up; --resume goes on from here",
                    limit=int(limit),
                    actual=int(actual),
                )

    @property
    def exhausted(self) -> bool:
        """Whether a limit is met."""
        return not self.has_room(Traffic())

    def has_room(self, more: Traffic) -> bool:
        """Whether no limit is met after `more` traffic either."""
        return all(limit is None or actual < limit for _, limit, actual in self._state(more))

    def lease_for(self, more: Traffic) -> None:
        """Lease what is missing for `more` traffic, in hundreds, where requests are leased."""
        if self.lease is None:
            return
        held = self.limits.max_requests or 0
        missing = self.traffic.requests + more.requests + 1 - held
        if missing > 0:
            given = self.lease(-(-missing // LEASE) * LEASE)
            self.limits = replace(self.limits, max_requests=held + given)
            if given < missing:
                # The rest is with other workers: nobody is asked again and again.
                self.lease = None

    def _state(self, more: Traffic) -> tuple[tuple[str, float | None, float], ...]:
        limits = self.limits
        return (
            ("bytes", limits.max_bytes, self.traffic.bytes + more.bytes),
            ("requests", limits.max_requests, self.traffic.requests + more.requests),
            ("seconds", limits.deadline, self.clock() - self.started),
        )


class Gate:
    """Lets visits begin, so many at once, while the limits leave room for those in flight.

    Parameters
    ----------
    meter : what is spent, and whether to stop.
    at_once : visits in flight at most.
    worst : what one visit may cost. One is let in alone while a limit is not met yet, so a limit
        is passed by one visit at the most.
    """

    def __init__(self, meter: Meter, *, at_once: int, worst: Traffic) -> None:
        self._meter = meter
        self._at_once = at_once
        self._worst = worst
        self._running = 0
        self._room = asyncio.Condition()

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[bool]:
        """Wait for a place; False when there will be none: a limit is met, or a signal came.

        What the visit costs has to be on the meter when the block is left.
        """
        async with self._room:
            await self._room.wait_for(self._has_room)
            begun = not (self._meter.stopped or self._meter.exhausted)
            self._running += begun
        try:
            yield begun
        finally:
            async with self._room:
                self._running -= begun
                self._room.notify_all()

    def _has_room(self) -> bool:
        if self._running < self._at_once:
            begun = self._running + 1
            self._meter.lease_for(Traffic(self._worst.requests * begun, self._worst.bytes * begun))
        if self._running == 0 or self._meter.stopped:
            return True
        requests, size = self._worst.requests * self._running, self._worst.bytes * self._running
        return self._running < self._at_once and self._meter.has_room(Traffic(requests, size))
