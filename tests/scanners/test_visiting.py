"""One visit: how every kind of repository ends, and that copies cost no weight byte."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import FaultyHub, Naps, begin_body, drip, status, value
from small_models import BAD, Change, hub_source, tiny_weights, write_model

from modelkin.lineage.records import ModelInfo, Outcome
from modelkin.lineage.sketch.plan import PLAN_VERSION
from modelkin.scanners.bytes import LocalBytes, Traffic
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.retry import ReadLimits
from modelkin.scanners.visiting import CARD_LIMIT, Visitor
from modelkin.store.facts import Visit
from modelkin.store.sketches import SketchStore

NAME = "lab/model"
WEIGHTS = "model.safetensors"
HASTY = ReadLimits(window=2.0, min_rate=1000)
"""A window long enough that a busy machine does not look like silence."""


def listed(name: str = NAME) -> ModelInfo:
    return ModelInfo(source="hub", source_id=name, name=name, sha="0" * 40)


def visit(
    url: str, store: Path, *names: str, together: bool = False, **client: Any
) -> tuple[list[Visit], HubSource]:
    """Visit models one after the other, or all at once."""

    async def work() -> list[Visit]:
        visitor = Visitor(source=source, sketches=SketchStore(store))
        infos = [listed(name) for name in names or (NAME,)]
        try:
            if together:
                return list(await asyncio.gather(*map(visitor.visit, infos)))
            return [await visitor.visit(info) for info in infos]
        finally:
            await source.close()

    source = hub_source(url, **client)
    return asyncio.run(work()), source


def visit_one(root: Path, **client: Any) -> Visit:
    """Serve a folder and visit its one model."""
    with FaultyHub(root / "hub") as hub:
        (found,), _ = visit(hub.url, root / "sketches", **client)
    return found


def rewrite_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(("change", "ending"), BAD.values(), ids=list(BAD))
def test_a_bad_repository_ends_in_its_outcome(
    tmp_path: Path, change: Change, ending: tuple[str, str, str | None]
) -> None:
    change(write_model(tmp_path / "hub", NAME))
    found = visit_one(tmp_path)
    row = found.coverage
    assert (row.outcome, row.stage, row.path) == ending
    assert row.reason
    assert row.requests > 0
    assert found.info is not None
    assert found.facts is None or found.facts.sketch_path is None
    assert found.plan == PLAN_VERSION


def test_an_adapter_still_declares_its_base(tmp_path: Path) -> None:
    BAD["adapter"][0](write_model(tmp_path / "hub", NAME))
    claims = visit_one(tmp_path).declared
    assert claims is not None
    assert [claim.name for claim in claims] == ["a/b"]


def test_a_repository_without_a_file_has_no_weights(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", NAME)
    empty = {"_id": "e" * 24, "id": NAME, "sha": "0" * 40, "siblings": []}
    with FaultyHub(tmp_path / "hub") as hub:
        hub.plan(r"^/api/models/lab", value(empty))
        (found,), _ = visit(hub.url, tmp_path / "sketches")
    assert (found.coverage.outcome, found.coverage.stage) == (Outcome.NO_WEIGHTS, "files")


def test_a_good_repository_is_sketched(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", NAME, shards=2, base="lab/base")
    found = visit_one(tmp_path)
    assert (found.coverage.outcome, found.coverage.reason) == (Outcome.OK, None)
    assert found.facts is not None
    assert found.facts.sketch_path is not None
    assert found.facts.architecture == "LlamaForCausalLM"
    assert found.facts.dtype == "F32"
    assert [claim.name for claim in found.declared or ()] == ["lab/base"]


@pytest.mark.parametrize(
    ("status_code", "headers", "outcome"),
    [
        (404, {"X_Error_Code": "RepoNotFound"}, Outcome.NOT_FOUND),
        (401, {}, Outcome.NOT_FOUND),
        (403, {"X_Error_Message": "Access to this resource is disabled."}, Outcome.GATED),
        (451, {}, Outcome.GATED),
        (503, {}, Outcome.TIMEOUT),
        (429, {"RateLimit": '"api";r=0;t=999'}, Outcome.TIMEOUT),
    ],
)
def test_refusals_of_the_description(
    tmp_path: Path, status_code: int, headers: dict[str, str], outcome: Outcome
) -> None:
    write_model(tmp_path / "hub", NAME)
    with FaultyHub(tmp_path / "hub") as hub:
        hub.plan(r"^/api/models/lab", status(status_code, **headers), times=99)
        retry = Naps().policy(attempts=2)
        (found,), _ = visit(hub.url, tmp_path / "sketches", retry=retry)
    assert (found.coverage.outcome, found.coverage.stage) == (outcome, "describe")
    assert found.info is None


@pytest.mark.parametrize(
    ("entry", "stage"),
    [({"gated": "auto"}, "card"), ({"gated": "manual"}, "card"), ({"disabled": True}, "describe")],
)
def test_closed_repositories_are_counted_as_gated(
    tmp_path: Path, entry: dict[str, Any], stage: str
) -> None:
    write_model(tmp_path / "hub", NAME)
    (tmp_path / "hub" / "hub.json").write_text(json.dumps({NAME: entry}))
    row = visit_one(tmp_path).coverage
    assert (row.outcome, row.stage) == (Outcome.GATED, stage)


def test_weights_behind_a_gate_of_their_own_are_gated(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", NAME)
    with FaultyHub(tmp_path / "hub") as hub:
        hub.plan(r"resolve/.*safetensors", status(401, X_Error_Code="GatedRepo"), times=9)
        (found,), _ = visit(hub.url, tmp_path / "sketches")
    assert (found.coverage.outcome, found.coverage.stage) == (Outcome.GATED, "header")


def test_a_file_that_is_gone_does_not_bury_the_model(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", NAME)
    with FaultyHub(tmp_path / "hub") as hub:
        gone = status(404, X_Error_Code="EntryNotFound")
        hub.plan(r"resolve/.*safetensors", gone, times=9)
        (found,), _ = visit(hub.url, tmp_path / "sketches")
    assert (found.coverage.outcome, found.coverage.stage) == (Outcome.FAILED, "header")


def test_weights_that_drip_time_out(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", NAME)
    with FaultyHub(tmp_path / "hub") as hub:
        size = (tmp_path / "hub" / NAME / WEIGHTS).stat().st_size
        end = min(65536, size)
        slow = drip(206, length=end, seconds=600, Content_Range=f"bytes 0-{end - 1}/{size}")
        hub.plan(r"^/cdn/", slow, times=9)
        retry = Naps().policy(attempts=1)
        (found,), _ = visit(hub.url, tmp_path / "sketches", retry=retry, limits=HASTY)
    assert (found.coverage.outcome, found.coverage.stage) == (Outcome.TIMEOUT, "header")


def test_a_server_that_ignores_ranges_gives_no_data(tmp_path: Path) -> None:
    weights = tiny_weights(NAME, hidden=128)
    write_model(tmp_path / "hub", NAME, weights)
    size = (tmp_path / "hub" / NAME / WEIGHTS).stat().st_size

    def whole_file(request: Any) -> None:
        begin_body(request, 200, length=size)
        request.wfile.write(bytes(1000))

    with FaultyHub(tmp_path / "hub") as hub:
        hub.plan(r"^/cdn/", whole_file, times=99)
        (found,), _ = visit(hub.url, tmp_path / "sketches")
    row = found.coverage
    assert (row.outcome, row.stage, row.path) == (Outcome.MALFORMED, "header", WEIGHTS)
    assert row.bytes_read < 100_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "README.md").write_text("---\n" + "x" * 10_000_000),
        lambda folder: (folder / "README.md").write_text("---\nlicense: [mit\n---\n"),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text('{"a":' * 5000 + "1" + "}" * 5000),
    ],
    ids=["10 MB card", "broken front matter", "broken config", "deep config"],
)
def test_a_bad_card_is_reported_and_the_weights_are_read_all_the_same(
    tmp_path: Path, spoil: Change
) -> None:
    spoil(write_model(tmp_path / "hub", NAME))
    found = visit_one(tmp_path)
    assert (found.coverage.outcome, found.coverage.stage) == (Outcome.MALFORMED, "card")
    assert found.coverage.path in {"README.md", "config.json"}
    assert found.coverage.bytes_read < CARD_LIMIT + 500_000
    assert found.facts is not None
    assert found.facts.sketch_path is not None


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "at once"])
def test_an_exact_copy_costs_no_weight_byte(tmp_path: Path, together: bool) -> None:
    weights = tiny_weights("original")
    for name in ("lab/model", "copy/one", "copy/two"):
        write_model(tmp_path / "hub", name, weights, config={"model_type": "llama", "name": name})
    with FaultyHub(tmp_path / "hub") as hub:
        found, _ = visit(
            *(hub.url, tmp_path / "sketches", "lab/model", "copy/one", "copy/two"),
            together=together,
        )
        at_cdn = {seen.path.split("/")[2] for seen in hub.at_cdn()}
    assert len(at_cdn) == 1
    assert [one.coverage.outcome for one in found] == [Outcome.OK] * 3
    facts = [one.facts for one in found if one.facts is not None]
    assert len({one.sketch_digest for one in facts}) == 1
    assert {one.config["name"] for one in facts} == {"lab/model", "copy/one", "copy/two"}


def test_a_copy_of_a_malformed_file_is_malformed_too(tmp_path: Path) -> None:
    for name in ("lab/model", "copy/one"):
        BAD["lying header"][0](write_model(tmp_path / "hub", name))
    with FaultyHub(tmp_path / "hub") as hub:
        found, _ = visit(hub.url, tmp_path / "sketches", "lab/model", "copy/one", together=True)
    assert [one.coverage.outcome for one in found] == [Outcome.MALFORMED] * 2


def test_another_shape_is_left_out_once_its_header_is_read(tmp_path: Path) -> None:
    write_model(tmp_path, NAME)
    source = FolderSource(tmp_path)
    visitor = Visitor(
        source=source, sketches=SketchStore(tmp_path / ".s"), shapes=frozenset({"L9;"})
    )
    found = asyncio.run(visitor.visit(source.info(NAME, traffic=Traffic())))
    assert (found.coverage.outcome, found.coverage.reason) == (Outcome.SKIPPED, "another shape")
    assert found.facts is not None
    assert found.facts.sketch_path is None


def test_a_sketch_folder_that_cannot_be_written_fails_the_visit(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", NAME)
    (tmp_path / "sketches").write_text("a file where the folder should be")
    found = visit_one(tmp_path)
    assert (found.coverage.outcome, found.coverage.stage) == (Outcome.FAILED, "sketch")
    assert "cannot write the sketch" in (found.coverage.reason or "")


def test_a_full_disk_fails_the_visit_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_model(tmp_path / "hub", NAME)
    monkeypatch.setattr(os, "fsync", full)
    found = visit_one(tmp_path)
    assert found.coverage.outcome is Outcome.FAILED
    assert "No space left on device" in (found.coverage.reason or "")
    assert not [file for file in (tmp_path / "sketches").rglob("*") if file.is_file()]


def test_an_unreadable_file_of_a_folder_fails_the_visit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LocalBytes, begin: int, end: int) -> bytes:
        raise OSError(5, "Input/output error")

    write_model(tmp_path, NAME)
    monkeypatch.setattr(LocalBytes, "_at_hand", lambda self, begin, end: None)
    monkeypatch.setattr(LocalBytes, "_read", broken)
    source = FolderSource(tmp_path)
    visitor = Visitor(source=source, sketches=SketchStore(tmp_path / ".s"))
    found = asyncio.run(visitor.visit(source.info(NAME, traffic=Traffic())))
    assert found.coverage.outcome is Outcome.FAILED
    assert "Input/output error" in (found.coverage.reason or "")


def test_a_bug_is_not_hidden_as_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: SketchStore, *args: Any, **more: Any) -> None:
        raise AssertionError("a bug")

    write_model(tmp_path, NAME)
    monkeypatch.setattr(SketchStore, "save", wrong)
    source = FolderSource(tmp_path)
    visitor = Visitor(source=source, sketches=SketchStore(tmp_path / ".s"))
    with pytest.raises(AssertionError, match="a bug"):
        asyncio.run(visitor.visit(source.info(NAME, traffic=Traffic())))
