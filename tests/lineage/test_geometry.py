"""Distances and projections, against float64 arithmetic on all sampled weights at once."""

from __future__ import annotations

import numpy as np
import pytest
from families import (
    fresh,
    merged,
    permuted,
    published,
    specimen_of,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.geometry import Geometry, measure_geometry
from modelkin.lineage.infer.specimen import Specimen

CPU = Compute(device="cpu")


def flat(one: Specimen) -> NDArray[np.float64]:
    return np.concatenate([one.blocks[b].values for b in one.matrices()]).astype(np.float64)


def measured(*group: Specimen) -> Geometry:
    return measure_geometry(group, compute=CPU)


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("odd", [False, True])
def test_distances_and_products_match_float64(size: float, odd: bool) -> None:
    base = fresh(1)
    weights = [base, *(trained(base, seed=i, size=size, data=5) for i in range(3))]
    weights += [fresh(99)] * odd
    group = [specimen_of(f"m{i}", w, dtype="F32") for i, w in enumerate(weights)]
    geometry = measured(*group)
    rows = np.stack([flat(one) for one in group])
    for a in range(4):
        for b in range(4):
            exact = float(((rows[a] - rows[b]) ** 2).sum())
            assert geometry.square_distance(a, b) == pytest.approx(exact, rel=0.01)
            relative = np.sqrt(exact) / np.linalg.norm(rows[b])
            assert geometry.relative(a, b) == pytest.approx(relative, rel=0.01)
            assert geometry.square_distances()[a, b] == pytest.approx(exact, rel=0.01)
    exact = float((rows[1] - rows[0]) @ (rows[2] - rows[0]))
    assert geometry.inner(1, 2, origin=0) == pytest.approx(exact, rel=0.01)
    np.testing.assert_allclose(geometry.norms, np.linalg.norm(rows, axis=1), rtol=1e-6)


def test_a_copy_is_at_no_distance() -> None:
    base = published(fresh(1))
    geometry = measured(specimen_of("a", base), specimen_of("b", base), specimen_of("c", fresh(2)))
    assert geometry.square_distance(0, 1) == 0
    assert geometry.beta(2, 1, origin=0) == 0


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_the_floor_is_what_rounding_leaves(dtype: str) -> None:
    weights = fresh(1)
    exact, cast = (specimen_of("a", weights, dtype=d) for d in ("F32", dtype))
    left = float(((flat(cast) - flat(exact)) ** 2).sum())
    assert left / measured(exact, cast).floor[1] == pytest.approx(1, abs=0.05)


def test_beta_is_one_for_a_child_its_share_for_a_merge_and_nought_for_a_sibling() -> None:
    base = fresh(1)
    via = trained(base, seed=2)
    models = [
        base,
        via,
        trained(via, seed=3),
        trained(base, seed=4),
        merged([via, base], [0.3, 0.7]),
    ]
    geometry = measured(*(specimen_of(f"m{i}", w, dtype="F32") for i, w in enumerate(models)))
    assert geometry.beta(2, 1, origin=0) == pytest.approx(1, abs=0.05)
    assert geometry.beta(3, 1, origin=0) == pytest.approx(0, abs=0.05)
    assert geometry.beta(4, 1, origin=0) == pytest.approx(0.3, abs=1e-3)


def test_only_common_blocks_are_measured() -> None:
    one, other = specimen_of("a", fresh(1)), specimen_of("b", {"norm.weight": np.ones(64, "f4")})
    geometry = measured(one, other)
    assert geometry.blocks == ()
    assert geometry.square_distance(0, 1) == 0


@settings(max_examples=4, deadline=None)
@given(order=st.permutations(range(5)))
def test_the_order_of_the_members_does_not_matter(order: list[int]) -> None:
    base = fresh(1)
    models = [base, *(trained(base, seed=i, size=1e-3) for i in range(3)), permuted(base, seed=9)]
    group = [specimen_of(f"m{i}", w, dtype="F32") for i, w in enumerate(models)]
    straight = measured(*group).square_distances()
    turned = measured(*(group[i] for i in order)).square_distances()
    np.testing.assert_allclose(turned, straight[np.ix_(order, order)], rtol=1e-3, atol=1e-12)
