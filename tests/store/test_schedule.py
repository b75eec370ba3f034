"""When a model is visited again, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_factories import claim, make_info

from modelkin.lineage.records import Coverage, ModelInfo, Outcome
from modelkin.store import Registry
from modelkin.store.facts import RevisionFacts, Sweep, Visit
from modelkin.store.ledger import Ledger

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
PLAN = "p1"
DAY = timedelta(days=1)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "store", create=True) as opened:
        opened.start_scan(kind="nightly", source="hub", parameters={}, now=NOW)
        yield opened


def hub_info(name: str, **fields: object) -> ModelInfo:
    return replace(make_info(name), source="hub", **fields)  # type: ignore[arg-type]


def put(registry: Registry, *infos: ModelInfo, claims: dict[str, str] | None = None) -> None:
    made = claims or {}
    registry.ledger().add_pages(
        infos,
        sweep=Sweep(scan=1, kind="full", done=True),
        claims_of=lambda info: [claim(made[info.name])] if info.name in made else [],
        now=NOW,
    )


def visit(registry: Registry, info: ModelInfo, outcome: Outcome, *, at: datetime) -> None:
    coverage = Coverage(model=info.name, outcome=outcome, stage="header")
    registry.record_visits(1, [Visit(coverage=coverage, info=info, plan=PLAN)], now=at)


def waiting(ledger: Ledger, *, at: datetime, watched: tuple[str, ...] = ()) -> list[str]:
    found = ledger.waiting(source="hub", plan=PLAN, watched=watched, now=at, limit=50)
    return [info.name for info in found]


@pytest.mark.parametrize(
    ("outcome", "rest"),
    [
        (Outcome.TIMEOUT, timedelta(hours=12)),
        (Outcome.FAILED, timedelta(days=14)),
        (Outcome.GATED, timedelta(days=31)),
    ],
)
def test_a_failed_visit_rests_and_three_in_a_row_end_it(
    registry: Registry, outcome: Outcome, rest: timedelta
) -> None:
    info, ledger = hub_info("o/a"), registry.ledger()
    put(registry, info)
    at = NOW
    for failures in (1, 2, 3):
        assert waiting(ledger, at=at) == ["o/a"]
        visit(registry, info, outcome, at=at)
        assert waiting(ledger, at=at + rest - timedelta(minutes=1)) == []
        queue = ledger.queue(source="hub", plan=PLAN, now=at)
        assert (queue.cooling, queue.disabled) == ((0, 1) if failures == 3 else (1, 0))
        at += rest
    assert waiting(ledger, at=at + 400 * DAY) == []
    changed = replace(info, sha="f" * 40)
    put(registry, changed)
    assert waiting(ledger, at=at + DAY) == ["o/a"], "a new commit begins anew"


def test_even_a_new_commit_waits_twelve_hours(registry: Registry) -> None:
    info = hub_info("o/a")
    put(registry, info)
    visit(registry, info, Outcome.OK, at=NOW)
    put(registry, replace(info, sha="e" * 40))
    assert waiting(registry.ledger(), at=NOW + timedelta(hours=11)) == []
    assert waiting(registry.ledger(), at=NOW + timedelta(hours=12)) == ["o/a"]


def test_a_gate_that_opens_ends_the_pause(registry: Registry) -> None:
    info = hub_info("o/a", gated="manual")
    put(registry, info)
    visit(registry, info, Outcome.GATED, at=NOW)
    assert waiting(registry.ledger(), at=NOW + DAY) == []
    put(registry, replace(info, gated=None))
    assert waiting(registry.ledger(), at=NOW + DAY) == ["o/a"]


@pytest.mark.parametrize("outcome", [Outcome.NO_WEIGHTS, Outcome.UNSUPPORTED, Outcome.MALFORMED])
def test_what_no_second_look_would_change_waits_for_another_plan(
    registry: Registry, outcome: Outcome
) -> None:
    info = hub_info("o/a")
    put(registry, info)
    visit(registry, info, outcome, at=NOW)
    ledger = registry.ledger()
    assert waiting(ledger, at=NOW + 90 * DAY) == []
    found = ledger.waiting(source="hub", plan="p2", watched=(), now=NOW + 90 * DAY, limit=5)
    assert [one.name for one in found] == ["o/a"]


def test_kin_of_the_watched_come_first_then_what_is_used(registry: Registry) -> None:
    names = ("o/quiet", "o/used", "o/base", "o/child", "o/root", "o/leaf1", "o/leaf2")
    claims = {"o/child": "o/base", "o/leaf1": "o/root", "o/leaf2": "o/root"}
    downloads = {"o/used": 5_000, "o/base": 1}
    put(registry, *(hub_info(n, downloads=downloads.get(n, 0)) for n in names), claims=claims)
    registry.ledger().end_listing(1)
    order = waiting(registry.ledger(), at=NOW, watched=("o/base", "o/unknown"))
    assert order[:3] == ["o/base", "o/child", "o/used"]
    assert order.index("o/root") < order.index("o/quiet")


def test_shapes_that_change_are_stale_until_they_are_inferred(registry: Registry) -> None:
    info = hub_info("o/a")
    put(registry, info)
    coverage = Coverage(model="o/a", outcome=Outcome.OK, stage="sketch")
    for shape in ("s1", "s2"):
        info = replace(info, sha=shape.ljust(40, "0"))
        facts = RevisionFacts(shape_key=shape, sketch_plan=PLAN, sketch_path="x")
        registry.record_visits(1, [Visit(coverage=coverage, info=info, facts=facts)], now=NOW)
    ledger = registry.ledger()
    assert ledger.stale_shapes() == ["s1", "s2"], "the shape it left, too"
    ledger.mark_inferred({"s1", "s2"})
    assert ledger.stale_shapes() == []
    assert ledger.shapes() == {"s2": 1}


def test_a_bare_401_is_no_tombstone(registry: Registry) -> None:
    info = hub_info("o/a")
    put(registry, info)
    coverage = Coverage(model="o/a", outcome=Outcome.NOT_FOUND, stage="describe")
    registry.record_visits(1, [Visit(coverage=coverage, hidden=True)], now=NOW)
    assert registry.describe("o/a")["tombstone_reason"] is None
    registry.record_visits(1, [Visit(coverage=coverage)], now=NOW)
    assert registry.describe("o/a")["tombstone_reason"] == "not_found"


def test_a_visit_dated_by_a_wrong_clock_stops_nothing(registry: Registry) -> None:
    info = hub_info("o/a")
    put(registry, info)
    visit(registry, info, Outcome.FAILED, at=NOW + 3650 * DAY)
    assert waiting(registry.ledger(), at=NOW) == ["o/a"]
    queue = registry.ledger().queue(source="hub", plan=PLAN, now=NOW)
    assert (queue.waiting, queue.cooling) == (1, 0)
