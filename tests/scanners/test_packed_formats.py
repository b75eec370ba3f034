"""Quantized safetensors: every packing decodes to weights within half a step of their source."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packers import PACKINGS, is_packable, pack, stream, write_packed
from safetensors.torch import save, save_file
from small_models import CONFIG, infer_once, rows_of, scan_once, tiny_weights, tuned, write_model
from weight_files import MemoryBytes, span

from modelkin.lineage.errors import FormatError
from modelkin.scanners.formats.base import WeightFile
from modelkin.scanners.formats.packed import group_parts, unpack
from modelkin.scanners.formats.row_packed import bit_fields
from modelkin.scanners.formats.safetensors_file import read_header
from modelkin.scanners.sources.folder import FolderSource

UNDECODABLE = {
    "exl2": ("q_weight", "q_invperm", "q_scale", "q_scale_max", "q_groups"),
    "exl3": ("trellis", "suh", "svh"),
    "hqq": ("W_q", "scale", "zero"),
    "aqlm": ("codes", "codebooks", "scales"),
    "vptq": ("centroids", "indices", "weight_scale", "weight_bias"),
}


def opened(data: bytes, config: Mapping[str, Any]) -> WeightFile:
    header = asyncio.run(read_header(MemoryBytes(data)))
    return unpack({spec.name: spec for spec in header.tensors}, config=config)


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_packing_decodes_to_its_source(kind: str) -> None:
    weights = tiny_weights("source", hidden=64)
    data = save({name: one.contiguous() for name, one in pack(weights, kind).items()})
    file = opened(data, PACKINGS[kind][1])
    assert file.packing is not None
    assert (file.packing.format, file.packing.bits) == PACKINGS[kind][2]
    assert file.weights.keys() == weights.keys()
    for name, value in weights.items():
        weight = file.weights[name]
        assert weight.shape == value.shape, name
        if not is_packable(name, value):
            continue
        for start, count in ((0, value.size), (256, 512)):
            decoded = span(weight, data, start, count)
            assert decoded.step is not None
            found = np.frombuffer(decoded.data, "<f4")
            off = np.abs(found - value.reshape(-1)[start : start + found.size])
            bound = 0.51 * decoded.step + 2e-3 * np.abs(found) + 1e-6
            # An uneven codebook is wider on one side; beyond the last code all is possible.
            assert np.mean(off <= bound) > 0.8, name
            ratio = float(np.mean(12 * (off / np.maximum(decoded.step, 1e-9)) ** 2))
            assert 0.3 < ratio < 3, (name, ratio)


@pytest.mark.parametrize("kind", ["gptq", "awq", "gptq-3"])
def test_a_wide_transposed_matrix_is_narrowed(kind: str) -> None:
    chance = np.random.default_rng(5)
    weight = chance.normal(0, 0.1, (4096, 256)).astype(np.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    data = save({n: t.contiguous() for n, t in pack({name: weight}, kind).items()})
    file = opened(data, PACKINGS[kind][1])
    located = file.weights[name].locate(0, 20_480, budget=500_000)
    assert located is not None
    assert located.size < 140_000
    decoded = span(file.weights[name], data, 0, 20_480)
    assert decoded.width is not None
    assert 0 < decoded.width < 256
    found = np.frombuffer(decoded.data, "<f4").reshape(80, decoded.width)
    assert np.abs(found - weight[:80, : decoded.width]).max() < 0.2


def test_names_of_parts_are_those_of_one_weight() -> None:
    names = ["a.q.qweight", "a.q.scales", "a.q.qzeros", "a.q.bias", "norm.weight", "norm.scale"]
    assert group_parts(names) == {
        "a.q.weight": ("a.q.qweight", "a.q.scales", "a.q.qzeros"),
        "a.q.bias": ("a.q.bias",),
        "norm.weight": ("norm.weight",),
        "norm.scale": ("norm.scale",),
    }


@pytest.mark.parametrize("kind", UNDECODABLE)
def test_what_cannot_be_decoded_is_named(tmp_path: Path, kind: str) -> None:
    root, store = tmp_path / "models", tmp_path / "store"
    folder = write_model(root, "lab/model")
    weights = tiny_weights("named")
    tensors = {}
    for name, value in weights.items():
        if is_packable(name, value):
            stem = name.removesuffix("weight")
            parts = UNDECODABLE[kind]
            tensors |= {f"{stem}{part}": torch.zeros(4, 4, dtype=torch.int16) for part in parts}
        else:
            tensors[name] = torch.from_numpy(value)
    save_file(tensors, folder / "model.safetensors")
    scan_once(store, FolderSource(root))
    query = "SELECT outcome, reason FROM coverage"
    ((outcome, reason),) = rows_of(store, query)
    assert outcome == "unsupported"
    assert f"packed as {kind} cannot be decoded" in reason


def test_the_first_expert_of_a_stack_stands_for_it() -> None:
    stack = torch.arange(24, dtype=torch.float32).reshape(3, 2, 4)
    data = save({"model.layers.0.mlp.experts.down_proj": stack})
    file = opened(data, {})
    weight = file.weights["model.layers.0.mlp.experts.0.down_proj.weight"]
    assert weight.shape == (2, 4)
    assert np.frombuffer(span(weight, data, 0, 8).data, "<f4").tolist() == list(range(8))


def test_mxfp4_experts_of_gpt_oss() -> None:
    blocks = torch.randint(0, 256, (2, 8, 4, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (2, 8, 4), dtype=torch.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    data = save({f"{name}_blocks": blocks, f"{name}_scales": scales})
    weight = opened(data, {}).weights["model.layers.0.mlp.experts.0.gate_up_proj.weight"]
    assert weight.shape == (8, 128)
    codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    low, high = codes[(blocks[0] & 15).long()], codes[(blocks[0] >> 4).long()]
    values = (
        torch.stack([low, high], dim=-1).flatten(-2) * 2.0 ** (scales[0].float() - 127)[..., None]
    )
    found = np.frombuffer(span(weight, data, 0, 1024).data, "<f4")
    assert np.array_equal(found, values.reshape(-1).numpy())


PARTS = [
    (kind, name)
    for kind in (
        "gptq",
        "gptq-act",
        "awq",
        "nf4-double",
        "int8",
        "fp8-block",
        "w4a16-zero",
        "mlx-4",
    )
    for name in pack({"m.layers.0.mlp.up_proj.weight": np.ones((32, 64), np.float32)}, kind)
]


@pytest.mark.parametrize(("kind", "name"), PARTS)
@pytest.mark.parametrize("damage", ["short", "flat", "other type"])
def test_parts_that_do_not_fit_are_an_error(
    tmp_path: Path, kind: str, name: str, damage: str
) -> None:
    weights = {
        "m.layers.0.mlp.up_proj.weight": tiny_weights("w")["lm_head.weight"][:32].repeat(2, 1)
    }
    tensors = {n: t.contiguous() for n, t in pack(weights, kind).items()}
    part = tensors[name]
    if damage == "short":
        tensors[name] = part[: max(1, part.shape[0] // 3)].contiguous() if part.dim() else part
    elif damage == "flat":
        tensors[name] = part.reshape(-1).contiguous()
    else:
        tensors[name] = part.to(torch.float32 if not part.is_floating_point() else torch.int32)
    data = save(tensors)
    try:
        file = opened(data, PACKINGS[kind][1])
        for weight in file.weights.values():
            located = weight.locate(0, math.prod(weight.shape), budget=500_000)
            if located is not None:
                located.decode([data[r.begin : r.end] for r in located.ranges])
    except (FormatError, ValueError, IndexError, ArithmeticError):
        # What the decoder itself does not refuse, the sketch makes an error of the file.
        return


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store") / "s"
    base = tiny_weights("base", hidden=64)
    chat, sibling = (tuned(base, name, scale=0.05) for name in ("chat", "sibling"))
    write_model(root, "lab/base", base)
    write_model(root, "ann/chat", chat)
    write_model(root, "bob/sibling", sibling)
    for kind in PACKINGS:
        write_packed(root / f"q/{kind}", chat, kind, CONFIG)
    scan_once(store, FolderSource(root))
    infer_once(store)
    return store


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_packed_copy_is_placed_under_its_source(store: Path, kind: str) -> None:
    query = f"SELECT parent, relation, detail FROM edges WHERE child = 'q/{kind}' AND inferred"
    ((parent, relation, detail),) = rows_of(store, query)
    told = json.loads(detail)
    assert (parent, relation) == ("ann/chat", "quantized")
    assert (told["format"], told["bits"]) == PACKINGS[kind][2]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("columns", [1, 7, 32, 33, 100])
def test_fields_of_a_bit_stream_are_what_was_packed(bits: int, columns: int) -> None:
    values = np.random.default_rng(columns).integers(0, 1 << bits, (5, columns))
    data = stream(values, bits).tobytes()
    np.testing.assert_array_equal(bit_fields(data, bits, 5, columns), values)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_row_that_ends_before_its_fields_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bytes a row"):
        bit_fields(bytes(10), bits, 2, 5 * 8 // bits + 1)
