"""How the path clues are weighed: pairs, fits and errors on made-up cases."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from families import fresh, published, specimens_of, trained
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import torch  # noqa: E402
from learn_clues import (  # noqa: E402
    SIGNS,
    Case,
    Family,
    as_specimen,
    fit,
    measure,
    scorer,
    stump_error,
    table,
    triples,
)

from modelkin.lineage.infer.likelihood import STATISTICS  # noqa: E402

PARENTS = {
    "base": None,
    "P": "base",
    "S": "P",
    "C": "S",
    "D": "C",
    "T": "P",
    "X": "P",
    "Y": "P",
}


@pytest.fixture(scope="module")
def family() -> Family:
    """P with two published children, a chain below one, and two children of a lost model."""
    base = published(fresh(1))
    chat = published(trained(base, seed=2, size=0.2))
    s, t = (published(trained(chat, seed=3 + i, size=0.06)) for i in range(2))
    child = published(trained(s, seed=10, size=0.04))
    lost = published(trained(chat, seed=20, size=0.06))
    weights = {
        "base": base,
        "P": chat,
        "S": s,
        "C": child,
        "D": published(trained(child, seed=11, size=0.03)),
        "T": t,
        "X": published(trained(lost, seed=21, size=0.03)),
        "Y": published(trained(lost, seed=22, size=0.03)),
    }
    members = {one.node: one for one in specimens_of(weights)}
    return Family(seed=1, members=members, parents=PARENTS, hidden={"X": "L", "Y": "L"})


def test_ancestors_are_the_published_ones_nearest_first(family: Family) -> None:
    assert family.ancestors("D") == ["C", "S", "P", "base"]
    assert family.ancestors("base") == []


def test_pairs_are_those_a_walk_along_a_path_can_meet(family: Family) -> None:
    found = set(triples(family))
    assert ("C", "S", "P") in found
    assert ("D", "S", "P") in found
    assert ("D", "C", "S") in found
    assert ("T", "S", "P") in found
    assert ("X", "Y", "P") in found
    assert ("Y", "X", "P") in found
    for child, via, origin in found:
        assert PARENTS[via] == origin != "base"
        assert origin in family.ancestors(child)
        assert child != via
        assert child not in family.ancestors(via)


def test_only_pairs_that_distance_does_not_settle_are_measured(family: Family) -> None:
    cases = list(measure(family))
    labels = sorted((case.child, case.hidden) for case in cases)
    # C and D below S, D below C; X and Y are nearer to each other than to P; T is not to S.
    assert labels == [(False, True), (False, True), *[(True, False)] * 3]
    for case in cases:
        assert case.group == "1"
        assert set(case.features) == set(STATISTICS)
        assert all(math.isfinite(value) for value in case.features.values())
        assert case.features["own"] > (0.9 if case.child else 0.5)


def test_weights_become_the_blocks_of_a_sketch() -> None:
    state = {
        "model.layers.1.mlp.up_proj.weight": torch.arange(12.0).reshape(4, 3),
        "model.layers.1.self_attn.q_proj.weight": torch.ones(3, 3),
        "model.layers.2.self_attn.q_proj.weight": torch.ones(3, 3),
        "model.embed_tokens.weight": torch.arange(3.0 * 5000).reshape(5000, 3),
        "model.norm.weight": torch.ones(3),
    }
    one = as_specimen("toy", state)
    roles = {block.key.role: block for block in one.blocks.values()}
    # Query and key are sampled in the end layers alone.
    assert [block.key.layer for block in one.blocks.values() if block.key.role == "attn.q"] == [2]
    assert roles.keys() == {"mlp.up", "attn.q", "embed", "final_norm"}
    assert roles["mlp.up"].key.layer == 1
    assert roles["embed"].values.size == 8192 // 3 * 3
    np.testing.assert_array_equal(roles["mlp.up"].values, np.arange(12))


def cases_of(seed: int, *, separation: float, count: int = 200) -> list[Case]:
    """Children differ from kin by `separation` in `own` alone."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(count):
        child = i % 3 == 0
        features = {"own": draw.normal() + separation * child, "along": draw.normal()}
        made.append(Case(group=str(i % 4), features=features, child=child, hidden=False))
    return made


def test_a_fit_finds_what_tells_children_from_kin() -> None:
    cases = cases_of(1, separation=3.0)
    found = fit(table(cases), [case.child for case in cases])
    rises = found.parts[:, -1] - found.parts[:, 0]
    assert rises[0] > 2 > 2 * abs(rises[1])
    odds = found.odds(table(cases))
    right = [(value > 0) == case.child for value, case in zip(odds, cases, strict=True)]
    assert np.mean(right) > 0.85


