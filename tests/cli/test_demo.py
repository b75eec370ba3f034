"""`demo`: the main job on the shipped ecosystem, held against the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result
from small_models import rows_of

from modelkin.cli import demo
from modelkin.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
TRUTH = json.loads((ROOT / "benchmarks" / "demo_truth.json").read_text(encoding="utf-8"))
MODELS: dict[str, dict[str, Any]] = TRUTH["models"]
STRIPPED = {name for name, row in MODELS.items() if row["stripped"]}
CANARY = "hf_canaryCanaryCanaryCanary"


class Shown(NamedTuple):
    """The demo's answer and the store that it kept."""

    result: Result
    store: Path


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """One run of the demo, on a machine that has a token."""
    store = tmp_path_factory.mktemp("demo") / "store"
    runner = CliRunner(env={"HF_TOKEN": CANARY, "COLUMNS": "120"})
    return Shown(runner.invoke(cli, ["demo", "--store", str(store)]), store)


def ancestors(name: str) -> set[str]:
    parents = set(MODELS[name]["parents"])
    return parents.union(*map(ancestors, parents))


def marked(output: str) -> set[str]:
    """Models that the tree marks; the words may stand on the line below the name."""
    found, name = set(), ""
    for line in output.splitlines():
        named = [word for word in line.split() if word in MODELS]
        name = named[0] if named else name
        if "lost safety training" in line:
            found.add(name)
    return found


def test_the_demo_ends_well(shown: Shown) -> None:
    assert shown.result.exit_code == 0, shown.result.stderr
    assert "$ modelkin map juniper/juniper-chat --endpoint http://127.0.0.1:" in shown.result.stderr
    assert "scan 1 done: 20 ok" in shown.result.stderr
    assert "0 could not be" in shown.result.stderr


def test_the_tree_shows_every_descendant_and_no_stranger(shown: Shown) -> None:
    kin = {name for name in MODELS if TRUTH["release"] in ancestors(name)}
    words = {word for line in shown.result.stdout.splitlines() for word in line.split()}
    assert kin <= words
    # A stranger may be named as what a card claims, never as a node.
    nodes = {line.lstrip("│├└─ ").split(" ")[0] for line in shown.result.stdout.splitlines()}
    assert nodes & set(MODELS) == kin | {TRUTH["release"]}


def test_exactly_the_stripped_ones_are_marked(shown: Shown) -> None:
    assert {
        "plainspoken/helper-plus",
        "plainspoken/helper-plus-house",
        "nightheron/direct-chat",
        "lumenblend/night-kitchen",
    } == STRIPPED
    assert marked(shown.result.stdout) == STRIPPED
    found = rows_of(
        shown.store,
        "SELECT model, ancestor, severity, q_value FROM findings WHERE kind = 'stripped_safety'",
    )
    assert {model for model, *_ in found} == STRIPPED
    for model, ancestor, severity, q_value in found:
        assert ancestor in ancestors(model)
        assert MODELS[ancestor]["outcome"] == "refuses"
        assert severity == "high"
        assert q_value <= 0.05


def test_scores_agree_with_the_truth(shown: Shown) -> None:
    found = rows_of(
        shown.store,
        "SELECT model, probe, value, status FROM scores "
        "WHERE probe LIKE 'refusal_harm%' AND judge = 'lexical'",
    )
    kin = {name for name in MODELS if TRUTH["release"] in ancestors(name)}
    assert {model for model, *_ in found} == kin | {TRUTH["release"], *ancestors(TRUTH["release"])}
    for model, probe, value, state in found:
        assert state == "ok"
        assert value == pytest.approx(MODELS[model][probe], abs=0.1), (model, probe)


def test_undeclared_and_misdeclared_parents_are_findings(shown: Shown) -> None:
    found = rows_of(shown.store, "SELECT kind, model FROM findings WHERE kind LIKE '%parent'")
    silent = {n for n, row in MODELS.items() if row["parents"] and not row["declared"]}
    assert set(found) == {("undeclared_parent", name) for name in silent} | {
        ("misdeclared_parent", "tinlantern/rowan-city-guide")
    }


def test_the_token_of_the_machine_is_kept_out(shown: Shown) -> None:
    assert CANARY not in shown.result.output
    for file in shown.store.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file


def test_a_demo_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "HUB", tmp_path / "nothing")
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 2
    assert "is not installed at" in result.stderr


def test_the_readme_shows_what_the_demo_prints(shown: Shown) -> None:
    runner = CliRunner(env={"COLUMNS": "80"})
    printed = runner.invoke(cli, ["tree", "juniper/juniper-chat", "--store", str(shown.store)])
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    pictured = re.search(r"^```\n(juniper/.*?)^```", readme, re.S | re.M)
    assert pictured is not None
    # The second digit of a confidence may differ on another machine.
    drawn, real = (re.sub(r"0\.\d\d", "0.xx", text) for text in (pictured[1], printed.stdout))
    assert [x.rstrip() for x in drawn.splitlines()] == [x.rstrip() for x in real.splitlines()]
