"""The retry policy, the shared hold and the watch on slow bodies."""

from __future__ import annotations

import asyncio

import pytest
from faulty_hub import Naps

from modelkin.lineage.errors import ModelNotFound, TransientError, TruncatedRead
from modelkin.scanners.sources.retry import Hold, RateWatch, ReadLimits


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_grow_up_to_the_cap_and_the_last_error_comes_out() -> None:
    naps = Naps()
    calls: list[int] = []

    def once() -> None:
        calls.append(1)
        raise TransientError(f"try {len(calls)}")

    with pytest.raises(TransientError, match="try 6"):
        naps.policy(base=1.0, cap=4.0).run(once)
    assert naps.seconds == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_wait_that_the_server_names_comes_first() -> None:
    naps = Naps()
    left = [TransientError("slow down", retry_after=55.0)]

    def once() -> str:
        if left:
            raise left.pop()
        return "done"

    assert naps.policy().run(once) == "done"
    assert naps.seconds == [55.5]


def test_a_wait_above_the_longest_ends_the_tries() -> None:
    naps = Naps()

    def once() -> None:
        raise TransientError("tomorrow", retry_after=86_400.0)

    with pytest.raises(TransientError) as caught:
        naps.policy().run(once)
    assert caught.value.retry_after == 86_400.0
    assert naps.seconds == []


def test_async_retries_truncated_reads_and_nothing_that_is_final() -> None:
    naps = Naps()
    left: list[Exception] = [
        ModelNotFound("gone", model="a/b"),
        TruncatedRead("short", path="f"),
        TransientError("down"),
    ]

    async def once() -> None:
        raise left.pop()

    with pytest.raises(ModelNotFound):
        asyncio.run(naps.policy().run_async(once))
    assert naps.seconds == [0.5, 1.0]


def test_a_hold_lasts_and_is_bounded() -> None:
    clock = Clock()
    hold = Hold(longest=30.0, clock=clock)
    hold.note(None)
    assert hold.remaining() == 0.0
    hold.note(10.0)
    hold.note(1.0)
    assert hold.remaining() == 10.0
    clock.now += 11.0
    assert hold.remaining() == 0.0
    hold.note(1e9)
    assert hold.remaining() == 30.0


def test_a_window_below_the_least_rate_is_a_fault() -> None:
    clock = Clock()
    watch = RateWatch(ReadLimits(), size=10**9, clock=clock)
    for _ in range(14):
        clock.now += 1.0
        watch.saw(1)
    clock.now += 1.0
    with pytest.raises(TransientError, match="drips"):
        watch.saw(1)


def test_a_steady_body_passes_until_its_deadline() -> None:
    clock = Clock()
    limits = ReadLimits()
    watch = RateWatch(limits, size=0, clock=clock)
    for _ in range(60):
        clock.now += 1.0
        watch.saw(60_000)
    clock.now += 1.0
    with pytest.raises(TransientError, match="deadline"):
        watch.saw(60_000)
    assert limits.deadline(500_000) == 70.0
