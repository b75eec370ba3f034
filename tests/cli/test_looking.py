"""`tree`, `why` and `stripped` on a small registry with a known tree."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from small_registry import HIDDEN, HOSTILE, LISTED

from modelkin.cli.main import cli
from modelkin.cli.trees import Tree, relation_words
from modelkin.store import Registry
from modelkin.store.facts import TreeRow

Run = Callable[..., Result]
HEAVY = "torch transformers huggingface_hub aiohttp networkx pyarrow"

TREE = """\
lab/base  (6 direct, 12 in all)
├─ alice/chat  finetune lora r4  (3 direct, 4 in all)
│  ├─ dave/freed  edit abliteration  ✗ lost safety training
│  │  │    claims other/stranger  (1 direct, 1 in all)
│  │  └─ erin/freed-8bit  quantized 8-bit
│  ├─ alice/chat-4bit  quantized 4-bit
│  └─ carol/blend  merge 0.60 + bob/math
├┄ (unpublished) hidden:5eed  finetune  confidence 0.73  (2 direct, 2 in all)
│  ├─ frank/one  finetune
│  └─ frank/two  finetune
├─ bob/math  finetune  undeclared  (1 direct, 1 in all)
├─ [bold]x/\ufffd[31mred\ufffdgpj  finetune
├─ gina/pruned  prune 50%  confidence 0.72  undeclared
└─ harry/claimed  finetune  claimed only
"""


def test_tree_at_80_columns(look: Run) -> None:
    result = look("tree", "lab/base")
    assert result.exit_code == 0
    assert result.stdout == TREE
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert result.stderr == ""


def test_tree_cuts_at_the_depth_and_says_so(look: Run) -> None:
    result = look("tree", "lab/base", "--depth", "1")
    assert "alice/chat  finetune lora r4  (3 direct, 4 in all) …" in result.stdout
    assert "dave/freed" not in result.stdout
    assert "6 of 12 descendants shown; --depth 0 shows all" in result.stderr


def test_tree_up_follows_the_edges_back(look: Run) -> None:
    result = look("tree", "erin/freed-8bit", "--up")
    lines = result.stdout.splitlines()
    assert lines[0] == "erin/freed-8bit  (1 direct, 3 in all)"
    assert lines[1].startswith("└─ dave/freed  → quantized 8-bit  ✗ lost safety training")
    assert lines[3] == "      └─ lab/base  → finetune lora r4"


def test_tree_as_flat_json(look: Run) -> None:
    rows = json.loads(look("tree", "lab/base", "--format", "json").stdout)
    by_name = {row["model"]: row for row in rows}
    assert len(rows) == 13
    assert by_name["dave/freed"]["under"] == "alice/chat"
    assert by_name["dave/freed"]["stripped"] is True
    assert by_name["dave/freed"]["claims"] == ["other/stranger"]
    assert by_name["bob/math"]["claims"] == []
    assert by_name["alice/chat"]["claims"] is None
    assert by_name["carol/blend"]["share"] == 0.6
    assert by_name["carol/blend"]["others"] == ["bob/math"]
    assert by_name[HIDDEN]["hidden"] is True
    assert HOSTILE in by_name


def test_tree_jsonl_and_ids(look: Run) -> None:
    lines = look("tree", "lab/base", "--format", "jsonl").stdout.splitlines()
    ids = look("tree", "lab/base", "-q").stdout.splitlines()
    assert len(lines) == len(ids) == 13
    assert ids[0] == "lab/base"


@pytest.mark.parametrize("output_format", ["table", "csv"])
def test_hostile_names_are_shown_harmlessly(look: Run, output_format: str) -> None:
    result = look("tree", "lab/base", "--format", output_format)
    assert "[bold]x/" in result.stdout
    assert not set("\x1b\u202e") & set(result.stdout)


@pytest.mark.parametrize("verb", ["why", "stripped"])
def test_other_verbs_show_hostile_names_harmlessly(look: Run, verb: str) -> None:
    result = look(verb, HOSTILE)
    assert result.exit_code == 0
    assert "[bold]x/" in result.output
    assert not set("\x1b\u202e") & set(result.output)


def test_unknown_model_ends_with_2_and_close_names(look: Run) -> None:
    result = look("tree", "alice/chatt")
    assert result.exit_code == 2
    assert "did you mean alice/chat" in result.stderr
    assert result.stdout == ""


def test_missing_store_ends_with_2(look: Run, tmp_path: Path) -> None:
    result = look("tree", "lab/base", "--store", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "modelkin scan" in result.stderr
    assert not (tmp_path / "none").exists()


def test_why_tells_for_against_and_uncounted(look: Run) -> None:
    text = look("why", "dave/freed").stdout
    assert "dave/freed ← alice/chat" in text
    assert "edit abliteration; inferred, not declared" in text
    assert "confidence 0.980, direction 0.800" in text
    assert re.search(r"frozen .* \+8\.0 +speaks for", text)
    assert re.search(r"distance .* -0\.5 +speaks against", text)
    assert re.search(r"drift .* \+1\.5 +speaks for the direction", text)
    assert re.search(r"family .* 0 +shown, not counted +1e-12", text)
    assert re.search(r"other/stranger .* disagrees: the weights name", text)
    assert re.search(r"2 +lab/base +0\.021 +further: 3\.1 times", text)


def test_why_as_json_is_nested_by_edge(look: Run) -> None:
    (found,) = json.loads(look("why", "dave/freed", "--format", "json").stdout)
    assert set(found) == {"child", "edges", "claims", "decisions", "candidates", "measured"}
    believed = next(edge for edge in found["edges"] if edge["inferred"])
    assert (believed["parent"], believed["relation"]) == ("alice/chat", "edit")
    assert believed["clues"][0]["says"] == "speaks for"
    assert found["claims"][0]["verdict"] == "disagrees"
    assert found["candidates"][0]["rejected_because"].startswith("further")


def test_why_lays_the_runner_up_beside_the_parent(look: Run) -> None:
    (found,) = json.loads(look("why", "dave/freed", "--format", "json").stdout)
    parent, runner = (
        next(one for one in found["measured"] if one["model"] == name)
        for name in ("alice/chat", "lab/base")
    )
    assert parent["form"] == "a targeted edit of rank 1"
    assert parent["unchanged"] == 1
    assert runner["unchanged"] == 0
    assert parent["relative_distance"] < runner["relative_distance"]
    text = look("why", "dave/freed").stdout
    assert "Side by side with the child" in text
    assert re.search(r"alice/chat +0\.\d+ +1 of 3", text)


def test_why_as_csv_has_a_row_a_clue(look: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(look("why", "alice/chat", "--format", "csv").stdout)))
    assert {row["kind"] for row in rows} == {"frozen", "distance", "time", "drift", "family"}
    assert {row["parent"] for row in rows} == {"lab/base"}


@pytest.mark.parametrize(
    ("child", "raw", "verdict", "because"),
    [
        ("alice/chat", "lab/base", "agrees", None),
        ("alice/chat", "our secret data", "unresolved", "it names no model"),
        ("frank/one", "lab/base", "agrees", "an ancestor further up"),
        ("harry/claimed", "lab/base", "unresolved", "no weights of harry/claimed were read"),
        ("dave/freed", "other/stranger", "disagrees", "the weights name alice/chat"),
    ],
)
def test_claims_are_held_against_the_weights(
    look: Run, child: str, raw: str, verdict: str, because: str | None
) -> None:
    (found,) = json.loads(look("why", child, "--format", "json").stdout)
    claim = next(one for one in found["claims"] if one["raw"] == raw)
    assert (claim["verdict"], claim["because"]) == (verdict, because)


def test_why_of_a_pair_without_an_edge(look: Run) -> None:
    result = look("why", "dave/freed", "lab/base")
    assert result.exit_code == 0
    assert "further: 3.1 times" in result.stdout
    assert "the weights do not name lab/base as a parent of dave/freed" in result.stderr


def test_why_ids_are_the_parents(look: Run) -> None:
    assert look("why", "carol/blend", "-q").stdout.split() == ["alice/chat", "bob/math"]


def test_stripped_names_the_loss_and_the_denominator(look: Run) -> None:
    result = look("stripped", "lab/base")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "dave/freed  ✗ lost safety training  (2 down, 1 below it)",
        "  from lab/base  by finetune lora r4  → edit abliteration",
        "  selective refusal fell by 0.90 [0.71, 0.97], q = 0.0004",
        "  the descent is sure to 0.82 only",
        "  harmful prompts refused 0.95 → 0.05",
    ]
    assert "1 of 2 measured descendants of lab/base lost safety training" in result.stderr
    assert "2 of 11 published descendants were measured" in result.stderr
    assert "8 not measured: no refusal score" in result.stderr
    assert "1 not measured: error: out of memory on the device" in result.stderr
    assert "1 more, inferred and unpublished" in result.stderr


def test_stripped_rows(look: Run) -> None:
    (row,) = json.loads(look("stripped", "lab/base", "--format", "json").stdout)
    assert row["made"] == "finetune lora r4 > edit abliteration"
    assert (row["drop"], row["ci_low"], row["q_value"]) == (0.9, 0.71, 0.0004)
    assert (row["refusal_before"], row["refusal_after"]) == (0.95, 0.05)
    assert row["clues"][0]["statistic"] == "harmful_refusal"
    (line,) = csv.DictReader(io.StringIO(look("stripped", "lab/base", "--format", "csv").stdout))
    assert line["model"] == "dave/freed"
    assert (row["distance"], row["descendants"]) == (2, 1)
    assert look("stripped", "lab/base", "-q").stdout == "dave/freed\n"


def test_a_score_of_another_probe_on_the_same_prompts_is_none_of_refusal(
    look: Run, small_store: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(small_store, tmp_path / "store"))
    with Registry.open(store) as registry:
        (known, *_) = registry.scores_of("lab/base", probe="refusal_harmful")
        sha = str(registry.describe("bob/math")["sha"])
        other = replace(known, model="bob/math", sha=sha, probe="recognition_separation")
        registry.add_scores(1, [other])
    result = look("stripped", "lab/base", "--store", str(store))
    assert result.exit_code == 0, result.exception
    assert "8 not measured: no refusal score" in result.stderr


def test_stripped_looks_as_deep_as_it_is_told(look: Run) -> None:
    near = look("stripped", "lab/base", "--depth", "1")
    assert near.stdout == ""
    assert "0 of 1 measured descendants of lab/base within 1 edges" in near.stderr
    assert "dave/freed" in look("stripped", "lab/base", "--depth", "2").stdout


def test_long_ways_are_folded_at_the_width(look: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = look("stripped", "lab/base").stdout.splitlines()
    assert "    → edit abliteration" in lines


@pytest.mark.parametrize(("severity", "code"), [("high", 1), ("low", 1), (None, 0)])
def test_stripped_fail_on(look: Run, severity: str | None, code: int) -> None:
    words = [] if severity is None else ["--fail-on", severity]
    assert look("stripped", "lab/base", *words).exit_code == code


def test_stripped_of_the_model_itself_is_told_apart(look: Run) -> None:
    result = look("stripped", "dave/freed", "--fail-on", "low")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "dave/freed itself lost safety training of lab/base" in result.stderr
    assert "0 of 1 published descendants were measured" in result.stderr


def row(model: str, **fields: object) -> TreeRow:
    plain = TreeRow(
        model=model,
        under=None,
        depth=0,
        relation=None,
        detail={},
        confidence=None,
        share=None,
        declared=True,
        inferred=True,
        hidden=False,
        stripped=False,
        direct=0,
        total=0,
        others=(),
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def drawn(tree: Tree, **options: int) -> list[str]:
    lines = tree.lines(**{"width": 80, **options})
    return ["".join(text for text, _ in words) for _, words in lines]


def test_wide_trees_collapse_and_keep_the_stripped() -> None:
    below = [row(f"o/m{i}", under="r", depth=1, relation="finetune") for i in range(1500)]
    below[1400] = replace(below[1400], stripped=True)
    tree = Tree([row("r", direct=1500, total=1500), *below], claims={})
    lines = drawn(tree, limit=200)
    assert len(lines) == 200
    assert lines[-1] == "└─ … 1,302 more"
    assert any("o/m1400  finetune  ✗ lost safety training" in line for line in lines)
    assert len(drawn(tree)) == 1501


def test_collapsed_branches_tell_what_is_lost_in_them() -> None:
    below = [row(f"o/m{i}", under="r", depth=1, stripped=True) for i in range(30)]
    lines = drawn(Tree([row("r"), *below], claims={}), limit=11)
    assert lines[-1] == "└─ … 21 more; among them and below, 21 ✗ lost safety training"


def test_long_lines_flow_on_without_losing_words() -> None:
    name = "organisation/" + "x" * 70
    child = row(name, under="r", depth=1, relation="quantized", detail={"bits": 4}, stripped=True)
    lines = drawn(Tree([row("r"), child], claims={}))
    assert lines[1] == f"└─ {name}"
    assert lines[2].split("  ")[-2:] == ["quantized 4-bit", "✗ lost safety training"]


def test_a_merge_with_a_parent_elsewhere_says_so() -> None:
    child = row("o/m", under="r", depth=1, relation="merge", share=0.25)
    assert drawn(Tree([row("r"), child], claims={}))[1] == "└─ o/m  merge 0.25 + …"


@pytest.mark.parametrize(
    ("relation", "detail", "share", "words"),
    [
        ("finetune", {"method": "full"}, None, "finetune"),
        ("finetune", {"method": "lora", "rank": 8}, None, "finetune lora r8"),
        ("quantized", {"format": "gguf", "type": "Q4_K"}, None, "quantized gguf Q4_K"),
        ("quantized", {"format": "dequantized", "bits": 4}, None, "quantized 4-bit"),
        ("quantized", {}, None, "quantized"),
        ("copy", {"cast": "F32 to BF16"}, None, "copy F32 to BF16"),
        ("prune", {"fraction": 0.5}, None, "prune 50%"),
        ("prune", {"fraction": "half"}, None, "prune"),
        ("merge", {}, 0.6, "merge 0.60"),
        ("edit", {"signature": "rank-one"}, None, "edit rank-one"),
        (None, {}, None, "unknown relation"),
    ],
)
def test_relation_words(
    relation: str | None, detail: dict[str, object], share: float | None, words: str
) -> None:
    assert relation_words(relation, detail, share) == words


@settings(max_examples=60, deadline=None)
@given(
    parents=st.lists(st.integers(0, 1000), max_size=60),
    names=st.lists(st.text(min_size=1, max_size=12), min_size=61, max_size=61, unique=True),
    limit=st.integers(1, 40),
)
def test_any_tree_draws_every_model_once(parents: list[int], names: list[str], limit: int) -> None:
    rows = in_order([row(f"{i}{name}") for i, name in enumerate(names)], parents)
    tree = Tree(rows, claims={})
    whole = list(tree.lines(width=40))
    assert sum(is_model for is_model, _ in whole) == len(rows)
    assert all("\n" not in text and "\x1b" not in text for _, words in whole for text, _ in words)
    shown = list(tree.lines(width=10_000, limit=limit))
    assert len(shown) <= max(limit, 2 * max(one.depth for one in rows) + 1)


def in_order(rows: list[TreeRow], parents: list[int]) -> list[TreeRow]:
    """The rows as a tree, parents before their children."""
    below: dict[int, list[int]] = {}
    for at, parent in enumerate(parents, start=1):
        below.setdefault(parent % at, []).append(at)
    found = [rows[0]]
    waiting = [(child, 0, 1) for child in reversed(below.get(0, []))]
    while waiting:
        at, parent, depth = waiting.pop()
        found.append(replace(rows[at], under=rows[parent].model, depth=depth))
        waiting += [(child, at, depth + 1) for child in reversed(below.get(at, []))]
    return found


def test_the_ids_of_a_pipe_are_plain(small_store: Path) -> None:
    command = [sys.executable, "-m", "modelkin.cli", "tree", "lab/base", "-q"]
    result = subprocess.run(
        [*command, "--store", str(small_store)], capture_output=True, text=True, check=True
    )
    assert set(LISTED) - {HOSTILE, "other/stranger"} <= set(result.stdout.splitlines())


def test_colour_only_where_it_is_wanted(small_store: Path) -> None:
    command = [sys.executable, "-m", "modelkin.cli", "tree", "lab/base"]
    for extra, coloured in (({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False)):
        env = {**os.environ, "TERM": "xterm", **extra}
        out = subprocess.run(
            [*command, "--store", str(small_store)], capture_output=True, env=env, check=True
        ).stdout
        assert (b"\x1b[1;31m" in out) is coloured


@pytest.mark.parametrize(
    "words",
    [
        ("tree", "lab/base"),
        ("why", "dave/freed"),
        ("stripped", "lab/base"),
        ("status",),
        ("sql", "SELECT count(*) FROM models", "--format", "json"),
    ],
)
def test_look_ups_import_nothing_heavy(small_store: Path, words: tuple[str, ...]) -> None:
    code = (
        "import sys; from modelkin.cli.main import cli; "
        f"cli.main({[*words, '--store', str(small_store)]!r}, standalone_mode=False); "
        f"found = [name for name in {HEAVY.split()!r} if name in sys.modules]; "
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_look_ups_read_while_the_store_is_read(look: Run, small_store: Path) -> None:
    with Registry.open(small_store, read_only=True):
        assert look("tree", "lab/base").exit_code == 0


def test_why_shows_what_was_decided(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_store, tmp_path / "store")
    monkeypatch.setenv("MODELKIN_STORE", str(tmp_path / "store"))
    decisions = tmp_path / "decisions.toml"
    edge = '[[edge]]\nchild = "{}"\nparent = "{}"\nverdict = "{}"\nreason = "{}"\nby = "rita"\n'
    decisions.write_text(
        edge.format("gina/pruned", "lab/base", "denied", "trained [bold]apart")
        + edge.format("dave/freed", "other/stranger", "asserted", "log seen")
    )

    def look(*words: str) -> Result:
        return CliRunner().invoke(cli, list(words))

    assert look("correct", str(decisions)).exit_code == 0
    denied = look("why", "gina/pruned")
    assert "denied by a reviewed decision" in denied.stdout
    assert "trained [bold]apart" in denied.stdout
    assert "reviewed decisions deny" in denied.stderr
    assert look("why", "gina/pruned", "-q").stdout == ""
    (shown,) = json.loads(look("why", "dave/freed", "--format", "json").stdout)
    assert [(d["parent"], d["verdict"], d["decided_by"]) for d in shown["decisions"]] == [
        ("other/stranger", "asserted", "rita")
    ]
    (claim,) = shown["claims"]
    assert (claim["verdict"], claim["because"]) == ("agrees", "asserted by a reviewed decision")
    assert look("why", "dave/freed", "-q").stdout.split() == ["alice/chat", "other/stranger"]
