"""Pipelines and mixtures of experts: which part is read, and that layouts of it compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import (
    CONFIG,
    Weights,
    coverage,
    date_in_order,
    infer_once,
    rows_of,
    scan_once,
    scan_served,
    tiny_weights,
    write_model,
)

from modelkin.scanners.components import component_layouts
from modelkin.scanners.formats.sharded import choose_weight_files
from modelkin.scanners.sources.folder import FolderSource


def test_of_a_pipeline_the_denoiser_is_read() -> None:
    files = ["model_index.json", *(f"{n}.safetensors" for n in ("vae/d", "unet/d", "unet/d.fp16"))]
    layout = choose_weight_files(files)
    assert (layout.kind, layout.files) == ("single", ("unet/d.safetensors",))
    index = "transformer/d.safetensors.index.json"
    shards = [f"transformer/d-0000{n}-of-00002.safetensors" for n in (1, 2)]
    layout = choose_weight_files([*files, index, *shards])
    assert (layout.kind, layout.index, layout.files) == ("sharded", index, tuple(shards))
    assert choose_weight_files(files[1:]).kind == "unsupported"


def test_pipelines_are_placed_by_their_denoiser(tmp_path: Path) -> None:
    root, store = tmp_path / "models", tmp_path / "store"
    chance = torch.Generator().manual_seed(0)

    def unet(step: float) -> dict[str, torch.Tensor]:
        return {
            f"down_blocks.{at}.attentions.0.to_{part}.weight": base[at, n] + step * move[at, n]
            for at in range(4)
            for n, part in enumerate(("q", "k", "v"))
        }

    base, move = (torch.randn(4, 3, 64, 64, generator=chance) * 0.1 for _ in range(2))
    other = torch.randn(4, 3, 64, 64, generator=chance) * 0.1
    for name, step in (("lab/pipe", 0.0), ("ann/tuned", 0.02), ("eve/stranger", None)):
        folder = root / name
        (folder / "unet").mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        if step is None:
            base = other
        save_file(unet(step or 0.0), folder / "unet/diffusion_pytorch_model.safetensors")
    scan_once(store, FolderSource(root))
    infer_once(store)
    assert coverage(store, 1)["lab/pipe"].path == "unet/diffusion_pytorch_model.safetensors"
    found = rows_of(store, "SELECT child, parent FROM edges WHERE inferred")
    assert {frozenset(edge) for edge in found} == {frozenset({"lab/pipe", "ann/tuned"})}


def test_experts_alone_and_in_a_stack_are_one_model(tmp_path: Path) -> None:
    root, store = tmp_path / "models", tmp_path / "store"
    base = {n: v for n, v in tiny_weights("moe", hidden=64).items() if ".mlp." not in n}
    chance = np.random.default_rng(0)
    experts = {
        (layer, part): chance.normal(0, 0.1, (4, *shape)).astype(np.float32)
        for layer in range(2)
        for part, shape in (("gate", (96, 64)), ("up", (96, 64)), ("down", (64, 96)))
    }
    alone = dict(base)
    stacked = {n: torch.from_numpy(v) for n, v in base.items()}
    for (layer, part), stack in experts.items():
        stem = f"model.layers.{layer}.mlp.experts"
        stacked[f"{stem}.{part}_proj"] = torch.from_numpy(stack)
        alone |= {f"{stem}.{at}.{part}_proj.weight": stack[at] for at in range(4)}
    write_model(root, "lab/alone", alone)
    write_model(root, "ann/tuned", tuned_all(alone))
    folder = write_model(root, "bob/stacked", base)
    save_file(stacked, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    scan_once(store, FolderSource(root))
    infer_once(store)
    keys = {row[0] for row in rows_of(store, "SELECT shape_key FROM models")}
    assert len(keys) == 1
    assert "expert.mlp.down=64x96" in keys.pop()
    query = "SELECT child, parent, relation FROM edges WHERE inferred AND relation = 'copy'"
    ((child, parent, _),) = rows_of(store, query)
    assert {child, parent} == {"lab/alone", "bob/stacked"}


def tuned_all(weights: Weights) -> Weights:
    """A copy with every matrix moved a little."""
    chance = np.random.default_rng(1)
    moved = {n: chance.normal(0, 0.002, v.shape).astype(np.float32) for n, v in weights.items()}
    return {n: v + moved[n] if v.ndim > 1 else v for n, v in weights.items()}


DENOISER = {
    f"down_blocks.{at}.attentions.0.transformer_blocks.0.attn1.{name}.weight": (64, 64)
    for at in range(2)
    for name in ("to_q", "to_k", "to_v", "to_out.0")
}
ENCODER = {
    f"text_model.encoder.layers.{at}.{name}.weight": (32, 32)
    for at in range(2)
    for name in ("self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
}
AUTOENCODER = {f"encoder.down_blocks.{at}.resnets.0.conv1.weight": (8, 8, 3, 3) for at in range(2)}
PIPELINE = {"unet": DENOISER, "text_encoder": ENCODER, "vae": AUTOENCODER}
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def write_pipeline(folder: Path, steps: Mapping[str, tuple[int, int, float]]) -> None:
    """A pipeline; of each model its seed, the seed of a step from it, and how long that is."""
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    for name, (seed, tuning, size) in steps.items():
        chance = torch.Generator().manual_seed(seed)
        tensors = {
            key: torch.randn(*shape, generator=chance) * 0.1
            for key, shape in PIPELINE[name].items()
        }
        step = torch.Generator().manual_seed(tuning)
        tensors = {k: v + size * torch.randn(v.shape, generator=step) for k, v in tensors.items()}
        (folder / name).mkdir()
        save_file(tensors, folder / name / FILES[name])


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store") / "s"
    base = {"unet": (1, 0, 0.0), "text_encoder": (2, 0, 0.0), "vae": (3, 0, 0.0)}
    write_pipeline(root / "lab/pipe", base)
    write_pipeline(root / "ann/tuned", {**base, "unet": (1, 5, 0.005)})
    write_pipeline(root / "cat/swapped", {**base, "unet": (1, 7, 0.005), "vae": (9, 0, 0.0)})
    write_pipeline(root / "dan/mirror", base)
    write_pipeline(root / "eve/damaged", {**base, "unet": (1, 8, 0.005)})
    broken = root / "eve/damaged/text_encoder/model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    write_pipeline(root / "fay/other", {"unet": (20, 0, 0.0), "vae": (9, 0, 0.0)})
    scan_once(store, FolderSource(root))
    infer_once(store)
    return store


def told_components(store: Path) -> dict[frozenset[str], tuple[str, dict[str, str]]]:
    found = rows_of(store, "SELECT child, parent, relation, detail FROM edges WHERE inferred")
    return {
        frozenset({child, parent}): (relation, json.loads(detail or "{}").get("components"))
        for child, parent, relation, detail in found
    }


def test_each_model_of_a_pipeline_is_told_of(pipelines: Path) -> None:
    told = told_components(pipelines)
    same = {"text_encoder": "same", "vae": "same"}
    assert told[frozenset({"lab/pipe", "dan/mirror"})] == ("copy", same)
    tuned_edge = next(edge for edge in told if "ann/tuned" in edge)
    assert told[tuned_edge] == ("finetune", same)


def test_a_pipeline_with_another_text_encoder_is_no_copy(tmp_path: Path) -> None:
    base = {"unet": (1, 0, 0.0), "text_encoder": (2, 0, 0.0), "vae": (3, 0, 0.0)}
    write_pipeline(tmp_path / "models/lab/pipe", base)
    write_pipeline(tmp_path / "models/bob/words", {**base, "text_encoder": (2, 6, 0.005)})
    scan_once(tmp_path / "store", FolderSource(tmp_path / "models"))
    infer_once(tmp_path / "store")
    ((relation, components),) = told_components(tmp_path / "store").values()
    assert relation == "finetune"
    assert components == {"text_encoder": "changed", "vae": "same"}


def test_a_cast_of_a_pipeline_is_a_copy_in_a_bucket_of_any_size(tmp_path: Path) -> None:
    base = {"unet": (1, 0, 0.0), "text_encoder": (2, 0, 0.0), "vae": (3, 0, 0.0)}
    root, store = tmp_path / "models", tmp_path / "store"
    write_pipeline(root / "lab/pipe", base)
    write_pipeline(root / "ann/half", base)
    write_pipeline(root / "bob/words", {**base, "text_encoder": (2, 6, 0.005)})
    for path in (root / "ann/half").rglob("*.safetensors"):
        save_file({n: t.half() for n, t in load_file(path).items()}, path)
    scan_once(store, FolderSource(root))
    for large in (1_000, 1):
        infer_once(store, large=large)
        told = told_components(store)
        words = next(found for edge, found in told.items() if "bob/words" in edge)
        assert words == ("finetune", {"text_encoder": "changed", "vae": "same"})
        half = next(found for edge, found in told.items() if edge == {"lab/pipe", "ann/half"})
        assert half == ("copy", {"text_encoder": "same", "vae": "same"})


def test_a_part_of_no_known_kind_costs_only_itself(tmp_path: Path) -> None:
    base = {"unet": (1, 0, 0.0), "text_encoder": (2, 0, 0.0), "vae": (3, 0, 0.0)}
    root, store = tmp_path / "models", tmp_path / "store"
    write_pipeline(root / "lab/pipe", base)
    write_pipeline(root / "bob/odd", base)
    (root / "bob/odd/aux").mkdir()
    save_file({"steps": torch.zeros(4, dtype=torch.int32)}, root / "bob/odd/aux/model.safetensors")
    scan_once(store, FolderSource(root))
    infer_once(store)
    found = coverage(store, 1)["bob/odd"]
    assert (found.outcome, found.path) == ("ok", "aux/model.safetensors")
    assert found.reason
    ((relation, components),) = told_components(store).values()
    assert (relation, components) == ("copy", {"text_encoder": "same", "vae": "same"})


def test_a_part_that_is_not_decoded_is_never_called_the_same(tmp_path: Path) -> None:
    base = {"unet": (1, 0, 0.0), "text_encoder": (2, 0, 0.0), "vae": (3, 0, 0.0)}
    root, store = tmp_path / "models", tmp_path / "store"
    write_pipeline(root / "lab/pipe", base)
    write_pipeline(root / "bob/odd", base)
    (file,) = (root / "bob/odd/text_encoder").glob("*.safetensors")
    save_file({"steps": torch.zeros(4, dtype=torch.int32)}, file)
    date_in_order(root, "lab/pipe", "bob/odd")
    scan_served(store, root)
    infer_once(store)
    ((relation, components),) = told_components(store).values()
    assert (relation, components) == ("finetune", {"text_encoder": "absent", "vae": "same"})


def test_a_damaged_part_is_said_and_the_pipeline_is_placed(pipelines: Path) -> None:
    found = coverage(pipelines, 1)["eve/damaged"]
    assert (found.outcome, found.path) == ("malformed", "text_encoder/model.safetensors")
    assert found.stage == "sketch"
    assert any("eve/damaged" in edge for edge in told_components(pipelines))


def test_each_part_costs_a_few_requests(pipelines: Path) -> None:
    rows = coverage(pipelines, 1)
    assert rows["lab/pipe"].path == "unet/diffusion_pytorch_model.safetensors"
    assert rows["lab/pipe"].requests - rows["fay/other"].requests <= 9 + 2


def test_diffusers_and_transformers_write_what_is_read(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    transformers = pytest.importorskip("transformers")
    root, store = tmp_path / "models", tmp_path / "store"
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        **{"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1},
        **{"block_out_channels": (32, 64), "norm_num_groups": 8, "cross_attention_dim": 32},
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1},
        )
    )
    for name in ("lab/pipe", "ann/tuned", "bob/words"):
        folder = root / name
        with torch.no_grad():
            for weight in unet.parameters() if name == "ann/tuned" else ():
                weight.add_(torch.randn_like(weight), alpha=0.002)
            for weight in text.parameters() if name == "bob/words" else ():
                weight.add_(torch.randn_like(weight), alpha=0.002)
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        text.save_pretrained(folder / "text_encoder")
        (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    scan_once(store, FolderSource(root))
    infer_once(store)
    told = told_components(store)
    assert {"text_encoder": "same", "vae": "same"} in [
        components for edge, (_, components) in told.items() if "bob/words" not in edge
    ]
    words = next(edge for edge in told if "bob/words" in edge)
    assert told[words][1]["text_encoder"] == "changed"
    (key,) = {row[0] for row in rows_of(store, "SELECT shape_key FROM models")}
    assert "raw:" not in key


def test_sentence_transformers_are_read_with_their_head(tmp_path: Path) -> None:
    paths = ["model.safetensors", "modules.json", "1_Pooling/config.json"]
    paths += ["2_Dense/model.safetensors", "2_Dense/config.json", "onnx/model.onnx"]
    main = choose_weight_files(paths)
    assert main.files == ("model.safetensors",)
    found = component_layouts(paths, main)
    assert {name: one.files for name, one in found.items()} == {
        "2_Dense": ("2_Dense/model.safetensors",)
    }
