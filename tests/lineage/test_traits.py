"""Grids and zeros, read off one model's weights."""

from __future__ import annotations

import numpy as np
import pytest
from families import (
    SMALL,
    WIDE,
    Weights,
    abliterated,
    fresh,
    lora,
    merged,
    pruned,
    published,
    quantized,
    specimen_of,
    trained,
)

from modelkin.lineage.infer.traits import Traits, find_grid, grid_step, measure_traits

ROW = None


def traits_of(weights: Weights, dtype: str = "F32") -> Traits:
    return measure_traits(specimen_of("one", weights, dtype=dtype))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [ROW, 128, 64, 32])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_grid_is_found_with_its_bits_and_group(
    bits: int, group: int | None, symmetric: bool
) -> None:
    rounded = quantized(fresh(bits, WIDE), bits=bits, group=group, symmetric=symmetric)
    found = traits_of(rounded)
    assert found.quantized
    assert found.lossy
    assert len(found.grids) == len(found.zeros)
    one = specimen_of("one", rounded, dtype="F32")
    for name, grid in found.grids.items():
        assert grid.bits == bits, name
        assert grid.symmetric == symmetric, name
        assert grid.group == (group or one.blocks[name].columns), name


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize(("bits", "group"), [(2, ROW), (3, 32), (4, ROW), (4, 64), (8, ROW)])
def test_a_grid_is_found_through_the_rounding_of_the_file(
    bits: int, group: int | None, dtype: str
) -> None:
    found = traits_of(quantized(fresh(3, WIDE), bits=bits, group=group), dtype)
    assert found.quantized
    assert {grid.bits for grid in found.grids.values()} == {bits}
    assert all(grid.symmetric for grid in found.grids.values())


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_no_grid_is_seen_in_dense_models(dtype: str) -> None:
    blocks = grids = 0
    for seed in range(4):
        base = fresh(seed, SMALL if seed % 2 else WIDE)
        tuned = trained(base, seed=seed)
        for one in (base, tuned, lora(tuned, seed=1), abliterated(base, seed=2)):
            found = traits_of(one, dtype)
            blocks += len(found.zeros)
            grids += len(found.grids)
            assert not found.lossy
    assert blocks >= 240
    assert grids == 0


def test_no_grid_is_seen_in_heavy_tails_or_in_what_was_trained_after_rounding() -> None:
    draw = np.random.default_rng(8)
    heavy = {n: draw.standard_cauchy(size=v.shape).astype("f4") for n, v in fresh(0).items()}
    assert traits_of(heavy, "BF16").grids == {}
    assert traits_of(trained(quantized(fresh(1), bits=4), seed=2, size=0.02)).grids == {}
    rounded = quantized(fresh(1), bits=4)
    assert traits_of(merged([rounded, fresh(2)], [0.5, 0.5])).grids == {}


def test_pruned_zeros_are_counted() -> None:
    found = traits_of(pruned(fresh(1), share=0.3), "BF16")
    assert found.sparse
    assert found.lossy
    assert not found.quantized
    assert all(share == pytest.approx(0.3, abs=0.01) for share in found.zeros.values())


def test_a_few_zeros_are_not_pruning() -> None:
    weights = published(fresh(1))
    for value in weights.values():
        value.reshape(-1)[::200] = 0
    assert not traits_of(weights).sparse


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_weights_do_not_break_the_search(value: float) -> None:
    flat = {name: np.full_like(v, value) for name, v in fresh(0).items()}
    found = traits_of(flat)
    assert all(share == (value == 0) for share in found.zeros.values())


def test_half_the_blocks_on_a_grid_are_not_a_quantized_model() -> None:
    weights = fresh(1)
    rounded = quantized(weights, bits=4)
    mixed = {n: rounded[n] if "layers.0." in n or "layers.1." in n else weights[n] for n in weights}
    found = traits_of(mixed)
    assert len(found.grids) * 2 == len(found.zeros)
    assert not found.quantized


def test_the_step_is_that_of_the_quantizer() -> None:
    weights = fresh(1)
    rounded = quantized(weights, bits=4, group=32)
    block = specimen_of("one", rounded, dtype="F32").blocks["0.mlp.up"]
    grid = find_grid(block)
    assert grid is not None
    first, steps = grid_step(block, grid)
    whole = weights["model.layers.0.mlp.up_proj.weight"]
    expected = np.abs(whole.reshape(-1, 32)).max(axis=1) / 7
    assert first == 0
    np.testing.assert_allclose(steps.reshape(-1, 32)[:, 0], expected, rtol=1e-5)


def test_an_empty_model_has_no_traits() -> None:
    found = measure_traits(specimen_of("one", {"norm.weight": np.ones(8, "f4")}))
    assert not found.lossy
    assert (found.grids, found.zeros) == ({}, {})
