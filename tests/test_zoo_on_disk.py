"""A small, barely trained benchmark zoo as it lies on disk."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForMaskedLM, GPTNeoXForCausalLM, LlamaForCausalLM

from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.base import ListingFilter
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.loopback import LoopbackHub

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from zoo import merging
from zoo.shelf import build

pytestmark = pytest.mark.slow
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small zoo with three steps of training where a real one has hundreds."""
    out = tmp_path_factory.mktemp("zoo")
    build(out, seed=11, small=True, effort=0.02)
    return out


@pytest.fixture(scope="module")
def truth(zoo: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads((zoo / "truth.json").read_text(encoding="utf-8"))
    return rows


def weights_of(folder: Path) -> Weights:
    """All tensors of a repository in float32."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: w.float() for file in files for name, w in load_file(file).items()}


def rows_with(truth: dict[str, Any], **wanted: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(n, r) for n, r in truth.items() if all(r[k] == v for k, v in wanted.items())]


def test_names_say_nothing(zoo: Path, truth: dict[str, Any]) -> None:
    telling = {"base", "chat", "merge", "lora", "ft", "quant", "prune", "llama", "neox", "bert"}
    for name in truth:
        assert not telling & set(name.replace("/", "-").split("-"))


def test_what_is_published_is_on_disk_and_what_is_hidden_is_not(
    zoo: Path, truth: dict[str, Any]
) -> None:
    shown = {name for name, row in truth.items() if not row["hidden"]}
    assert {path.parent for path in zoo.glob("*/*/README.md")} == {zoo / name for name in shown}
    source = FolderSource(zoo)
    pages = source.pages(narrow=ListingFilter(), traffic=Traffic())
    assert {info.name for page in pages for info in page.models} == shown
    for name in shown:
        weights = weights_of(zoo / name)
        assert weights
        assert all(bool(w.isfinite().all()) for w in weights.values())


def test_the_loopback_hub_serves_the_dates(zoo: Path, truth: dict[str, Any]) -> None:
    with LoopbackHub(zoo) as hub:
        exhibits = hub.exhibits
    for name, exhibit in exhibits.items():
        moment = datetime.fromtimestamp(truth[name]["created"], tz=UTC)
        assert exhibit.facts["createdAt"] == moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def test_truth_rows_hang_together(truth: dict[str, Any]) -> None:
    assert rows_with(truth, hidden=True)
    for row in truth.values():
        for parent in row["parents"]:
            assert truth[parent]["created"] < row["created"]
            assert truth[parent]["family"] == row["family"]
        assert set(row["declared"]) <= truth.keys()
        if row["shares"] is not None:
            assert row["shares"].keys() == set(row["parents"])
            assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
        assert (row["relation"] is None) == (not row["parents"])


def test_a_byte_copy_is_one(zoo: Path, truth: dict[str, Any]) -> None:
    copies = [(n, r) for n, r in rows_with(truth, how="copy") if "bytes" in r["detail"]]
    assert copies
    for name, row in copies:
        for file in (zoo / name).glob("*.safetensors"):
            assert file.read_bytes() == (zoo / row["parents"][0] / file.name).read_bytes()


def test_a_cast_moves_no_weight_further_than_half_precision(
    zoo: Path, truth: dict[str, Any]
) -> None:
    for name, row in rows_with(truth, how="copy"):
        parent = weights_of(zoo / row["parents"][0])
        for tensor, weight in weights_of(zoo / name).items():
            torch.testing.assert_close(weight, parent[tensor], rtol=2**-8, atol=2**-24)


def test_a_linear_merge_is_the_mean_of_what_is_published(zoo: Path, truth: dict[str, Any]) -> None:
    for name, row in rows_with(truth, how="merge"):
        if row["detail"]["method"] == "linear":
            parents = [weights_of(zoo / parent) for parent in row["parents"]]
            mean = merging.linear(parents, row["detail"]["weights"])
            for tensor, weight in weights_of(zoo / name).items():
                torch.testing.assert_close(weight, mean[tensor], rtol=2**-8, atol=1e-6)


def test_an_adapter_fits_its_base(zoo: Path, truth: dict[str, Any]) -> None:
    ((name, row),) = rows_with(truth, how="lora-adapter")
    config = json.loads((zoo / name / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == row["parents"][0]
    base, parts = weights_of(zoo / row["parents"][0]), weights_of(zoo / name)
    for tensor, up in parts.items():
        if tensor.endswith("lora_B.weight"):
            stem = tensor.removesuffix(".lora_B.weight")
            shape = (up @ parts[f"{stem}.lora_A.weight"]).shape
            assert base[f"{stem.removeprefix('base_model.model.')}.weight"].shape == shape
            assert bool(up.any())


def test_a_tied_weight_is_stored_once(zoo: Path, truth: dict[str, Any]) -> None:
    for name, row in rows_with(truth, architecture="encoder", hidden=False):
        weights = weights_of(zoo / name)
        assert "bert.embeddings.word_embeddings.weight" in weights
        assert "cls.predictions.decoder.weight" not in weights, row["how"]


def test_a_laundered_model_is_far_away_and_answers_the_same(
    zoo: Path, truth: dict[str, Any]
) -> None:
    ids = torch.arange(2, 22)[None]
    laundered = rows_with(truth, split_class="laundered")
    assert laundered
    for name, row in laundered:
        parent, washed = weights_of(zoo / row["parents"][0]), weights_of(zoo / name)
        assert sum(float((washed[n] - w).square().sum()) for n, w in parent.items()) > 1
        models = [LlamaForCausalLM.from_pretrained(zoo / n) for n in (row["parents"][0], name)]
        first, second = (model.float()(input_ids=ids).logits for model in models)
        torch.testing.assert_close(first, second, rtol=0, atol=0.02)  # rounded to bfloat16 since


def test_transformers_loads_every_model_whole(zoo: Path, truth: dict[str, Any]) -> None:
    models = {
        "llama": LlamaForCausalLM,
        "neox": GPTNeoXForCausalLM,
        "encoder": BertForMaskedLM,
    }
    for name, row in rows_with(truth, hidden=False):
        if row["how"] != "lora-adapter":
            kind = models[row["architecture"]]
            _model, told = kind.from_pretrained(zoo / name, output_loading_info=True)
            assert not any(told.values()), (name, row["how"], told)
