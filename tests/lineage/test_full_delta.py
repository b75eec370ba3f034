"""Whole tensors compared, against float64 and numpy's own decompositions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelkin.lineage.compute import Compute, Device
from modelkin.lineage.dtypes import ulp
from modelkin.lineage.errors import NotComparable
from modelkin.lineage.full_delta import FullComparison, StoredTensor, _spacings, randomised_svd
from modelkin.lineage.records import RoleKey

Floats = NDArray[np.float32]
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored(
    values: Floats, dtype: str = "F32", *, role: str = "attn.o", transposed: bool = False
) -> StoredTensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values.T if transposed else values))
    data = tensor.to(TYPES[dtype]).view(torch.uint8).numpy().tobytes()
    return StoredTensor(
        key=RoleKey(role=role, layer=0),
        name=role,
        shape=tuple(tensor.shape),
        transposed=transposed,
        dtype=dtype,
        data=data,
    )


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(size=st.floats(1e-4, 1e-1), seed=st.integers(0, 2**32 - 1))
def test_norms_are_those_of_float64(size: float, seed: int, device: Device) -> None:
    b = drawn(seed, 24, 40)
    a = (b + size * drawn(seed + 1, 24, 40)).astype(np.float32)
    found = FullComparison(compute=Compute(device=device)).add(stored(a), stored(b))
    wide = a.astype(np.float64), b.astype(np.float64)
    distance = np.linalg.norm(wide[0] - wide[1])
    assert found.distance == pytest.approx(distance, rel=1e-6)
    assert found.relative_distance == pytest.approx(distance / np.linalg.norm(wide[1]), rel=1e-6)
    cosine = (wide[0] * wide[1]).sum() / np.linalg.norm(wide[0]) / np.linalg.norm(wide[1])
    assert found.cosine == pytest.approx(cosine, abs=1e-12)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_cast_is_rounding_and_nothing_else(dtype: str) -> None:
    weights = drawn(1, 64, 64)
    comparison = FullComparison(compute=Compute(device="cpu"))
    cast = comparison.add(stored(weights, dtype), stored(weights))
    assert cast.same_share == 1.0
    assert cast.rounding_ratio == pytest.approx(1.0, abs=0.1)
    assert cast.rank is None
    other = comparison.add(stored(weights + 0.05 * drawn(2, 64, 64), dtype), stored(weights))
    assert other.rounding_ratio > 100
    assert comparison.result().changed == 1


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_spacings_are_those_of_the_number_formats(dtype: str, values: list[float]) -> None:
    rows = np.array(values, dtype=np.float32)
    found = _spacings(stored(rows, dtype), torch.from_numpy(rows), 0).numpy()
    np.testing.assert_array_equal(found, ulp(rows, dtype))


@pytest.mark.parametrize("shape", [(200, 150), (150, 200), (30, 300)])
def test_the_leading_singular_values_are_numpys(shape: tuple[int, int]) -> None:
    matrix = drawn(3, shape[0], 12) @ np.diag(2.0 ** -np.arange(12)) @ drawn(4, 12, shape[1])
    u, s, v = randomised_svd(torch.from_numpy(matrix.astype(np.float32)), count=20)
    exact = np.linalg.svd(matrix, compute_uv=False)[: len(s)]
    np.testing.assert_allclose(s.numpy()[:12], exact[:12], rtol=1e-4)
    rebuilt = (u * s) @ v.T
    assert np.linalg.norm(rebuilt.numpy() - matrix) < 1e-3 * np.linalg.norm(matrix)


def test_the_rank_of_an_adapter_is_found_under_its_rounding() -> None:
    base = drawn(5, 128, 160)
    change = 0.02 * drawn(6, 128, 5) @ drawn(7, 5, 160)
    comparison = FullComparison(compute=Compute(device="cpu"))
    low = comparison.add(stored(base + change, "BF16"), stored(base, "BF16"))
    assert (low.rank, low.full_rank) == (5, False)
    assert low.rank_90 <= 5
    full = comparison.add(stored(base + 0.02 * drawn(8, 128, 160)), stored(base))
    assert full.full_rank
    assert full.top_energy < 0.3
    assert full.rank_90 is None


@pytest.mark.parametrize("transposed", [False, True])
def test_a_direction_that_writers_share_is_told_from_chance(transposed: bool) -> None:
    direction = drawn(9, 96)
    direction /= np.linalg.norm(direction)
    shared = FullComparison(compute=Compute(device="cpu"))
    chance = FullComparison(compute=Compute(device="cpu"))
    for seed in range(10, 18):
        weights = drawn(seed, 96, 64)
        edited = weights - np.outer(direction, direction @ weights)
        shared.add(stored(edited, transposed=transposed), stored(weights, transposed=transposed))
        chance.add(stored(weights + 0.1 * drawn(-seed % 999, 96, 64)), stored(weights))
    assert shared.result().writer_coherence == pytest.approx(1.0, abs=1e-3)
    assert chance.result().writer_coherence < 0.4
    assert shared.result().reader_coherence is None


def test_other_shapes_are_not_compared_and_nothing_is_no_distance() -> None:
    comparison = FullComparison(compute=Compute(device="cpu"))
    with pytest.raises(NotComparable, match="against"):
        comparison.add(stored(drawn(1, 4, 4)), stored(drawn(1, 4, 5)))
    zero = comparison.add(stored(drawn(1, 4, 4)), stored(np.zeros((4, 4), np.float32)))
    assert zero.relative_distance is None
    assert zero.cosine is None
    endless = comparison.add(stored(np.full((4, 4), np.inf, np.float32)), stored(drawn(1, 4, 4)))
    assert endless.relative_distance is None
    assert endless.rounding_ratio is None
    assert comparison.result().weights == 16
    assert comparison.result().rounding_ratio is not None


def test_a_step_of_a_transposed_tensor_lies_with_its_weights() -> None:
    weights, step = drawn(2, 6, 4), np.linspace(0.1, 0.9, 24, dtype=np.float32)
    packed = np.round(weights.reshape(-1) / step).reshape(6, 4) * step.reshape(6, 4)
    told = []
    for transposed in (False, True):
        comparison = FullComparison(compute=Compute(device="cpu"))
        mine = stored(packed.astype(np.float32), transposed=transposed)
        own = step.reshape(6, 4).T.reshape(-1) if transposed else step
        mine = replace(mine, step=np.ascontiguousarray(own))
        told.append(comparison.add(mine, stored(weights, transposed=transposed)))
    assert told[0].same_share == told[1].same_share == 1.0
    assert told[0].rounding_ratio == pytest.approx(told[1].rounding_ratio)