def test_a_curve_finds_what_no_straight_line_can() -> None:
    """Children in the middle, kin on both sides."""
    x = np.random.default_rng(7).uniform(-3, 3, size=(400, 1))
    y = (np.abs(x[:, 0]) < 1).tolist()
    curved, straight = (fit(x, y, straight=dear).odds(x) > 0 for dear in (0.1, 1e6))
    assert np.mean(curved == y) > 0.85 > 0.7 > np.mean(straight == y)


def test_parts_are_zero_on_average_and_level_beyond_the_knots() -> None:
    cases = cases_of(1, separation=3.0)
    x = table(cases)
    found = fit(x, [case.child for case in cases])
    for column, knots, parts in zip(x.T, found.knots, found.parts, strict=True):
        assert np.interp(column, knots, parts).mean() == pytest.approx(0, abs=1e-9)
    ends = [np.full((1, 2), value) for value in (1e3, 1e6)]
    assert found.odds(ends[0]) == pytest.approx(found.odds(ends[1]))


def test_classes_weigh_the_same_however_many_there_are() -> None:
    """Ten times the kin move the decision to neither side."""
    cases = cases_of(2, separation=2.0, count=300)
    many = cases + [case for case in cases if not case.child] * 9

    def middle(chosen: list[Case]) -> float:
        line = np.column_stack([np.linspace(-1, 3, 401), np.zeros(401)])
        odds = fit(table(chosen), [case.child for case in chosen]).odds(line)
        return float(line[int(np.argmax(odds > 0)), 0])

    assert middle(many) == pytest.approx(middle(cases), abs=0.25)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    signs=st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=6),
)
def test_no_curve_turns_against_its_sign(seed: int, signs: list[int]) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(60, len(signs)))
    y = (x.sum(axis=1) + draw.normal(size=60) > 0).tolist()
    rises = np.diff(fit(x, y, signs=signs).parts, axis=1)
    assert (rises * np.array(signs)[:, None] >= -1e-12).all()


def test_a_clue_without_spread_says_nothing() -> None:
    draw = np.random.default_rng(3)
    x = np.column_stack([draw.normal(size=80), np.ones(80)])
    found = fit(x, (x[:, 0] > 0).tolist())
    assert np.interp(1.0, found.knots[1], found.parts[1]) == pytest.approx(0, abs=1e-6)


def test_a_single_threshold_errs_as_often_as_counted() -> None:
    truth = np.repeat([True, False], 50)
    column = np.concatenate([np.full(50, 2.0), np.full(50, 1.0)])
    assert stump_error(column, truth) == 0
    assert stump_error(-column, truth) <= 0.01
    column[:10] = 1.0
    assert stump_error(column, truth) == pytest.approx(0.1)
    assert stump_error(np.zeros(100), truth) == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), separation=st.floats(0, 4))
def test_no_threshold_errs_more_than_half_the_time(seed: int, separation: float) -> None:
    cases = cases_of(seed, separation=separation, count=90)
    truth = np.array([case.child for case in cases])
    column = table(cases)[:, 0]
    error = stump_error(column, truth)
    assert 0 <= error <= 0.5
    assert stump_error(-column, truth) == pytest.approx(error, abs=0.03)


def test_what_is_written_weighs_as_what_was_fitted() -> None:
    cases = cases_of(4, separation=3.0)
    y = [case.child for case in cases]
    written = scorer(cases, y)
    assert [one["name"] for one in written["features"]] == ["own", "along"]  # type: ignore[attr-defined]
    found = fit(table(cases), y)
    assert written["intercept"] == pytest.approx(found.intercept, abs=1e-4)
    for one, knots, parts in zip(written["features"], found.knots, found.parts, strict=True):  # type: ignore[call-overload]
        assert one["knots"] == pytest.approx(knots, abs=1e-4)
        assert one["parts"] == pytest.approx(parts, abs=1e-3)


def test_the_signs_are_of_clues_that_are_weighed() -> None:
    assert SIGNS.keys() <= STATISTICS.keys()
    assert set(SIGNS.values()) == {-1, 1}


def test_the_published_curves_have_the_signs_they_may_have() -> None:
    text = (ROOT / "lineage" / "infer" / "likelihood.json").read_text(encoding="utf-8")
    for one in json.loads(text)["scorers"]["child"]["features"]:
        rises = np.diff(one["parts"]) * SIGNS.get(one["name"], 0)
        assert (rises >= 0).all(), one["name"]
