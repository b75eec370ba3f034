"""Models in a folder: layouts, digests, links that lead out, and reads."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_hub import WEIGHTS, make_models
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.errors import (
    FileChanged,
    LimitExceeded,
    MalformedFile,
    ModelNotFound,
    UnsafeRequest,
)
from modelkin.lineage.records import ModelInfo
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.base import ListingFilter, ListingPage, Source
from modelkin.scanners.sources.folder import PAGE, FolderSource

COMMIT = "c" * 40


def pages(
    root: Path, *, cursor: str | None = None, narrow: ListingFilter | None = None
) -> list[ListingPage]:
    source: Source = FolderSource(root)
    return list(source.pages(cursor=cursor, narrow=narrow or ListingFilter(), traffic=Traffic()))


def models(root: Path) -> list[ModelInfo]:
    return [model for page in pages(root) for model in page.models]


def names(root: Path, narrow: ListingFilter | None = None) -> list[str]:
    return [model.name for page in pages(root, narrow=narrow) for model in page.models]


def describe(root: Path, name: str) -> ModelInfo:
    return FolderSource(root).info(name, traffic=Traffic())


def read(root: Path, info: ModelInfo, path: str, *, limit: int = 2**20) -> bytes:
    return asyncio.run(FolderSource(root).read(info, path, limit=limit, traffic=Traffic()))


def make_cache(root: Path, name: str, *, commits: tuple[str, ...] = (COMMIT,)) -> Path:
    """A Hugging Face cache entry: blobs by digest, snapshots of links, refs/main."""
    folder = root / f"models--{name.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    for commit in commits:
        blob = folder / "blobs" / hashlib.sha256(commit.encode()).hexdigest()
        blob.write_bytes(commit.encode())
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / WEIGHTS).symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commits[0])
    return folder


def test_two_levels_are_organisation_and_name(tmp_path: Path) -> None:
    weights = make_models(tmp_path, "lab/b", "acme/a", "lab/a")
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / ".git" / "x").mkdir(parents=True)
    found = models(tmp_path)
    assert [model.name for model in found] == ["acme/a", "lab/a", "lab/b"]
    model = found[0]
    assert (model.source, model.source_id) == ("dir", "acme/a")
    assert (model.created_at, model.last_modified) == (None, None)
    assert (model.card, model.config, model.tags) == ({}, {}, ())
    files = {file.path: file for file in model.files}
    assert files[WEIGHTS].size == len(weights["acme/a"])
    assert files[WEIGHTS].sha256 == hashlib.sha256(weights["acme/a"]).hexdigest()
    assert len(model.sha) == 64


def test_one_level_and_a_single_model(tmp_path: Path) -> None:
    make_models(tmp_path, "one", "two", "lab/three")
    (tmp_path / "lab" / "README.md").write_text("about us")
    assert names(tmp_path) == ["lab/three", "one", "two"]
    assert names(tmp_path / "one") == ["one"]
    assert describe(tmp_path / "one", "one").sha == describe(tmp_path, "one").sha


def test_a_cache_is_read_at_its_main_commit(tmp_path: Path) -> None:
    older = "b" * 40
    make_cache(tmp_path / "hub", "acme/base", commits=(COMMIT, older))
    make_cache(tmp_path / "hub", "gpt2")
    make_cache(tmp_path / "hub", "a/b/too-deep")
    (tmp_path / "hub" / "datasets--acme--text" / "snapshots").mkdir(parents=True)
    (tmp_path / "hub" / "models--acme--empty" / "refs").mkdir(parents=True)
    for root in (tmp_path, tmp_path / "hub"):
        assert names(root) == ["acme/base", "gpt2"]
        info = describe(root, "acme/base")
        assert (info.sha, info.source_id) == (COMMIT, "acme/base")
        assert info.files[0].sha256 == hashlib.sha256(COMMIT.encode()).hexdigest()
        assert read(root, info, WEIGHTS) == COMMIT.encode()
        assert read(root, replace(info, sha=older), WEIGHTS) == older.encode()


@pytest.mark.parametrize("ref", ["../../../etc", "f" * 40, "x" * 10_000, ""])
def test_a_cache_with_an_odd_ref_falls_back_to_a_snapshot(tmp_path: Path, ref: str) -> None:
    folder = make_cache(tmp_path, "acme/base")
    (folder / "refs" / "main").write_text(ref)
    assert describe(tmp_path, "acme/base").sha == COMMIT


def test_the_digest_follows_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    make_models(tmp_path, "acme/a")
    config = tmp_path / "acme/a/config.json"
    before = describe(tmp_path, "acme/a").sha
    os.utime(config, (1, 1))
    assert describe(tmp_path, "acme/a").sha == before
    text = config.read_text()
    config.write_text(text.replace("llama", "lLama"))
    assert describe(tmp_path, "acme/a").sha != before
    config.write_text(text)
    config.rename(config.with_name("other.json"))
    assert describe(tmp_path, "acme/a").sha != before


def test_pages_resume_after_the_last_name(tmp_path: Path) -> None:
    for number in range(PAGE + 3):
        (tmp_path / "lab" / f"m{number:04}").mkdir(parents=True)
    whole = pages(tmp_path)
    assert [len(page.models) for page in whole] == [PAGE, 3]
    assert whole[1].next_cursor is None
    assert pages(tmp_path, cursor=whole[0].next_cursor) == whole[1:]


def test_the_listing_is_narrowed(tmp_path: Path) -> None:
    make_models(tmp_path, "acme/base", "lab/base", "lab/other", size=10)
    assert names(tmp_path, ListingFilter(author="lab", search="BASE")) == ["lab/base"]
    assert names(tmp_path, ListingFilter(tags=("text",))) == []
    assert names(tmp_path, ListingFilter(author="nobody")) == []


def test_links_out_of_the_root_are_listed_and_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    make_models(root, "acme/a", size=10)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    model = root / "acme" / "a"
    (model / "leak.bin").symlink_to(tmp_path / "secret")
    (model / "folder").symlink_to(tmp_path / "outside")
    (model / "dangling").symlink_to(tmp_path / "nothing")
    (model / "inner.bin").symlink_to(model / WEIGHTS)
    os.mkfifo(model / "pipe.bin")
    info = describe(root, "acme/a")
    files = {file.path: file for file in info.files}
    for path in ("leak.bin", "folder", "pipe.bin"):
        assert (files[path].size, files[path].sha256) == (None, None)
        with pytest.raises(UnsafeRequest):
            read(root, info, path)
    with pytest.raises(ModelNotFound):
        read(root, info, "dangling")
    assert files["inner.bin"].sha256 == files[WEIGHTS].sha256
    assert "leak.bin" in caplog.text


def test_model_folders_that_lead_out_or_have_no_id_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    make_models(root, "acme/a", size=10)
    make_models(tmp_path / "away", "b", size=10)
    (root / "acme" / "linked").symlink_to(tmp_path / "away" / "b")
    (root / "acme" / "no id").mkdir()
    (root / "acme" / "loop").symlink_to(root / "acme")
    assert names(root) == ["acme/a", "acme/loop"]
    assert "linked" in caplog.text
    assert "no id" in caplog.text


@pytest.mark.parametrize("path", ["../b/config.json", "/etc/passwd", "a\\b", "a\0b", "", "."])
def test_crafted_names_are_refused(tmp_path: Path, path: str) -> None:
    make_models(tmp_path, "acme/a", "acme/b", size=10)
    with pytest.raises(UnsafeRequest):
        read(tmp_path, describe(tmp_path, "acme/a"), path)


def test_a_name_that_is_not_utf8_is_listed_and_refused(tmp_path: Path) -> None:
    make_models(tmp_path, "acme/a", size=10)
    Path(os.fsdecode(os.fsencode(tmp_path / "acme/a") + b"/\xff.bin")).write_bytes(b"x")
    info = describe(tmp_path, "acme/a")
    assert "\\xff.bin" in [file.path for file in info.files]
    with pytest.raises(UnsafeRequest):
        read(tmp_path, info, "\\xff.bin")


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    make_models(tmp_path, "acme/a", size=10)
    info = describe(tmp_path, "acme/a")
    with pytest.raises(ModelNotFound):
        describe(tmp_path, "acme/none")
    with pytest.raises(ModelNotFound):
        read(tmp_path, info, "none.bin")
    with pytest.raises(ModelNotFound):
        pages(tmp_path / "none")
    with pytest.raises(UnsafeRequest):
        describe(tmp_path, "../a")
    assert names(tmp_path / "acme" / "a" / "..") == ["a"]


def test_ranges_limits_and_changed_files(tmp_path: Path) -> None:
    weights = make_models(tmp_path, "acme/a", size=1_000)["acme/a"]
    info = describe(tmp_path, "acme/a")
    traffic = Traffic()

    async def ranged(begin: int, end: int) -> bytes:
        file = await FolderSource(tmp_path).open(info, WEIGHTS, traffic=traffic)
        return await file.read(begin, end)

    assert asyncio.run(ranged(10, 20)) == weights[10:20]
    assert (traffic.requests, traffic.bytes) == (1, 10)
    with pytest.raises(MalformedFile):
        asyncio.run(ranged(0, 1_001))
    assert read(tmp_path, info, WEIGHTS, limit=1_000) == weights
    with pytest.raises(LimitExceeded):
        read(tmp_path, info, WEIGHTS, limit=999)
    (tmp_path / "acme/a" / WEIGHTS).write_bytes(b"short")
    with pytest.raises(FileChanged):
        asyncio.run(ranged(0, 1))


def test_a_model_that_appears_or_goes_is_noticed(tmp_path: Path) -> None:
    make_models(tmp_path, "acme/a", size=10)
    source = FolderSource(tmp_path)
    source.info("acme/a", traffic=Traffic())
    make_models(tmp_path, "acme/b", size=10)
    assert source.info("acme/b", traffic=Traffic()).name == "acme/b"
    (tmp_path / "acme/a").rename(tmp_path / "acme/c")
    with pytest.raises(ModelNotFound):
        source.info("acme/a", traffic=Traffic())


@given(st.text(max_size=40))
def test_no_name_reads_outside_its_model(
    tmp_path_factory: pytest.TempPathFactory, path: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "empty"
    (root / "acme" / "a").mkdir(parents=True, exist_ok=True)
    with pytest.raises((UnsafeRequest, ModelNotFound)):
        read(root, describe(root, "acme/a"), path)
