"""Adapters: their change computed from the header on, their base found through merged children."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save, save_file
from small_models import (
    ask,
    coverage,
    infer_once,
    rows_of,
    scan_once,
    tiny_weights,
    tuned,
    write_model,
)
from torch_files import saved
from weight_files import MemoryBytes, span

from modelkin.lineage.errors import MalformedFile
from modelkin.scanners.formats.adapters import adapter_weights
from modelkin.scanners.formats.base import WeightFile
from modelkin.scanners.formats.safetensors_file import read_header
from modelkin.scanners.sources.folder import FolderSource

Weights = dict[str, NDArray[np.float32]]
RANK = 4
NAME = "model.layers.0.self_attn.v_proj"


def thin(seed: int, rows: int, columns: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, columns, generator=chance)
    return down * 0.05, torch.randn(rows, rank, generator=chance) * 0.05


def opened(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> tuple[WeightFile, bytes]:
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    header = asyncio.run(read_header(MemoryBytes(data)))
    return adapter_weights({spec.name: spec for spec in header.tensors}, config), data


DOWN, UP = thin(0, 24, 16)
PRODUCT = (UP.double() @ DOWN.double()).numpy()
PEFT = {
    f"base_model.model.{NAME}.lora_A.weight": DOWN,
    f"base_model.model.{NAME}.lora_B.weight": UP,
}
LAYOUTS: dict[str, tuple[Mapping[str, torch.Tensor], dict[str, Any], float, str]] = {
    "peft": (PEFT, {"lora_alpha": 8}, 2.0, "peft"),
    "rank-stabilised": (PEFT, {"lora_alpha": 8, "use_rslora": True}, 4.0, "peft"),
    "pattern": (PEFT, {"lora_alpha": 8, "alpha_pattern": {"v_proj": 16}}, 4.0, "peft"),
    "no alpha": (PEFT, {}, 1.0, "peft"),
    "named adapter": (
        {name.replace(".weight", ".default.weight"): t for name, t in PEFT.items()},
        {"lora_alpha": 8},
        2.0,
        "peft",
    ),
    "mlx": (
        {f"{NAME}.lora_a": DOWN.T, f"{NAME}.lora_b": UP.T},
        {"lora_parameters": {"rank": RANK, "scale": 20.0}},
        20.0,
        "mlx-adapter",
    ),
    "kohya": (
        {
            f"{NAME}.lora_down.weight": DOWN,
            f"{NAME}.lora_up.weight": UP,
            f"{NAME}.alpha": torch.tensor(2.0),
        },
        {},
        0.5,
        "kohya",
    ),
    "diffusers": (
        {f"{NAME}.lora.down.weight": DOWN, f"{NAME}.lora.up.weight": UP},
        {},
        1.0,
        "diffusers-lora",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_change_is_that_of_the_base(layout: str) -> None:
    tensors, config, scale, form = LAYOUTS[layout]
    file, data = opened(tensors, config)
    assert file.packing is not None
    assert (file.packing.format, file.packing.type) == (form, f"lora r{RANK}")
    weight = file.weights[f"{NAME}.weight"]
    assert weight.shape == (24, 16)
    for start, count in ((0, 384), (16, 100), (40, 7)):
        found = np.frombuffer(span(weight, data, start, count).data, "<f4")
        expected = (scale * PRODUCT).reshape(-1)[start : start + count]
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_a_transposed_base_gets_a_transposed_change() -> None:
    name = "base_model.model.transformer.h.0.attn.c_attn"
    tensors = {f"{name}.lora_A.weight": DOWN, f"{name}.lora_B.weight": UP}
    file, data = opened(tensors, {"lora_alpha": 4, "fan_in_fan_out": True})
    weight = file.weights["transformer.h.0.attn.c_attn.weight"]
    assert weight.shape == (16, 24)
    found = np.frombuffer(span(weight, data, 24, 48).data, "<f4")
    assert np.allclose(found, PRODUCT.T.reshape(-1)[24:72], rtol=1e-5, atol=1e-8)


def test_magnitudes_need_the_base() -> None:
    file, _ = opened(PEFT, {"use_dora": True})
    assert file.weights == {}
    assert file.packing is not None
    assert file.packing.type == f"dora r{RANK}"


def test_matrices_that_do_not_fit_are_malformed() -> None:
    broken = {**PEFT, f"base_model.model.{NAME}.lora_B.weight": torch.zeros(24, 5)}
    with pytest.raises(MalformedFile, match="ranks 4 and 5"):
        opened(broken, {})


def test_peft_computes_the_same_change() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: not compared with it")
    model = torch.nn.Sequential(torch.nn.Linear(16, 24, bias=False))
    config = peft.LoraConfig(r=RANK, lora_alpha=8, target_modules=["0"], use_rslora=True)
    wrapped = peft.get_peft_model(model, config)
    layer = wrapped.base_model.model[0]
    layer.lora_B["default"].weight.data.copy_(UP)
    expected = layer.get_delta_weight("default").detach().numpy()
    state = peft.get_peft_model_state_dict(wrapped)
    file, data = opened(state, {"lora_alpha": 8, "use_rslora": True})
    (weight,) = file.weights.values()
    found = np.frombuffer(span(weight, data, 0, 384).data, "<f4").reshape(24, 16)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-7)


def write_adapter(
    folder: Path, base: Weights, *, claims: str, seed: int, old: bool = False
) -> dict[str, NDArray[np.float32]]:
    """An adapter of the value and output projections; gives the changes it makes."""
    folder.mkdir(parents=True)
    tensors, changes = {}, {}
    for at, name in enumerate(n for n in base if n.endswith(("v_proj.weight", "o_proj.weight"))):
        down, up = thin(at + seed, *base[name].shape)
        stem = "base_model.model." + name.removesuffix(".weight")
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        changes[name] = (2.0 * up.double() @ down.double()).numpy().astype(np.float32)
    if old:
        (folder / "adapter_model.bin").write_bytes(saved(tensors))
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": claims}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return changes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store") / "s"
    base = tiny_weights("base", hidden=64)
    write_model(root, "lab/base", base)
    write_model(root, "lab/other", tiny_weights("other", hidden=32))
    write_model(root, "bob/sibling", tuned(base, "sibling"))
    changes = write_adapter(root / "ann/lora", base, claims="lab/base", seed=10)
    merged = {name: value + changes.get(name, np.float32(0)) for name, value in base.items()}
    write_model(root, "cat/merged", merged)
    write_adapter(root / "dan/misfit", base, claims="lab/other", seed=50, old=True)
    scan_once(store, FolderSource(root))
    infer_once(store)
    return store


def test_an_adapter_is_a_node_with_facts(store: Path) -> None:
    assert coverage(store, 1)["ann/lora"].outcome == "ok"
    assert coverage(store, 1)["dan/misfit"].path == "adapter_model.bin"
    query = "SELECT format, dtype, shape_key FROM models WHERE model = 'ann/lora'"
    assert rows_of(store, query) == [("peft", "lora r4", None)]


def test_its_base_is_inferred_through_the_merged_child(store: Path) -> None:
    query = (
        "SELECT parent, relation, declared, inferred, detail->>'merged_into' FROM edges "
        "WHERE child = 'ann/lora'"
    )
    assert rows_of(store, query) == [("lab/base", "adapter", True, True, "cat/merged")]
    query = (
        "SELECT parent, relation, detail->>'method', detail->>'adapter' FROM edges "
        "WHERE child = 'cat/merged'"
    )
    assert rows_of(store, query) == [("lab/base", "finetune", "lora", "ann/lora")]


def test_an_adapter_of_another_shape_is_misdeclared(store: Path) -> None:
    found = rows_of(store, "SELECT model, ancestor FROM findings WHERE kind = 'misdeclared_parent'")
    assert ("dan/misfit", "lab/other") in found
    assert "ann/lora" not in {model for model, _ in found}


@pytest.mark.parametrize("large", [1_000, 1])
def test_a_base_stays_where_only_other_shapes_or_new_models_are_inferred(
    store: Path, large: int
) -> None:
    query = "SELECT parent FROM edges WHERE child = 'ann/lora' AND inferred"
    before = rows_of(store, query)
    assert before == [("lab/base",)]
    (other,) = rows_of(store, "SELECT shape_key FROM models WHERE model = 'lab/other'")[0]
    infer_once(store, shapes={other}, large=large)
    assert rows_of(store, query) == before
    infer_once(store, large=large)
    assert rows_of(store, query) == before


def test_a_damaged_sketch_of_an_adapter_ends_no_judgement(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    rows = ask(copy, lambda registry: registry.sketched(names=["dan/misfit"]))
    (copy / "sketches" / rows[0].sketch_path).write_bytes(b"nothing")
    assert "dan/misfit" in infer_once(copy).unreadable
    found = rows_of(copy, "SELECT model FROM findings WHERE status IN ('new', 'open')")
    assert ("dan/misfit",) not in found
