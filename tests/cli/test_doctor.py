"""`doctor`: what it finds, and what it never says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import Result

from modelkin.cli.doctor import FAIL, OK, WARN, check_disk, check_endpoint, check_store
from modelkin.scanners.sources.loopback import LoopbackHub
from modelkin.store import Registry, scan_lock

Run = Callable[..., Result]
SECRET = "hf_thisIsNoRealTokenAtAll0123456789"


def doctor(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelkin.cli", "doctor", *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **env})


def states(result: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    return {row["check"]: (row["state"], row["found"]) for row in json.loads(result.stdout)}


def test_a_sound_machine(small_store: Path, tmp_path: Path) -> None:
    env = {"HF_TOKEN": SECRET, "HF_HOME": str(tmp_path)}
    result = doctor("--format", "json", "--store", str(small_store), env=env)
    found = states(result)
    assert result.returncode == 0
    assert found["token"] == (OK, "present, from HF_TOKEN")
    assert found["store"][0] == OK
    assert "schema " in found["store"][1]
    assert found["duckdb"][0] == found["torch"][0] == found["write"][0] == OK
    assert found["scan lock"] == (OK, "free")
    assert SECRET not in result.stdout + result.stderr


def test_a_token_file_is_told_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    env = {"HF_HOME": str(tmp_path)}
    result = doctor("--format", "json", "--store", str(tmp_path / "none"), env=env)
    found = states(result)
    assert found["token"] == (OK, "present, from the token file")
    assert found["store"][0] == WARN
    assert not (tmp_path / "none").exists()
    assert SECRET not in result.stdout + result.stderr


def test_no_token_is_a_warning(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path)}
    result = doctor("-q", "--store", str(tmp_path / "none"), env=env)
    assert result.returncode == 0
    assert result.stdout.split() == ["token", "store"]


def test_a_broken_store_fails(look: Run, tmp_path: Path) -> None:
    (tmp_path / "registry.duckdb").write_bytes(b"not a database")
    result = look("doctor", "--store", str(tmp_path))
    assert result.exit_code == 2
    assert "1 failures" in result.stderr


def test_a_store_too_new_fails(tmp_path: Path) -> None:
    Registry.open(tmp_path / "s", create=True).close()
    with duckdb.connect(tmp_path / "s" / "registry.duckdb") as connection:
        connection.execute("INSERT INTO internal.schema_migrations VALUES (999, 'later')")
    (found,) = check_store(tmp_path / "s")
    assert found.state == FAIL
    assert "upgrade modelkin" in found.found


def test_a_scan_that_runs_is_a_warning(small_store: Path) -> None:
    code = (
        "import sys; from modelkin.cli.doctor import check_store; from pathlib import Path; "
        f"print([one.state for one in check_store(Path({str(small_store)!r}))][-1])"
    )
    with scan_lock(small_store):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == WARN


def test_the_disk_is_looked_at_where_the_store_will_be(tmp_path: Path) -> None:
    disk, write = check_disk(tmp_path / "not" / "there" / "yet")
    assert str(tmp_path) in disk.found
    assert write.state == OK
    assert list(tmp_path.iterdir()) == []


def test_an_endpoint_that_answers(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as hub:
        (found,) = check_endpoint(hub.url)
    assert found.state == OK
    assert hub.url in found.found


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{port}", "http://example.org", "nonsense"])
def test_an_endpoint_that_does_not(endpoint: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (found,) = check_endpoint(endpoint.format(port=taken.getsockname()[1]))
    assert found.state == FAIL


def test_nothing_is_asked_without_online(look: Run, tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as hub:
        result = look("doctor", "--endpoint", hub.url)
        assert sum(hub.counters.values()) == 0
        asked = look("doctor", "--endpoint", hub.url, "--online")
        assert sum(hub.counters.values()) > 0
    assert result.exit_code == asked.exit_code == 0
    assert "endpoint" in asked.stdout


def test_a_gpu_is_looked_for_when_asked(look: Run, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "none"), "--format", "json")
    checks = {row["check"] for row in json.loads(look("doctor", "--gpu", *store).stdout)}
    assert any(check.startswith("gpu") for check in checks)
    without = {row["check"] for row in json.loads(look("doctor", *store).stdout)}
    assert not any(check.startswith("gpu") for check in without)
