"""Inference over a store: sketches go in and come out whole, and damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    ask,
    contents,
    date_in_order,
    infer_once,
    rows_of,
    scan_once,
    scan_served,
    tiny_weights,
    tuned,
    write_model,
)

from modelkin.lineage.errors import MalformedFile, RegistryError
from modelkin.lineage.records import RoleKey
from modelkin.lineage.sketch.plan import PLAN_VERSION
from modelkin.lineage.sketch.sketch import Sketch, SketchBlock
from modelkin.scanners.sketch_records import describe_blocks, load_sketch
from modelkin.scanners.sources.folder import FolderSource
from modelkin.store.sketches import RawArray, SketchStore


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a release, two children and a model of another shape."""
    root = tmp_path_factory.mktemp("family")
    base = tiny_weights("base")
    write_model(root / "hub", "lab/base", base)
    write_model(root / "hub", "ann/child", tuned(base, "child"), base="lab/base")
    write_model(root / "hub", "bob/child", tuned(base, "other child"))
    write_model(root / "hub", "cat/wide", tiny_weights("wide", hidden=48))
    date_in_order(root / "hub", "lab/base", "ann/child", "bob/child", "cat/wide")
    scan_served(root / "store", root / "hub")
    return root / "store"


@pytest.fixture
def store(scanned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scanned, tmp_path / "store"))


def block(role: str, layer: int | None, count: int, *, transposed: bool) -> SketchBlock:
    return SketchBlock(
        key=RoleKey(role=role, layer=layer),
        shape=(count, 4),
        transposed=transposed,
        start=2 * count,
        count=count,
        dtype="F32",
        data=np.arange(count, dtype="<f4").tobytes(),
    )


def save(folder: Path, sketch: Sketch, metadata: dict[str, str] | None = None) -> str:
    arrays = {b.name: RawArray(b.dtype, (b.count,), b.data) for b in sketch}
    described = describe_blocks(sketch) if metadata is None else metadata
    return SketchStore(folder).save("ab" * 32, arrays, metadata=described).path


roles = st.sampled_from(["attn.v", "mlp.down", "dec.cross.o", "embed", "raw:x.*.weight"])


@settings(max_examples=30)
@given(
    blocks=st.lists(
        st.builds(
            block,
            roles,
            st.one_of(st.none(), st.integers(0, 200)),
            st.integers(1, 40),
            transposed=st.booleans(),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda one: one.name,
    )
)
def test_a_sketch_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[SketchBlock]
) -> None:
    folder = tmp_path_factory.mktemp("sketches")
    sketch = Sketch(plan=PLAN_VERSION, blocks={one.name: one for one in blocks})
    loaded = load_sketch(SketchStore(folder), save(folder, sketch))
    assert loaded.digest() == sketch.digest()
    assert dict(loaded.blocks) == dict(sketch.blocks)


@pytest.mark.parametrize("text", ["", "4x4", "4x4@", "x@0", "4x4@-1T2", "4.5@1"])
def test_a_block_described_wrongly_is_malformed(tmp_path: Path, text: str) -> None:
    one = block("attn.v", 0, 4, transposed=False)
    sketch = Sketch(plan=PLAN_VERSION, blocks={one.name: one})
    path = save(tmp_path, sketch, {"plan": PLAN_VERSION, one.name: text})
    with pytest.raises(MalformedFile, match="described as"):
        load_sketch(SketchStore(tmp_path), path)


def test_a_missing_sketch_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        load_sketch(SketchStore(tmp_path), "ab/ab/" + "ab" * 32 + ".safetensors")


def test_buckets_are_inferred_one_by_one(store: Path) -> None:
    report = infer_once(store)
    assert (report.buckets, report.models, report.edges) == (2, 4, 2)
    assert report.pairs == 3
    assert report.unreadable == {}
    found = rows_of(store, "SELECT child, parent FROM edges WHERE inferred ORDER BY child")
    assert found == [("ann/child", "lab/base"), ("bob/child", "lab/base")]


def test_inference_is_idempotent(store: Path) -> None:
    infer_once(store)
    before = contents(store)
    infer_once(store)
    assert contents(store) == before


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped header"])
def test_a_damaged_sketch_is_named_and_left_out(store: Path, damage: str) -> None:
    infer_once(store)
    (row,) = ask(store, lambda registry: registry.sketched(names=["bob/child"]))
    file = store / "sketches" / row.sketch_path
    content = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case _:
            file.write_bytes(content[:9] + bytes([content[9] ^ 0xFF]) + content[10:])
    report = infer_once(store)
    assert set(report.unreadable) == {"bob/child"}
    assert report.models == 3
    assert ("bob/child",) not in rows_of(store, "SELECT child FROM edges WHERE inferred")


