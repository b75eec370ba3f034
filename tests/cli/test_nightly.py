"""Whole nights over HTTP: what they leave, what they survive, when they stay private."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from faulty_hub import SlowHub, drop, rate_limited, status
from nights import published, run_night, started, wait_for, write_config
from small_models import rows_of, tiny_weights, tuned, write_family, write_model

from modelkin.cli.main import cli
from modelkin.store.lock import scan_lock

CANARY = "hf_" + "canary" * 5
PAGES = 3
VISITS = 45
"""Fewer requests than the visits of one night take."""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    write_family(root)
    return root


@pytest.fixture
def hub(family: Path) -> Iterator[SlowHub]:
    with SlowHub(family) as served:
        yield served


@pytest.fixture
def config(hub: SlowHub, tmp_path: Path) -> Path:
    return write_config(tmp_path, hub.url)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a night that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_family(folder / "hub")
    with SlowHub(folder / "hub") as hub:
        result = run_night(write_config(folder, hub.url))
    assert result.exit_code == 0, result.stderr
    return folder / "store"


@pytest.fixture
def next_night(config: Path, undisturbed: Path) -> Path:
    """The configuration of a store that has its first night, of the same family, behind it."""
    shutil.copytree(undisturbed, config.parent / "store", symlinks=True)
    return config


def test_a_night_lists_reads_infers_publishes_and_reports(undisturbed: Path) -> None:
    found = published(undisturbed)
    assert len(found["sketches"]) == 7
    assert {outcome for _, outcome in found["coverage"]} == {"ok"}
    digest = (undisturbed / "reports" / "1.md").read_text()
    assert "Published as snapshot 1" in digest
    assert "bob/quiet against lab/base" in digest
    assert "urn:modelkin:scan:1" in (undisturbed / "reports" / "feed.atom").read_text()


def test_kills_at_any_point_end_in_the_same_snapshot(
    hub: SlowHub, config: Path, undisturbed: Path
) -> None:
    # In all fewer answers than a night takes: none can end, whatever the killed ones had stored.
    points = sorted(random.Random(11).sample(range(1, VISITS), 3))
    for point, last in zip(points, (0, *points), strict=False):
        after, before = point - last, len(hub.seen)
        # Held, a night can not end before it is killed, however fast the machine is.
        with hub.holding(after):
            process = started(config)
            wait_for(hub, before + after + 1, process)
            assert process.poll() is None
            process.kill()
            process.communicate()
    result = run_night(config)
    assert result.exit_code == 0, result.stderr
    assert published(config.parent / "store") == published(undisturbed)
    listed = [seen.path for seen in hub.seen if seen.path.startswith("/api/models?")]
    assert len(listed) <= PAGES + 3, "at most the page in flight is asked for again"


def test_sigterm_checkpoints_and_the_next_run_goes_on(
    hub: SlowHub, config: Path, undisturbed: Path
) -> None:
    with hub.holding(19):
        process = started(config)
        wait_for(hub, 20, process)
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 143
    assert run_night(config).exit_code == 0
    assert published(config.parent / "store") == published(undisturbed)
    assert rows_of(config.parent / "store", "SELECT max(scan) FROM scans") == [(1,)]


def test_the_deadline_checkpoints(hub: SlowHub, tmp_path: Path) -> None:
    hub.delay = 0.4
    config = write_config(tmp_path, hub.url, scan='deadline = "1s"')
    result = run_night(config)
    assert result.exit_code == 3, result.stderr
    assert rows_of(tmp_path / "store", "SELECT status FROM scans") == [("interrupted",)]
    shown = CliRunner().invoke(cli, ["status", "--store", str(tmp_path / "store")])
    assert "to go on with scan 1: modelkin nightly" in shown.stderr
    assert "waiting" in shown.stdout


def test_a_second_scan_exits_with_4(config: Path) -> None:
    with scan_lock(config.parent / "store"):
        assert run_night(config).exit_code == 4


def test_what_does_not_fit_the_budget_waits_for_the_next_night(
    hub: SlowHub, tmp_path: Path
) -> None:
    config = write_config(tmp_path, hub.url, scan="max_visits = 2")
    result = run_night(config)
    assert result.exit_code == 0, result.stderr
    assert "5 waiting" in result.stderr
    first = rows_of(tmp_path / "store", "SELECT model FROM coverage ORDER BY ALL")
    assert ("lab/base",) in first, "the watched release comes first"
    run_night(config)
    assert len(rows_of(tmp_path / "store", "SELECT model FROM coverage")) == 4


def test_a_changed_model_alone_is_read_again_after_its_pause(
    hub: SlowHub, next_night: Path, family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(family, "ann/chat", tuned(tiny_weights("base"), "other"), base="lab/base")
    store, last = next_night.parent / "store", "WHERE scan = (SELECT max(scan) FROM scans)"
    with SlowHub(family) as second:
        again = write_config(next_night.parent, second.url, scan='full_every = "0s"')
        assert run_night(again).exit_code == 0
        changes = rows_of(store, f"SELECT kind FROM changes {last} AND subject = 'ann/chat'")
        assert ("revision",) in changes
        assert rows_of(store, f"SELECT model FROM coverage {last}") == [], (
            "twelve hours are not over"
        )
        tomorrow = datetime.now(UTC) + timedelta(hours=13)
        monkeypatch.setattr("modelkin.cli.nightly.utc_now", lambda: tomorrow)
        assert run_night(again).exit_code == 0
    assert rows_of(store, f"SELECT model FROM coverage {last}") == [("ann/chat",)]


def test_vanished_models_get_a_tombstone_only_after_a_whole_listing_and_an_answer(
    hub: SlowHub, next_night: Path, family: Path
) -> None:
    del hub.exhibits["eve/stranger"]
    hub.plan("/api/models/dan/copy", status(401))
    hidden = hub.exhibits.pop("dan/copy")
    next_night.write_text(next_night.read_text().replace("[scan]", '[scan]\nfull_every = "0s"'))
    result = run_night(next_night)
    assert result.exit_code == 0, result.stderr
    query = "SELECT model, tombstone_reason FROM models WHERE tombstone_reason IS NOT NULL"
    found = dict(rows_of(next_night.parent / "store", query))
    # An anonymous client is told 401 for what is gone and for what is private.
    assert found == {"eve/stranger": "hidden", "dan/copy": "hidden"}
    hub.exhibits["dan/copy"] = hidden
    run_night(next_night)
    assert dict(rows_of(next_night.parent / "store", query)) == {"eve/stranger": "hidden"}


def test_a_redacted_model_stays_out_of_the_nights_to_come(
    hub: SlowHub, next_night: Path, tmp_path: Path
) -> None:
    store = next_night.parent / "store"
    redact = ("redact", "dan/copy", "--reason", "asked for by its author", "--store", str(store))
    assert CliRunner().invoke(cli, list(redact)).exit_code == 0
    next_night.write_text(next_night.read_text().replace("[scan]", '[scan]\nfull_every = "0s"'))
    result = run_night(next_night)
    assert result.exit_code == 0, result.stderr
    names = {name for (name,) in rows_of(store, "SELECT model FROM models")}
    assert "dan/copy" not in names
    assert "ann/chat" in names
    assert rows_of(store, "SELECT model FROM coverage WHERE model = 'dan/copy'") == []


def test_a_listing_that_loses_much_changes_nothing_and_is_not_published(
    hub: SlowHub, config: Path, tmp_path: Path
) -> None:
    for at in range(60):
        write_model(tmp_path / "many", f"org/m{at}", tiny_weights("one"))
    with SlowHub(tmp_path / "many") as many:
        first = write_config(tmp_path, many.url, scan='max_visits = 1\nfull_every = "0s"')
        assert run_night(first).exit_code == 0
        for at in range(55):
            del many.exhibits[f"org/m{at}"]
        result = run_night(first)
        store = tmp_path / "store"
        gone = "SELECT count(*) FROM models WHERE tombstone_reason IS NOT NULL"
        assert rows_of(store, gone) == [(0,)]
        accepted = run_night(first, "--accept", "org left the Hub")
    assert result.exit_code == 3
    assert "the listing left out 55 models" in result.stderr
    assert "Not published" in (store / "reports" / "2.md").read_text()
    assert accepted.exit_code == 0
    assert (store / "current").resolve().name == "3"
    assert rows_of(store, gone) == [(55,)]
    assert "org left the Hub" in (store / "reports" / "3.md").read_text()


def test_storms_are_survived(hub: SlowHub, config: Path, undisturbed: Path) -> None:
    for pattern, fault, times in (
        ("/api/models", status(503), 2),
        ("/resolve/", rate_limited(1), 2),
        ("/cdn/", status(503), 3),
        ("/cdn/", drop, 2),
        ("/api/models/", status(500), 2),
    ):
        hub.plan(pattern, fault, times=times)
    result = run_night(config)
    assert result.exit_code == 0, result.stderr
    assert published(config.parent / "store") == published(undisturbed)


def test_a_source_that_is_down_is_no_fault_of_its_models(hub: SlowHub, tmp_path: Path) -> None:
    hub.plan("/api/models", status(503), times=1000)
    with hub.holding(1):
        process = started(write_config(tmp_path, hub.url))
        wait_for(hub, 2, process)
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 143
    assert not (tmp_path / "store" / "current").exists()


def test_a_revoked_token_says_so_and_leaves_the_store_as_it_is(
    hub: SlowHub, next_night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    result = run_night(next_night)
    assert result.exit_code == 2
    assert "access denied" in result.stderr
    assert CANARY not in result.stderr
    gone = "SELECT count(*) FROM models WHERE tombstone_reason IS NOT NULL"
    assert rows_of(next_night.parent / "store", gone) == [(0,)]


def test_the_token_is_in_no_file_and_no_line(family: Path, tmp_path: Path) -> None:
    with SlowHub(family) as hub:
        hub.tokens = frozenset({CANARY})
        hub.plan("/resolve/", status(503, body=CANARY.encode()), times=1)
        process = started(write_config(tmp_path, hub.url), HF_TOKEN=CANARY)
        out, err = process.communicate(timeout=600)
        assert any(CANARY in str(seen.headers) for seen in hub.seen), "it was sent to the endpoint"
        assert all(CANARY not in str(seen.headers) for seen in hub.at_cdn())
    assert process.returncode == 0, err
    assert CANARY not in out + err
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path


def test_a_full_disk_loses_nothing_that_was_committed(
    hub: SlowHub, config: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkin.store import database

    calls = {"left": 0}
    usage = shutil.disk_usage
    real = usage(config.parent)

    def full(path: object) -> object:
        calls["left"] -= 1
        return real._replace(free=1024) if calls["left"] < 0 else real

    monkeypatch.setattr(database.shutil, "disk_usage", full)
    for allowed in (0, 2, 5, 7):
        calls["left"] = allowed
        result = run_night(config)
        assert result.exit_code == 2, (allowed, result.stderr)
        assert "bytes free" in result.stderr
    monkeypatch.setattr(database.shutil, "disk_usage", usage)
    assert run_night(config).exit_code == 0
    assert published(config.parent / "store") == published(undisturbed)
