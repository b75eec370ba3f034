"""`similar` on the small registry: nearest by weights, whatever the cards say."""

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


def test_the_nearest_come_first_with_what_lies_between(look: Run) -> None:
    result = look("similar", "dave/freed", "--top", "3", "--format", "json")
    rows = json.loads(result.stdout)
    assert result.exit_code == 0
    distances = [row["relative_distance"] for row in rows]
    assert distances == sorted(distances)
    assert len(rows) == 3
    assert rows[0]["model"] in {"alice/chat", "erin/freed-8bit"}
    by_name = {row["model"]: row for row in rows}
    assert by_name["alice/chat"]["kin"] == "ancestor"
    assert by_name["alice/chat"]["form"] == "a targeted edit of rank 1"
    assert "models of its shape were compared" in result.stderr


def test_a_table_and_names_alone(look: Run) -> None:
    table = look("similar", "dave/freed", "--top", "2")
    assert "alice/chat" in table.stdout
    assert "relative distance" in table.stdout
    names = look("similar", "dave/freed", "--top", "2", "-q").stdout.split()
    assert len(names) == 2
    assert "dave/freed" not in names


def test_a_model_without_a_sketch_is_an_error_in_words(look: Run) -> None:
    result = look("similar", "harry/claimed")
    assert result.exit_code == 2
    assert "not sketched: scan it first" in result.stderr


def test_a_damaged_sketch_is_said_and_left_out(small_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(small_store, tmp_path / "store")
    with Registry.open(store, read_only=True) as registry:
        (row,) = registry.sketched(names=["alice/chat"])
    path = store / "sketches" / row.sketch_path
    path.write_bytes(path.read_bytes()[:100])
    result = CliRunner().invoke(cli, ["similar", "dave/freed", "--store", str(store), "-q"])
    assert result.exit_code == 0
    assert "alice/chat" not in result.stdout
    assert "alice/chat: " in result.stderr


@pytest.mark.parametrize("name", ["nobody/nothing", "alice/cha"])
def test_an_unknown_name_is_an_error(look: Run, name: str) -> None:
    assert look("similar", name).exit_code == 2


def test_a_device_is_refused_where_nothing_is_computed(look: Run) -> None:
    result = look("similar", "lab/base", "--by", "activations", "--device", "cpu")
    assert result.exit_code == 2
    assert "--device: nothing is computed" in result.stderr
