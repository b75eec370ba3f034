"""Clues of a path, against constructions whose answer is known and against plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
from families import fresh, published, specimen_of, specimens_of, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from modelkin.lineage.infer.path import (
    MAX_OTHERS,
    PSEUDO_COUNT,
    PathClues,
    Sample,
    _log_kurtosis,
    path_clues,
    take_sample,
)
from modelkin.lineage.infer.specimen import Block, Specimen, shared_matrices
from modelkin.lineage.records import RoleKey

Float64 = NDArray[np.float64]

BLOCKS = 4
WIDTH = 512
SIZE = BLOCKS * WIDTH


def block_of(key: RoleKey, values: Float64, *, dtype: str = "F32") -> Block:
    return Block(
        key=key,
        shape=(values.size // 16, 16) if values.size % 16 == 0 else (values.size,),
        transposed=False,
        start=0,
        dtype=dtype,
        values=values.astype(np.float32),
    )


def member(name: str, row: Float64, *, edge: Sequence[float] = (), dtype: str = "F32") -> Specimen:
    """A specimen of equal matrix blocks cut from `row`, with `edge` as its norm."""
    parts = np.split(row, BLOCKS)
    keys = [RoleKey(role="mlp.up", layer=layer) for layer in range(BLOCKS)]
    blocks = {str(key): block_of(key, part) for key, part in zip(keys, parts, strict=True)}
    if len(edge):
        norm = RoleKey(role="final_norm")
        blocks[str(norm)] = block_of(norm, np.asarray(edge, dtype=np.float64), dtype=dtype)
    return Specimen(node=name, created=None, blocks=blocks)


def clues_of(
    *rows: Float64, others: Sequence[Float64] = (), edges: Sequence[Sequence[float]] = ((), (), ())
) -> PathClues:
    """Clues of (child, via, origin)."""
    three = zip(rows, edges, strict=True)
    group = [member(str(i), row, edge=edge) for i, (row, edge) in enumerate(three)]
    group += [member(f"other{i}", row) for i, row in enumerate(others)]
    sample = take_sample(group, shared_matrices(group))
    places = range(3, 3 + len(others))
    return path_clues(group, sample, child=0, via=1, origin=2, others=list(places))


def steps(seed: int, count: int) -> Float64:
    """(count, SIZE) directions of unit length in each block, orthogonal in each block."""
    draw = np.random.default_rng(seed)
    parts = [np.linalg.qr(draw.normal(size=(WIDTH, count)))[0].T for _ in range(BLOCKS)]
    return np.concatenate(parts, axis=1)


def values_of(clues: PathClues) -> Float64:
    return np.array(astuple(clues))


# Constructions with a known answer


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_a_child_keeps_all_of_the_path_everywhere(size: float) -> None:
    path, own, mate = steps(1, 3)
    clues = clues_of(path + size * own, path, 0 * path, others=[mate])
    assert clues.beta == pytest.approx(1, abs=1e-5)
    assert clues.low == pytest.approx(1, abs=1e-5)
    assert clues.spread == pytest.approx(0, abs=1e-5)
    assert clues.along == pytest.approx(0, abs=1e-5)
    assert clues.own == pytest.approx(1, abs=1e-5)
    assert clues.own_left < clues.step  # the path's largest moves stand out of the step
    assert clues.back == pytest.approx(1 / (1 + size**2), rel=1e-4)
    assert clues.step == pytest.approx(2 * np.log(size), abs=1e-4)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_path_undone_in_part_is_kept_by_that_part(kept: float) -> None:
    (path,) = steps(2, 1)
    clues = clues_of(kept * path, path, 0 * path)
    for share in (clues.beta, clues.low, clues.own, clues.own_low):
        assert share == pytest.approx(kept, rel=1e-4)
    assert clues.spread == pytest.approx(0, abs=1e-4)
    assert clues.back == pytest.approx(1 / kept, rel=1e-4)
    assert clues.along == pytest.approx(-1, abs=1e-4)
    assert clues.step == pytest.approx(2 * np.log(1 - kept), abs=1e-3)
    assert clues.own_left == pytest.approx(2 * np.log((1 - kept) / kept), abs=1e-3)


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.8])
def test_a_sibling_keeps_what_is_shared_and_nothing_of_the_rest(shared: float) -> None:
    """The direction that all have from the same data is no path of anyone's own."""
    common, a, b, *rest = steps(3, 7)
    apart = (1 - shared**2) ** 0.5
    via, child = shared * common + apart * a, shared * common + apart * b
    others = [shared * common + apart * one for one in rest]
    clues = clues_of(child, via, 0 * via, others=others)
    assert clues.beta == pytest.approx(shared**2, abs=1e-4)
    assert clues.back == pytest.approx(shared**2, abs=1e-4)
    # The mean of five others points along the common direction, up to their own parts.
    mean = len(others) * shared**2 / (len(others) ** 2 * shared**2 + len(others) * apart**2) ** 0.5
    assert clues.shared == pytest.approx(mean, abs=1e-3)
    # Four others give the common direction away up to their own parts.
    assert clues.own == pytest.approx(shared**2 / (1 + 4 * shared**2), abs=1e-4)
    assert abs(clues.low - shared**2) < 1e-3
    kept = clues_of(via + 0.5 * b, via, 0 * via, others=others)
    assert kept.own == pytest.approx(1, abs=1e-4)


