"""How the path clues are weighed: pairs, fits and errors on made-up cases."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
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
    odds_of_nearest,
    scorer,
    signs_of,
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
        assert case.seed == 1
        assert set(case.features) == set(STATISTICS)
        assert all(math.isfinite(value) for value in case.features.values())
        assert case.features["own"] > (0.9 if case.child else 0.5)


def test_the_nearest_earlier_model_is_counted_where_it_has_a_parent(family: Family) -> None:
    """In order: S, T and X are nearest to P, C to S, D to C, Y to X, which is other kin."""
    assert odds_of_nearest([family]) == 5
    assert odds_of_nearest([family, family]) == 5


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
        made.append(Case(seed=i % 4, features=features, child=child, hidden=False))
    return made


def test_a_fit_finds_what_tells_children_from_kin() -> None:
    cases = cases_of(1, separation=3.0)
    mean, scale, w = fit(table(cases), [case.child for case in cases], signs_of(cases))
    np.testing.assert_allclose(mean, table(cases).mean(axis=0))
    np.testing.assert_allclose(scale, table(cases).std(axis=0))
    assert w[0] > 1 > 3 * abs(w[1])
    odds = np.column_stack([(table(cases) - mean) / scale, np.ones(len(cases))]) @ w
    right = [(value > 0) == case.child for value, case in zip(odds, cases, strict=True)]
    assert np.mean(right) > 0.85


def test_classes_weigh_the_same_however_many_there_are() -> None:
    """Ten times the kin move the decision to neither side."""
    cases = cases_of(2, separation=2.0, count=300)
    many = cases + [case for case in cases if not case.child] * 9
    few = fit(table(cases), [case.child for case in cases])
    more = fit(table(many), [case.child for case in many])

    def middle(fitted: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
        mean, scale, w = fitted
        return float(mean[0] - w[-1] * scale[0] / w[0])

    assert middle(more) == pytest.approx(middle(few), abs=0.15)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), signs=st.lists(st.sampled_from([-1, 0, 1]), min_size=4))
def test_no_weight_has_the_wrong_sign(seed: int, signs: list[int]) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(60, len(signs)))
    y = (x.sum(axis=1) + draw.normal(size=60) > 0).tolist()
    w = fit(x, y, signs)[2]
    assert (w[:-1] * np.array(signs) >= 0).all()
    assert all(w[i] != 0 for i, sign in enumerate(signs) if sign == 0)


def test_a_clue_without_spread_gets_no_weight() -> None:
    draw = np.random.default_rng(3)
    x = np.column_stack([draw.normal(size=80), np.ones(80)])
    w = fit(x, (x[:, 0] > 0).tolist())[2]
    assert w[1] == pytest.approx(0, abs=1e-6)


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


def test_what_is_written_leaves_out_clues_without_weight_and_adds_the_prior() -> None:
    cases = cases_of(4, separation=3.0)
    against = [
        replace(case, features={**case.features, "low": -case.features["own"]}) for case in cases
    ]
    plain = scorer(cases, [case.child for case in cases])
    found = scorer(against, [case.child for case in against], prior=0.7)
    assert [one["name"] for one in found["features"]] == ["own", "along"]  # type: ignore[attr-defined]
    assert found["intercept"] == pytest.approx(plain["intercept"] + 0.7, abs=1e-4)  # type: ignore[operator]


def test_the_signs_are_of_clues_that_are_weighed() -> None:
    assert SIGNS.keys() <= STATISTICS.keys()
    assert set(SIGNS.values()) == {-1, 1}


@pytest.mark.parametrize("kind", ["child", "hidden"])
def test_the_published_weights_have_the_signs_they_may_have(kind: str) -> None:
    text = (ROOT / "lineage" / "infer" / "likelihood.json").read_text(encoding="utf-8")
    for one in json.loads(text)["scorers"][kind]["features"]:
        assert one["weight"] * SIGNS.get(one["name"], one["weight"]) > 0, one["name"]
