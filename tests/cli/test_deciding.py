"""`correct`, `redact`, `ingest` and `export`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from modelkin.cli.main import cli
from modelkin.store import Registry

Run = Callable[..., Result]


@pytest.fixture
def run(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    shutil.copytree(small_store, tmp_path / "store")
    monkeypatch.setenv("MODELKIN_STORE", str(tmp_path / "store"))

    def verb(*words: str) -> Result:
        return CliRunner().invoke(cli, list(words))

    return verb


def test_correct_says_what_it_did(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "corrections.toml"
    path.write_text(
        '[[edge]]\nchild = "gina/pruned"\nparent = "lab/base"\nverdict = "denied"\nreason = "r"\n'
        '[[edge]]\nchild = "no/one"\nparent = "lab/base"\nverdict = "asserted"\nreason = "r"\n'
    )
    result = run("correct", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "1 edges asserted, 1 denied" in result.stderr
    assert "no/one is not in the store" in result.stderr
    with Registry.open(tmp_path / "store", read_only=True) as registry:
        assert len(registry.descendants("lab/base")) == 11
    path.write_text("[[edge]]\n")
    assert run("correct", str(path)).exit_code == 2


def test_redact_wants_a_reason_and_says_the_mask(run: Run) -> None:
    assert run("redact", "bob/math").exit_code == 2
    result = run("redact", "bob/math", "--reason", "asked for")
    assert (result.exit_code, "it is redacted:4" in result.stderr) == (0, True)
    assert run("why", "bob/math").exit_code == 2


def test_ingest_counts_rows(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "edges.csv"
    path.write_text("child,parent\nalice/chat,lab/base\nno/one,lab/base\n,lab/base\n")
    result = run("ingest", str(path), "--kind", "edges", "--provenance", "a paper")
    assert (result.exit_code, "2 edges taken in, 1 left out" in result.stderr) == (0, True)
    assert "1 name a model that the store does not hold" in result.stderr
    path.write_text("a,b\n1,2\n")
    refused = run("ingest", str(path), "--kind", "edges", "--provenance", "a paper")
    assert (refused.exit_code, "no column 'child'" in refused.stderr) == (2, True)


def test_export_to_stdout_and_to_a_file(run: Run, tmp_path: Path) -> None:
    assert run("export", "dave/freed", "--to", "dot").stdout.startswith("digraph modelkin {")
    path = tmp_path / "bill.json"
    result = run("export", "dave/freed", "--to", "cyclonedx", "-o", str(path))
    assert (result.exit_code, result.stdout, path.exists()) == (0, "", True)
    assert run("export", "--to", "cyclonedx").exit_code == 2


def test_a_view_is_exported_line_by_line(run: Run) -> None:
    changes = run("export", "--to", "jsonl", "--view", "changes").stdout.splitlines()
    assert all(json.loads(line)["kind"] for line in changes)
    assert run("export", "--to", "jsonl", "--view", "nothing").exit_code == 2
