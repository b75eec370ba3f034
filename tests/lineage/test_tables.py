"""Tables of values that weights were rounded to, told from weights alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from families import fresh, merged, pruned, published, quantized, specimen_of, trained

from modelkin.lineage.codes import FP4, NF4
from modelkin.lineage.infer.tables import find_table

NAME = "model.layers.0.mlp.gate_proj.weight"
Round = Callable[[np.ndarray], np.ndarray]


def _float8(kind: torch.dtype, *, rows: bool = False, top: float = 0.0) -> Round:
    def rounded(weight: np.ndarray) -> np.ndarray:
        value = torch.from_numpy(weight)
        scale = value.abs().amax(1, keepdim=True) if rows else value.abs().max()
        scale = scale / top if top else torch.ones(())
        return ((value / scale).to(kind).float() * scale).numpy()

    return rounded


def _coded(codes: tuple[float, ...], group: int) -> Round:
    table = np.unique(np.array(codes, np.float32))

    def rounded(weight: np.ndarray) -> np.ndarray:
        groups = weight.reshape(-1, group)
        scale = np.abs(groups).max(axis=1, keepdims=True) / table.max()
        nearest = np.abs((groups / scale)[..., None] - table).argmin(axis=-1)
        return np.asarray((table[nearest] * scale).reshape(weight.shape), np.float32)

    return rounded


def _one_step(most: int) -> Round:
    def rounded(weight: np.ndarray) -> np.ndarray:
        step = np.abs(weight).max() / most
        return np.asarray(np.round(weight / step) * step, np.float32)

    return rounded


ROUNDED = {
    "e4m3, as it is": (_float8(torch.float8_e4m3fn), "e4m3", 8),
    "e4m3, one scale": (_float8(torch.float8_e4m3fn, top=448), "e4m3", 8),
    "e4m3, a scale a row": (_float8(torch.float8_e4m3fn, rows=True, top=448), "e4m3", 8),
    "e5m2": (_float8(torch.float8_e5m2, top=57_344), "e5m2", 8),
    "FP4 in groups of 32": (_coded(FP4, 32), "e2m1", 4),
    "NF4 in groups of 64": (_coded(NF4, 64), "nf4", 4),
    "INT8, one step": (_one_step(127), "int8", 8),
    "INT4, one step": (_one_step(7), "int4", 4),
}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("how", ROUNDED)
def test_what_weights_were_rounded_to_is_named(how: str, dtype: str) -> None:
    rounding, name, bits = ROUNDED[how]
    weights = fresh(3)
    weights[NAME] = rounding(weights[NAME])
    one = specimen_of("a", published(weights, dtype), dtype=dtype)
    table = find_table(one.blocks["0.mlp.gate"])
    assert table is not None
    assert (table.name, table.bits) == (name, bits)


@pytest.mark.parametrize("seed", range(4))
def test_trained_pruned_and_merged_weights_lie_on_no_table(seed: int) -> None:
    base = published(fresh(seed))
    tuned = published(trained(base, seed=seed + 50))
    models = {
        "base": base,
        "tuned": tuned,
        "merged": published(merged([base, tuned], [0.5, 0.5])),
        "sparse": pruned(base, share=0.95),
        "int8 by group": published(quantized(base, bits=8, group=32)),
    }
    for node, weights in models.items():
        one = specimen_of(node, weights)
        assert [find_table(one.blocks[name]) for name in one.matrices()] == [None] * len(
            one.matrices()
        ), node
