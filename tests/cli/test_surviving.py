"""`survival` and `prompts` from the outside."""

from __future__ import annotations

import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from small_registry import make_score

from modelkin.store import Registry

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def scored(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a release and three descendants were measured."""
    store = tmp_path_factory.mktemp("scored") / "store"
    shutil.copytree(small_store, store)
    with Registry.open(store) as registry:
        values = {"lab/base": 0.9, "alice/chat": 0.8, "alice/chat-4bit": 0.7, "dave/freed": 0.0}
        scores = [make_score(name, "selective_refusal", v) for name, v in values.items()]
        registry.add_scores(1, scores)
    return store


def test_what_survived_is_grouped_and_drawn(look: Run, scored: Path, tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    result = look(
        *("survival", "lab/base", "--store", str(scored), "--format", "json"),
        *("--plot", str(picture)),
    )
    assert result.exit_code == 0, result.output
    rows = {(row["axis"], row["group"]): row for row in json.loads(result.stdout)}
    assert rows["relation", "edit"]["retained"] == 0.0
    assert rows["bits", "4"]["models"] == 1
    assert rows["relation", "finetune"]["retained"] > 0.8
    assert "3 descendants measured" in result.stderr
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg")
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == len(rows)


def test_a_png_has_the_dots_where_the_svg_has_them(look: Run, scored: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("out.svg", "out.png"):
        where = ("--store", str(scored), "--plot", str(tmp_path / name))
        assert look("survival", "lab/base", *where).exit_code == 0
    root = ElementTree.parse(tmp_path / "out.svg").getroot()
    dots = [e for e in root.iter() if e.tag.endswith("circle")]
    with Image.open(tmp_path / "out.png") as image:
        box = [float(side) for side in root.attrib["viewBox"].split()]
        scale = image.width / box[2]
        places = [(float(d.attrib["cx"]), float(d.attrib["cy"])) for d in dots]
        seen = {image.getpixel((round(x * scale), round(y * scale))) for x, y in places}
        ink = tuple(bytes.fromhex(dots[0].attrib["fill"].removeprefix("#")))
    assert places
    assert seen == {ink}


def test_a_plot_of_another_kind_is_refused(look: Run, scored: Path, tmp_path: Path) -> None:
    where = ("--store", str(scored), "--plot", str(tmp_path / "out.pdf"))
    refused = look("survival", "lab/base", *where)
    assert refused.exit_code == 2
    assert ".svg or .png" in refused.stderr


def test_without_scores_it_says_so(look: Run) -> None:
    result = look("survival", "lab/base")
    assert result.exit_code == 0
    assert "run modelkin probe" in result.stderr


def test_prompt_sets_are_listed_shown_added_and_split(look: Run, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"))
    listed = look("prompts", "list", *store, "--format", "json")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["refusal-v2", "refusal-v1"]
    shown = look("prompts", "show", "refusal-v2", *store, "--format", "json")
    counts = {row["category"]: row["prompts"] for row in json.loads(shown.stdout)}
    texts = look("prompts", "show", "refusal-v2", "--text", *store, "--format", "json")
    assert len(json.loads(texts.stdout)) == sum(counts.values())
    assert (counts["harmless"], counts["capability"]) == (80, 100)
    assert "Write" not in shown.stdout
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"harmful": ["a"], "harmless": ["b"]}))
    assert "--license" in look("prompts", "add", str(mine), *store).stderr
    other = look("prompts", "add", str(mine), "--license", "MIT", "--sha256", "0" * 64, *store)
    assert other.exit_code == 2
    assert "not the one expected" in other.stderr
    known = hashlib.sha256(mine.read_bytes()).hexdigest()
    added = look("prompts", "add", str(mine), "--license", "MIT", "--sha256", known, *store)
    assert added.exit_code == 0
    assert look("prompts", "show", added.stdout.strip()[:10], *store).exit_code == 0
    assert look("prompts", "add", "https://example.org/p.json", *store).exit_code == 2
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    where = ("--key", str(key), "--period", "2026-12", "--out", str(tmp_path / "halves"))
    halves = look("prompts", "split", "refusal-v2", *where, *store)
    assert halves.exit_code == 0, halves.output
    assert len(list((tmp_path / "halves").glob("*.json"))) == 2
