"""All weights of two models, over HTTP and from a folder: the same numbers, little in memory."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import numpy as np
import pytest
from faulty_hub import FaultyHub
from gguf_files import write_gguf
from small_models import hub_source, tiny_weights, tuned, write_model

from modelkin.lineage.compute import Compute
from modelkin.lineage.errors import FormatError, NotComparable
from modelkin.lineage.full_delta import StoredTensor, TensorDelta
from modelkin.scanners.full_compare import FullReport, compare_full
from modelkin.scanners.sources.base import Source
from modelkin.scanners.sources.folder import FolderSource

BASE, CHILD = "lab/base", "user/child"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in one file, a child of it in three shards, and what it cannot be compared with."""
    root = tmp_path_factory.mktemp("models")
    weights = tiny_weights(1)
    child = tuned(weights, 2)
    child["model.embed_tokens.weight"] = tiny_weights(3, hidden=64)["model.embed_tokens.weight"]
    write_model(root, BASE, weights)
    write_model(root, CHILD, child, shards=3)
    write_model(root, "other/wide", tiny_weights(4, hidden=64))
    folder = root / "q" / "base-gguf"
    folder.mkdir(parents=True)
    write_gguf(folder / "base-F16.gguf", weights, "F16")
    broken = write_model(root, "bad/broken", weights) / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    return root


def compared(source: Source, a: str = CHILD, b: str = BASE, **more: object) -> FullReport:
    async def work() -> FullReport:
        try:
            return await compare_full(source, a, b, compute=Compute(device="cpu"), **more)  # type: ignore[arg-type]
        finally:
            await source.close()

    return asyncio.run(work())


def test_a_folder_and_a_hub_give_the_same(models: Path) -> None:
    local = compared(FolderSource(models))
    with FaultyHub(models) as hub:
        served = compared(hub_source(hub.url))
    assert served.delta == local.delta
    assert served.skipped == local.skipped == {"embed": "(40, 64) against (40, 32)"}
    names = {one.tensor for one in local.delta.tensors}
    assert {"0.attn.q", "1.mlp.down", "final_norm", "lm_head"} <= names
    assert local.delta.changed == 15
    weights, child = tiny_weights(1), tuned(tiny_weights(1), 2)
    name = "model.layers.1.mlp.down_proj.weight"
    exact = np.linalg.norm((child[name].astype("f8") - weights[name]).ravel())
    (down,) = (one for one in local.delta.tensors if one.tensor == "1.mlp.down")
    assert down.distance == pytest.approx(exact, rel=1e-6)


def test_two_tensors_of_each_model_are_alive_at_most(models: Path) -> None:
    alive = []

    def count(_: TensorDelta) -> None:
        alive.append(sum(type(one) is StoredTensor for one in gc.get_objects()))

    report = compared(FolderSource(models), watch=count)
    assert len(alive) == len(report.delta.tensors) > 10
    assert max(alive) <= 4
    gc.collect()
    assert not any(type(one) is StoredTensor for one in gc.get_objects())


def test_a_stop_leaves_what_was_compared(models: Path) -> None:
    seen: list[TensorDelta] = []
    report = compared(FolderSource(models), watch=seen.append, stopped=lambda: len(seen) >= 3)
    assert report.delta.tensors == tuple(seen)
    assert len(seen) == 3


def test_gguf_is_compared_but_for_what_its_conversion_permutes(models: Path) -> None:
    report = compared(FolderSource(models), "q/base-gguf", BASE)
    assert report.delta.changed == 0
    assert report.skipped["0.attn.q"] == "the conversion to GGUF permutes it"
    assert {one.dtype_a for one in report.delta.tensors if len(one.shape) == 2} == {"F16"}


def test_what_cannot_be_compared_ends_in_a_typed_error(models: Path) -> None:
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        compared(FolderSource(models), "bad/broken", BASE)
    with pytest.raises(NotComparable, match="share no tensor"):
        compared(FolderSource(models), "other/wide", BASE)
