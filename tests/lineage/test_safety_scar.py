"""Scars and changes of whole matrices, on matrices whose edit is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from modelkin.lineage.safety.scar import Scar, ScarScan, change_of, shared_direction

Float32 = NDArray[np.float32]
WIDTH, INPUTS, LAYERS = 80, 120, 12


def model(seed: int = 0) -> list[list[Float32]]:
    """Two writing matrices a layer, heavy along some directions as trained ones are."""
    chance = np.random.default_rng(seed)
    scale = np.exp(chance.standard_normal(WIDTH) / 2)[:, None]
    return [
        [
            (scale * chance.standard_normal((WIDTH, INPUTS))).astype(np.float32) * np.float32(0.02)
            for _ in range(2)
        ]
        for _ in range(LAYERS)
    ]


def edited(
    layers: list[list[Float32]], *, strength: float = 1.0, within: range = range(LAYERS)
) -> list[list[Float32]]:
    r = np.random.default_rng(9).standard_normal(WIDTH).astype(np.float32)
    r /= np.linalg.norm(r)
    return [
        [w - np.float32(strength) * np.outer(r, r @ w) if at in within else w for w in found]
        for at, found in enumerate(layers)
    ]


def scars(layers: list[list[Float32]]) -> list[Scar]:
    scan = ScarScan(len(layers))
    return [one for at, found in enumerate(layers) if (one := scan.add(at, found)) is not None]


def best(layers: list[list[Float32]]) -> Scar:
    return max(scars(layers), key=lambda one: one.value)


def test_a_projection_leaves_a_scar_and_nothing_else_does() -> None:
    plain, cut = best(model()), best(edited(model()))
    assert plain.value < 0.5
    assert cut.value > 4
    assert cut.k == 1
    assert cut.low > 10 * plain.value > 0
    assert cut.inner == pytest.approx(plain.inner, abs=0.1)
    assert best(edited(model(), strength=0.3)).value < 0.5


def test_a_band_of_layers_is_found_by_its_window() -> None:
    found = best(edited(model(), within=range(4, 8)))
    assert found.value > 4
    assert 4 <= found.first <= found.last <= 7
    assert len(scars(model())) > 4


def test_an_edit_is_one_direction_and_rounding_is_none() -> None:
    parent = model()
    chance = np.random.default_rng(3)
    rounded = [
        [(w * (1 + 0.05 * chance.standard_normal(w.shape))).astype(np.float32) for w in found]
        for found in parent
    ]
    for child, low, high in ((edited(parent), 0.99, 1.0), (rounded, 0.0, 0.3)):
        changes = [
            change
            for mine, theirs in zip(child, parent, strict=True)
            for a, b in zip(mine, theirs, strict=True)
            if (change := change_of(a, b)) is not None
        ]
        found = shared_direction(changes)
        assert found is not None
        assert low <= found.value <= high
        assert found.low <= found.value <= found.high
        assert found.matrices == 2 * LAYERS
    assert change_of(parent[0][0], parent[0][0]) is None
    assert shared_direction([]) is None


def test_leading_share_agrees_with_the_whole_decomposition() -> None:
    chance = np.random.default_rng(1)
    parent = np.ones((WIDTH, INPUTS), np.float32)
    child = parent + chance.standard_normal((WIDTH, INPUTS)).astype(np.float32)
    found = change_of(child, parent)
    assert found is not None
    delta = (child - parent).astype(np.float64) / np.sqrt(INPUTS)
    delta -= delta.mean(axis=1, keepdims=True)
    sizes = np.linalg.svd(delta, compute_uv=False) ** 2
    assert found.share == pytest.approx(sizes[0] / sizes.sum(), rel=0.05)
    assert found.share_20 == pytest.approx(sizes[:20].sum() / sizes.sum(), rel=0.05)


def test_too_narrow_a_model_has_no_spectrum() -> None:
    assert scars([[np.ones((8, 8), np.float32)]] * 2) == []