def test_a_path_kept_in_some_blocks_only_is_told_by_the_worst_and_by_the_spread() -> None:
    (path,) = steps(4, 1)
    kept = np.repeat([1.0, 1.0, 1.0, 0.0], WIDTH)
    clues = clues_of(kept * path, path, 0 * path)
    assert clues.beta == pytest.approx(0.75, abs=1e-4)
    assert clues.spread == pytest.approx(np.std([1, 1, 1, 0]), abs=1e-4)
    assert clues.low == pytest.approx(np.quantile([1, 1, 1, 0], 0.1), abs=1e-4)


def test_large_moves_are_weighed_apart() -> None:
    path = np.full(SIZE, 0.1)
    path[:20] = 10.0
    child = np.where(path > 1, path, 0.0)
    clues = clues_of(child, path, 0 * path)
    assert clues.own_left < -50
    clues = clues_of(path - child, path, 0 * path)
    assert clues.own_left > 50


def test_own_takes_out_what_shared_data_explains() -> None:
    base = fresh(1)
    taught = [trained(base, seed=10 + i, data=7, common=0.7) for i in range(6)]
    models = [base, *taught, trained(taught[0], seed=30)]
    group = [specimen_of(f"m{i}", w, dtype="F32") for i, w in enumerate(models)]
    sample = take_sample(group, shared_matrices(group))
    via, others = 1, [3, 4, 5, 6]
    sibling = path_clues(group, sample, child=2, via=via, origin=0, others=others)
    assert sibling.beta == pytest.approx(0.49, abs=0.05)
    assert sibling.own < sibling.beta / 2
    child = path_clues(group, sample, child=7, via=via, origin=0, others=others)
    assert child.own == pytest.approx(1, abs=0.05)
    alone = path_clues(group, sample, child=7, via=via, origin=0)
    assert alone.own == alone.beta
    assert alone.shared == 0


def test_far_moves_are_kept_by_a_child_only() -> None:
    base = published(fresh(1))
    via = published(trained(base, seed=2))
    child, sibling = published(trained(via, seed=3)), published(trained(base, seed=4))
    group = specimens_of({"p": base, "s": via, "c": child, "b": sibling})
    sample = take_sample(group, shared_matrices(group))
    kept, apart = (path_clues(group, sample, child=i, via=1, origin=0) for i in (2, 3))
    assert kept.own_low > 0.2 > apart.own_low
    assert kept.own_left < -1 < apart.own_left


def test_one_run_has_other_tails_than_the_difference_of_two() -> None:
    """Steps that leave most weights alone: few moved in one run, twice as many in two."""
    draw = np.random.default_rng(5)
    path, own, other = (draw.normal(size=SIZE) * (draw.random(SIZE) < 0.05) for _ in range(3))
    child = clues_of(path + own, path, 0 * path)
    sibling = clues_of(other, path, 0 * path)
    assert child.tails > 0.3
    assert sibling.tails < -0.3


