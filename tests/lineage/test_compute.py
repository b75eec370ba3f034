"""Dense products, against float64 on the CPU; on a GPU too, where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import specimens_of, whole_family

from modelkin.lineage.compute import Compute, Device
from modelkin.lineage.infer.engine import infer_bucket
from modelkin.lineage.infer.geometry import measure_geometry
from modelkin.lineage.infer.kinship import measure_kinship

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_gram_is_float64(device: Device, scale: float) -> None:
    rows = (scale * np.random.default_rng(1).normal(size=(7, 30_000))).astype(np.float32)
    exact = rows.astype(np.float64) @ rows.astype(np.float64).T
    found = Compute(device=device).gram(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12 * scale**2 * 30_000)


@pytest.mark.parametrize("device", DEVICES)
def test_cross_keeps_float32_precision(device: Device) -> None:
    draw = np.random.default_rng(2)
    left, right = (draw.normal(size=(n, 20_480)).astype(np.float32) for n in (5, 9))
    exact = left.astype(np.float64) @ right.astype(np.float64).T
    found = Compute(device=device).cross(left, right)
    assert found.shape == (5, 9)
    # Ten bits of mantissa (TF32) would be off by a hundred times as much.
    np.testing.assert_allclose(found, exact, atol=20_480**0.5 * 1e-5)


def test_rows_need_not_be_contiguous() -> None:
    rows = np.random.default_rng(3).normal(size=(100, 12)).astype(np.float32)
    exact = rows.T.astype(np.float64) @ rows.astype(np.float64)
    np.testing.assert_allclose(Compute(device="cpu").gram(rows.T), exact, rtol=1e-12)
    np.testing.assert_allclose(Compute(device="cpu").cross(rows.T, rows.T), exact, atol=1e-3)


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    assert Compute(device="cpu").resolve() == "cpu"
    assert Compute().resolve() == ("cuda" if torch.cuda.is_available() else "cpu")


@NEEDS_GPU
def test_a_gpu_infers_what_the_cpu_infers() -> None:
    weights, _ = whole_family(40)
    group = specimens_of(weights)
    cpu, gpu = Compute(device="cpu"), Compute(device="cuda")
    np.testing.assert_allclose(
        measure_kinship(group, compute=gpu).agreement,
        measure_kinship(group, compute=cpu).agreement,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        measure_geometry(group, compute=gpu).gram,
        measure_geometry(group, compute=cpu).gram,
        rtol=1e-9,
        atol=1e-9,
    )
    edges = [
        {(e.child, e.parent, e.relation) for e in infer_bucket(group, compute=one).edges}
        for one in (cpu, gpu)
    ]
    assert edges[0] == edges[1]
