"""Sketching: the budget for models of published shapes, and what ends without a sketch."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import tiny_weights, write_model

from modelkin.lineage.errors import FormatError, MalformedFile, UnsupportedFormat
from modelkin.lineage.records import ModelInfo, Outcome
from modelkin.lineage.sketch.sketch import Sketch
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.formats.sharded import choose_weight_files
from modelkin.scanners.sketching import (
    MAX_BYTES,
    MAX_REQUESTS,
    MIN_SPANS,
    WeightMap,
    map_weights,
    read_sketch,
)
from modelkin.scanners.sources.folder import FolderSource

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "sketch_budget.py"
NAME = "lab/model"


@pytest.fixture(scope="module")
def budget() -> ModuleType:
    """The benchmark script as a module."""
    spec = importlib.util.spec_from_file_location("sketch_budget", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def costs(budget: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cost of each shape by its name."""
    root = tmp_path_factory.mktemp("shapes")
    return {shape.name: (shape, cost) for shape, cost in budget.rows(root)}


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    return FolderSource(tmp_path)


def describe(source: FolderSource) -> ModelInfo:
    return source.info(NAME, traffic=Traffic())


def headers(source: FolderSource, traffic: Traffic | None = None) -> WeightMap:
    info = describe(source)
    layout = choose_weight_files([file.path for file in info.files])
    return asyncio.run(map_weights(source, info, layout, traffic=traffic or Traffic()))


def sketch(source: FolderSource, traffic: Traffic | None = None) -> Sketch:
    spent = traffic or Traffic()
    return asyncio.run(read_sketch(headers(source, spent), traffic=spent))


def test_every_published_shape_is_sketched_within_the_budget(costs: dict[str, Any]) -> None:
    assert {"7b", "7b-2", "7b-4", "7b-f32", "llama-3-8b", "70b"} <= set(costs)
    for name, (_, cost) in costs.items():
        assert cost.coverage.outcome is Outcome.OK, name
        assert cost.coverage.bytes_read <= MAX_BYTES == 2_000_000, name
        assert cost.coverage.requests <= MAX_REQUESTS == 40, name
        assert set(cost.resolves.values()) == {1}, name
        assert cost.spans >= 16, name


def test_the_client_counts_what_the_server_served(costs: dict[str, Any]) -> None:
    for name, (_, cost) in costs.items():
        assert cost.served == cost.coverage.requests, name


def test_a_budget_that_suffices_leaves_no_span_out(costs: dict[str, Any]) -> None:
    spans = {
        name: costs[name][1].spans for name in ("7b", "7b-2", "7b-4", "7b-4-f32", "llama-3-8b")
    }
    # 20 matrices, final norm, embedding, a query and a key each time; the rest as budgets allow.
    assert spans == {"7b": 35, "7b-2": 35, "7b-4": 29, "7b-4-f32": 26, "llama-3-8b": 29}


def test_sharding_does_not_move_the_sample(tmp_path: Path) -> None:
    weights = tiny_weights("model")
    found = []
    for shards in (1, 2, 5):
        root = tmp_path / str(shards)
        write_model(root, NAME, weights, shards=shards)
        found.append(sketch(FolderSource(root)))
    assert {one.digest() for one in found} == {found[0].digest()}


def test_the_table_is_the_same_on_every_run(
    budget: ModuleType,
    costs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "argv", ["sketch_budget", "--folder", str(tmp_path)])
    budget.main()
    head, ruler, *lines = capsys.readouterr().out.splitlines()
    assert head.count("|") == ruler.count("|") == len(budget.COLUMNS) + 1
    assert lines == [budget._line(shape, cost) for shape, cost in costs.values()]


def test_spans_are_dropped_from_the_end_when_requests_run_out(
    source: FolderSource, tmp_path: Path
) -> None:
    write_model(tmp_path, NAME, tiny_weights("model", hidden=512))
    whole = list(sketch(source).blocks)
    short = list(sketch(source, Traffic(requests=26)).blocks)
    assert MIN_SPANS <= len(short) < len(whole)
    assert short == whole[: len(short)]