def test_the_kurtosis_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(6).normal(size=200_000)
    assert _log_kurtosis(values) == pytest.approx(np.log(3), abs=0.02)
    assert _log_kurtosis(7 * values) == pytest.approx(_log_kurtosis(values))
    assert _log_kurtosis(np.sign(values)) == pytest.approx(0)
    assert _log_kurtosis(0 * values) == pytest.approx(np.log(3))


# Degenerate cases: no warning (they are errors here), only finite numbers


@pytest.mark.parametrize("child", ["via", "origin", "neither"])
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_equal_members_give_finite_clues(child: str, moved: bool, count: int) -> None:
    start, path, other = steps(5, 3)
    via = start + path if moved else start
    row = {"via": via, "origin": start, "neither": start + other}[child]
    for others in ([start] * count, [via] * count, [row] * count):
        assert np.isfinite(values_of(clues_of(row, via, start, others=others))).all()


def test_a_copy_of_the_end_keeps_all_and_one_of_the_start_nothing() -> None:
    start, path = steps(6, 2)
    end = clues_of(start + path, start + path, start)
    assert end.beta == end.back == end.own == end.low == pytest.approx(1)
    assert end.along == 0
    origin = clues_of(start, start + path, start)
    assert origin.beta == origin.back == origin.own == origin.low == 0


def test_constant_members_give_finite_clues() -> None:
    flat = np.ones(SIZE)
    assert np.isfinite(values_of(clues_of(3 * flat, 2 * flat, flat, others=[flat, 4 * flat]))).all()


SHELF = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(-2, 3, size=(4, SIZE)).astype(np.float64)
)


@settings(max_examples=60, deadline=None)
@given(
    shelf=SHELF,
    mix=arrays(np.float64, (6, 4), elements=st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 2.0])),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
    count=st.integers(0, 3),
)
def test_clues_of_any_family_are_finite(
    shelf: Float64, mix: Float64, scale: float, count: int
) -> None:
    """Members are sums of a few steps, so that many are equal, opposite or dependent."""
    rows = scale * mix @ shelf
    clues = clues_of(*rows[:3], others=rows[3 : 3 + count])
    assert np.isfinite(values_of(clues)).all()
    assert -1e-6 <= clues.beta * clues.back <= 1 + 1e-6
    assert -1 - 1e-6 <= clues.along <= 1 + 1e-6
    assert clues.spread >= 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-12, 12), count=st.integers(0, 4))
def test_clues_do_not_depend_on_the_scale_of_the_weights(seed: int, power: int, count: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(3 + count, SIZE)).astype(np.float32)
    wide = rows.astype(np.float64)
    plain = clues_of(*wide[:3], others=wide[3:])
    scaled = clues_of(*(2.0**power * wide[:3]), others=2.0**power * wide[3:])
    np.testing.assert_allclose(values_of(scaled), values_of(plain), rtol=1e-6, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(4)))
def test_the_order_of_the_others_does_not_matter(seed: int, order: list[int]) -> None:
    rows = np.random.default_rng(seed).normal(size=(7, SIZE))
    straight = clues_of(*rows[:3], others=rows[3:])
    turned = clues_of(*rows[:3], others=[rows[3 + i] for i in order])
    np.testing.assert_allclose(values_of(turned), values_of(straight), rtol=1e-6, atol=1e-9)


def test_no_more_than_the_nearest_others_are_looked_at() -> None:
    rows = np.random.default_rng(8).normal(size=(3 + MAX_OTHERS, SIZE))
    wild = np.random.default_rng(9).normal(size=(2, SIZE))
    few = clues_of(*rows[:3], others=rows[3:])
    assert clues_of(*rows[:3], others=[*rows[3:], *wild]) == few


