"""Exact merges: found with their shares, and nothing else taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from families import (
    Weights,
    abliterated,
    fresh,
    lora,
    merged,
    permuted,
    published,
    quantized,
    specimen_of,
    task_arithmetic,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.geometry import Geometry, measure_geometry
from modelkin.lineage.infer.merges import FLOOR_RATIO, Mixture, find_mixture

CPU = Compute(device="cpu")


def siblings(seed: int, count: int, *, dtype: str = "BF16") -> tuple[Weights, list[Weights]]:
    base = published(fresh(seed), dtype)
    tuned = [published(trained(base, seed=seed + 1 + i, data=3), dtype) for i in range(count)]
    return base, tuned


def mixture(child: Weights, others: Sequence[Weights], *, dtype: str = "BF16") -> Mixture | None:
    """Of a child that is member 0 among others that are members 1, 2, ..."""
    geometry = geometry_of([child, *others], dtype=dtype)
    near = sorted(range(1, len(others) + 1), key=lambda i: geometry.square_distance(0, i))
    return find_mixture(0, near, geometry)


def geometry_of(models: Sequence[Weights], *, dtype: str = "BF16") -> Geometry:
    group = [specimen_of(f"m{i}", w, dtype=dtype) for i, w in enumerate(models)]
    return measure_geometry(group, compute=CPU)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2), (0.5, 0.3, 0.2), (0.9, 0.1)])
def test_a_linear_merge_is_found_with_its_shares(shares: tuple[float, ...], dtype: str) -> None:
    base, tuned = siblings(1, 5, dtype=dtype)
    child = published(merged(tuned[: len(shares)], shares), dtype)
    found = mixture(child, [base, *tuned], dtype=dtype)
    assert found is not None
    assert found.exact
    assert found.averages
    assert set(found.weights) == set(range(2, 2 + len(shares)))
    for at, share in enumerate(shares):
        assert found.weights[2 + at] == pytest.approx(share, abs=0.01)
    assert sum(found.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8])
def test_task_arithmetic_is_found_with_the_share_of_its_base(scale: float) -> None:
    base, tuned = siblings(4, 4)
    child = published(task_arithmetic(base, tuned[:2], scale))
    found = mixture(child, [base, *tuned])
    assert found is not None
    assert found.weights[2] == pytest.approx(scale, abs=0.01)
    assert found.weights[3] == pytest.approx(scale, abs=0.01)
    assert found.weights.get(1, 0) == pytest.approx(1 - 2 * scale, abs=0.01)


@pytest.mark.parametrize("stranger", [fresh(900), None])
def test_a_float32_merge_is_found_in_a_family_with_distant_members(
    stranger: Weights | None,
) -> None:
    """The centre of the Gram matrix may not be a member that is far from all others."""
    base, tuned = siblings(2, 2, dtype="F32")
    far = permuted(base, seed=1) if stranger is None else stranger
    child = merged(tuned, [0.6, 0.4])
    for others in ([far, base, *tuned], [base, *tuned, far, quantized(base, bits=2)]):
        found = mixture(child, others, dtype="F32")
        assert found is not None
        assert sorted(found.weights.values()) == pytest.approx([0.4, 0.6], abs=1e-3)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.9), third=st.booleans())
def test_any_share_comes_back(seed: int, share: float, third: bool) -> None:
    base, tuned = siblings(seed, 4, dtype="F32")
    shares = [share, (1 - share) / 2, (1 - share) / 2] if third else [share, 1 - share]
    found = mixture(merged(tuned[: len(shares)], shares), [base, *tuned], dtype="F32")
    assert found is not None
    assert {m: pytest.approx(w, abs=1e-3) for m, w in found.weights.items()} == dict(
        zip(range(2, 2 + len(shares)), shares, strict=True)
    )


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 0.3))
def test_what_is_no_merge_is_never_called_one(seed: int, size: float) -> None:
    base, tuned = siblings(seed, 5)
    start = merged(tuned[:2], [0.5, 0.5])
    made = {
        "sibling": trained(base, seed=seed + 50, size=size, data=3),
        "child": trained(tuned[0], seed=seed + 51, size=size),
        "merge trained on": trained(start, seed=seed + 52, size=size),
        "adapted": lora(tuned[0], seed=seed + 53, size=size),
        "open": abliterated(tuned[0], seed=seed + 54),
        "int4": quantized(tuned[0], bits=4),
    }
    for name, weights in made.items():
        assert mixture(published(weights), [base, *tuned]) is None, name


def test_a_merge_with_an_unpublished_parent_is_not_exact() -> None:
    base, tuned = siblings(7, 5)
    child = published(merged(tuned[:2], [0.5, 0.5]))
    assert mixture(child, [base, *tuned[1:]]) is None


def test_a_copy_is_no_merge() -> None:
    base, tuned = siblings(8, 3)
    assert mixture(tuned[0], [base, *tuned]) is None


def test_a_parent_is_not_a_mixture_of_its_merge() -> None:
    base, tuned = siblings(9, 3)
    child = published(merged(tuned[:2], [0.5, 0.5]))
    assert mixture(tuned[0], [base, child, *tuned[1:]]) is None


def test_collinear_parents_give_one_of_the_exact_answers() -> None:
    base, tuned = siblings(10, 2)
    half = merged(tuned, [0.5, 0.5])
    child = published(merged([*tuned, half], [0.3, 0.3, 0.4]))
    for others in ([base, *tuned, half], [*tuned, *tuned, half], [half, half, *tuned]):
        found = mixture(child, [published(one) for one in others])
        assert found is None or found.exact
        if found is not None:
            assert sum(found.weights.values()) == pytest.approx(1)


def test_too_few_candidates_are_no_mixture() -> None:
    base, tuned = siblings(11, 2)
    geometry = geometry_of([base, *tuned])
    assert find_mixture(0, [], geometry) is None
    assert find_mixture(0, [1], geometry) is None


def test_equal_members_do_not_break_the_fit() -> None:
    base = published(fresh(12))
    assert mixture(base, [base, base, base]) is None


def test_a_mixture_that_magnifies_does_not_average() -> None:
    assert not Mixture(weights={0: 2.0, 1: -1.0}, ratio=1).averages
    assert not Mixture(weights={0: 1.1, 1: 0.5, 2: -0.3, 3: -0.3}, ratio=1).averages
    assert Mixture(weights={0: 0.7, 1: 0.6, 2: -0.3}, ratio=1).averages
    assert not Mixture(weights={0: 0.5, 1: 0.5}, ratio=FLOOR_RATIO).exact
