"""Adapters: their change computed from the header on, their base found through merged children."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
from modelkin.lineage.infer.adapters import change_to
from modelkin.lineage.infer.specimen import Block, Specimen
from modelkin.lineage.records import RoleKey
from modelkin.scanners.formats.adapter_names import adapter_tensor
from modelkin.scanners.formats.adapters import LoraWeight, adapter_weights
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


def test_lengths_of_rows_stand_beside_the_change() -> None:
    held = {**PEFT, f"base_model.model.{NAME}.lora_magnitude_vector": torch.ones(24)}
    file, data = opened(held, {"use_dora": True, "lora_alpha": 8})
    assert file.packing is not None
    assert file.packing.type == f"dora r{RANK}"
    weight = file.weights[f"{NAME}.weight"]
    assert isinstance(weight, LoraWeight)
    first, rows, values = weight.magnitude_of(40, 20) or (0, 0, weight)
    assert (first, rows) == (2, 2)
    assert np.array_equal(np.frombuffer(span(values, data, first, rows).data, "<f4"), [1, 1])
    broken = {**held, f"base_model.model.{NAME}.lora_magnitude_vector": torch.ones(23)}
    with pytest.raises(MalformedFile, match="23 magnitudes"):
        opened(broken, {})


@pytest.mark.parametrize("first", [0, 1])
def test_one_module_with_lengths_says_nothing_of_the_others(first: int) -> None:
    other = NAME.replace("layers.0", "layers.1")
    modules = [
        {**PEFT, f"base_model.model.{NAME}.lora_magnitude_vector": torch.ones(24)},
        {name.replace(NAME, other): 2 * tensor for name, tensor in PEFT.items()},
    ]
    file, _ = opened({**modules[first], **modules[1 - first]}, {"lora_alpha": 8})
    assert set(file.weights) == {f"{NAME}.weight", f"{other}.weight"}
    assert file.skipped == {}


def test_without_their_lengths_changes_of_this_kind_are_not_known() -> None:
    file, _ = opened(PEFT, {"use_dora": True})
    assert file.weights == {}
    assert file.skipped == {"dora": 1}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("hada_w1_a", "loha"), ("lokr_w1", "lokr"), ("ia3_l", "ia3"), ("oft_R.weight", "oft")],
)
def test_other_kinds_are_named(name: str, kind: str) -> None:
    file, _ = opened({f"base_model.model.{NAME}.{name}": torch.zeros(4, 4)}, {})
    assert file.packing is not None
    assert file.packing.type == kind
    assert file.skipped == {kind: 1}


DOWN_BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.3.self_attn.q_proj"


@pytest.mark.parametrize(
    ("stored", "part", "module"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "", DOWN_BLOCK),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "", DOWN_BLOCK),
        (
            "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_out_0",
            "",
            "mid_block.attentions.0.transformer_blocks.9.attn1.to_out.0",
        ),
        (
            "lora_unet_output_blocks_5_1_transformer_blocks_0_ff_net_0_proj",
            "",
            "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj",
        ),
        ("lora_unet_double_blocks_12_img_attn_qkv", "", "double_blocks.12.img_attn.qkv"),
        ("lora_te_text_model_encoder_layers_3_self_attn_q_proj", "text_encoder", TEXT),
        ("lora_te2_text_model_encoder_layers_3_self_attn_q_proj", "text_encoder_2", TEXT),
        (f"unet.{DOWN_BLOCK}", "", DOWN_BLOCK),
        (f"text_encoder.{TEXT}", "text_encoder", TEXT),
        (
            "transformer.single_transformer_blocks.3.attn.to_q",
            "",
            "single_transformer_blocks.3.attn.to_q",
        ),
        ("base_model.model.transformer.h.0.attn.c_attn", "", "transformer.h.0.attn.c_attn"),
        ("transformer.h.0.attn.c_attn", "", "transformer.h.0.attn.c_attn"),
    ],
)
def test_names_are_those_of_the_base(stored: str, part: str, module: str) -> None:
    for end, layout in (("lora_down", "kohya"), ("lora.down", "diffusers-lora")):
        found = adapter_tensor(f"{stored}.{end}.weight")
        assert found == (part, module, "in", layout)


def test_an_attention_processor_is_no_part_of_the_name() -> None:
    stem = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    found = adapter_tensor(f"unet.{stem}.processor.to_out_lora.up.weight")
    assert found == ("", f"{stem}.to_out.0", "out", "diffusers-lora")


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=80))
def test_any_name_is_a_tensor_of_an_adapter_or_is_not(name: str) -> None:
    for text in (name, f"lora_unet_{name}.lora_up.weight", f"unet.{name}.lora_A.weight"):
        found = adapter_tensor(text)
        assert found is None or found.side in ("in", "out", "magnitude", "alpha")


def test_matrices_that_do_not_fit_are_malformed() -> None:
    broken = {**PEFT, f"base_model.model.{NAME}.lora_B.weight": torch.zeros(24, 5)}
    with pytest.raises(MalformedFile, match="ranks 4 and 5"):
        opened(broken, {})


@pytest.mark.parametrize(
    "kind",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"0": 2}, "alpha_pattern": {"0": 16}},
    ],
    ids=lambda held: "+".join(held),
)
def test_peft_merges_the_same_change(kind: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: not compared with it")
    model = torch.nn.Sequential(torch.nn.Linear(16, 24, bias=False))
    before = model[0].weight.detach().numpy().copy()
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=RANK, lora_alpha=8, target_modules=["0"], **kind)
    )
    layer = wrapped.base_model.model[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
    if kind.get("use_dora"):
        torch.nn.init.uniform_(layer.lora_magnitude_vector["default"].weight, 0.5, 1.5)
    state = peft.get_peft_model_state_dict(wrapped)
    file, data = opened(state, {"lora_alpha": 8, **kind})
    (weight,) = file.weights.values()
    after = wrapped.merge_and_unload()[0].weight.detach().numpy()
    base = whole_block("attn.v", before)
    blocks = {
        base.name: whole_block("attn.v", np.frombuffer(span(weight, data, 0, 384).data, "<f4"))
    }
    assert isinstance(weight, LoraWeight)
    if held := weight.magnitude_of(0, 384):
        lengths = np.frombuffer(span(held[2], data, *held[:2]).data, "<f4")
        beside = whole_block("attn.v.magnitude", lengths)
        blocks[beside.name] = beside
    adapter = Specimen(node="a", created=None, blocks={n: b.block for n, b in blocks.items()})
    rows, change = change_to(adapter, base.block, base.name)
    assert np.allclose(before.reshape(-1)[rows] + change, after.reshape(-1)[rows], atol=1e-5)


class Named(NamedTuple):
    name: str
    block: Block


def whole_block(role: str, values: NDArray[np.float32]) -> Named:
    """A tensor sampled whole; 24 x 16 unless it is a vector."""
    key = RoleKey(role=role, layer=0)
    shape = (24, 16) if values.size == 384 else values.shape
    flat = values.reshape(-1)
    block = Block(key=key, shape=shape, transposed=False, start=0, dtype="F32", values=flat)
    return Named(str(key), block)


def write_adapter(
    folder: Path,
    base: Weights,
    *,
    claims: str,
    seed: int,
    old: bool = False,
    dora: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """An adapter of the value and output projections; gives the changes it makes."""
    folder.mkdir(parents=True)
    tensors, changes = {}, {}
    for at, name in enumerate(n for n in base if n.endswith(("v_proj.weight", "o_proj.weight"))):
        down, up = thin(at + seed, *base[name].shape)
        stem = "base_model.model." + name.removesuffix(".weight")
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        changes[name] = (2.0 * up.double() @ down.double()).numpy().astype(np.float32)
        if dora:
            summed = base[name] + changes[name]
            norms = np.linalg.norm(summed, axis=1)
            lengths = norms * np.linspace(0.9, 1.2, norms.size, dtype=np.float32)
            tensors[f"{stem}.lora_magnitude_vector"] = torch.from_numpy(lengths)
            changes[name] = summed * (lengths / norms)[:, None] - base[name]
    if old:
        (folder / "adapter_model.bin").write_bytes(saved(tensors))
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    config: dict[str, Any] = {"use_dora": True} if dora else {}
    config |= {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": claims}
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
    changes = write_adapter(root / "eve/dora", base, claims="lab/base", seed=30, dora=True)
    merged = {name: value + changes.get(name, np.float32(0)) for name, value in base.items()}
    write_model(root, "fay/merged", merged)
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


def test_one_with_lengths_is_found_in_its_merged_child(store: Path) -> None:
    query = (
        "SELECT parent, relation, detail->>'merged_into', detail->>'type' FROM edges "
        "WHERE child = 'eve/dora' AND inferred"
    )
    assert rows_of(store, query) == [("lab/base", "adapter", "fay/merged", f"dora r{RANK}")]


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
