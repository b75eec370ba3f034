"""Hidden states and first tokens: noise reads as noise, and a lost direction as lost."""

from __future__ import annotations

import numpy as np
import pytest

from modelkin.lineage.safety.activations import (
    censored_log_odds,
    direction_cosine,
    direction_of,
    held_out_auc,
    opening_tokens,
    refusal_log_odds,
    relative_gap,
    separation,
)


def noise(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_pure_noise_is_not_separated() -> None:
    """16 pairs at 4,096 coordinates read 17.9 where they are fitted on what they measure."""
    found = [
        separation(noise(seed, 16, 4096), noise(99 - seed, 16, 4096), layer=1).value
        for seed in range(20)
    ]
    assert abs(np.mean([one.value for one in found])) < 0.25
    assert np.mean([one.low <= 0.0 <= one.high for one in found]) >= 0.8


def test_classes_that_are_apart_read_apart() -> None:
    shift = np.zeros(64)
    shift[3] = 4.0
    found = separation(noise(1, 40, 64) + shift, noise(2, 40, 64), layer=5)
    assert 2.5 < found.value.low < found.value.value < 5.5
    assert (found.layer, found.n) == (5, 80)
    with pytest.raises(ValueError, match="10 prompts"):
        separation(noise(1, 9, 4), noise(2, 40, 4), layer=1)


def test_a_direction_that_was_taken_out_leaves_no_gap() -> None:
    shift = np.zeros(32)
    shift[0] = 6.0
    theirs = noise(1, 60, 32) + shift, noise(2, 60, 32)
    r = direction_of(*theirs)
    without = tuple(group - np.outer(group @ r, r) for group in theirs)
    intact = relative_gap(theirs, theirs)
    lost = relative_gap((without[0], without[1]), theirs)
    assert intact is not None
    assert lost is not None
    assert (intact.value, intact.low, intact.high) == pytest.approx((1.0, 1.0, 1.0))
    assert abs(lost.value) < 0.1
    assert lost.low <= lost.value <= lost.high
    assert relative_gap(theirs, (theirs[1], theirs[1])) is None


def test_openings_are_those_of_refusals_alone() -> None:
    assert opening_tokens([7] * 18 + [1, 2], [1] * 10 + [2] * 10) == (7,)
    assert opening_tokens([1] * 20, [1] * 20) == ()


def test_log_odds_fall_with_the_mass_of_refusal() -> None:
    def groups(mass: float) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
        return [{7: mass, 1: 1 - mass}] * 20, [{1: 1.0}] * 20

    values = [refusal_log_odds(*groups(mass), [7]).value for mass in (0.99, 0.5, 0.01, 0.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0.0


def test_the_auc_is_half_for_noise_and_one_for_classes_apart() -> None:
    found = [held_out_auc(noise(s, 20, 512), noise(s + 50, 20, 512), layer=1) for s in range(20)]
    assert abs(np.mean([one.value.value for one in found]) - 0.5) < 0.06
    shift = np.zeros(64)
    shift[0] = 8.0
    apart = held_out_auc(noise(1, 20, 64) + shift, noise(2, 20, 64), layer=3)
    assert (apart.value.value, apart.value.high, apart.layer, apart.n) == (1.0, 1.0, 3, 40)
    with pytest.raises(ValueError, match="10 prompts"):
        held_out_auc(noise(1, 9, 4), noise(2, 40, 4), layer=1)


def test_the_cosine_tells_a_kept_direction_from_another() -> None:
    def classes(axis: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        shift = np.zeros(32)
        shift[axis] = 6.0
        return noise(seed, 60, 32) + shift, noise(seed + 1, 60, 32)

    ancestor = classes(0, 1)
    same = direction_cosine(ancestor, ancestor)
    kept, other = (direction_cosine(classes(axis, 5), ancestor) for axis in (0, 1))
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))
    assert kept.low > 0.9
    assert abs(other.value) < 0.3
    assert other.low <= other.value <= other.high


def test_openings_that_are_not_told_widen_the_interval() -> None:
    whole = [{7: 0.9, 1: 0.1}] * 20, [{7: 0.0001, 1: 0.9999}] * 20
    told = whole[0], [{1: 0.9999}] * 20
    exact, seen = refusal_log_odds(*whole, [7]), censored_log_odds(*whole, [7])
    assert (seen.value, seen.low, seen.high) == pytest.approx((exact.value, exact.low, exact.high))
    cut = censored_log_odds(*told, [7])
    assert cut.value == refusal_log_odds(*told, [7]).value
    assert cut.low - 1e-9 <= exact.value < cut.high
    nothing = censored_log_odds([{}] * 20, [{}] * 20, [7])
    assert nothing.high - nothing.low > 20.0
