"""`sql` and `status`."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from small_registry import HOSTILE

from modelkin.cli.querying import distinct
from modelkin.cli.standing import as_rows, resume_command
from modelkin.store import Registry
from modelkin.store.facts import OutcomeCount

Run = Callable[..., Result]


def test_sql_reaches_views_and_macros(look: Run) -> None:
    result = look("sql", "SELECT model, n FROM scores WHERE value > 0.9", "--format", "json")
    assert json.loads(result.stdout) == [{"model": "lab/base", "n": 20}]
    found = look("sql", "SELECT count(*) AS n FROM descendants('lab/base')", "--format", "csv")
    assert found.stdout == "n\n12\n"


def test_sql_from_a_file_and_from_stdin(look: Run, tmp_path: Path) -> None:
    path = tmp_path / "q.sql"
    path.write_text("SELECT 1 AS one;\n")
    assert look("sql", "-f", str(path), "--format", "csv").stdout == "one\n1\n"
    assert look("sql", "-", "--format", "csv", input="SELECT 2 AS two").stdout == "two\n2\n"


def test_sql_wants_exactly_one_query(look: Run, tmp_path: Path) -> None:
    path = tmp_path / "q.sql"
    path.write_text("SELECT 1")
    assert look("sql").exit_code == 2
    assert look("sql", "SELECT 1", "-f", str(path)).exit_code == 2


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM internal.models",
        "SELECT 1; SELECT 2",
        "",
        "SELEC 1",
        "SELECT * FROM read_csv('/etc/passwd')",
        "ATTACH '/tmp/x.duckdb'",
        "COPY (SELECT 1) TO '/tmp/modelkin-leak'",
    ],
)
def test_sql_refuses_what_is_no_read(look: Run, query: str) -> None:
    result = look("sql", query)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(("error: ", "Usage: "))


def test_sql_tells_of_rows_left_out(look: Run) -> None:
    result = look("sql", "SELECT * FROM range(5)", "--max-rows", "3", "--format", "csv")
    assert result.stdout == "range\n0\n1\n2\n"
    assert "only the first 3 rows" in result.stderr


def test_sql_bounds_a_table_but_not_the_rest(look: Run) -> None:
    table = look("sql", "SELECT * FROM range(10001)")
    assert len(table.stdout.splitlines()) == 10_001
    assert "only the first 10,000 rows" in table.stderr
    rows = look("sql", "SELECT * FROM range(10001)", "--format", "jsonl")
    assert len(rows.stdout.splitlines()) == 10_001
    assert rows.stderr == ""


def test_sql_columns_of_one_name_are_kept_apart(look: Run) -> None:
    result = look("sql", "SELECT 1 AS a, 2 AS a, 3 AS a_2", "--format", "json")
    assert list(json.loads(result.stdout)[0].values()) == [1, 2, 3]


@pytest.mark.parametrize("output_format", ["table", "csv"])
def test_sql_shows_hostile_cells_and_headers_harmlessly(look: Run, output_format: str) -> None:
    header = f'SELECT 1 AS "{HOSTILE}"'
    for one in (header, "SELECT model, chr(27) || ']0;x' AS t FROM models ORDER BY model"):
        result = look("sql", one, "--format", output_format)
        assert result.exit_code == 0
        assert "[bold]x" in result.stdout
        assert not set("\x1b\u202e") & set(result.stdout)


def test_sql_quiet_writes_the_first_column(look: Run) -> None:
    result = look("sql", "SELECT parent, 1 FROM edges WHERE child = 'alice/chat'", "-q")
    assert result.stdout == "lab/base\n"


def test_sql_file_is_bounded_and_utf8(look: Run, tmp_path: Path) -> None:
    large = tmp_path / "large.sql"
    large.write_bytes(b"-" * (1 << 20) + b"\n")
    assert "too long" in look("sql", "-f", str(large)).stderr
    odd = tmp_path / "odd.sql"
    odd.write_bytes(b"SELECT '\xff'")
    result = look("sql", "-f", str(odd))
    assert result.exit_code == 2
    assert "not UTF-8 at byte 8" in result.stderr


@given(st.lists(st.sampled_from(["a", "b", "a_2", "b_2", "a_3"]), max_size=8))
def test_distinct_names_are_distinct_and_in_order(columns: list[str]) -> None:
    found = distinct(columns)
    assert len(set(found)) == len(columns)
    assert all(new.startswith(old) for new, old in zip(found, columns, strict=True))


def test_status_counts_and_tells_how_to_resume(look: Run, small_store: Path) -> None:
    result = look("status")
    assert result.exit_code == 0
    assert "map of lab/base from dir, interrupted" in result.stdout
    assert (
        "to go on with scan 2: modelkin map lab/base --source dir:PATH --resume --store "
        f"{small_store}" in result.stderr
    )


def test_status_as_json(look: Run) -> None:
    (found,) = json.loads(look("status", "--format", "json").stdout)
    assert (found["models"], found["hidden"], found["sketched"]) == (13, 1, 5)
    assert (found["open_findings"], found["backlog"]) == (3, 0)
    assert found["last_scan"]["kind"] == "map"
    assert found["unfinished"][0]["resume"].startswith("modelkin map lab/base")
    assert look("status", "-q").stdout == "2\n"


def test_status_as_csv(look: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(look("status", "--format", "csv").stdout)))
    assert {row["what"]: row["value"] for row in rows}["inferred edges"] == "12"


def test_status_tells_outcomes_by_reason(small_store: Path) -> None:
    with Registry.open(small_store, read_only=True) as registry:
        found = registry.status()
    outcomes = tuple(
        OutcomeCount(outcome="failed", reason=f"reason {i}", models=2) for i in range(5)
    )
    rows = as_rows(replace(found, outcomes=outcomes), most=2)
    told = [(row["value"], row["note"]) for row in rows if row["what"].startswith("  ")]
    assert told == [(2, "reason 0"), (2, "reason 1"), (6, "3 more outcomes and reasons")]


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"kind": "scan", "source": "hub"}, "modelkin scan hub --resume"),
        (
            {"kind": "scan", "source": "dir", "parameters": {"source": "dir:/a b"}},
            "modelkin scan dir '/a b' --resume",
        ),
        (
            {"kind": "map", "source": "hub", "target": "o/m;rm -rf"},
            "modelkin map 'o/m;rm -rf' --resume",
        ),
        ({"kind": "infer", "source": "store"}, "modelkin infer"),
    ],
)
def test_resume_command(small_store: Path, fields: dict[str, object], command: str) -> None:
    with Registry.open(small_store, read_only=True) as registry:
        plain = replace(registry.scans()[0], target=None, parameters={})
    scan = replace(plain, **fields)  # type: ignore[arg-type]
    assert resume_command(scan, store=Path("modelkin-store")) == command


def test_status_of_an_empty_store(look: Run, tmp_path: Path) -> None:
    Registry.open(tmp_path / "s", create=True).close()
    result = look("status", "--store", str(tmp_path / "s"))
    assert result.exit_code == 0
    assert "none yet" in result.stdout


def test_a_reader_that_goes_away_is_no_error(small_store: Path) -> None:
    query = "SELECT a.model FROM v1.models a, v1.models b, v1.models c, v1.scores d"
    words = ["sql", query, "--store", str(small_store), "-q"]
    with subprocess.Popen(
        [sys.executable, "-m", "modelkin.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(600) == 141
        assert process.stderr.read() == ""
