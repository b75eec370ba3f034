"""Exact and score intervals, exact tests and q-values against scipy and published tables."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from modelkin.lineage.statistics import (
    Interval,
    benjamini_hochberg,
    clopper_pearson,
    fisher_exact_greater,
    mcnemar_mid_p,
    normal_quantile,
    regularized_beta,
    wilson,
)

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_agrees_with_newcombe_1998_table_i(k: int, n: int, low: float, high: float) -> None:
    found = wilson(k, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


@given(COUNTS, st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_agree_with_scipy(counts: tuple[int, int], level: float) -> None:
    k, n = counts
    reference = stats.binomtest(k, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        found = ours(k, n, level=level)
        theirs = reference.proportion_ci(confidence_level=level, method=method)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0


@given(
    st.floats(0, 1, allow_nan=False, allow_subnormal=False),
    st.floats(0.01, 500, allow_nan=False),
    st.floats(0.01, 500, allow_nan=False),
)
def test_incomplete_beta_agrees_with_scipy(x: float, a: float, b: float) -> None:
    expected = float(special.betainc(a, b, x))
    assert regularized_beta(x, a=a, b=b) == pytest.approx(expected, abs=1e-10)


def test_mcnemar_mid_p_agrees_with_fagerland_2013() -> None:
    # Airway hyper-responsiveness before and after transplantation: 7 pairs against 1.
    assert 2 * mcnemar_mid_p(7, 1) == pytest.approx(0.0391, abs=5e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_mid_p_agrees_with_scipy(b: int, c: int) -> None:
    n = b + c
    expected = 1.0
    if n:
        expected = float(stats.binom.sf(b, n, 0.5) + 0.5 * stats.binom.pmf(b, n, 0.5))
    assert mcnemar_mid_p(b, c) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(COUNTS, COUNTS)
def test_fisher_agrees_with_scipy(first: tuple[int, int], second: tuple[int, int]) -> None:
    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    expected = float(stats.fisher_exact(table, alternative="greater").pvalue)
    assert fisher_exact_greater(first, second) == pytest.approx(expected, rel=1e-7, abs=1e-250)


@given(st.lists(st.floats(0, 1, allow_nan=False), max_size=60))
def test_q_values_agree_with_scipy_and_keep_order(p_values: list[float]) -> None:
    q_values = benjamini_hochberg(p_values)
    if p_values:
        assert q_values == pytest.approx(list(stats.false_discovery_control(p_values)))
    assert all(q >= p for p, q in zip(p_values, q_values, strict=True))
    by_p = sorted(zip(p_values, q_values, strict=True))
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(by_p))


def test_q_values_control_false_discoveries() -> None:
    chance = random.Random(5)
    shares = []
    for _ in range(400):
        true = [stats.norm.sf(chance.gauss(3.0, 1.0)) for _ in range(10)]
        null = [chance.random() for _ in range(40)]
        rejected = [q <= 0.1 for q in benjamini_hochberg([*map(float, true), *null])]
        shares.append(sum(rejected[10:]) / max(1, sum(rejected)))
    assert sum(shares) / len(shares) <= 0.1


@pytest.mark.parametrize("p", [0.05, 0.3, 0.95, 0.99])
def test_single_proportions_are_covered(p: float) -> None:
    chance = random.Random(11)
    draws = [sum(chance.random() < p for _ in range(72)) for _ in range(500)]
    exact = sum(_covers(clopper_pearson(k, 72), p) for k in draws) / len(draws)
    score = sum(_covers(wilson(k, 72), p) for k in draws) / len(draws)
    assert exact >= 0.94
    assert 0.91 <= score <= 0.995


def _covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    for function in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="not a proportion"):
            function(k, n)


def test_arguments_outside_their_domain_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence level"):
        normal_quantile(1.0)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_mid_p(-1, 2)
    with pytest.raises(ValueError, match="p values"):
        benjamini_hochberg([0.1, float("nan")])
    with pytest.raises(ValueError, match="not defined"):
        regularized_beta(1.5, a=1.0, b=1.0)
