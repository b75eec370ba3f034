"""`verify`: a damaged sketch is found, named and read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from faulty_hub import FaultyHub
from nights import run_night, write_config
from small_models import ask, tiny_weights, write_model

from modelkin.cli.main import cli


def verify(store: Path, *words: str) -> Result:
    command = ["verify", "--store", str(store), "--format", "json", *words]
    return CliRunner().invoke(cli, command)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_model(tmp_path / "hub", "lab/base", tiny_weights("base"))
    write_model(tmp_path / "hub", "lab/other", tiny_weights("other"))
    return tmp_path


def test_what_is_damaged_is_named_and_read_again(config: Path) -> None:
    with FaultyHub(config / "hub") as hub:
        toml, store = write_config(config, hub.url), config / "store"
        assert run_night(toml).exit_code == 0
        assert verify(store).exit_code == 0
        rows = ask(store, lambda registry: registry.sketched(names=["lab/other"]))
        sketch = store / "sketches" / rows[0].sketch_path
        good = sketch.read_bytes()
        sketch.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        found = verify(store)
        assert found.exit_code == 2
        assert json.loads(found.stdout) == [
            {"kind": "sketch", "what": "lab/other", "fault": "missing or damaged"}
        ]
        assert verify(store, "--repair").exit_code == 0
        assert run_night(toml).exit_code == 0
        assert sketch.read_bytes() == good
        assert verify(store).exit_code == 0


def test_a_damaged_snapshot_and_a_broken_invariant_are_named(config: Path) -> None:
    with FaultyHub(config / "hub") as hub:
        store = config / "store"
        assert run_night(write_config(config, hub.url)).exit_code == 0
    copy = store / "snapshots" / "1" / "registry.duckdb"
    copy.write_bytes(copy.read_bytes()[:-10])
    found = json.loads(verify(store).stdout)
    assert [(row["kind"], row["what"]) for row in found] == [("snapshot", "1")]
    assert verify(store, "--repair").exit_code == 2, "a snapshot is never repaired"
