"""`compare --full` without a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_models import tiny_weights, write_model

from modelkin.cli.main import cli


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a child whose writers lost one direction of the residual stream."""
    root = tmp_path_factory.mktemp("models")
    weights = tiny_weights(1)
    direction = np.random.default_rng(3).standard_normal(32).astype(np.float32)
    direction /= np.linalg.norm(direction)
    edited = {
        name: value - np.outer(direction, direction @ value)
        if name.endswith(("o_proj.weight", "down_proj.weight"))
        else value
        for name, value in weights.items()
    }
    write_model(root, "lab/base", weights)
    write_model(root, "user/edited", edited)
    return root


def full(models: Path, *words: str) -> Result:
    names = ("user/edited", "lab/base")
    source = f"dir:{models}"
    return CliRunner().invoke(
        cli, ["compare", "--full", *names, "--source", source, "--device", "cpu", *words]
    )


def test_an_edit_of_one_direction_reads_as_one(models: Path) -> None:
    result = full(models, "--format", "json")
    (found,) = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["whole"]["changed"] == 4
    assert found["whole"]["writer_coherence"] == pytest.approx(1.0, abs=1e-3)
    ranks = {one["tensor"]: one["rank"] for one in found["tensors"] if one["rank"] is not None}
    assert ranks == dict.fromkeys(["0.attn.o", "0.mlp.down", "1.attn.o", "1.mlp.down"], 1)


def test_table_csv_and_names(models: Path) -> None:
    table = full(models)
    assert "4 of 21 tensors differ" in table.stdout
    assert "changes write along one direction to 1.00" in table.stdout
    assert "bytes read" in table.stderr
    assert full(models, "--format", "csv").stdout.startswith("tensor,relative_distance,cosine")
    assert sorted(full(models, "-q").stdout.split()) == [
        "0.attn.o",
        "0.mlp.down",
        "1.attn.o",
        "1.mlp.down",
    ]


def test_a_model_that_is_not_there_is_an_error(models: Path) -> None:
    source = f"dir:{models}"
    result = CliRunner().invoke(
        cli, ["compare", "--full", "lab/base", "no/body", "--source", source]
    )
    assert result.exit_code == 2
    assert "no/body" in result.stderr


def test_options_that_would_do_nothing_are_refused(models: Path, tmp_path: Path) -> None:
    for words in (["--source", f"dir:{models}"], ["--device", "cpu"], ["--endpoint", "http://h"]):
        result = CliRunner().invoke(cli, ["compare", "a/b", "c/d", *words])
        assert result.exit_code == 2
        assert f"{words[0]}: goes with --full" in result.stderr
    result = full(models, "--store", str(tmp_path))
    assert result.exit_code == 2
    assert "--store: --full reads the source alone" in result.stderr


def test_the_environment_is_no_option_that_was_typed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELKIN_STORE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert full(models, "-q").exit_code == 0
    result = CliRunner().invoke(cli, ["compare", "a/b", "c/d"])
    assert "goes with --full" not in result.stderr
