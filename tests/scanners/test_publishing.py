"""The gate: what it lets pass, and everything it holds against a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_factories import make_edge, make_info

from modelkin.lineage.records import Coverage, Outcome
from modelkin.scanners.publishing import GateLimits, judge_snapshot
from modelkin.store import Registry
from modelkin.store.facts import Publication, Sweep, Visit

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
LIMITS = GateLimits()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Three models, one edge, one sweep that ended."""
    with Registry.open(tmp_path / "store", create=True) as opened:
        scan = opened.start_scan(kind="nightly", source="hub", parameters={}, now=NOW)
        infos = [replace(make_info(name), source="hub") for name in ("o/a", "o/b", "o/c")]
        put(opened, Sweep(scan=scan, kind="full", done=True, pages=1, newest=NOW), *infos)
        edge = make_edge("o/b", "o/a")
        opened.replace_inference(scan, edges=[edge], code_version="1", inputs_digest="x", now=NOW)
        yield opened


def put(registry: Registry, sweep: Sweep, *infos: object) -> None:
    registry.ledger().add_pages(
        list(infos),
        sweep=sweep,
        claims_of=lambda info: (),
        now=NOW,  # type: ignore[arg-type]
    )


def judge(
    registry: Registry, limits: GateLimits = LIMITS, accept: str | None = None
) -> Publication:
    scan = max(scan.scan for scan in registry.scans())
    return judge_snapshot(registry, scan=scan, limits=limits, now=NOW, accept=accept)


def reasons(registry: Registry, limits: GateLimits = LIMITS) -> str:
    return "; ".join(judge(registry, limits).reasons)


def published(registry: Registry, **counts: int) -> None:
    """An earlier night whose counts were these."""
    judged = judge(registry)
    registry.ledger().record_publication(
        replace(judged, scan=0, counts={**judged.counts, **counts})
    )


def test_a_sound_store_is_published(registry: Registry) -> None:
    judged = judge(registry)
    assert (judged.status, judged.reasons) == ("published", ())
    assert judged.counts["models"] == 3
    registry.ledger().record_publication(judged)
    assert registry.ledger().publications() == [judged]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"models": 400}, "models fell from 400 to 3"),
        ({"declared_edges": 400}, "declared edges fell from 400 to 0"),
        ({"inferred_edges": 400}, "inferred edges fell from 400 to 1"),
        ({"sketches": 51}, "sketches fell from 51 to 0"),
        ({"sketches": 49}, ""),
    ],
)
def test_shrunken_counts_are_held_back(
    registry: Registry, before: dict[str, int], said: str
) -> None:
    published(registry, **before)
    assert reasons(registry) == said


def test_a_sudden_growth_is_held_back(registry: Registry) -> None:
    infos = [replace(make_info(f"o/m{at}"), source="hub") for at in range(90)]
    published(registry)
    put(registry, Sweep(scan=1, kind="full", done=True, pages=2, newest=NOW), *infos)
    assert reasons(registry) == "models rose from 3 to 93"
    assert reasons(registry, replace(LIMITS, growth=40.0)) == ""


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"done": False}, "the created sweep of the listing did not end"),
        ({"short_pages": 2}, "2 pages of the created sweep were empty before its end"),
        ({"disordered": 1}, "1 pages of the created sweep were out of order"),
        ({"listed": 5}, "met nothing that was known"),
        ({"listed": 5, "known": 1}, ""),
    ],
)
def test_a_listing_that_was_not_whole_is_held_back(
    registry: Registry, sweep: dict[str, int], said: str
) -> None:
    put(registry, Sweep(**{"scan": 1, "kind": "created", "done": True, "newest": NOW, **sweep}))  # type: ignore[arg-type]
    assert said in reasons(registry)
    assert bool(said) == bool(reasons(registry))


def test_lost_coverage_is_held_back(registry: Registry) -> None:
    visits = [
        Visit(coverage=Coverage(model=name, outcome=outcome, stage="header"))
        for name, outcome in (("o/a", Outcome.TIMEOUT), ("o/b", Outcome.GATED))
    ]
    registry.record_visits(1, visits, now=NOW)
    assert reasons(registry) == "1 of 2 visits timed out or failed"
    assert reasons(registry, replace(LIMITS, coverage=0.5)) == ""


def test_a_stale_listing_is_held_back(registry: Registry) -> None:
    old = NOW - timedelta(hours=50)
    put(registry, Sweep(scan=1, kind="full", done=True, pages=1, newest=old))
    assert reasons(registry) == "the newest model of the listing is 50 hours old"


def test_canaries(registry: Registry) -> None:
    limits = GateLimits(
        edges=(("o/b", "o/a"), ("o/c", "o/a"), ("o/none", "o/a")),
        strangers=(("o/b", "o/a"), ("o/c", "o/b")),
    )
    assert judge(registry, limits).reasons == (
        "canary: o/c should descend from o/a",
        "canary: o/none should descend from o/a",
        "canary: o/b must not descend from o/a",
    )


def test_rows_that_are_there_twice_are_held_back(registry: Registry) -> None:
    with registry._database.transaction() as connection:
        connection.execute("INSERT INTO internal.edges SELECT * FROM internal.edges")
        connection.execute("UPDATE internal.edges SET confidence = 1.5")
    found = reasons(registry)
    assert "1 edges that are there twice" in found
    assert "confidences outside [0, 1]" in found


def test_a_person_may_accept_and_the_reason_is_kept(registry: Registry) -> None:
    published(registry, models=400)
    judged = judge(registry, accept="the source was cleaned up")
    assert (judged.status, judged.accepted) == ("published", "the source was cleaned up")
    assert judged.reasons
