"""Pipelines and mixtures of experts: which part is read, and that layouts of it compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from small_models import (
    CONFIG,
    Weights,
    coverage,
    infer_once,
    rows_of,
    scan_once,
    tiny_weights,
    write_model,
)

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
