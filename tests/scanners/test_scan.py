"""A scan: one coverage row a model, nothing read twice, and the same store after any fault."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_hub import FaultyHub, Naps, drop, status
from hostile_safetensors import hostile_files
from small_models import (
    ShakyHub,
    ask,
    contents,
    coverage,
    hub_source,
    infer_once,
    rows_of,
    scan_once,
    tiny_weights,
    write_family,
    write_model,
)

from modelkin.lineage.errors import RegistryError, TransientError
from modelkin.lineage.records import Coverage, ModelInfo, Outcome
from modelkin.scanners.limits import Meter, ScanLimits
from modelkin.scanners.progress import Silence
from modelkin.scanners.scan import ScanPlan
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.loopback import HubHandler
from modelkin.store import Registry

FAMILY = 7


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small family; tests only read it."""
    root = tmp_path_factory.mktemp("family")
    write_family(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a scan without any fault."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    with FaultyHub(family) as hub:
        report = scan_once(store, hub_source(hub.url))
    assert (report.status, report.coverage) == ("done", 1.0)
    return store


@pytest.fixture
def hub(family: Path) -> Iterator[FaultyHub]:
    with FaultyHub(family) as served:
        yield served


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it, made once: migrations take a fifth of a second."""
    folder = tmp_path_factory.mktemp("empty") / "store"
    Registry.open(folder, create=True).close()
    return folder


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    return Path(shutil.copytree(empty_store, tmp_path / "store"))


def outcomes(store: Path) -> dict[str, str]:
    return {name: row.outcome for name, row in coverage(store).items()}


def test_every_listed_model_has_one_row(undisturbed: Path) -> None:
    found = coverage(undisturbed, scan=1)
    assert len(found) == FAMILY
    assert {row.outcome for row in found.values()} == {"ok"}
    assert all(row.requests > 0 for row in found.values())


def test_the_family_is_placed(undisturbed: Path, store: Path, tmp_path: Path) -> None:
    truth = write_family(tmp_path / "family")
    shutil.copytree(undisturbed, store, dirs_exist_ok=True)
    infer_once(store)
    edges = rows_of(store, "SELECT child, parent, relation FROM edges WHERE inferred")
    assert {child: (parent, kind) for child, parent, kind in edges} == {
        child: edge for child, edge in truth.items() if edge is not None
    }


def test_a_second_scan_reads_nothing(hub: FaultyHub, store: Path) -> None:
    scan_once(store, hub_source(hub.url))
    before = contents(store)
    hub.seen.clear()
    second = scan_once(store, hub_source(hub.url))
    assert [seen.path.partition("?")[0] for seen in hub.seen] == ["/api/models"]
    assert set(outcomes(store).values()) == {"unchanged"}
    assert (second.outcomes, second.coverage) == ({Outcome.UNCHANGED: FAMILY}, 1.0)
    assert contents(store) == before


def test_what_was_malformed_stays_malformed_and_is_not_read_again(
    store: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "hub", "lab/good")
    bad = write_model(tmp_path / "hub", "lab/bad")
    (bad / "model.safetensors").write_bytes(b"\xff" * 64)
    only_card = tmp_path / "hub" / "lab" / "card"
    only_card.mkdir()
    (only_card / "config.json").write_text("{}")
    adapter = tmp_path / "hub" / "lab" / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "lab/good"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"{}")
    expected = {
        "lab/good": "ok",
        "lab/bad": "malformed",
        "lab/card": "no_weights",
        "lab/adapter": "malformed",
    }
    with FaultyHub(tmp_path / "hub") as hub:
        first = scan_once(store, hub_source(hub.url))
        assert outcomes(store) == expected
        hub.seen.clear()
        second = scan_once(store, hub_source(hub.url))
        assert [seen.path.partition("?")[0] for seen in hub.seen] == ["/api/models"]
    assert outcomes(store) == expected | {"lab/good": "unchanged"}
    assert first.coverage == second.coverage < 1.0
    claims = rows_of(store, "SELECT child, parent FROM edges WHERE declared")
    assert claims == [("lab/adapter", "lab/good")]


def test_a_new_commit_is_read_again(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    write_model(root, "lab/one")
    write_model(root, "lab/two")
    with FaultyHub(root) as hub:
        scan_once(store, hub_source(hub.url))
    before = dict(contents(store)["sketches"])
    write_model(root, "lab/one", tiny_weights("new"))
    with FaultyHub(root) as hub:
        scan_once(store, hub_source(hub.url))
    assert outcomes(store) == {"lab/one": "ok", "lab/two": "unchanged"}
    after = dict(contents(store)["sketches"])
    assert after["lab/two"] == before["lab/two"]
    assert after["lab/one"] != before["lab/one"]


def test_a_rename_keeps_the_model(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    write_model(root, "lab/old")
    with FaultyHub(root) as hub:
        identity = hub.exhibits["lab/old"].facts["_id"]
        scan_once(store, hub_source(hub.url))
    (root / "lab" / "old").rename(root / "lab" / "new")
    with FaultyHub(root) as hub:
        hub.exhibits["lab/new"].facts["_id"] = identity  # type: ignore[index]
        scan_once(store, hub_source(hub.url))
        assert not hub.at_cdn()
    assert outcomes(store) == {"lab/new": "unchanged"}
    assert rows_of(store, "SELECT model, tombstone_reason FROM models") == [("lab/new", None)]
    assert ask(store, lambda registry: registry.resolve_name("lab/old")) == "lab/new"


def test_a_model_that_is_gone_is_kept_as_a_tombstone(hub: FaultyHub, store: Path) -> None:
    hub.plan(r"^/api/models/dan/copy", status(404, X_Error_Code="RepoNotFound"), times=9)
    report = scan_once(store, hub_source(hub.url))
    assert outcomes(store)["dan/copy"] == "not_found"
    assert report.coverage == pytest.approx((FAMILY - 1) / FAMILY)
    query = "SELECT tombstone_reason FROM models WHERE model = 'dan/copy'"
    assert rows_of(store, query) == [("not_found",)]


def test_two_models_that_claim_each_other_are_a_claim_each(store: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "hub", "lab/a", base="lab/b")
    write_model(tmp_path / "hub", "lab/b", base="lab/a")
    write_model(tmp_path / "hub", "lab/self", base="lab/self")
    with FaultyHub(tmp_path / "hub") as hub:
        report = scan_once(store, hub_source(hub.url))
    infer_once(store)
    assert report.outcomes == {Outcome.OK: 3}
    kin = {
        name: ask(store, lambda r, n=name: [k.model for k in r.descendants(n)])
        for name in ("lab/a", "lab/b", "lab/self")
    }
    assert kin == {"lab/a": ["lab/b"], "lab/b": ["lab/a"], "lab/self": []}
    assert len(ask(store, lambda registry: registry.tree("lab/a"))) <= 3


def test_a_store_that_fails_to_commit_keeps_what_it_had(
    hub: FaultyHub, store: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Registry, *args: object, **more: object) -> None:
        raise RegistryError("cannot write: No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Registry, "record_visits", full)
        with pytest.raises(RegistryError, match="No space left"):
            scan_once(store, hub_source(hub.url))
    assert rows_of(store, "SELECT status, listed, visited FROM scans") == [("running", FAMILY, 0)]
    report = scan_once(store, hub_source(hub.url), resume=True)
    assert (report.scan, report.status) == (1, "done")
    assert contents(store) == contents(undisturbed)


def test_no_hostile_file_is_read_as_a_model(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    write_model(root, "good/model")
    names = {}
    for at, (name, content, _) in enumerate(hostile_files()):
        folder = root / "hostile" / f"case-{at:03}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(content)
        names[f"hostile/case-{at:03}"] = name
    report = scan_once(store, FolderSource(root))
    found = coverage(store)
    assert found["good/model"].outcome == "ok"
    for model, case in names.items():
        row = found[model]
        assert row.outcome == "malformed", (case, row)
        assert (row.stage, row.path) == ("header", "model.safetensors"), (case, row)
        assert row.reason
    assert report.status == "done"
    assert report.coverage < 0.02


@pytest.mark.parametrize(
    "limits",
    [ScanLimits(max_requests=20), ScanLimits(max_bytes=200_000)],
    ids=["requests", "bytes"],
)
def test_a_budget_stops_the_scan_and_resume_ends_it(
    hub: FaultyHub, store: Path, undisturbed: Path, limits: ScanLimits
) -> None:
    reports = []
    for _ in range(9):
        source = hub_source(hub.url, page_size=3)
        meter = Meter(limits=limits)
        reports.append(scan_once(store, source, meter=meter, resume=True))
        if reports[-1].status == "done":
            break
        assert reports[-1].status == "exhausted"
        assert "--resume goes on" in (reports[-1].reason or "")
    assert len(reports) > 1
    assert {report.scan for report in reports} == {1}
    assert reports[-1].outcomes == {Outcome.OK: FAMILY}
    # One visit may run past a bound, and no more; each costs 12 requests and 160 kB at most.
    most_requests = (limits.max_requests or 100) + 12
    most_bytes = (limits.max_bytes or 1_000_000) + 160_000
    assert all(r.requests < most_requests and r.bytes < most_bytes for r in reports)
    assert contents(store) == contents(undisturbed)


def test_a_deadline_stops_the_scan(hub: FaultyHub, store: Path) -> None:
    times = iter(range(0, 1000, 4))
    meter = Meter(limits=ScanLimits(deadline=10.0), clock=lambda: float(next(times)))
    report = scan_once(store, hub_source(hub.url), meter=meter, concurrent=1)
    assert report.status == "exhausted"
    assert "10.0 seconds" in (report.reason or "")
    assert len(coverage(store)) < FAMILY
    scan_once(store, hub_source(hub.url), resume=True)
    assert len(coverage(store)) == FAMILY


@pytest.mark.parametrize("after", [1, 9, 20, 45])
def test_a_signal_at_any_request_leaves_a_scan_that_can_be_resumed(
    hub: FaultyHub, store: Path, undisturbed: Path, after: int
) -> None:
    meter = Meter(interrupted=lambda: len(hub.seen) >= after)
    report = scan_once(store, hub_source(hub.url, page_size=3), meter=meter)
    assert report.status == "interrupted"
    assert rows_of(store, "SELECT status FROM scans") == [("interrupted",)]
    report = scan_once(store, hub_source(hub.url, page_size=3), resume=True)
    assert (report.status, report.scan) == ("done", 1)
    assert report.outcomes == {Outcome.OK: FAMILY}
    assert contents(store) == contents(undisturbed)


def test_what_failed_before_a_cut_is_not_forgotten_by_resume(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    for name in ("lab/bad", "lab/x", "lab/y"):
        write_model(root, name)
    (root / "lab" / "bad" / "model.safetensors").write_bytes(b"\xff" * 64)
    (root / "hub.json").write_text(json.dumps({"lab/bad": {"created": "2026-01-01T00:00:00Z"}}))
    with FaultyHub(root) as hub:
        meter = Meter(interrupted=lambda: bool(hub.at_cdn()))
        first = scan_once(store, hub_source(hub.url), meter=meter, concurrent=1)
        second = scan_once(store, hub_source(hub.url), resume=True)
    assert first.outcomes == {Outcome.MALFORMED: 1}
    assert second.outcomes == {Outcome.MALFORMED: 1, Outcome.OK: 2}
    assert second.coverage < 1


def test_visits_that_hang_are_left_to_the_next_run(hub: FaultyHub, store: Path) -> None:
    def hang(request: HubHandler) -> None:
        released.wait()
        drop(request)

    released = threading.Event()
    hub.plan(r"^/cdn/ann/chat", hang, times=1)
    meter = Meter(interrupted=lambda: bool(hub.at_cdn()))
    try:
        report = scan_once(store, hub_source(hub.url), meter=meter, patience=0.5)
    finally:
        released.set()
    assert report.status == "interrupted"
    assert "ann/chat" not in coverage(store)
    scan_once(store, hub_source(hub.url), resume=True)
    assert set(outcomes(store).values()) == {"ok"}


@pytest.mark.parametrize(("share", "seed"), [(0.05, 1), (0.1, 2), (0.2, 3)])
def test_faults_do_not_change_the_result(
    family: Path, store: Path, undisturbed: Path, share: float, seed: int
) -> None:
    with ShakyHub(family, share=share, seed=seed) as hub:
        retry = Naps().policy(attempts=12)
        report = scan_once(store, hub_source(hub.url, page_size=2, retry=retry))
    assert report.outcomes == {Outcome.OK: FAMILY}
    assert contents(store) == contents(undisturbed)


def test_a_listing_that_fails_is_resumed_at_its_page(hub: FaultyHub, store: Path) -> None:
    hub.plan(r"^/api/models\?.*cursor=4", status(503), times=2)
    source = hub_source(hub.url, page_size=2, retry=Naps().policy(attempts=2))
    with pytest.raises(TransientError):
        scan_once(store, source)
    assert rows_of(store, "SELECT status, listed, listing_done FROM scans") == [
        ("interrupted", 4, False)
    ]
    hub.seen.clear()
    report = scan_once(store, hub_source(hub.url, page_size=2), resume=True)
    listings = [seen.path for seen in hub.seen if seen.path.startswith("/api/models?")]
    assert len(listings) == 2
    assert report.outcomes == {Outcome.OK: FAMILY}


def test_resume_does_not_go_on_with_a_scan_of_something_else(hub: FaultyHub, store: Path) -> None:
    meter = Meter(interrupted=lambda: bool(hub.at_cdn()))
    plan = ScanPlan(parameters={"author": "x"})
    first = scan_once(store, hub_source(hub.url), plan=plan, meter=meter)
    with pytest.raises(RegistryError, match=r"other options \(author=x\)"):
        scan_once(store, hub_source(hub.url), resume=True)
    again = scan_once(store, hub_source(hub.url), plan=plan, resume=True)
    assert (first.scan, again.scan, again.status) == (1, 1, "done")


def test_a_filter_is_counted_as_skipped_and_costs_no_visit(hub: FaultyHub, store: Path) -> None:
    def skip(info: ModelInfo) -> str | None:
        return "not asked for" if info.name != "lab/base" else None

    report = scan_once(store, hub_source(hub.url), plan=ScanPlan(skip=skip))
    assert report.outcomes == {Outcome.OK: 1, Outcome.SKIPPED: FAMILY - 1}
    assert report.coverage == 1.0
    rows = coverage(store)
    assert {row.reason for name, row in rows.items() if name != "lab/base"} == {"not asked for"}
    assert all("lab/base" in seen.path for seen in hub.seen if "/api/models?" not in seen.path)


def test_an_empty_source_is_fully_covered(store: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    report = scan_once(store, FolderSource(tmp_path / "nothing"))
    assert (report.status, report.outcomes, report.coverage) == ("done", {}, 1.0)


class Listening(Silence):
    """Remembers what a scan told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage(self, name: str, total: int | None) -> None:
        self.heard.append(f"{name} {total}")

    def listed(self, models: int) -> None:
        self.heard.append(f"+{models}")

    def visited(self, coverage: Coverage) -> None:
        self.heard.append("visited")


def test_progress_is_told(hub: FaultyHub, store: Path) -> None:
    progress = Listening()
    scan_once(store, hub_source(hub.url, page_size=4), progress=progress)
    assert progress.heard == ["list None", "+4", "+3", "read 7", *["visited"] * 7]


def test_a_folder_gives_the_same_sketches_as_a_hub(
    family: Path, store: Path, undisturbed: Path
) -> None:
    scan_once(store, FolderSource(family))
    here, there = (dict(contents(one)["sketches"]) for one in (store, undisturbed))
    assert here == there