def test_a_costly_header_still_leaves_the_least_number_of_spans(
    source: FolderSource, tmp_path: Path
) -> None:
    write_model(tmp_path, NAME, tiny_weights("model", hidden=512))
    assert len(sketch(source, Traffic(bytes=9_000_000)).blocks) == MIN_SPANS


def test_only_shards_that_hold_planned_weights_are_opened(
    source: FolderSource, tmp_path: Path
) -> None:
    write_model(tmp_path, NAME, tiny_weights("model", hidden=64, layers=40), shards=20)
    traffic = Traffic()
    weights = headers(source, traffic)
    assert len(weights.sources) < 20
    assert weights.n_params is None
    assert weights.shape_key.startswith("L40;")
    assert len(asyncio.run(read_sketch(weights, traffic=traffic)).blocks) >= MIN_SPANS
    assert traffic.requests <= MAX_REQUESTS


def test_parameters_are_counted_when_every_header_was_read(
    source: FolderSource, tmp_path: Path
) -> None:
    weights = tiny_weights("model")
    write_model(tmp_path, NAME, weights, shards=3)
    assert headers(source).n_params == sum(value.size for value in weights.values())


def test_a_header_longer_than_expected_is_read_to_its_end(
    source: FolderSource, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, NAME, shards=2)
    shard = folder / "model-00001-of-00002.safetensors"
    raw = shard.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = {"notes": "n" * 20_000}
    long = json.dumps(header).encode()
    shard.write_bytes(len(long).to_bytes(8, "little") + long + raw[8 + length :])
    assert sketch(source).blocks


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_malformed(
    source: FolderSource, tmp_path: Path, value: float
) -> None:
    weights = tiny_weights("model")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = value
    write_model(tmp_path, NAME, weights)
    with pytest.raises(MalformedFile, match=r"up_proj.weight holds NaN or infinite") as caught:
        sketch(source)
    assert caught.value.path == "model.safetensors"
    assert caught.value.offset is not None


def test_integers_are_no_weights_to_sketch(source: FolderSource, tmp_path: Path) -> None:
    folder = write_model(tmp_path, NAME)
    whole = {name: value.astype(np.int8) for name, value in tiny_weights("model").items()}
    save_file(whole, folder / "model.safetensors")
    with pytest.raises(UnsupportedFormat, match="no tensor of a known role"):
        sketch(source)


def test_a_row_larger_than_the_budget_is_not_read(
    budget: ModuleType, source: FolderSource, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, NAME)
    wide = [("model.layers.0.self_attn.o_proj.weight", (4, 50_000_000))]
    budget.write_sparse(folder / "model.safetensors", wide, dtype="F32")
    info = ModelInfo(source="dir", source_id=NAME, name=NAME, sha="0" * 40)
    layout = choose_weight_files(["model.safetensors"])
    traffic = Traffic()

    async def work() -> None:
        weights = await map_weights(source, info, layout, traffic=traffic)
        await read_sketch(weights, traffic=traffic)

    with pytest.raises(UnsupportedFormat):
        asyncio.run(work())
    assert traffic.bytes < MAX_BYTES


def broken_indexes() -> Iterator[tuple[str, dict[str, Any], str]]:
    """What is wrong, the weight map's changes, and the file that the error names."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    embed = "model.embed_tokens.weight"
    yield "missing shard", {embed: "model-00009-of-00009.safetensors"}, "model-00009-of-00009"
    yield "another shard", {embed: second}, second
    yield "no such tensor", {"model.layers.0.self_attn.v_proj.bias": first}, first
    yield "path out of the folder", {embed: "../other.safetensors"}, "index.json"
    yield "foreign address", {embed: "http://10.0.0.1/a.safetensors"}, "index.json"


@pytest.mark.parametrize(("what", "changes", "path"), list(broken_indexes()))
def test_an_index_that_lies_is_malformed(
    source: FolderSource, tmp_path: Path, what: str, changes: dict[str, str], path: str
) -> None:
    folder = write_model(tmp_path, NAME, shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] |= changes
    index.write_text(json.dumps(content))
    with pytest.raises(FormatError) as caught:
        sketch(source)
    assert path in caught.value.path, what
