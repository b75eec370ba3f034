"""`scan` and `infer`: options, exit codes, kills, signals and the lock."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from faulty_hub import FaultyHub, SlowHub, status
from nights import wait_for
from rich.console import Console
from small_models import BAD, contents, coverage, rows_of, write_family, write_model

from modelkin.cli.interrupts import Interrupts
from modelkin.cli.main import cli
from modelkin.cli.progress import Watch
from modelkin.lineage.errors import TransientError
from modelkin.lineage.records import Coverage, Outcome

FAMILY = 7
Scan = Callable[..., Result]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("family")
    write_family(root)
    return root


@pytest.fixture
def hub(family: Path) -> Iterator[SlowHub]:
    with SlowHub(family) as served:
        yield served


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELKIN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def scan(hub: SlowHub, store: Path) -> Scan:
    """Run `scan hub` in this process, without inference unless it is asked for."""

    def run(*words: str, infer: bool = False) -> Result:
        more = () if infer else ("--no-infer",)
        return CliRunner().invoke(cli, ["scan", "hub", "--endpoint", hub.url, *more, *words])

    return run


def started(hub: SlowHub, store: Path, *words: str) -> subprocess.Popen[str]:
    """`scan hub` in a process of its own."""
    command = [sys.executable, "-m", "modelkin.cli", "scan", "hub", "--endpoint", hub.url]
    return subprocess.Popen(
        [*command, "--store", str(store), "--device", "cpu", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )


def inferred(store: Path) -> list[tuple[str, str]]:
    return rows_of(store, "SELECT child, parent FROM edges WHERE inferred ORDER BY ALL")


@pytest.fixture(scope="module")
def undisturbed(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a scan in a process of its own that nothing disturbed."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    with SlowHub(family) as hub:
        process = started(hub, store)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out == ""
    assert "scan 1 done: 7 ok" in err
    return store


def test_a_scan_fills_the_store_and_infers(undisturbed: Path) -> None:
    assert len(contents(undisturbed)["sketches"]) == FAMILY
    assert len(inferred(undisturbed)) == 4


def test_kills_at_any_point_change_nothing(hub: SlowHub, store: Path, undisturbed: Path) -> None:
    chance = random.Random(4)
    for turn in range(4):
        after = chance.randrange(1, 48 - 12 * turn)
        before = len(hub.seen)
        # Held, a scan can not end before it is killed, however fast the machine is.
        with hub.holding(after):
            process = started(hub, store, *(["--resume"] if turn else []))
            wait_for(hub, before + after + 1, process)
            process.kill()
            process.communicate()
    # The last one comes when the weights were read, and parents are inferred.
    process = started(hub, store, "--resume")
    while process.poll() is None and len(rows_seen(hub)) < FAMILY - 1:
        time.sleep(0.005)
    process.kill()
    _, err = process.communicate()
    # A machine that is faster than the kill has ended the scan.
    if process.returncode < 0:
        process = started(hub, store, "--resume")
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert contents(store) == contents(undisturbed)


def rows_seen(hub: SlowHub) -> set[str]:
    """Models whose weights were read."""
    return {seen.path.split("/")[3] for seen in hub.at_cdn()}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_ends_in_a_checkpoint(
    hub: SlowHub, store: Path, scan: Scan, undisturbed: Path, number: int, code: int
) -> None:
    # Held, the scan can not end before the signal; answered again, it is in the middle of a visit.
    with hub.holding(14):
        process = started(hub, store)
        wait_for(hub, 15, process)
        process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert "scan 1 interrupted" in err
    assert rows_of(store, "SELECT status FROM scans") == [("interrupted",)]
    result = scan("--resume")
    assert result.exit_code == 0, result.stderr
    assert contents(store)["sketches"] == contents(undisturbed)["sketches"]
    assert "scan 1 done: 7 ok" in result.stderr


def test_a_signal_is_heard_while_the_hub_asks_for_patience(hub: SlowHub, store: Path) -> None:
    hub.plan(r"^/cdn/", status(503, Retry_After="120"), times=99)
    process = started(hub, store)
    while not hub.at_cdn() and process.poll() is None:
        wait_for(hub, len(hub.seen) + 1, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 143, err
    assert not coverage(store)


def test_a_second_scan_is_locked_out(hub: SlowHub, store: Path, scan: Scan) -> None:
    with hub.holding(0):
        process = started(hub, store)
        wait_for(hub, 1, process)
        result = scan()
        process.kill()
        process.communicate()
    assert result.exit_code == 4
    assert f"process {process.pid}" in result.stderr
    assert scan("--resume").exit_code == 0


@pytest.mark.parametrize(
    "limit",
    [("--max-requests", "1"), ("--max-bytes", "1"), ("--deadline", "0")],
    ids=lambda limit: limit[0],
)
def test_a_budget_exits_3_and_resume_ends_the_scan(
    scan: Scan, store: Path, undisturbed: Path, limit: tuple[str, str]
) -> None:
    result = scan(*limit)
    assert result.exit_code == 3
    assert "is used up; --resume goes on from here" in result.stderr
    assert "coverage" in result.stderr
    result = scan("--resume")
    assert result.exit_code == 0, result.stderr
    assert contents(store)["sketches"] == contents(undisturbed)["sketches"]


def test_bad_repositories_are_told_and_the_rest_is_read(tmp_path: Path, store: Path) -> None:
    root = tmp_path / "hub"
    for at, (change, _) in enumerate(BAD.values()):
        change(write_model(root, f"bad/case-{at}"))
    for name in ("good/one", "good/two"):
        write_model(root, name)
    closed = {"good/gated": {"gated": "auto"}, "good/off": {"disabled": True}}
    for name in closed:
        write_model(root, name)
    (root / "hub.json").write_text(json.dumps(closed))
    with FaultyHub(root) as hub:
        command = ("scan", "hub", "--endpoint", hub.url, "--device", "cpu")
        result = CliRunner().invoke(cli, list(command))
    assert result.exit_code == 3, result.stderr
    found = coverage(store)
    for at, (what, (_, ending)) in enumerate(BAD.items()):
        assert found[f"bad/case-{at}"][:3] == ending, what
    assert found["good/gated"].outcome == found["good/off"].outcome == "gated"
    assert found["good/one"].outcome == found["good/two"].outcome == "ok"
    assert "bad/case-4: malformed (header): model.safetensors at byte 0" in result.stderr
    assert "2 gated, 8 malformed, 1 no_weights, 2 ok, 1 unsupported" in result.stderr
    assert "coverage 14.3%, asked for 100.0%: 12 not read" in result.stderr


def test_idempotence_and_coverage(tmp_path: Path, store: Path) -> None:
    write_model(tmp_path / "hub", "lab/good")
    bad = write_model(tmp_path / "hub", "lab/bad")
    (bad / "model.safetensors").write_bytes(b"\xff" * 64)
    folder = str(tmp_path / "hub")

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, ["scan", "dir", folder, "--no-infer", *words])

    first, second, lenient = run(), run(), run("--min-coverage", "0.5")
    assert (first.exit_code, second.exit_code, lenient.exit_code) == (3, 3, 0)
    assert "lab/bad: malformed (header): model.safetensors at byte 0" in first.stderr
    assert "scan 1 done: 1 malformed, 1 ok" in first.stderr
    assert "scan 2 done: 1 malformed, 1 unchanged" in second.stderr
    assert "coverage 50.0%, asked for 100.0%: 1 not read" in second.stderr


def test_a_dry_run_writes_nothing(scan: Scan, store: Path) -> None:
    result = scan("--dry-run")
    assert result.exit_code == 0
    assert len(result.stdout.split()) == FAMILY
    assert "7 models would be looked at; nothing was written" in result.stderr
    assert not store.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--author", "ann"), {"ann/chat"}),
        (("--search", "lat"), {"cat/later"}),
        (("--filter", "base_model:lab/base"), {"ann/chat", "fay/claims"}),
        (("--filter", "safetensors", "--filter", "license:mit", "--author", "dan"), {"dan/copy"}),
        (("--author", "nobody"), set()),
    ],
)
def test_a_scan_can_be_narrowed(
    scan: Scan, store: Path, words: tuple[str, ...], expected: set[str]
) -> None:
    assert set(scan(*words, "--dry-run").stdout.split()) == expected
    assert scan(*words).exit_code == 0
    assert set(coverage(store)) == expected


def test_inference_can_be_left_out_and_made_up_for(scan: Scan, store: Path) -> None:
    assert scan().exit_code == 0
    assert inferred(store) == []
    result = CliRunner().invoke(cli, ["infer", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    assert "7 models in 1 shapes: 21 pairs tested" in result.stderr
    assert len(inferred(store)) == 4


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "dir"),
        ("scan", "hub", "."),
        ("scan", "dir", "/nonexistent"),
        ("scan", "ftp"),
        ("scan", "hub", "--endpoint", "http://example.org"),
        ("scan", "hub", "--endpoint", "file:///tmp"),
        ("scan", "hub", "--min-coverage", "2"),
        ("infer",),
    ],
    ids=" ".join,
)
def test_misuse_exits_2_and_writes_no_scan(store: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, list(words))
    assert result.exit_code == 2, result.output
    assert not isinstance(result.exception, OSError | ValueError)
    assert not (store / "registry.duckdb").exists()


def test_a_store_that_cannot_be_written_exits_2(scan: Scan, store: Path) -> None:
    (store / "scan.lock").mkdir(parents=True)
    result = scan()
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot lock the store")


def test_a_damaged_store_exits_2(scan: Scan, store: Path) -> None:
    store.mkdir()
    (store / "registry.duckdb").write_bytes(b"not a database" * 1000)
    result = scan()
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    with interrupts.watching():
        interrupts.sleep(0)
        assert not interrupts.stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.stopped(), interrupts.exit_code) == (True, 130)
        with pytest.raises(TransientError, match="interrupted"):
            interrupts.sleep(60)
        with pytest.raises(TransientError, match="interrupted"):
            asyncio.run(interrupts.sleep_async(60))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_on_a_terminal_prints_names_literally() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=200, color_system=None)
    with Watch(terminal) as watch:
        watch.stage("list", None)
        watch.listed(3)
        watch.stage("read", 3)
        name = "[bold]x/\x1b[31mred"
        row = Coverage(model=name, outcome=Outcome.TIMEOUT, stage="header", reason="slow")
        watch.visited(row)
        watch.step("x")
    assert "[bold]x/\ufffd[31mred: timeout (header): slow" in out.getvalue()
