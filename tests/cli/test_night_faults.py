"""Nights that meet a full disk, a revoked token, a wrong clock, or an end at the worst moment."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import FaultyHub
from nights import SECRET, published, run_night, write_config
from small_models import rows_of, write_family, write_model

from modelkin.scanners.sources.loopback import HubHandler
from modelkin.store import Registry, durable

CANARY = "hf_" + "canary" * 5


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("family") / "hub"
    write_family(root)
    return root


@pytest.fixture
def hub(family: Path) -> Iterator[FaultyHub]:
    with FaultyHub(family) as served:
        yield served


@pytest.fixture
def config(hub: FaultyHub, tmp_path: Path) -> Path:
    return write_config(tmp_path, hub.url)


@pytest.fixture(scope="module")
def undisturbed(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a night publishes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with FaultyHub(family) as served:
        assert run_night(write_config(folder, served.url)).exit_code == 0
    return published(folder / "store")


def test_a_disk_that_fills_at_any_file_is_told_and_loses_nothing(
    config: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, left = durable.tempfile.mkstemp, [0]

    def full(**more: Any) -> tuple[int, str]:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return make(**more)

    monkeypatch.setattr(durable.tempfile, "mkstemp", full)
    refused = 0
    # Each run gets further than the one before: pages, sketches, manifest, digest, feed.
    for allowed in (0, 1, 4, 2, 1, 100):
        left[0] = allowed
        result = run_night(config)
        if result.exit_code == 0:
            break
        refused += 1
        assert result.exit_code == 2, (allowed, result.output, result.exception)
        assert "No space left" in result.stderr
    assert refused >= 3
    assert published(config.parent / "store") == undisturbed
    assert rows_of(config.parent / "store", "SELECT max(scan) FROM scans") == [(1,)]


def test_a_token_revoked_in_mid_night_blames_no_model(
    hub: FaultyHub, config: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tokens = frozenset({CANARY})

    def revoke(request: HubHandler) -> None:
        hub.tokens = frozenset()
        request.refuse(401, "Invalid credentials in Authorization header")

    hub.plan("/resolve/", revoke)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    result = run_night(config)
    assert result.exit_code == 2
    assert "the token is refused" in result.stderr
    assert CANARY not in result.output
    assert rows_of(config.parent / "store", "SELECT model FROM coverage") == []
    hub.tokens = frozenset({CANARY})
    assert run_night(config).exit_code == 0
    assert published(config.parent / "store") == undisturbed


def test_a_night_that_ends_between_its_publication_and_its_report_still_reports(
    hub: FaultyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = f'[[notify]]\nname = "ops"\nurl = "http://127.0.0.1:9/"\nsecret = "{SECRET}"\n'
    config, store = write_config(tmp_path, hub.url, more=receiver), tmp_path / "store"

    def killed(*_: Any) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patched:
        patched.setattr("modelkin.cli.nightly._keep_report", killed)
        assert run_night(config).exit_code == 137
    assert (store / "current").exists()
    assert not (store / "reports" / "1.md").exists()
    assert run_night(config).exit_code == 0
    assert (store / "reports" / "1.md").exists()
    with Registry.open(store) as registry:
        assert registry.ledger().undelivered() > 0
        assert [scan.scan for scan in registry.scans()] == [1]


def test_a_clock_set_forward_and_back_stops_no_night(
    hub: FaultyHub, config: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = config.parent / "store"
    with monkeypatch.context() as patched:
        patched.setattr(
            "modelkin.cli.nightly.utc_now", lambda: datetime.now(UTC) + timedelta(days=3650)
        )
        run_night(config, "--accept", "the clock is wrong, not the listing")
    assert published(store) == undisturbed
    result = run_night(config)
    assert result.exit_code == 0, result.stderr
    assert "0 waiting" in result.stderr
    assert (store / "current").resolve().name == "2"


def test_a_model_that_left_a_folder_gets_a_tombstone(family: Path, tmp_path: Path) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    shutil.copytree(family, models)
    config = write_config(tmp_path, "https://huggingface.co")
    text = config.read_text().replace("[hub]", f'[hub]\nsource = "dir:{models}"')
    config.write_text(text)
    assert run_night(config).exit_code == 0
    other = tmp_path / "other"
    write_model(other, "zed/only")
    config.write_text(text.replace(str(models), str(other)))
    assert run_night(config).exit_code == 0
    gone = "SELECT model, tombstone_reason FROM models WHERE tombstone_reason IS NOT NULL"
    assert rows_of(store, gone) == [], "another folder says nothing of this one"
    shutil.rmtree(models / "dan" / "copy")
    config.write_text(text)
    result = run_night(config)
    assert result.exit_code == 0, result.stderr
    assert rows_of(store, gone) == [("dan/copy", "not_found")]
