"""What a probe fetches: the weights, config and tokenizer of one revision, and nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_hub import FaultyHub, Naps, status, truncated
from small_models import hub_source, write_model

from modelkin.lineage.errors import (
    LimitExceeded,
    MalformedFile,
    TransientError,
    UnsupportedFormat,
)
from modelkin.lineage.records import ModelFile, ModelInfo
from modelkin.scanners import download
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.download import fetch_model
from modelkin.scanners.sources.folder import FolderSource

NAME = "lab/model"
ROOM = 10_000_000


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with files that a probe needs and files that it does not."""
    folder = write_model(tmp_path / "hub", NAME)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling_custom.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"x")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def fetch(
    source: FolderSource, target: Path, info: ModelInfo | None = None, *, room: int = ROOM
) -> Traffic:
    """Fetch the one model of a folder."""
    traffic = Traffic()
    found = info or source.info(NAME, traffic=Traffic())
    asyncio.run(fetch_model(source, found, target, max_bytes=room, traffic=traffic))
    return traffic


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_only_what_a_probe_needs_is_fetched(repository: Path, target: Path) -> None:
    fetch(FolderSource(repository.parents[1]), target)
    assert names(target) == {"model.safetensors", "config.json", "tokenizer.json"}
    for name in names(target):
        assert (target / name).read_bytes() == (repository / name).read_bytes()


def test_shards_come_with_their_index(tmp_path: Path, target: Path) -> None:
    write_model(tmp_path / "hub", NAME, shards=3)
    fetch(FolderSource(tmp_path / "hub"), target)
    assert len(names(target)) == 5
    assert "model.safetensors.index.json" in names(target)


def test_a_model_above_the_bound_is_not_begun(repository: Path, target: Path) -> None:
    with pytest.raises(LimitExceeded, match="larger than the probe's budget") as caught:
        fetch(FolderSource(repository.parents[1]), target, room=1000)
    assert (caught.value.path, caught.value.limit) == (NAME, 1000)
    assert names(target) == set()


def test_a_size_that_the_listing_hides_is_bounded_all_the_same(
    repository: Path, target: Path
) -> None:
    source = FolderSource(repository.parents[1])
    info = source.info(NAME, traffic=Traffic())
    blind = replace(info, files=tuple(replace(f, size=None, sha256=None) for f in info.files))
    with pytest.raises(LimitExceeded):
        fetch(source, target, blind, room=1000)
    assert "model.safetensors" not in names(target)


def test_a_tokenizer_that_is_too_large_is_not_read(
    repository: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SMALL", 1000)
    (repository / "tokenizer.json").write_text(json.dumps(["x" * 5000]))
    with pytest.raises(LimitExceeded, match=r"tokenizer\.json"):
        fetch(FolderSource(repository.parents[1]), target)


def test_other_content_than_listed_is_malformed(repository: Path, target: Path) -> None:
    source = FolderSource(repository.parents[1])
    info = source.info(NAME, traffic=Traffic())
    files = tuple(
        replace(file, sha256="0" * 64) if file.path == "model.safetensors" else file
        for file in info.files
    )
    with pytest.raises(MalformedFile, match="has the digest"):
        fetch(source, target, replace(info, files=files))


@pytest.mark.parametrize(
    "paths",
    [
        ("pytorch_model.bin",),
        ("model.Q4_K_M.gguf",),
        ("adapter_config.json", "adapter_model.safetensors"),
        ("sub/model.safetensors",),
        ("../model.safetensors",),
        (),
    ],
)
def test_models_that_are_not_run_are_not_fetched(
    repository: Path, target: Path, paths: tuple[str, ...]
) -> None:
    files = tuple(ModelFile(path=path, size=10) for path in paths)
    info = ModelInfo(source="dir", source_id=NAME, name=NAME, sha="0", files=files)
    with pytest.raises(UnsupportedFormat):
        fetch(FolderSource(repository.parents[1]), target, info)
    assert names(target) == set()


def test_a_signal_ends_a_download_between_chunks(
    repository: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK", 10_000)
    source, traffic = FolderSource(repository.parents[1]), Traffic()
    info = source.info(NAME, traffic=Traffic())

    async def work() -> None:
        await fetch_model(
            source,
            info,
            target,
            max_bytes=ROOM,
            traffic=traffic,
            stopped=lambda: traffic.bytes > 25_000,
        )

    with pytest.raises(TransientError, match="stopped by a signal"):
        asyncio.run(work())
    assert traffic.bytes < 40_000


def test_faults_on_the_way_are_repaired(repository: Path, target: Path) -> None:
    size = (repository / "model.safetensors").stat().st_size
    with FaultyHub(repository.parents[1]) as hub:
        hub.plan(r"^/cdn/", truncated(b"short", total=size, promised=size))
        hub.plan(r"tokenizer\.json", status(503))
        source = hub_source(hub.url, retry=Naps().policy())

        async def work() -> None:
            try:
                info = await asyncio.to_thread(source.info, NAME, traffic=Traffic())
                await fetch_model(source, info, target, max_bytes=ROOM, traffic=Traffic())
            finally:
                await source.close()

        asyncio.run(work())
    for name in names(target):
        assert (target / name).read_bytes() == (repository / name).read_bytes()
