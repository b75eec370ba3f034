"""`compare` on weights whose differences have a known form."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from small_registry import HOSTILE, make_weights

Run = Callable[..., Result]


def blocks_of(look: Run, a: str, b: str) -> dict[str, dict[str, float | None]]:
    (found,) = json.loads(look("compare", a, b, "--format", "json").stdout)
    return {block["block"]: block for block in found["blocks"]}


def test_table_holds_facts_kinship_refusal_and_weights(look: Run) -> None:
    result = look("compare", "dave/freed", "alice/chat")
    text = result.stdout
    assert result.exit_code == 0
    assert "a comes from b by edit abliteration" in text
    assert "0.05 [0.00, 0.15] n=20" in text
    assert "0.90 [0.80, 1.00] n=20" in text
    assert "1 of 3 sampled blocks unchanged" in text
    assert "a targeted edit of rank 1" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_evidence_between_the_two_is_shown_whichever_is_named_first(look: Run) -> None:
    for pair in (("dave/freed", "alice/chat"), ("alice/chat", "dave/freed")):
        (found,) = json.loads(look("compare", *pair, "--format", "json").stdout)
        (edge,) = found["edges"]
        assert (edge["child"], edge["parent"]) == ("dave/freed", "alice/chat")
        assert edge["clues"]
        assert "dave/freed ← alice/chat" in look("compare", *pair).stdout
    (found,) = json.loads(look("compare", "dave/freed", "lab/base", "--format", "json").stdout)
    assert found["edges"] == []
    assert found["rejected"][0]["rejected_because"].startswith("further")
    told = look("compare", "dave/freed", "lab/base").stdout
    assert "lab/base is no parent of dave/freed: further" in told


def test_an_edit_is_rank_one_in_the_writers_only(look: Run) -> None:
    blocks = blocks_of(look, "dave/freed", "alice/chat")
    assert {name: block["rank"] for name, block in blocks.items()} == {
        "0.attn.v": 0,
        "0.attn.o": 1,
        "0.mlp.down": 1,
    }
    assert blocks["0.attn.v"]["same_share"] == 1.0
    assert blocks["0.attn.v"]["relative_distance"] == 0.0


def test_a_low_rank_update_shows_its_rank(look: Run) -> None:
    blocks = blocks_of(look, "alice/chat", "lab/base")
    assert blocks["0.attn.v"]["rank"] == 4
    assert blocks["0.attn.v"]["full_rank"] is False
    assert blocks["0.attn.o"]["same_share"] == 1.0


def test_numbers_are_those_of_float64_arithmetic(look: Run) -> None:
    blocks = blocks_of(look, "bob/math", "lab/base")
    weights = make_weights()
    a, b = (weights[name]["mlp.down"].astype(np.float64) for name in ("bob/math", "lab/base"))
    block = blocks["0.mlp.down"]
    assert block["relative_distance"] == pytest.approx(
        np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-6
    )
    cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    assert block["cosine"] == pytest.approx(cosine, rel=1e-9)
    assert block["full_rank"] is True


def test_a_model_is_itself(look: Run) -> None:
    (found,) = json.loads(look("compare", "lab/base", "lab/base", "--format", "json").stdout)
    assert found["kinship"] == {
        "parent": None,
        "steps": [],
        "common": ["lab/base"],
        "distance": 0,
    }
    assert found["weights"]["same_share"] == 1.0
    assert found["weights"]["form"] == "the matrices are the same up to a cast"


def test_siblings_have_a_common_ancestor(look: Run) -> None:
    result = look("compare", "bob/math", "dave/freed")
    assert "nearest common ancestor: lab/base, 3 edges apart" in result.stdout
    assert look("compare", "bob/math", "dave/freed", "-q").stdout == "lab/base\n"


def test_other_shapes_end_with_2_after_the_facts(look: Run) -> None:
    result = look("compare", "bob/math", "other/stranger")
    assert result.exit_code == 2
    assert "differ in shape" in result.stderr
    assert "no common ancestor is known" in result.stdout
    found = look("compare", "bob/math", "other/stranger", "--format", "json")
    assert found.exit_code == 2
    (value,) = json.loads(found.stdout)
    assert value["weights"] is None
    assert "differ in shape" in value["not_comparable"]


def test_no_sketch_ends_with_2(look: Run) -> None:
    result = look("compare", "lab/base", "gina/pruned")
    assert result.exit_code == 2
    assert "the weights of gina/pruned were not sketched" in result.stderr
    assert "b comes from a by prune 50%" in result.stdout


def test_a_lost_sketch_ends_with_2(look: Run, small_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(small_store, store)
    for sketch in (store / "sketches").rglob("*.safetensors"):
        sketch.write_bytes(b"\xff" * 64)
    result = look("compare", "lab/base", "alice/chat", "--store", str(store))
    assert result.exit_code == 2
    assert "a sketch cannot be read back" in result.stderr


def test_csv_has_a_row_a_block(look: Run) -> None:
    text = look("compare", "alice/chat", "lab/base", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["block"] for row in rows] == ["0.attn.o", "0.attn.v", "0.mlp.down"]


def test_hostile_names_are_shown_harmlessly(look: Run) -> None:
    result = look("compare", HOSTILE, "lab/base")
    assert "[bold]x/" in result.stdout
    assert not set("\x1b\u202e") & set(result.output)
