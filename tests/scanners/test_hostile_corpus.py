"""More than three hundred hostile repositories: each is told apart from a clean one."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest
from hostile_corpus import Hostile, good_gguf, hostile_repositories, packed_cuts
from small_models import rows_of, scan_once, tiny_weights, write_model

from modelkin.lineage.compute import Compute
from modelkin.lineage.errors import ModelkinError
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.full_compare import compare_full
from modelkin.scanners.probes.whole_weights import WholeWeights
from modelkin.scanners.sources.folder import FolderSource

KIBIBYTES = 512 * 1024
READ = {"ok", "unchanged"}


@pytest.fixture(scope="module")
def corpus() -> list[Hostile]:
    return list(hostile_repositories())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, corpus: list[Hostile]) -> Path:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store") / "s"
    write_model(root, "lab/good", tiny_weights("good"))
    for hostile in corpus:
        folder = root / hostile.name
        folder.mkdir(parents=True)
        for name, data in hostile.files.items():
            (folder / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scan_once(store, FolderSource(root))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES
    return store


def test_the_corpus_is_large(corpus: list[Hostile]) -> None:
    assert len({repr(sorted(one.files.items())) for one in corpus}) >= 300


def test_none_is_reported_clean(store: Path, corpus: list[Hostile]) -> None:
    found = {row[0]: row[1:] for row in rows_of(store, "SELECT model, outcome FROM coverage")}
    assert found.keys() == {"lab/good", *(one.name for one in corpus)}
    clean = sorted(name for name, row in found.items() if row[0] in READ and name != "lab/good")
    assert clean == []
    assert found["lab/good"][0] == "ok"


def test_each_names_its_file_and_why(store: Path) -> None:
    query = "SELECT model, path, reason FROM coverage WHERE model LIKE 'bad/%'"
    silent = [row for row in rows_of(store, query) if not row[1] or not row[2]]
    assert silent == []


def test_payloads_are_findings(store: Path, corpus: list[Hostile]) -> None:
    carriers = {one.name for one in corpus if "-zip-" in one.name or "-bare-" in one.name}
    found = rows_of(store, "SELECT model, severity FROM findings WHERE kind = 'unsafe_file'")
    assert {model for model, _ in found} >= carriers
    assert {severity for _, severity in found} == {"high", "medium"}


def test_what_reads_weights_whole_ends_in_a_typed_error(tmp_path: Path) -> None:
    """A sketch looks at samples; the weights tier and `compare --full` meet every part."""
    source = FolderSource(tmp_path)

    async def layers_of(name: str) -> None:
        weights = WholeWeights(source=source, info=source.info(name, traffic=Traffic()))
        await weights.open()
        for layer in weights.layers():
            await weights.of_layer(layer)

    async def compared(name: str) -> None:
        await compare_full(source, name, name, compute=Compute(device="cpu"))

    told = []
    for label, (data, config) in packed_cuts("o_proj"):
        folder = tmp_path / "bad" / label
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(data)
        (folder / "config.json").write_bytes(config)
        for read in (layers_of, compared):
            try:
                asyncio.run(read(f"bad/{label}"))
            except ModelkinError as error:
                told.append(str(error))
    assert sum("contradict each other" in one for one in told) >= 2


def test_the_file_that_was_cut_is_whole_before() -> None:
    data, head = good_gguf()
    assert 0 < head < len(data)
