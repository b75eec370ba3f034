"""`map` and `probe`: options, exit codes, and a token that is seen nowhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from faulty_hub import FaultyHub
from small_models import coverage, infer_once, rows_of, scan_once, write_family, write_model
from tiny_chat import one_thread

from modelkin.cli.main import cli
from modelkin.scanners.sources.folder import FolderSource

DEMO = Path(__file__).resolve().parents[2] / "dumps" / "demo-hub"
PROMPTS = str(DEMO / "prompts.json")
CHAT, FREED = "juniper/juniper-chat", "nightheron/direct-chat"
CANARY = "hf_canaryCanaryCanaryCanary"
Map = Callable[..., Result]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("family")
    write_family(root)
    return root


@pytest.fixture
def hub(family: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyHub]:
    with FaultyHub(family) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELKIN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "store"


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder of a demo release and the child that lost its safety training."""
    for name in (CHAT, FREED):
        shutil.copytree(DEMO / name, tmp_path / "pair" / name)
    return tmp_path / "pair"


def run(*words: str) -> Result:
    with one_thread():
        return CliRunner().invoke(cli, list(words))


def map_family(*words: str, release: str = "lab/base") -> Result:
    return run("map", release, "--probe", "none", "--device", "cpu", *words)


def test_a_map_prints_the_tree_and_its_denominators(hub: FaultyHub, store: Path) -> None:
    result = map_family()
    assert result.exit_code == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert first.startswith("lab/base")
    for name in ("ann/chat", "bob/quiet", "cat/later", "dan/copy"):
        assert any(name in line for line in lines), name
    assert "eve/stranger" not in result.stdout
    assert "scan 1 done: 7 ok" in result.stderr
    assert "7 models of this shape: 21 pairs tested, 10 related, 4 edges believed" in result.stderr
    assert "probed" not in result.stderr


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_a_map_in_a_format_for_programs(hub: FaultyHub, store: Path, kind: str) -> None:
    result = map_family("--format", kind)
    assert result.exit_code == 0
    found = result.stdout
    if kind != "csv":
        rows = json.loads(found) if kind == "json" else list(map(json.loads, found.splitlines()))
        names = {row["model"] for row in rows}
        assert {"lab/base", "ann/chat", "bob/quiet", "cat/later", "dan/copy"} <= names
    else:
        assert found.startswith("model,")


@pytest.mark.parametrize(("severity", "code"), [("low", 1), ("medium", 0), ("high", 0)])
def test_fail_on_counts_findings_of_the_release(
    hub: FaultyHub, store: Path, severity: str, code: int
) -> None:
    assert map_family("--fail-on", severity).exit_code == code


@pytest.mark.parametrize("limit", [("--max-requests", "9"), ("--max-bytes", "9")])
def test_a_budget_exits_3_and_resume_goes_on(
    hub: FaultyHub, store: Path, limit: tuple[str, str]
) -> None:
    result = map_family(*limit)
    assert result.exit_code == 3
    assert "scan 1 exhausted" in result.stderr
    result = map_family("--resume")
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    assert "scan 1 done" in result.stderr
    assert "cat/later" in result.stdout