def test_an_origin_far_from_nought_costs_no_digits() -> None:
    """Deltas of 1e-3 on weights of 1: the difference is taken before anything is multiplied."""
    path, own = steps(7, 2) * 1e-3
    start = np.ones(SIZE)
    clues = clues_of(start + path + own, start + path, start)
    assert clues.beta == pytest.approx(1, abs=1e-2)
    assert clues.along == pytest.approx(0, abs=1e-2)


# Bits outside the matrices


def edge_bits(*edges: Sequence[float]) -> float:
    rows = steps(12, 3)
    return clues_of(*rows, edges=edges).edge_bits


def expected(kept: int, lost: int) -> float:
    return float(np.log((kept + PSEUDO_COUNT) / (lost + PSEUDO_COUNT)))


def test_only_edges_where_the_two_differ_are_counted() -> None:
    via, origin = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 7.0, 8.0, 9.0]
    assert edge_bits(via, via, origin) == pytest.approx(expected(3, 0))
    assert edge_bits(origin, via, origin) == pytest.approx(expected(0, 3))
    assert edge_bits([1.0, 2.0, 3.0, 8.0, 0.0], via, origin) == pytest.approx(expected(1, 1))
    assert edge_bits(via, via, via) == 0
    assert edge_bits([], via, origin) == 0
    assert edge_bits(via, [1.0, 2.0], origin) == 0


def test_a_cast_edge_is_still_the_same_edge() -> None:
    rows = steps(13, 3)
    exact = np.array([0.1234567, 1.7654321, 3.3333333, 0.9999])
    cast = [0.12353515625, 1.765625, 3.328125, 1.0]
    group = [
        member("child", rows[0], edge=cast, dtype="BF16"),
        member("via", rows[1], edge=exact, dtype="F32"),
        member("origin", rows[2], edge=exact + 0.5, dtype="F32"),
    ]
    sample = take_sample(group, shared_matrices(group))
    clues = path_clues(group, sample, child=0, via=1, origin=2)
    assert clues.edge_bits == pytest.approx(expected(4, 0))
    same = [replace(one, blocks=dict(one.blocks)) for one in group]
    norm = str(RoleKey(role="final_norm"))
    same[0].blocks[norm] = replace(same[0].blocks[norm], dtype="F32")  # type: ignore[index]
    assert path_clues(same, sample, child=0, via=1, origin=2).edge_bits == 0


# Samples


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6), limit=st.integers(1, 600))
def test_a_sample_takes_the_same_evenly_spaced_weights_of_every_member(
    sizes: list[int], limit: int
) -> None:
    keys = [RoleKey(role="mlp.up", layer=layer) for layer in range(len(sizes))]
    total = sum(sizes)
    group = []
    for i in range(3):
        values = np.split(np.arange(total) + 1000.0 * i, np.cumsum(sizes)[:-1])
        blocks = {str(k): block_of(k, v) for k, v in zip(keys, values, strict=True)}
        group.append(Specimen(node=str(i), created=None, blocks=blocks))
    sample = take_sample(group, [str(key) for key in keys], limit=limit)
    assert sample.rows.shape[1] <= limit + len(sizes)
    assert len(sample.starts) == len(sizes)
    np.testing.assert_array_equal(sample.rows[1] - sample.rows[0], 1000)
    first = np.cumsum([0, *sizes[:-1]])
    np.testing.assert_array_equal(sample.rows[0][list(sample.starts)], first)
    assert set(np.diff(sample.rows[0][: sample.starts[1] if len(sizes) > 1 else None])) <= {
        max(1, -(-total // limit))
    }
    if total <= limit:
        assert sample.rows.shape[1] == total


def test_a_sample_is_the_same_whatever_the_order_of_the_members() -> None:
    rows = np.random.default_rng(14).normal(size=(4, SIZE))
    group = [member(str(i), row) for i, row in enumerate(rows)]
    names = shared_matrices(group)
    straight, turned = (
        take_sample(group, names, limit=99),
        take_sample(group[::-1], names, limit=99),
    )
    assert isinstance(straight, Sample)
    np.testing.assert_array_equal(straight.rows, turned.rows[::-1])
    assert straight.starts == turned.starts
