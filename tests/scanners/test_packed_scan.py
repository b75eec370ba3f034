"""Packed copies from the folder to the edge: every format of one model is placed under it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf_files import write_gguf
from small_models import coverage, infer_once, rows_of, scan_once, tiny_weights, tuned, write_model

from modelkin.scanners.sources.folder import FolderSource


def edges(store: Path) -> dict[str, tuple[str, str, dict[str, object]]]:
    found = rows_of(store, "SELECT child, parent, relation, detail FROM edges WHERE inferred")
    return {
        child: (parent, kind, json.loads(detail or "{}")) for child, parent, kind, detail in found
    }


@pytest.fixture(scope="module")
def gguf_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store") / "s"
    base = tiny_weights("base", hidden=64)
    chat, sibling = (tuned(base, name, scale=0.05) for name in ("chat", "sibling"))
    write_model(root, "lab/base", base)
    write_model(root, "ann/chat", chat)
    write_model(root, "bob/sibling", sibling)
    for kind in ("F16", "Q8_0", "Q4_0", "MXFP4"):
        for name, weights in (("chat", chat), ("sibling", sibling)):
            folder = root / f"q/{name}-{kind}"
            folder.mkdir(parents=True)
            claim = {"general.base_model.0.repo_url": "https://huggingface.co/lab/base"}
            write_gguf(folder / f"{name}-{kind}.gguf", weights, kind, pairs=claim)
    folder = root / "q/mixed"
    folder.mkdir()
    write_gguf(folder / "chat-Q4_0.gguf", chat, "Q4_0")
    write_gguf(folder / "chat-Q8_0.gguf", chat, "Q8_0")
    scan_once(store, FolderSource(root))
    infer_once(store)
    return store


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "MXFP4"])
@pytest.mark.parametrize("name", ["chat", "sibling"])
def test_a_quantized_copy_is_placed_under_its_source(
    gguf_store: Path, name: str, kind: str
) -> None:
    source = {"chat": "ann/chat", "sibling": "bob/sibling"}[name]
    bits = 8 if kind == "Q8_0" else 4
    parent, relation, detail = edges(gguf_store)[f"q/{name}-{kind}"]
    assert (parent, relation) == (source, "quantized")
    assert detail == {"format": "gguf", "type": kind, "bits": bits}


def test_a_copy_in_full_precision_is_a_copy(gguf_store: Path) -> None:
    parent, relation, detail = edges(gguf_store)["q/chat-F16"]
    assert (parent, relation) == ("ann/chat", "copy")
    assert detail == {"format": "gguf", "cast": "F32 to F16"}


def test_packed_copies_leave_the_family_as_it_was(gguf_store: Path) -> None:
    found = edges(gguf_store)
    assert found["ann/chat"][:2] == ("lab/base", "finetune")
    assert found["bob/sibling"][:2] == ("lab/base", "finetune")
    assert "lab/base" not in found


def test_of_several_files_the_most_precise_is_read_and_named(gguf_store: Path) -> None:
    assert coverage(gguf_store, 1)["q/mixed"].path == "chat-Q8_0.gguf"
    parent, relation, detail = edges(gguf_store)["q/mixed"]
    assert (parent, relation, detail["bits"]) == ("ann/chat", "quantized", 8)


def test_the_base_in_the_metadata_is_a_claim(gguf_store: Path) -> None:
    query = "SELECT parent, via, relation FROM claims WHERE child = 'q/chat-Q4_0'"
    assert rows_of(gguf_store, query) == [("lab/base", "weight_file", None)]


def test_format_and_type_are_facts_of_the_model(gguf_store: Path) -> None:
    query = "SELECT format, dtype FROM models WHERE model = 'q/chat-Q4_0'"
    assert rows_of(gguf_store, query) == [("gguf", "F32+Q4_0")]
