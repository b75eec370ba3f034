"""Nearest rows against brute force, and thin samples."""

from __future__ import annotations

import numpy as np
import pytest
from families import fresh, published, specimen_of, trained
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.neighbours import (
    BLOCK_SAMPLE,
    comparable_rows,
    hubs_of,
    nearest_rows,
    thin_sample,
)

CPU = Compute(device="cpu")


@given(st.integers(2, 40), st.integers(4, 60), st.integers(1, 6), st.integers(0, 1 << 16))
def test_nearest_rows_are_those_of_brute_force(n: int, d: int, count: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    # Every fourth weight proposes; few rows leave none out.
    near = nearest_rows(rows, compute=CPU, count=max(count, n))
    away = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        assert sorted(near.of(i)) == others
        assert np.allclose(near.square[i, : n - 1], np.sort(away[i, others]), rtol=1e-4)


def test_only_earlier_rows_of_the_pool_are_named() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 64)).astype(np.float32)
    rank = np.random.default_rng(1).permutation(30)
    pool, wanted = np.arange(0, 30, 2), np.array([3, 17, 29])
    near = nearest_rows(rows, compute=CPU, count=30, before=rank, among=pool, wanted=wanted)
    for at, row in enumerate(wanted):
        assert set(near.of(at)) == {j for j in pool.tolist() if rank[j] < rank[row]}
    assert nearest_rows(rows, compute=CPU, before=rank).of(int(rank.argmin())) == []


def test_distances_hold_their_digits_where_rows_lie_close() -> None:
    """Products of uncentred rows would lose a relative distance of 1e-5 altogether."""
    start = np.random.default_rng(2).normal(size=4096).astype(np.float32)
    steps = np.random.default_rng(3).normal(size=(20, 4096)).astype(np.float32)
    rows = start + 1e-5 * np.arange(1, 21, dtype=np.float32)[:, None] * steps
    near = nearest_rows(rows, compute=CPU, count=1)
    assert near.index[5:, 0].tolist() == [0] * 15
    exact = ((rows[5:].astype(np.float64) - rows[0]) ** 2).sum(axis=1)
    assert near.square[5:, 0] == pytest.approx(exact, rel=1e-3)


def test_hubs_are_what_most_have_near() -> None:
    rows = np.random.default_rng(4).normal(size=(300, 32)).astype(np.float32)
    rows[7] = rows.mean(axis=0)
    assert 7 in hubs_of(nearest_rows(rows, compute=CPU, count=3))


def test_a_thin_sample_is_small_and_of_every_matrix() -> None:
    base = published(fresh(1))
    one, other = specimen_of("one", base), specimen_of("other", trained(base, seed=2))
    thin = thin_sample(one)
    assert thin.weights.keys() == set(one.matrices())
    assert all(w.size <= BLOCK_SAMPLE for w in thin.weights.values())
    (part,) = comparable_rows([thin, thin_sample(other)])
    assert part.numbers == (0, 1)
    assert part.rows.shape[0] == 2
    assert (part.floors > 0).all()