def test_coverage_of_a_map(tmp_path: Path, store: Path) -> None:
    root = tmp_path / "hub"
    write_model(root, "lab/base")
    bad = write_model(root, "lab/bad")
    (bad / "model.safetensors").write_bytes(b"\xff" * 64)
    source = ("--source", f"dir:{root}")
    assert map_family(*source).exit_code == 3
    assert map_family(*source).exit_code == 3
    assert map_family(*source, "--min-coverage", "0.5").exit_code == 0
    assert coverage(store)["lab/bad"].outcome == "malformed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: shutil.rmtree(root / "lab"), "missing, or hidden"),
        (
            lambda root: (root / "hub.json").write_text('{"lab/base": {"gated": "manual"}}'),
            "access denied (gated)",
        ),
        (
            lambda root: (root / "hub.json").write_text('{"lab/base": {"disabled": true}}'),
            "disabled by the Hub",
        ),
        (
            lambda root: (root / "lab" / "base" / "model.safetensors").write_bytes(b"\xff" * 64),
            "header too long",
        ),
        (
            lambda root: (root / "lab" / "base" / "model.safetensors").unlink(),
            "no weight file",
        ),
    ],
    ids=["missing", "gated", "disabled", "unreadable", "no weights"],
)
def test_a_release_that_cannot_be_read_exits_2(
    tmp_path: Path, store: Path, change: Callable[[Path], Any], words: str
) -> None:
    root = tmp_path / "hub"
    write_model(root, "lab/base")
    write_model(root, "ann/other")
    change(root)
    with FaultyHub(root) as hub:
        result = map_family("--endpoint", hub.url)
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("map", "../x"),
        ("map", "lab/base", "--source", "ftp:x"),
        ("map", "lab/base", "--source", "dir:/nonexistent"),
        ("map", "lab/base", "--prompts", "/nonexistent"),
        ("map", "lab/base", "--max-model-bytes", "0"),
        ("map", "lab/base", "--probe", "everything"),
        ("map",),
    ],
    ids=" ".join,
)
def test_misuse_exits_2(hub: FaultyHub, store: Path, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_broken_prompts_exit_2_before_anything_is_read(
    hub: FaultyHub, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.json").write_text('{"harmful": 1}')
    result = run("map", "lab/base", "--prompts", str(tmp_path / "prompts.json"))
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert hub.seen == []


def test_models_that_are_too_large_to_be_probed_are_said_so(pair: Path, store: Path) -> None:
    source = ("--source", f"dir:{pair}", "--prompts", PROMPTS, "--device", "cpu")
    result = run("map", CHAT, *source, "--max-model-bytes", "1000")
    assert result.exit_code == 3
    assert "probed 0 (0 before), 2 could not be" in result.stderr
    assert f"{FREED}: {FREED}: the model is larger than the probe's budget" in (
        result.stderr.replace("not probed: ", "")
    )
    assert FREED in result.stdout
    statuses = rows_of(store, "SELECT DISTINCT status FROM scores WHERE judge <> 'none'")
    assert statuses == [("error",)]
    lenient = run("map", CHAT, *source, "--max-model-bytes", "1000", "--min-coverage", "0")
    assert lenient.exit_code == 0


def test_probing_finds_the_loss_and_exits_1_when_asked(pair: Path, store: Path) -> None:
    source = ("--source", f"dir:{pair}", "--prompts", PROMPTS, "--device", "cpu")
    result = run("map", CHAT, *source, "--fail-on", "high")
    assert result.exit_code == 1, result.stderr
    assert "probed 2 (0 before), 0 could not be" in result.stderr
    (line,) = (line for line in result.stdout.splitlines() if FREED in line)
    assert "lost safety training" in line
    assert run("map", CHAT, *source).exit_code == 0


def test_the_probe_verb(pair: Path, store: Path) -> None:
    scan_once(store, FolderSource(pair))
    infer_once(store)
    common = ("--source", f"dir:{pair}", "--prompts", PROMPTS, "--device", "cpu")
    one = run("probe", CHAT, *common, "--format", "json")
    assert one.exit_code == 0, one.stderr
    rows = json.loads(one.stdout)
    assert {row["model"] for row in rows} == {CHAT}
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows)
    both = run("probe", *common, "-q", "--fail-on", "high")
    assert both.exit_code == 1, both.stderr
    assert both.stdout.split() == [CHAT, FREED]
    assert "2 of 2 measured" in both.stderr
    assert run("probe", "no/such", *common).exit_code == 2


def test_the_probe_verb_on_models_it_cannot_run(pair: Path, store: Path) -> None:
    scan_once(store, FolderSource(pair))
    result = run("probe", FREED, "--source", f"dir:{pair}", "--max-model-bytes", "10")
    assert result.exit_code == 3
    assert "0 of 1 measured" in result.stderr
    assert "larger than the probe's budget" in result.stderr


def test_the_token_is_seen_by_the_endpoint_alone(family: Path, store: Path) -> None:
    with FaultyHub(family, tokens=[CANARY]) as hub:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "modelkin.cli", "-vv", "map", "lab/base"),
                *("--endpoint", hub.url, "--probe", "none", "--device", "cpu"),
            ],
            env={**os.environ, "HF_TOKEN": CANARY, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    bearers = {seen.headers.get("Authorization") for seen in hub.seen if "/cdn/" not in seen.path}
    assert bearers == {f"Bearer {CANARY}"}
    assert hub.at_cdn()
    assert all("Authorization" not in seen.headers for seen in hub.at_cdn())
    assert CANARY not in done.stdout + done.stderr
    assert "DEBUG" in done.stderr
    for file in store.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file


def test_a_token_that_the_hub_refuses_is_not_quoted(
    hub: FaultyHub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    result = map_family()
    assert result.exit_code == 2
    assert "access denied" in result.stderr
    assert CANARY not in result.output
