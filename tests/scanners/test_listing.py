"""Full and incremental listing: cursors, kills, watermarks, identity, what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faulty_hub import Naps

from benchmarks.ecosystem.population import Population
from benchmarks.ecosystem.server import Conditions, EcosystemHub
from modelkin.lineage.errors import BudgetExceeded, TransientError
from modelkin.scanners.limits import Meter, ScanLimits
from modelkin.scanners.listing import Lister, listed_claims
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.retry import RetryPolicy
from modelkin.scanners.sources.spool import PageSpool
from modelkin.store import Registry
from modelkin.store.facts import Sweep

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SIZE = 230


@pytest.fixture
def hub() -> Iterator[EcosystemHub]:
    with EcosystemHub(Population(SIZE, seed=3, step=timedelta(hours=1)), Conditions()) as served:
        yield served


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "store", create=True) as opened:
        yield opened


def list_once(
    registry: Registry,
    hub: EcosystemHub,
    *,
    scan: int | None = None,
    now: datetime = NOW,
    **more: object,
) -> list[Sweep]:
    """One scan's sweeps, twenty models a page; `scan` goes on with one."""
    spool = PageSpool(registry.path / "spool")
    source = HubSource(endpoint=hub.url, page_size=20, spool=spool, retry=Naps().policy())
    lister = Lister(
        ledger=registry.ledger(),
        source=source,
        now=lambda: now,
        spool=spool,
        **more,  # type: ignore[arg-type]
    )
    if scan is None:
        scan = registry.start_scan(kind="nightly", source="hub", parameters={}, now=now)
    try:
        return lister.run(scan)
    finally:
        asyncio.run(source.close())


def rows(registry: Registry, query: str) -> list[tuple[object, ...]]:
    return list(registry.sql(query).fetchall())


def test_a_full_sweep_stores_everything_once(registry: Registry, hub: EcosystemHub) -> None:
    (sweep,) = list_once(registry, hub)
    assert (sweep.kind, sweep.done, sweep.listed, sweep.disordered) == ("full", True, SIZE, 0)
    assert rows(registry, "SELECT count(*) FROM models WHERE source = 'hub'") == [(SIZE,)]
    assert rows(registry, "SELECT listing_done FROM scans") == [(True,)]
    assert rows(registry, "SELECT count(*) FROM edges WHERE declared")[0][0] > 20
    assert not list((registry.path / "spool").glob("*"))


def test_the_next_night_reads_only_what_changed(registry: Registry, hub: EcosystemHub) -> None:
    list_once(registry, hub)
    hub.population.night(1, added=15, edited=12, renamed=4, removed=0)
    before = hub.conditions.counters["pages"]
    sweeps = {sweep.kind: sweep for sweep in list_once(registry, hub, now=NOW + timedelta(days=1))}
    assert hub.conditions.counters["pages"] - before < 8
    assert sweeps["created"].done
    assert sweeps["modified"].done
    assert sweeps["modified"].known > 0, "the overlap with the night before was seen"
    people = hub.population
    expected = {(people.name(m), people.sha(m)) for m in range(people.size)}
    assert set(rows(registry, "SELECT model, sha FROM models WHERE source = 'hub'")) == expected
    kinds = dict(rows(registry, "SELECT kind, count(*) FROM changes WHERE scan = 2 GROUP BY 1"))
    assert (kinds["revision"], kinds["renamed"]) == (12, 4)


def test_a_renamed_model_keeps_its_identity_and_its_claims(
    registry: Registry, hub: EcosystemHub
) -> None:
    list_once(registry, hub)
    hub.population.night(1, added=1, edited=0, renamed=60, removed=0)
    list_once(registry, hub, now=NOW + timedelta(days=1))
    moved = rows(registry, "SELECT before, after FROM changes WHERE kind = 'renamed'")
    assert len(moved) == 60
    for before, after in moved:
        assert registry.resolve_name(str(before)) == after
    assert rows(registry, "SELECT count(*) FROM models WHERE source = 'hub'") == [(SIZE + 1,)]


def test_a_gate_that_closes_or_opens_is_a_change(registry: Registry, hub: EcosystemHub) -> None:
    list_once(registry, hub)
    hub.population.gated[5] = True
    list_once(registry, hub, full_every=timedelta(0))
    assert rows(registry, "SELECT subject, before, after FROM changes WHERE kind = 'gated'") == [
        (hub.population.name(5), "open", "auto")
    ]


def test_a_branch_set_back_to_an_older_commit_is_told_from_a_new_one(
    registry: Registry, hub: EcosystemHub
) -> None:
    list_once(registry, hub)
    for version, kind in ((1, "revision"), (0, "rewound")):
        hub.population.version[7] = version
        list_once(registry, hub, full_every=timedelta(0))
        found = rows(
            registry, "SELECT kind FROM changes WHERE scan = (SELECT max(scan) FROM scans)"
        )
        assert found == [(kind,)]


