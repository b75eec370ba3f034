"""The benchmark's scoring rules: what is right, what it costs to be wrong, what names change."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
if BENCHMARKS not in sys.path:
    sys.path.append(BENCHMARKS)

import zoo_figures as figures  # noqa: E402
import zoo_scoring as scoring  # noqa: E402

PARENTS = {
    "lab/base": [],
    "lab/chat": ["lab/base"],
    "ann/tuned": ["lab/chat"],
    "bob/tuned": ["lab/chat"],
    "cat/merged": ["ann/tuned", "bob/tuned"],
    "eve/stranger": [],
}


@st.composite
def truths(draw: st.DrawFn) -> scoring.Truth:
    """Random family trees; every model's parents stand before it."""
    models: dict[str, scoring.TruthModel] = {}
    for at in range(draw(st.integers(1, 12))):
        earlier = sorted(models)
        parents = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if at else []
        models[f"m{at:02}"] = scoring.TruthModel(
            parents=tuple(parents),
            kind=draw(st.sampled_from(("finetune", "merge"))),
            hidden=draw(st.booleans()),
            relation="finetune",
        )
    return scoring.Truth(models=models)


@st.composite
def guesses(draw: st.DrawFn) -> tuple[scoring.Truth, list[scoring.Claim]]:
    """A truth, and claims that may be anything between its nodes and made-up ones."""
    truth = draw(truths())
    nodes = [*sorted(truth.shown), "hidden:a", "hidden:b"]
    pair = st.tuples(st.sampled_from(nodes), st.sampled_from(nodes))
    pairs = draw(st.lists(pair, unique=True, max_size=20))
    return truth, [
        scoring.Claim(child=c, parent=p, confidence=draw(st.floats(0, 1)), direction_confidence=0.9)
        for c, p in pairs
    ]


def told(truth: scoring.Truth) -> list[scoring.Claim]:
    """The truth itself, as claims of published models."""
    return [
        scoring.Claim(child=c, parent=p, relation=truth.models[c].relation) for c, p in truth.edges
    ]


@given(truths())
@settings(max_examples=40, deadline=None)
def test_the_truth_scores_one(truth: scoring.Truth) -> None:
    got = scoring.score(told(truth), truth)
    assert got.f1 == 1.0
    assert (got.wrong, got.missed, got.reversed) == ((), (), 0)
    assert got.merges.value == got.roots.value == got.relation.value == 1.0
    if truth.shown:
        assert figures.f1_interval(got).low == 1.0


@given(truths())
@settings(max_examples=40, deadline=None)
def test_hidden_nodes_named_as_such_score_as_their_parents(truth: scoring.Truth) -> None:
    """The whole tree with the unpublished models in it is as good as the edges around them."""
    claims = [
        scoring.Claim(child=name, parent=parent)
        for name, one in truth.models.items()
        for parent in one.parents
    ]
    assert scoring.score(claims, truth).f1 == 1.0
    found = figures.details(claims, truth)
    assert found.hidden.right == found.hidden.of == len(truth.hidden_groups)


@given(guesses())
@settings(max_examples=40, deadline=None)
def test_scores_do_not_depend_on_names_or_order(
    guess: tuple[scoring.Truth, list[scoring.Claim]],
) -> None:
    truth, claims = guess
    names = {old: f"x{at}" for at, old in enumerate(sorted(truth.shown)[::-1])}
    moved = [
        scoring.Claim(child=names.get(c.child, c.child), parent=names.get(c.parent, c.parent))
        for c in reversed(claims)
    ]
    before, after = scoring.score(claims, truth), scoring.score(moved, truth.renamed(names))
    for figure in ("f1", "reversed", "cross_family", "precision", "recall", "merges", "roots"):
        assert getattr(before, figure) == getattr(after, figure)


@given(guesses())
@settings(max_examples=40, deadline=None)
def test_counts_are_consistent(guess: tuple[scoring.Truth, list[scoring.Claim]]) -> None:
    truth, claims = guess
    one = scoring.score(claims, truth)
    assert one.right == one.precision.of - len(one.wrong) == one.recall.of - len(one.missed)
    assert one.undirected.right >= one.recall.right - one.reversed
    assert 0 <= one.f1 <= 1
    assert sum(row.recall.of for row in figures.by_class(claims, truth)) == len(truth.edges)
    assert sum(row.precision.of for row in figures.by_class(claims, truth)) == one.precision.of
    told_pairs = figures.reliability(figures.edge_statements(claims, truth))
    assert 0 <= told_pairs.error <= 1
    assert sum(b.right.of for b in told_pairs.bins) == one.precision.of


@given(guesses())
@settings(max_examples=20, deadline=None)
def test_a_method_has_no_margin_over_itself(
    guess: tuple[scoring.Truth, list[scoring.Claim]],
) -> None:
    truth, claims = guess
    if not truth.shown:
        return
    one = scoring.score(claims, truth)
    margin = figures.f1_margin(one, one)
    assert (margin.low, margin.value, margin.high) == (0.0, 0.0, 0.0)
    pooled = scoring.pool([one, one])
    assert pooled.f1 == pytest.approx(one.f1)


def test_margins_want_the_same_children() -> None:
    truth = truth_of(PARENTS)
    one = scoring.score([], truth)
    with pytest.raises(ValueError, match="same children"):
        figures.f1_margin(one, scoring.pool([one]))


