"""Intervals of differences and ratios against published examples, and their coverage."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modelkin.lineage.safety.intervals import (
    Interval,
    PairedCounts,
    difference_of,
    newcombe_independent,
    newcombe_paired,
    ratio_of,
    wilson,
)

COUNTS = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CELLS = st.tuples(*[st.integers(0, 80)] * 4).filter(lambda cells: sum(cells) > 0)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_independent_difference_agrees_with_newcombe_1998_table_ii(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = newcombe_independent(first, second)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_paired_difference_agrees_with_fagerland_2014() -> None:
    # Bentur et al.: 1 both, 1 before only, 7 after only, 12 neither; printed -0.507 to -0.026.
    found = newcombe_paired(PairedCounts(both=1, only_first=1, only_second=7, neither=12))
    assert found.value == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.507, -0.026), abs=6e-4)


@given(CELLS)
def test_paired_difference_stays_in_range_and_mirrors(cells: tuple[int, int, int, int]) -> None:
    both, only_first, only_second, neither = cells
    found = newcombe_paired(
        PairedCounts(both=both, only_first=only_first, only_second=only_second, neither=neither)
    )
    mirror = newcombe_paired(
        PairedCounts(both=both, only_first=only_second, only_second=only_first, neither=neither)
    )
    assert -1.0 - 1e-9 <= found.low <= found.value <= found.high <= 1.0 + 1e-9
    assert (mirror.low, mirror.high) == pytest.approx((-found.high, -found.low))


@given(COUNTS, COUNTS)
def test_independent_difference_stays_in_range(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    found = newcombe_independent(first, second)
    assert -1.0 - 1e-9 <= found.low <= found.value <= found.high <= 1.0 + 1e-9


@given(COUNTS, COUNTS.filter(lambda counts: counts[0] > 0), st.floats(-0.9, 0.9))
def test_ratio_is_the_set_of_scales_that_the_difference_allows(
    first: tuple[int, int], second: tuple[int, int], correlation: float
) -> None:
    a, b = wilson(*first), wilson(*second)
    ratio = ratio_of(a, b, correlation=correlation)
    if not math.isfinite(ratio.high):
        return
    scaled = Interval(value=ratio.high * b.value, low=ratio.high * b.low, high=ratio.high * b.high)
    assert difference_of(a, scaled, correlation=correlation).high == pytest.approx(0.0, abs=1e-6)
    assert ratio.low - 1e-9 <= ratio.value <= ratio.high + 1e-9


def test_ratio_without_a_sure_denominator_is_unbounded() -> None:
    doubtful = Interval(value=0.1, low=-0.1, high=0.3)
    assert ratio_of(wilson(5, 10), doubtful).high == math.inf
    with pytest.raises(ValueError, match="positive denominator"):
        ratio_of(wilson(5, 10), Interval(value=0.0, low=-0.1, high=0.1))


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        newcombe_paired(PairedCounts(both=5, only_first=-1, only_second=0, neither=0))


TRUTHS = [(0.95, 0.80), (0.95, 0.05), (0.99, 0.99), (0.5, 0.3)]


@pytest.mark.parametrize(("p", "q"), TRUTHS)
def test_independent_differences_are_covered_exactly(p: float, q: float) -> None:
    n = 72
    first, second = ([float(stats.binom.pmf(k, n, rate)) for k in range(n + 1)] for rate in (p, q))
    covered = 0.0
    for i, j in itertools.product(range(n + 1), repeat=2):
        weight = first[i] * second[j]
        if weight > 1e-9:
            found = newcombe_independent((i, n), (j, n))
            covered += weight * (found.low <= p - q <= found.high)
    assert covered >= 0.93


@pytest.mark.parametrize(("p", "q"), TRUTHS)
def test_paired_differences_are_covered(p: float, q: float) -> None:
    chance = random.Random(23)
    n, hits, runs = 72, 0, 1000
    for _ in range(runs):
        draws = [chance.random() for _ in range(n)]
        # One draw decides both outcomes of a pair half of the time: correlated prompts.
        pairs = [(u < p, (u if chance.random() < 0.5 else chance.random()) < q) for u in draws]
        found = newcombe_paired(
            PairedCounts(
                both=pairs.count((True, True)),
                only_first=pairs.count((True, False)),
                only_second=pairs.count((False, True)),
                neither=pairs.count((False, False)),
            )
        )
        hits += found.low <= p - q <= found.high
    assert hits / runs >= 0.93


def test_ratio_of_retained_refusals_is_covered() -> None:
    chance, n, hits, runs = random.Random(29), 72, 0, 1500
    for _ in range(runs):
        first = sum(chance.random() < 0.95 for _ in range(n))
        second = sum(chance.random() < 0.30 for _ in range(n))
        found = ratio_of(wilson(second, n), wilson(first, n))
        hits += found.low <= 0.30 / 0.95 <= found.high
    assert hits / runs >= 0.93