def test_a_killed_sweep_goes_on_and_asks_for_no_page_twice(
    registry: Registry, hub: EcosystemHub
) -> None:
    meter = Meter(limits=ScanLimits(max_requests=4))
    with pytest.raises(BudgetExceeded):
        list_once(registry, hub, meter=meter)
    begun = registry.resume_scan(source="hub")
    assert begun is not None
    assert not begun.listing_done
    (sweep,) = list_once(registry, hub, scan=begun.scan)
    assert (sweep.done, sweep.listed) == (True, SIZE)
    whole = -(-SIZE // 20)
    assert hub.conditions.counters["pages"] <= whole + 1, "what was fetched ahead lay in the spool"


def test_storms_are_waited_out(registry: Registry, hub: EcosystemHub) -> None:
    hub.conditions.failing = 0.3
    (sweep,) = list_once(registry, hub)
    assert sweep.listed == SIZE
    assert hub.conditions.counters["503"] > 0


def test_a_hub_that_is_down_ends_the_sweep_and_keeps_what_came(
    registry: Registry, hub: EcosystemHub
) -> None:
    hub.conditions.failing = 1.0
    with pytest.raises(TransientError):
        list_once(registry, hub)
    hub.conditions.failing = 0.0
    (sweep,) = list_once(registry, hub, scan=1)
    assert sweep.done


def test_a_fifth_of_the_rate_limit_is_left_alone(registry: Registry, hub: EcosystemHub) -> None:
    hub.conditions.quota = 12
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        hub.until = 0.0  # the window is over

    source = HubSource(endpoint=hub.url, page_size=20, retry=RetryPolicy(sleep=sleep))
    lister = Lister(ledger=registry.ledger(), source=source, now=lambda: NOW)
    lister.run(registry.start_scan(kind="nightly", source="hub", parameters={}, now=NOW))
    asyncio.run(source.close())
    assert naps, "it held still before the window was used up"
    assert hub.conditions.counters["429"] == 0


def test_a_clock_set_back_lists_everything_again(registry: Registry, hub: EcosystemHub) -> None:
    list_once(registry, hub)
    (sweep,) = list_once(registry, hub, now=NOW - timedelta(days=400))
    assert (sweep.kind, sweep.listed) == ("full", SIZE)


def test_a_clock_set_forward_loses_nothing(registry: Registry, hub: EcosystemHub) -> None:
    far = NOW + timedelta(days=4000)
    list_once(registry, hub, now=far)
    hub.population.night(1, added=9, edited=5, renamed=0, removed=0)
    list_once(registry, hub, now=far + timedelta(hours=1))
    assert rows(registry, "SELECT count(*) FROM models WHERE source = 'hub'") == [(SIZE + 9,)]
    assert rows(registry, "SELECT count(*) FROM changes WHERE kind = 'revision'") == [(5,)]


def test_a_listing_that_is_narrowed_otherwise_begins_with_everything(
    registry: Registry, hub: EcosystemHub
) -> None:
    list_once(registry, hub)
    scan = registry.start_scan(kind="nightly", source="hub", parameters={"author": "a"}, now=NOW)
    (sweep,) = list_once(registry, hub, scan=scan)
    assert sweep.kind == "full"


def test_what_a_full_sweep_does_not_name_is_missing_not_gone(
    registry: Registry, hub: EcosystemHub
) -> None:
    list_once(registry, hub)
    hub.population.deleted.update({3, 4})
    list_once(registry, hub, full_every=timedelta(0))
    gone = {hub.population.name(3), hub.population.name(4)}
    assert set(registry.ledger().missing(2, source="hub", limit=10)) == gone
    assert rows(registry, "SELECT count(*) FROM models WHERE tombstone_reason IS NOT NULL") == [
        (0,)
    ]
    registry.ledger().tombstone(sorted(gone), source="hub", reason="hidden", scan=2, now=NOW)
    assert registry.ledger().missing(2, source="hub", limit=10) == []


def test_claims_of_the_listing_are_those_of_the_whole_reader(hub: EcosystemHub) -> None:
    from modelkin.scanners.bytes import Traffic
    from modelkin.scanners.declared import declared_parents
    from modelkin.scanners.sources.base import ListingFilter

    source = HubSource(endpoint=hub.url)
    for page in source.pages(narrow=ListingFilter(), traffic=Traffic()):
        for info in page.models:
            files = tuple(file.path for file in info.files)
            whole = declared_parents(
                model=info.name, card=info.card, tags=info.tags, config=info.config, files=files
            )
            assert listed_claims(info) == whole
    asyncio.run(source.close())


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]\nbody", b'{"url": 1}\n', b"\xff\n"])
def test_a_damaged_page_in_the_spool_is_asked_for_again(tmp_path: Path, damage: bytes) -> None:
    spool = PageSpool(tmp_path / "spool")
    spool.save("http://h/api/models?cursor=a", b"[1]", following="http://h/n")
    assert spool.load("http://h/api/models?cursor=a") == (b"[1]", "http://h/n")
    (file,) = (tmp_path / "spool").glob("*.page")
    file.write_bytes(damage)
    assert spool.load("http://h/api/models?cursor=a") is None
    spool.clear()
    assert not list((tmp_path / "spool").glob("*"))
