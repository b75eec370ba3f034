"""Fingerprints and CKA, against the feature-space formula of the paper's own notebook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelkin.lineage.behaviour import (
    LEAST_NULL,
    POSITIONS,
    all_pairs,
    behavioural_kin,
    debiased,
    fingerprint,
    prompts_of,
)
from modelkin.lineage.compute import Compute

Float64 = NDArray[np.float64]
CPU = Compute(device="cpu")


def feature_space_cka(x: Float64, y: Float64, *, unbiased: bool) -> float:
    """Linear CKA from features, as Kornblith et al. (2019) publish it: no Gram matrix is made."""
    x, y = x - x.mean(0), y - y.mean(0)
    dot = float(np.linalg.norm(x.T @ y) ** 2)
    own = [float(np.linalg.norm(z.T @ z) ** 2) for z in (x, y)]
    if unbiased:
        n = len(x)
        rows = [(z**2).sum(1) for z in (x, y)]

        def corrected(raw: float, a: Float64, b: Float64) -> float:
            last = a.sum() * b.sum() / ((n - 1) * (n - 2))
            return raw - n / (n - 2) * float(a @ b) + float(last)

        dot = corrected(dot, *rows)
        own = [corrected(raw, one, one) for raw, one in zip(own, rows, strict=True)]
    return dot / (own[0] * own[1]) ** 0.5


def drawn(seed: int, n: int, d: int) -> Float64:
    return np.random.default_rng(seed).standard_normal((n, d))


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(8, 40),
    widths=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    shared=st.floats(0, 1),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_one_product_is_the_cka_of_the_paper(
    n: int, widths: tuple[int, int], shared: float, scale: float, seed: int
) -> None:
    common = drawn(seed, n, 5)
    x, y = (
        (1 - shared) * drawn(seed + at, n, width) + shared * common @ drawn(seed + at, 5, width)
        for at, width in enumerate(widths, start=1)
    )
    y = scale * y + 3.0
    prints = [fingerprint({4: one}) for one in (x, y)]
    assert prints[0].shape == (POSITIONS, n * (n + 1) // 2)
    biased = all_pairs(prints, compute=CPU)
    assert biased[0, 1] == pytest.approx(feature_space_cka(x, y, unbiased=False), abs=1e-5)
    corrected = all_pairs([debiased(one) for one in prints], compute=CPU)
    assert corrected[0, 1] == pytest.approx(feature_space_cka(x, y, unbiased=True), abs=1e-4)
    np.testing.assert_allclose(np.diag(biased), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.diag(corrected), 1.0, atol=1e-4)


def test_width_alone_makes_no_kin_after_the_correction() -> None:
    prints = [fingerprint({1: drawn(seed, 20, 2000)}) for seed in range(12)]
    off = ~np.eye(12, dtype=bool)
    assert all_pairs(prints, compute=CPU)[off].min() > 0.9
    assert abs(all_pairs([debiased(one) for one in prints], compute=CPU)[off].mean()) < 0.05


def test_a_rotation_and_another_width_change_nothing() -> None:
    x = drawn(1, 24, 16)
    turned = x @ np.linalg.qr(drawn(2, 64, 16))[0].T
    both = [fingerprint({1: x}), fingerprint({1: turned})]
    assert all_pairs(both, compute=CPU)[0, 1] == pytest.approx(1.0, abs=1e-6)


@given(st.integers(1, 5000))
def test_the_number_of_prompts_is_read_from_the_length(n: int) -> None:
    assert prompts_of(n * (n + 1) // 2) == n


def test_models_of_other_depths_are_held_at_relative_depths() -> None:
    states = {depth: drawn(depth, 16, 8) for depth in range(1, 9)}
    deep = {2 * depth: one for depth, one in states.items()}
    values = all_pairs([fingerprint(states), fingerprint(deep)], compute=CPU)
    assert values[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_states_without_any_difference_are_like_nothing() -> None:
    flat, other = fingerprint({1: np.ones((9, 4))}), fingerprint({1: drawn(3, 9, 4)})
    assert np.isfinite(debiased(flat)).all()
    assert all_pairs([flat, other], compute=CPU)[0, 1] == 0.0
    with pytest.raises(ValueError, match="8 prompts"):
        fingerprint({1: drawn(1, 7, 4)})


def test_kin_are_told_from_strangers_by_a_null_of_strangers() -> None:
    families = np.repeat(np.arange(12), 3)
    bases = [drawn(seed, 40, 64) for seed in range(12)]
    states = [bases[f] + 0.5 * drawn(99 + at, 40, 64) for at, f in enumerate(families)]
    prints = [fingerprint({1: one}) for one in states]
    found = behavioural_kin(prints, families.tolist(), compute=CPU, nearest=4)
    assert all(one.null >= LEAST_NULL for one in found)
    sure = {(one.first, one.second) for one in found if (one.q_value or 1.0) <= 0.05}
    kin = {(i, j) for i in range(36) for j in range(i + 1, 36) if families[i] == families[j]}
    assert kin <= sure
    assert len(sure - kin) <= 2
    # The last one becomes a stranger to its kin by its weights: no pair of strangers is as alike.
    families[-1] = 99
    found = behavioural_kin(prints, families.tolist(), compute=CPU, nearest=4)
    (pair,) = (one for one in found if (one.first, one.second) == (33, 35))
    assert pair.p_value == 1 / (1 + pair.null)


def test_a_null_without_the_pair_s_own_is_counted_as_by_hand() -> None:
    prints = [fingerprint({1: drawn(seed, 20, 8)}) for seed in range(14)]
    families = [at // 2 for at in range(14)]
    values = all_pairs([debiased(one) for one in prints], compute=CPU)
    for one in behavioural_kin(prints, families, compute=CPU, nearest=13):
        others = [
            values[i, j]
            for i in range(14)
            for j in range(i + 1, 14)
            if families[i] != families[j] and not {i, j} & {one.first, one.second}
        ]
        assert one.null == len(others)
        above = sum(value >= values[one.first, one.second] for value in others)
        assert one.p_value == pytest.approx((1 + above) / (1 + len(others)))


def test_few_strangers_are_no_null() -> None:
    prints = [fingerprint({1: drawn(seed, 12, 6)}) for seed in range(5)]
    for one in behavioural_kin(prints, [0, 1, 2, 3, 4], compute=CPU):
        assert one.null < LEAST_NULL
        assert (one.p_value, one.q_value) == (None, None)
