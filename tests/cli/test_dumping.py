"""`dump`, `restore` and `diff`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from modelkin.cli.main import cli
from modelkin.store import Registry, scan_lock

Run = Callable[..., Result]


@pytest.fixture
def run(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    store = tmp_path / "store"
    shutil.copytree(small_store, store)
    monkeypatch.setenv("MODELKIN_STORE", str(store))

    def verb(*words: str) -> Result:
        return CliRunner().invoke(cli, list(words))

    return verb


def test_dump_publishes_and_says_what_it_holds(run: Run, tmp_path: Path) -> None:
    result = run("dump", "--format", "json")
    assert result.exit_code == 0
    rows = {row["table"]: row["rows"] for row in json.loads(result.stdout)}
    assert rows["edges"] == 16
    assert (tmp_path / "store" / "current" / "manifest.json").exists()
    assert "snapshot 2 of scan 2" in result.stderr


def test_dump_can_leave_current_alone(run: Run, tmp_path: Path) -> None:
    result = run("dump", "--no-publish", "-q")
    folder = Path(result.stdout.strip())
    assert (folder / "registry.duckdb").exists()
    assert not (tmp_path / "store" / "current").exists()


def test_dump_waits_for_no_scan(run: Run, tmp_path: Path) -> None:
    with scan_lock(tmp_path / "store"):
        assert run("dump").exit_code == 4


@pytest.mark.parametrize("name", ["current", "2", "folder"])
def test_restore_takes_a_name_or_a_folder(run: Run, tmp_path: Path, name: str) -> None:
    store = tmp_path / "store"
    run("dump")
    spec = str(store / "snapshots" / "2") if name == "folder" else name
    refused = run("restore", spec)
    assert (refused.exit_code, "--replace" in refused.stderr) == (2, True)
    result = run("restore", spec, "--replace")
    assert (result.exit_code, "14 models, 16 edges" in result.stderr) == (0, True)
    with Registry.open(store, read_only=True) as registry:
        assert len(registry.descendants("lab/base")) == 12


def test_restore_of_nothing_is_told(run: Run) -> None:
    result = run("restore", "current")
    assert (result.exit_code, "no snapshot" in result.stderr) == (2, True)


def test_diff_lists_what_is_new(run: Run) -> None:
    result = run("diff", "0", "1", "--format", "json")
    kinds = {row["kind"] for row in json.loads(result.stdout)}
    assert {"model_added", "edge_added", "finding_new"} <= kinds
    assert run("diff", "1", "2", "--format", "json").stdout == "[]\n"
    assert "lab/base" in run("diff", "0", "1", "-q").stdout.split()
    missing = run("diff", "1", "9")
    assert (missing.exit_code, "no scan 9" in missing.stderr) == (2, True)


def test_dump_keeps_as_many_snapshots_as_asked(run: Run, tmp_path: Path) -> None:
    for count in range(3):
        with Registry.open(tmp_path / "store") as registry:
            registry.start_scan(kind="x", source="hub", parameters={}, now=datetime.now(UTC))
        assert run("dump", "--keep", "2").exit_code == 0
        kept = sorted(path.name for path in (tmp_path / "store" / "snapshots").iterdir())
        assert len(kept) == min(count + 1, 2)
    assert run("dump", "--keep", "0").exit_code == 2


def test_without_the_extra_nothing_unsigned_is_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    monkeypatch.setitem(sys.modules, "model_signing", None)
    result = run("dump", "--sign-key", str(key))
    assert (result.exit_code, "modelkin[sign]" in result.stderr) == (2, True)
    assert not (tmp_path / "store" / "current").exists()
    assert "modelkin[sign]" in run("restore", "2", "--signed-by", str(key)).stderr


def test_snapshots_are_listed_newest_first(run: Run, tmp_path: Path) -> None:
    assert run("dump", "--list", "--format", "json").stdout == "[]\n"
    run("dump")
    with Registry.open(tmp_path / "store") as registry:
        registry.start_scan(kind="x", source="hub", parameters={}, now=datetime.now(UTC))
    run("dump", "--no-publish")
    rows = json.loads(run("dump", "--list", "--format", "json").stdout)
    assert [(row["snapshot"], row["published"], row["signed"]) for row in rows] == [
        ("3", False, False),
        ("2", True, False),
    ]
    assert run("dump", "--list", "-q").stdout.split() == ["3", "2"]
    refused = run("dump", "--list", "--keep", "3")
    assert (refused.exit_code, "--keep: --list writes nothing" in refused.stderr) == (2, True)