def test_what_a_wrong_answer_costs() -> None:
    truth = truth_of(PARENTS)
    claims = [
        scoring.Claim(child="lab/base", parent="lab/chat"),
        scoring.Claim(child="ann/tuned", parent="hidden:1"),
        scoring.Claim(child="bob/tuned", parent="hidden:1"),
        scoring.Claim(child="hidden:1", parent="lab/chat"),
        scoring.Claim(child="eve/stranger", parent="lab/base"),
    ]
    one = scoring.score(claims, truth)
    assert (str(one.precision), str(one.recall), str(one.undirected)) == ("2/4", "2/5", "3/5")
    assert (one.reversed, one.cross_family, str(one.roots), str(one.merges)) == (
        1,
        1,
        "0/2",
        "0/1",
    )
    assert figures.details(claims, truth).false_hidden == 1
    kin, strangers = figures.kin_figures(figures.components(claims, truth), truth)
    assert (str(kin), str(strangers)) == ("6/10", "4/5")


def test_a_copy_stands_for_the_parent_only_where_weights_are_equal() -> None:
    above = {"base": [], "copy": ["base"], "other": ["base"], "child": ["base"]}
    truth = truth_of(above)
    claims = [
        scoring.Claim(child="copy", parent="base"),
        scoring.Claim(child="other", parent="copy"),
        scoring.Claim(child="child", parent="other"),
    ]
    twins = {"base": "1", "copy": "1", "other": "2", "child": "3"}
    assert str(scoring.score(claims, truth).recall) == "1/3"
    settled = scoring.settle_twins(claims, truth, twins)
    assert {(c.child, c.parent) for c in settled} == {
        ("copy", "base"),
        ("other", "base"),
        ("child", "other"),
    }


@given(guesses())
@settings(max_examples=40, deadline=None)
def test_without_copies_nothing_is_settled(
    guess: tuple[scoring.Truth, list[scoring.Claim]],
) -> None:
    truth, claims = guess
    settled = scoring.settle_twins(claims, truth, {name: name for name in truth.shown})
    assert scoring.score(settled, truth).f1 == scoring.score(claims, truth).f1


def test_a_loop_of_made_up_nodes_leads_nowhere() -> None:
    claims = [
        scoring.Claim(child="a", parent="hidden:1"),
        scoring.Claim(child="hidden:1", parent="hidden:2"),
        scoring.Claim(child="hidden:2", parent="hidden:1"),
    ]
    assert scoring.resolve(claims, frozenset({"a"})) == {}


def test_details_of_right_edges() -> None:
    models = {
        "base": scoring.TruthModel(parents=(), kind="base", hidden=False),
        "other": scoring.TruthModel(parents=("base",), kind="finetune", hidden=False),
        "lora": scoring.TruthModel(
            parents=("base",), kind="lora", hidden=False, relation="finetune", detail={"rank": 8}
        ),
        "int4": scoring.TruthModel(
            parents=("base",), kind="quantized", hidden=False, detail={"bits": 4}
        ),
        "mix": scoring.TruthModel(
            parents=("base", "other"),
            kind="merge",
            hidden=False,
            shares={"base": 0.6, "other": 0.4},
        ),
    }
    truth = scoring.Truth(models=models)
    claims = [
        scoring.Claim(child="lora", parent="base", detail={"rank": 5}),
        scoring.Claim(child="int4", parent="base", detail={"bits": 3}),
        scoring.Claim(child="mix", parent="base", share=0.5),
        scoring.Claim(child="mix", parent="other"),
    ]
    found = figures.details(claims, truth)
    assert (str(found.ranks), str(found.bits), str(found.shares)) == ("1/1", "0/1", "1/2")
    assert found.share_error == pytest.approx(0.1)


def test_both_formats_of_truth(tmp_path: Path) -> None:
    plain = {"parents": ["a"], "how": "quantize", "created": 5, "hidden": False, "bits": 4}
    full = {
        "parents": ["a", "b"],
        "shares": {"a": 0.25, "b": None},
        "how": "ties",
        "relation": "merge",
        "detail": {"density": 0.5},
        "created": 6,
        "hidden": False,
        "family": "a",
        "split_class": "merge",
    }
    root = {"parents": [], "how": "pretrain", "created": 1, "hidden": False}
    (tmp_path / "truth.json").write_text(json.dumps({"a": root, "b": plain, "c": full}))
    truth = scoring.read_truth(tmp_path)
    assert truth.models["b"].relation == "quantized"
    assert truth.models["b"].detail == {"bits": 4}
    assert (truth.models["c"].kind, truth.family("c"), truth.family("b")) == ("merge", "a", "a")
    assert truth.models["c"].shares == {"a": 0.25, "b": None}
    (tmp_path / "truth.json").write_text(json.dumps({"b": plain}))
    with pytest.raises(KeyError):
        scoring.read_truth(tmp_path)


def truth_of(parents: Mapping[str, list[str]]) -> scoring.Truth:
    """A truth without anything but parents."""
    models = {
        name: scoring.TruthModel(parents=tuple(above), kind="x", hidden=False)
        for name, above in parents.items()
    }
    return scoring.Truth(models=models)
