"""From clues to log-odds: the learned weights say what they can only say."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from importlib import resources

import pytest
from families import fresh, published, specimen_of, trained
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.infer import likelihood
from modelkin.lineage.infer.likelihood import (
    BOUND,
    STATISTICS,
    Feature,
    Scorer,
    child_scorer,
    error_rates,
    featurise,
    hidden_scorer,
)
from modelkin.lineage.infer.path import PathClues, path_clues, take_sample
from modelkin.lineage.infer.specimen import shared_matrices

NAMES = [field.name for field in fields(PathClues)]
SCORERS = {"child": child_scorer, "hidden": hidden_scorer}
# A child keeps each part of the path and little is left of the largest moves; never the reverse.
RISING = ("low", "own_low", "edge_bits")
FALLING = ("own_left",)

CHILD = PathClues(
    beta=1.0,
    low=0.97,
    spread=0.03,
    back=0.7,
    along=0.0,
    step=-1.0,
    tails=-0.3,
    own=1.0,
    own_left=-2.5,
    own_low=0.7,
    shared=0.2,
    edge_bits=1.5,
)
SIBLING = PathClues(
    beta=0.5,
    low=0.2,
    spread=0.25,
    back=0.4,
    along=-0.4,
    step=0.3,
    tails=0.2,
    own=0.1,
    own_left=0.2,
    own_low=-0.9,
    shared=0.6,
    edge_bits=-0.5,
)

finite = st.floats(-1e12, 1e12)
anything = st.builds(PathClues, **dict.fromkeys(NAMES, finite) | {"spread": st.floats(0, 1e12)})
usual = st.builds(PathClues, **{n: st.floats(-1, 1.5) for n in NAMES} | {"spread": st.floats(0, 1)})


def test_every_clue_has_a_feature_and_a_statement() -> None:
    assert set(featurise(CHILD)) == set(STATISTICS)
    assert set(STATISTICS) == set(NAMES)
    assert len(set(STATISTICS.values())) == len(STATISTICS)


@pytest.mark.parametrize("kind", SCORERS)
def test_the_learned_features_are_known_and_usable(kind: str) -> None:
    scorer = SCORERS[kind]()
    names = [feature.name for feature in scorer.features]
    assert len(set(names)) == len(names) > 5
    assert set(names) <= set(STATISTICS)
    for feature in scorer.features:
        assert len(feature.knots) == len(feature.parts) > 2
        assert list(feature.knots) == sorted(set(feature.knots))
        assert all(abs(part) < 2 * BOUND for part in feature.parts)
        assert 0 <= feature.error <= 0.5
    assert abs(scorer.intercept) < 2 * BOUND


def test_the_file_says_what_it_was_learned_from() -> None:
    text = resources.files(likelihood.__package__).joinpath("likelihood.json").read_text("utf-8")
    learned = json.loads(text)
    assert learned["scorers"].keys() == SCORERS.keys()
    assert len(set(learned["seeds"])) == len(learned["seeds"])
    assert learned["seeds"] or learned["zoos"]


@pytest.mark.parametrize("name", [*RISING, *FALLING])
@given(clues=usual, more=st.floats(0, 3))
def test_no_clue_speaks_against_its_sense(name: str, clues: PathClues, more: float) -> None:
    risen = replace(clues, **{name: getattr(clues, name) + more})
    scorer = child_scorer()
    less, greater = scorer.log_odds(clues), scorer.log_odds(risen)
    if name in FALLING:
        less, greater = greater, less
    assert less <= greater + 1e-9


@pytest.mark.parametrize("kind", SCORERS)
@given(clues=anything)
def test_log_odds_are_bounded_and_finite(kind: str, clues: PathClues) -> None:
    assert -BOUND <= SCORERS[kind]().log_odds(clues) <= BOUND
    assert all(math.isfinite(value) for value in featurise(clues).values())


@pytest.mark.parametrize("kind", SCORERS)
@given(clues=usual)
def test_what_is_explained_adds_up_to_the_decision(kind: str, clues: PathClues) -> None:
    scorer = SCORERS[kind]()
    parts = scorer.explain(clues, most=len(scorer.features))
    assert {part.statistic for part in parts} == {STATISTICS[f.name] for f in scorer.features}
    total = scorer.intercept + sum(part.llr for part in parts)
    assert scorer.log_odds(clues) == pytest.approx(min(max(total, -BOUND), BOUND), abs=1e-9)
    sizes = [abs(part.llr) for part in parts]
    assert sizes == sorted(sizes, reverse=True)


def test_the_clues_that_weigh_most_are_told_first_and_no_more_than_asked() -> None:
    parts = child_scorer().explain(SIBLING, kind="path", most=3)
    every = child_scorer().explain(SIBLING, most=99)
    assert [part.statistic for part in parts] == [part.statistic for part in every[:3]]
    assert {part.kind for part in parts} == {"path"}
    values = {STATISTICS[name]: value for name, value in featurise(SIBLING).items()}
    assert all(part.value == values[part.statistic] for part in parts)


def test_a_plain_child_and_a_plain_sibling_are_told_apart() -> None:
    assert child_scorer().log_odds(CHILD) > 2
    assert child_scorer().log_odds(SIBLING) < -2


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("size", [5e-5, 5e-4, 5e-3, 0.05, 0.1])
def test_a_child_is_one_however_short_or_long_its_own_step(
    size: float, count: int, dtype: str
) -> None:
    """From a thousandth of the path to twice it; the families learned from hold less than that."""
    base = published(fresh(1), dtype)
    models = [base, published(trained(base, seed=2, size=0.05), dtype)]
    models += [trained(models[1], seed=3, size=size), trained(base, seed=4, size=max(size, 0.02))]
    models += [trained(base, seed=5 + i, size=0.05) for i in range(count)]
    group = [specimen_of(str(i), one, dtype=dtype) for i, one in enumerate(models)]
    sample, others = take_sample(group, shared_matrices(group)), range(4, 4 + count)
    child, apart = (
        path_clues(group, sample, child=i, via=1, origin=0, others=list(others)) for i in (2, 3)
    )
    assert child_scorer().log_odds(child) > 1
    assert child_scorer().log_odds(apart) < -1
    assert hidden_scorer().log_odds(apart) < 0


def test_a_share_of_one_is_the_middle_and_ratios_count_alike_both_ways() -> None:
    assert featurise(CHILD)["beta"] == 0
    double, half = (featurise(replace(CHILD, beta=b)) for b in (2.0, 0.5))
    assert double["beta"] == pytest.approx(-half["beta"])
    assert featurise(replace(CHILD, beta=-3.0)) == featurise(replace(CHILD, beta=0.0))


def test_a_scorer_is_the_sum_of_its_curves_level_beyond_their_ends() -> None:
    features = (
        Feature(name="own", knots=(0.0, 0.5, 1.0), parts=(-1.0, 0.0, 2.0), error=0.1),
        Feature(name="along", knots=(0.0, 0.5, 1.0), parts=(0.0, -1.0, -1.5), error=0.2),
    )
    scorer = Scorer(features=features, intercept=0.5)
    assert scorer.log_odds(replace(CHILD, own=0.75, along=0.25)) == pytest.approx(0.5 + 1.0 - 0.5)
    clues = replace(CHILD, own=9.0, along=-9.0)
    assert [part.llr for part in scorer.explain(clues)] == [2.0, 0.0]


def test_error_rates_are_told_by_what_the_clue_says() -> None:
    rates = error_rates()
    assert set(rates) <= set(STATISTICS.values())
    assert len(rates) == len(child_scorer().features)
    assert all(0 <= rate <= 0.5 for rate in rates.values())
