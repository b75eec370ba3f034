"""Engines: the same rows from each, and nothing lost with a worker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faulty_hub import FaultyHub, status
from small_models import write_family

from modelkin.lineage.errors import ModelkinError
from modelkin.lineage.records import ModelInfo
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.engines.base import Engine, SourceSpec
from modelkin.scanners.engines.local import InProcess, ProcessPool
from modelkin.scanners.fetching import Batch, Fetched, fetch_batch
from modelkin.scanners.limits import ScanLimits
from modelkin.scanners.sources.base import ListingFilter

Make = Callable[[SourceSpec], Engine]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyHub]:
    root = tmp_path_factory.mktemp("engines")
    write_family(root)
    with FaultyHub(root) as served:
        yield served


def spec_of(hub: FaultyHub) -> SourceSpec:
    return SourceSpec(endpoint=hub.url, connections=8)


def listed(hub: FaultyHub) -> tuple[ModelInfo, ...]:
    source = spec_of(hub).open()
    pages = list(source.pages(narrow=ListingFilter(), traffic=Traffic()))
    asyncio.run(source.close())
    return tuple(info for page in pages for info in page.models)


def batches(hub: FaultyHub, **more: Any) -> list[Batch]:
    infos = listed(hub)
    return [Batch(number=at, infos=infos[at : at + 2], **more) for at in range(0, len(infos), 2)]


def rows(fetched: list[Fetched]) -> list[tuple[Any, ...]]:
    """What an engine brought, without what is a matter of the moment."""
    return [
        (one.number, v.coverage.model, v.coverage.outcome, v.facts, v.declared)
        for one in fetched
        for v in one.visits
    ]


def in_process(spec: SourceSpec) -> Engine:
    return InProcess(spec.open(), stopped=lambda: False)


def pool(spec: SourceSpec) -> Engine:
    return ProcessPool(spec, processes=2, stopped=lambda: False)


def on_ray(spec: SourceSpec) -> Engine:
    pytest.importorskip("ray")
    from modelkin.scanners.engines.on_ray import OnRay

    return OnRay(spec, cpus=2)


@pytest.fixture(scope="module")
def expected(hub: FaultyHub) -> list[Fetched]:
    engine = in_process(spec_of(hub))
    try:
        return list(engine.run(batches(hub)))
    finally:
        engine.close()


@pytest.mark.parametrize("make", [pool, on_ray])
def test_every_engine_brings_the_same_rows_and_bytes(
    hub: FaultyHub, expected: list[Fetched], make: Make
) -> None:
    engine = make(spec_of(hub))
    try:
        found = list(engine.run(batches(hub)))
    finally:
        engine.close()
    assert rows(found) == rows(expected)
    assert [dict(one.sketches) for one in found] == [dict(one.sketches) for one in expected]
    assert len(rows(found)) == 7


def test_what_a_task_of_ray_runs_brings_the_same_rows(
    hub: FaultyHub, expected: list[Fetched]
) -> None:
    from modelkin.scanners.engines.on_ray import _fetch

    found = [asyncio.run(_fetch(batch, spec_of(hub))) for batch in batches(hub)]
    assert rows(found) == rows(expected)


def test_a_killed_worker_loses_nothing(hub: FaultyHub, expected: list[Fetched]) -> None:
    engine = ProcessPool(spec_of(hub), processes=2, stopped=lambda: False)
    try:
        results = engine.run(batches(hub))
        found = [next(results)]
        os.kill(engine.pids[0], signal.SIGKILL)
        found += results
    finally:
        engine.close()
    assert rows(found) == rows(expected)


def test_a_budget_bounds_a_batch_and_leaves_the_rest(hub: FaultyHub) -> None:
    source = spec_of(hub).open()
    batch = Batch(number=0, infos=listed(hub), limits=ScanLimits(max_requests=9))

    async def work() -> Fetched:
        try:
            return await fetch_batch(batch, source=source)
        finally:
            await source.close()

    fetched = asyncio.run(work())
    assert 1 <= len(fetched.visits) < 7
    assert fetched.traffic.requests >= 9


def test_a_stop_ends_a_batch_and_blames_no_model(hub: FaultyHub) -> None:
    hub.plan("/resolve/", status(503), times=500)
    source = spec_of(hub).open()

    async def work() -> Fetched:
        try:
            batch = Batch(number=0, infos=listed_now)
            return await fetch_batch(batch, source=source, stopped=lambda: True, patience=0.1)
        finally:
            await source.close()

    listed_now = listed(hub)
    fetched = asyncio.run(work())
    assert fetched.visits == ()
    hub._plans.clear()


def test_ray_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from modelkin.scanners.engines.on_ray import OnRay

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelkinError, match="pip install"):
        OnRay(SourceSpec(endpoint="http://127.0.0.1:1"))


def test_a_lease_is_given_out_once() -> None:
    from modelkin.scanners.engines.on_ray import Leases

    leases = Leases(100)
    assert [leases.take(60), leases.take(60), leases.take(60)] == [60, 40, 0]
    leases.give_back(5)
    assert leases.take(60) == 5
    assert Leases(None).take(7) == 7


def test_requests_are_leased_in_hundreds_as_they_are_needed(hub: FaultyHub) -> None:
    from modelkin.scanners.engines.on_ray import Leases, _fetch

    (batch,) = [Batch(number=0, infos=listed(hub))]
    for total in (None, 30):
        leases = Leases(total)
        asked: list[int] = []

        def lease(wanted: int, leases: Leases = leases, asked: list[int] = asked) -> int:
            asked.append(wanted)
            return leases.take(wanted)

        fetched = asyncio.run(_fetch(batch, spec_of(hub), lease=lease))
        assert {wanted % 100 for wanted in asked} == {0}
        if total is None:
            assert sum(asked) <= 400, "no more than the visits in flight may need"
            assert len(fetched.visits) == 7
        else:
            assert 1 <= len(fetched.visits) < 7
            assert fetched.traffic.requests <= total + 40


def test_a_token_is_in_no_repr() -> None:
    assert "hf_x" not in repr(SourceSpec(endpoint="https://h", token="hf_x"))
