"""The similarity engine: exact against float64, whatever is narrowed, thinned, tiled or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelkin.lineage.compute import Compute, Device
from modelkin.lineage.errors import LimitExceeded, NotComparable
from modelkin.lineage.similarity.memory import GROUP, blocking_for
from modelkin.lineage.similarity.search import FINE, Coarse, Neighbours, nearest

Floats = NDArray[np.float32]
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
COARSE = [
    FINE,
    Coarse(propose=1, sift=1, narrow=True),
    Coarse(propose=8, sift=1, narrow=True),
    Coarse(propose=4, sift=2, narrow=False),
]
CPU = Compute(device="cpu")


def rows_of(kind: str, *, n: int = 700, width: int = 512) -> Floats:
    """Unrelated rows, a family of near ones, or families whose members differ in how near."""
    rng = np.random.default_rng(5)
    families, scale = {"noise": (n, 0.0), "close": (1, 1e-4), "families": (5, 1e-2)}[kind]
    bases = rng.standard_normal((families, width))
    owner = np.arange(n) % families
    size = scale * rng.choice([0.1, 1.0, 3.0], size=(n, 1))
    return (bases[owner] + size * rng.standard_normal((n, width))).astype(np.float32)


def true_nearest(
    queries: Floats, rows: Floats, itself: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    wide = rows.astype(np.float64)
    square = np.stack([((wide - one) ** 2).sum(1) for one in queries.astype(np.float64)])
    square[np.arange(len(queries)), itself] = np.inf
    order = np.argsort(square, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(square, order, axis=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("coarse", COARSE, ids=str)
@pytest.mark.parametrize("kind", ["noise", "close", "families"])
def test_the_nearest_are_those_of_float64(kind: str, coarse: Coarse, device: Device) -> None:
    rows = rows_of(kind)
    itself = np.arange(3, 43)
    index, square = true_nearest(rows[itself], rows, itself, 6)
    found = nearest(
        rows[itself],
        rows,
        count=6,
        compute=Compute(device=device),
        itself=itself,
        coarse=coarse,
        budget=4 << 20,
    )
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(np.sqrt(found.square), np.sqrt(square), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    size=st.floats(1e-4, 1e-1),
    sparse=st.booleans(),
    low_rank=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_delta_norms_are_right_at_every_scale(
    size: float, sparse: bool, low_rank: bool, seed: int
) -> None:
    """A child at a relative distance of 1e-4 to 1e-1, among others: within 1 %, and far less."""
    rng = np.random.default_rng(seed)
    parent = rng.standard_normal(1024).astype(np.float32)
    step = np.repeat(rng.standard_normal(32), 32) if low_rank else rng.standard_normal(1024)
    step *= rng.random(1024) < (0.02 if sparse else 1.0)
    step[0] = 1.0
    child = (parent + size * step / np.linalg.norm(step) * np.linalg.norm(parent)).astype("f4")
    others = rng.standard_normal((80, 1024)).astype(np.float32)
    rows = np.concatenate([others, parent[None]])
    true = np.linalg.norm(child.astype(np.float64) - parent.astype(np.float64))
    for coarse in COARSE:
        found = nearest(child[None], rows, count=1, compute=CPU, coarse=coarse)
        assert found.index.tolist() == [[80]]
        norms = np.linalg.norm(child.astype(np.float64))[None]
        assert found.relative(norms)[0, 0] == pytest.approx(true / norms[0], rel=1e-4)


class Refusing:
    """Rows on a device that has no memory for more than `most` of them at once."""

    def __init__(self, rows: Floats, *, most: int) -> None:
        self.rows, self.most, self.refused = rows, most, 0
        self.shape = rows.shape

    def __getitem__(self, at: Any) -> Floats:
        found = self.rows[at]
        if isinstance(at, slice) and len(found) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError
        return found


def search(rows: Any, **options: Any) -> Neighbours:
    return nearest(rows_of("families")[:20], rows, count=4, compute=CPU, **options)


def test_a_block_that_does_not_fit_is_halved() -> None:
    rows = rows_of("families")
    refusing = Refusing(rows, most=2 * GROUP)
    assert (search(refusing).index == search(rows).index).all()
    assert refusing.refused >= 2


def test_what_never_fits_ends_in_an_error() -> None:
    with pytest.raises(LimitExceeded, match="do not fit"):
        search(Refusing(rows_of("families"), most=0))
    with pytest.raises(LimitExceeded, match="do not fit"):
        blocking_for(1000, 1000, 1 << 20, budget=1 << 20, item=4, query=0, carried=0)


@given(
    queries=st.integers(1, 100_000),
    rows=st.integers(1, 10_000_000),
    width=st.integers(1, 8192),
    budget=st.integers(16 << 20, 32 << 30),
)
def test_blocks_stay_inside_their_budget(queries: int, rows: int, width: int, budget: int) -> None:
    one = blocking_for(
        queries, rows, width, budget=budget, item=2, query=4 * width, carried=2 * width
    )
    held = one.rows * width * 6 + one.queries * width * 6 + 8 * one.queries * one.rows
    assert held <= budget
    assert one.rows % GROUP == 0
    assert 1 <= one.queries <= queries


def test_a_memory_map_and_half_precision_are_read_as_they_are(tmp_path: Any) -> None:
    rows = rows_of("families")
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(search(mapped).index, search(rows).index)
    narrow = torch.from_numpy(rows).bfloat16()
    np.testing.assert_array_equal(search(narrow).index, search(narrow.float().numpy()).index)


def test_few_rows_leave_places_empty_and_equal_ones_stand_by_number() -> None:
    rows = np.zeros((3, 8), dtype=np.float32)
    found = nearest(rows[:1], rows, count=4, compute=CPU, itself=np.array([1]))
    assert found.index.tolist() == [[0, 2, -1, -1]]
    assert found.square.tolist() == [[0.0, 0.0, np.inf, np.inf]]
    empty = nearest(rows, rows[:0], count=2, compute=CPU)
    assert (empty.index == -1).all()
    with pytest.raises(NotComparable, match="8 coordinates"):
        nearest(rows, rows[:, :4], count=1, compute=CPU)