def test_a_store_without_sketches_infers_nothing(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    scan_once(tmp_path / "store", FolderSource(tmp_path / "hub"))
    report: Any = infer_once(tmp_path / "store")
    assert (report.buckets, report.models, report.pairs, report.edges) == (0, 0, 0, 0)


def test_a_child_with_a_layer_fewer_is_found_across_buckets(tmp_path: Path) -> None:
    base = tiny_weights("deep", layers=4)
    cut = {name: value for name, value in base.items() if ".layers.3." not in name}
    cut |= {
        name.replace(".layers.3.", ".layers.2."): value
        for name, value in base.items()
        if ".layers.3." in name
    }
    write_model(tmp_path / "hub", "lab/deep", base)
    write_model(tmp_path / "hub", "ann/cut", cut)
    write_model(tmp_path / "hub", "cat/other", tiny_weights("stranger", layers=3))
    date_in_order(tmp_path / "hub", "lab/deep", "ann/cut", "cat/other")
    scan_served(tmp_path / "store", tmp_path / "hub")
    infer_once(tmp_path / "store")
    edges = rows_of(
        tmp_path / "store", "SELECT child, parent, relation, detail FROM v1.edges WHERE inferred"
    )
    ((child, parent, relation, detail),) = edges
    assert (child, parent, relation) == ("ann/cut", "lab/deep", "prune")
    assert json.loads(detail) == {"kind": "depth", "layers": [0, 1, 3]}


def edges_of(store: Path) -> set[tuple[str, str, str]]:
    found = rows_of(store, "SELECT child, parent, relation FROM v1.edges WHERE inferred")
    return {(child, parent, relation) for child, parent, relation in found}


def test_a_large_bucket_gives_the_same_edges(store: Path) -> None:
    infer_once(store)
    whole = edges_of(store)
    assert whole
    report = infer_once(store, large=1)
    assert edges_of(store) == whole
    # The code has decided them all before.
    assert (report.models, report.placed) == (4, 1)


def test_in_a_large_bucket_only_what_is_new_is_placed(tmp_path: Path) -> None:
    hub, base = tmp_path / "hub", tiny_weights("base")
    names = ["lab/base", *(f"ann/child-{i}" for i in range(4))]
    write_model(hub, names[0], base)
    for name in names[1:]:
        write_model(hub, name, tuned(base, name))
    date_in_order(hub, *names)
    scan_served(tmp_path / "store", hub)
    first = infer_once(tmp_path / "store", large=2)
    assert first.placed == 5
    assert {(c, p) for c, p, _ in edges_of(tmp_path / "store")} == {
        (name, "lab/base") for name in names[1:]
    }
    write_model(hub, "zoe/late", tuned(base, "late"))
    date_in_order(hub, *names, "zoe/late")
    scan_served(tmp_path / "store", hub)
    second = infer_once(tmp_path / "store", large=2)
    assert (second.models, second.placed) == (6, 1)
    assert ("zoe/late", "lab/base", "finetune") in edges_of(tmp_path / "store")
    assert len(edges_of(tmp_path / "store")) == 5


def test_a_large_bucket_without_its_thin_samples_is_placed_all_the_same(store: Path) -> None:
    infer_once(store, large=2)
    shutil.rmtree(store / "sketches" / "thin")
    assert infer_once(store, large=2).placed == 1
    assert (store / "sketches" / "thin").is_dir()


def test_a_damaged_sketch_in_a_large_bucket_is_named(store: Path) -> None:
    infer_once(store, large=2)
    (path,) = [p for m, p in sketch_paths(store) if m == "ann/child"]
    (store / "sketches" / path).write_bytes(b"nothing")
    with_new_code(store)
    report = infer_once(store, large=2)
    assert set(report.unreadable) == {"ann/child"}
    assert any(child == "bob/child" for child, _, _ in edges_of(store))


def sketch_paths(store: Path) -> list[tuple[str, str]]:
    return [(row.model, row.sketch_path) for row in ask(store, lambda r: r.sketched())]


def with_new_code(store: Path) -> None:
    """As if every model had been decided by an older inference."""
    with duckdb.connect(store / "registry.duckdb") as connection:
        connection.execute("UPDATE internal.placements SET code_version = 'older'")
