"""The Hub's API: listing and its cursor, descriptions, refusals, faults on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from faulty_hub import (
    TOKEN,
    Fault,
    FaultyHub,
    Naps,
    begin_body,
    drip,
    drop,
    gzip_bomb,
    make_models,
    rate_limited,
    status,
    value,
)

from modelkin.lineage.errors import (
    AccessDenied,
    LimitExceeded,
    MalformedFile,
    ModelkinError,
    ModelNotFound,
    TransientError,
    UnsafeRequest,
)
from modelkin.lineage.records import ModelInfo
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.base import ListingFilter, ListingPage
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.loopback import HubHandler
from modelkin.scanners.sources.retry import ReadLimits

NAMES = ("acme/base", "acme/child", "lab/one", "lab/two", "zed/last")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    make_models(folder, *NAMES, "acme/gated", "acme/off", "acme/hidden")
    manifest: dict[str, Any] = {
        name: {"created": f"2026-01-{day:02}T00:00:00Z", "downloads": day}
        for day, name in enumerate(NAMES, start=1)
    }
    manifest["acme/base"]["moved_from"] = ["base-legacy", "old/base"]
    manifest["acme/gated"] = {"gated": "manual"}
    manifest["acme/off"] = {"disabled": True}
    manifest["acme/hidden"] = {"private": True}
    (folder / "hub.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def hub(root: Path) -> Iterator[FaultyHub]:
    with FaultyHub(root, tokens=[TOKEN]) as running:
        yield running


def source(hub: FaultyHub, **more: Any) -> HubSource:
    retry = more.pop("retry", None) or Naps().policy()
    return HubSource(endpoint=hub.url, retry=retry, **more)


def listing(
    hub: FaultyHub,
    *,
    cursor: str | None = None,
    narrow: ListingFilter | None = None,
    traffic: Traffic | None = None,
    **more: Any,
) -> list[ListingPage]:
    client = source(hub, **more)
    try:
        return list(
            client.pages(
                cursor=cursor, narrow=narrow or ListingFilter(), traffic=traffic or Traffic()
            )
        )
    finally:
        asyncio.run(client.close())


def describe(hub: FaultyHub, name: str, **more: Any) -> ModelInfo:
    client = source(hub, **more)
    try:
        return client.info(name, traffic=Traffic())
    finally:
        asyncio.run(client.close())


def names(pages: list[ListingPage]) -> list[str]:
    return [model.name for page in pages for model in page.models]


def test_the_listing_comes_newest_first_with_its_fields(hub: FaultyHub) -> None:
    traffic = Traffic()
    pages = listing(hub, traffic=traffic)
    assert names(pages)[:5] == list(reversed(NAMES))
    assert pages[-1].next_cursor is None
    assert traffic.requests == 1
    assert traffic.bytes > 500
    model = pages[0].models[0]
    assert model.source == "hub"
    assert model.created_at == datetime(2026, 1, 5, tzinfo=UTC)
    assert (model.downloads, model.license, model.library) == (5, "mit", "transformers")
    assert model.card["base_model"] == "acme/base"
    assert model.config == {"model_type": "llama"}
    assert "base_model:finetune:acme/base" in model.tags
    assert [file.path for file in model.files] == ["README.md", "config.json", "model.safetensors"]
    by_name = {found.name: found for found in pages[0].models}
    assert by_name["acme/gated"].gated == "manual"
    assert by_name["acme/off"].disabled


def test_the_listing_is_narrowed_by_the_server(hub: FaultyHub) -> None:
    assert set(names(listing(hub, narrow=ListingFilter(author="lab")))) == {"lab/one", "lab/two"}
    assert names(listing(hub, narrow=ListingFilter(search="LAST"))) == ["zed/last"]
    assert names(listing(hub, narrow=ListingFilter(tags=("no:such",)))) == []


def test_a_stored_cursor_resumes_where_a_page_ended(hub: FaultyHub) -> None:
    whole = listing(hub, page_size=2)
    assert len(whole) == 4
    cursor = whole[0].next_cursor
    assert cursor is not None
    assert cursor.startswith(f"{hub.url}/api/models?")
    assert names(listing(hub, cursor=cursor)) == names(whole)[2:]


@pytest.mark.parametrize(
    "cursor",
    [
        "https://evil.example/api/models?cursor=2",
        "http://127.0.0.1:1/api/models?cursor=2",
        "{url}/api/datasets?cursor=2",
        "{url}@evil.example/api/models",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
    ],
)
def test_a_cursor_that_leads_elsewhere_is_refused(hub: FaultyHub, cursor: str) -> None:
    with pytest.raises(UnsafeRequest):
        listing(hub, cursor=cursor.format(url=hub.url))
    assert hub.seen == []


def test_a_next_page_elsewhere_ends_the_listing_after_the_page(hub: FaultyHub) -> None:
    link = '<https://evil.example/api/models?cursor=2>; rel="next"'
    hub.plan("/api/models", value([{"id": "a/b"}], Link=link))
    client = source(hub)
    pages = client.pages(narrow=ListingFilter(), traffic=Traffic())
    assert names([next(pages)]) == ["a/b"]
    with pytest.raises(UnsafeRequest):
        next(pages)
    asyncio.run(client.close())


def test_a_listing_in_a_circle_ends(hub: FaultyHub) -> None:
    link = f'<{hub.url}/api/models?cursor=x>; rel="next"'
    hub.plan("/api/models", value([], Link=link), times=9)
    with pytest.raises(MalformedFile, match="circle"):
        listing(hub)


def test_a_server_that_ignores_expand_is_tolerated(hub: FaultyHub) -> None:
    hub.plan("/api/models", value([{"_id": "66e8", "id": "a/b", "downloads": 3, "tags": ["x"]}]))
    (model,) = listing(hub)[0].models
    assert (model.sha, model.source_id, model.downloads, model.files) == ("", "66e8", 3, ())


def test_models_without_a_usable_id_are_left_out_aloud(
    hub: FaultyHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.plan("/api/models", value([{"id": "../etc"}, {"id": 7}, None, [], {"id": "a/b"}]))
    assert names(listing(hub)) == ["a/b"]
    assert "4 of 5" in caplog.text


def test_a_listing_that_is_no_list_is_malformed(hub: FaultyHub) -> None:
    hub.plan("/api/models", value({"error": "x"}))
    with pytest.raises(MalformedFile):
        listing(hub)


def test_a_description_has_sizes_and_digests(hub: FaultyHub) -> None:
    info = describe(hub, "acme/base")
    files = {file.path: file for file in info.files}
    assert files["model.safetensors"].size == 200_000
    assert files["model.safetensors"].sha256 is not None
    assert files["config.json"].sha256 is None
    assert files["config.json"].blob is not None
    assert info.sha == hub.exhibits["acme/base"].info.sha


@pytest.mark.parametrize("old", ["base-legacy", "old/base"])
def test_a_rename_is_followed_on_the_endpoint(hub: FaultyHub, old: str) -> None:
    info = describe(hub, old)
    assert info.name == "acme/base"
    assert info.source_id == hub.exhibits["acme/base"].facts["_id"]
    assert info.files[-1].size == 200_000


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/api/models/a/b",
        "http://localhost/api/models/a/b",
        "/api/models/../../etc",
        "/elsewhere",
    ],
)
def test_a_rename_that_leads_elsewhere_is_refused(hub: FaultyHub, location: str) -> None:
    hub.plan("/api/models/", status(307, Location=location))
    with pytest.raises(UnsafeRequest):
        describe(hub, "acme/base")
    assert len(hub.seen) == 1


def test_a_rename_without_end_is_refused(hub: FaultyHub) -> None:
    hub.plan("/api/models/", status(307, Location="/api/models/a/b"), times=99)
    with pytest.raises(UnsafeRequest):
        describe(hub, "acme/base")
    assert len(hub.seen) == 5


def test_missing_and_private_models_are_not_found(hub: FaultyHub) -> None:
    for name in ("no/such", "acme/hidden"):
        with pytest.raises(ModelNotFound) as caught:
            describe(hub, name)
        assert caught.value.model == name
    with pytest.raises(ModelNotFound):
        describe(hub, "no/such", token=TOKEN)
    assert describe(hub, "acme/hidden", token=TOKEN).name == "acme/hidden"


def test_denials_name_their_reason(hub: FaultyHub) -> None:
    with pytest.raises(AccessDenied) as caught:
        describe(hub, "acme/off")
    assert caught.value.reason == "disabled"
    with pytest.raises(AccessDenied) as caught:
        describe(hub, "acme/base", token="hf_wrong")
    assert caught.value.reason == "token"
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(AccessDenied):
        listing(hub, token="hf_wrong")
    assert describe(hub, "acme/gated").gated == "manual"


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a/..", "http://x", "a b", ""])
def test_a_crafted_id_asks_nothing(hub: FaultyHub, name: str) -> None:
    with pytest.raises(UnsafeRequest):
        describe(hub, name)
    assert hub.seen == []


def test_a_rate_limit_is_waited_for(hub: FaultyHub) -> None:
    naps = Naps()
    hub.plan("/api/models", rate_limited(55))
    hub.plan("/api/models", status(429, Retry_After="7"))
    hub.plan("/api/models", status(503))
    assert len(names(listing(hub, retry=naps.policy()))) == 7
    # The shared hold sleeps for what is left of the window; here no time has passed.
    assert [round(nap) for nap in naps.seconds] == [56, 55, 8, 55, 2, 55]


def test_a_used_up_window_holds_the_next_request(hub: FaultyHub) -> None:
    naps = Naps()
    hub.plan("/api/models/acme/base", value({"id": "a/b"}, RateLimit='"api";r=0;t=30'))
    client = source(hub, retry=naps.policy())
    client.info("acme/base", traffic=Traffic())
    assert naps.seconds == []
    client.info("acme/child", traffic=Traffic())
    assert [round(nap) for nap in naps.seconds] == [30]
    asyncio.run(client.close())


def test_a_wait_of_a_day_is_left_to_the_caller(hub: FaultyHub) -> None:
    hub.plan("/api/models", status(429, Retry_After="86400"))
    with pytest.raises(TransientError) as caught:
        listing(hub)
    assert caught.value.retry_after == 86_400


def test_a_storm_ends_after_the_attempts(hub: FaultyHub) -> None:
    traffic = Traffic()
    hub.plan("/api/models", status(503), times=99)
    with pytest.raises(TransientError, match="503"):
        listing(hub, traffic=traffic)
    assert len(hub.seen) == traffic.requests == 6


def test_dropped_connections_are_tried_again(hub: FaultyHub) -> None:
    hub.plan("/api/models", drop, times=3)
    assert len(names(listing(hub))) == 7


def test_a_dripping_answer_is_a_fault(hub: FaultyHub) -> None:
    limits = ReadLimits(window=0.2, min_rate=10_000)
    hub.plan("/api/models", drip(200, length=10**6, seconds=3), times=9)
    with pytest.raises(TransientError):
        listing(hub, limits=limits, retry=Naps().policy(attempts=2))


def silent(request: HubHandler) -> None:
    """Promise a body and send nothing for a while."""
    begin_body(request, 200, length=100)
    time.sleep(0.4)


def cut_short(request: HubHandler) -> None:
    """Promise a body and hang up before it is whole."""
    begin_body(request, 200, length=100)
    request.wfile.write(b"[")


@pytest.mark.parametrize("fault", [silent, cut_short])
def test_a_body_that_does_not_come_is_a_fault(hub: FaultyHub, fault: Fault) -> None:
    hub.plan("/api/models", fault, times=9)
    with pytest.raises(TransientError):
        listing(hub, limits=ReadLimits(window=0.1), retry=Naps().policy(attempts=2))
    assert len(hub.seen) == 2


def test_large_answers_are_refused(hub: FaultyHub) -> None:
    limits = ReadLimits(page_bytes=10_000)
    hub.plan("/api/models", value(["x" * 20_000]))
    with pytest.raises(LimitExceeded):
        listing(hub, limits=limits)
    hub.plan("/api/models", gzip_bomb(2**24))
    with pytest.raises(LimitExceeded) as caught:
        listing(hub, limits=limits)
    # One step of the decoder is 1 MiB, so no more than that was ever unpacked.
    assert caught.value.actual <= 2**20


def test_damaged_and_foreign_encodings_are_faults(hub: FaultyHub) -> None:
    once = Naps().policy(attempts=1)
    for body, encoding in [(b"no gzip", "gzip"), (b"\x1f\x8b\x08\0", "gzip"), (b"[]", "br")]:
        hub.plan("/api/models", status(200, body=body, Content_Encoding=encoding))
        with pytest.raises(ModelkinError):
            listing(hub, retry=once)


def test_an_answer_that_is_no_json_is_malformed(hub: FaultyHub) -> None:
    for body in (b"<html>", b"[" * 100_000, b"\xff", b"1" * 10_000):
        hub.plan("/api/models/", status(200, body=body))
        with pytest.raises(MalformedFile):
            describe(hub, "acme/base")


def test_the_token_is_sent_when_given_and_shown_nowhere(
    hub: FaultyHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.plan("/api/models", drop)
    client = source(hub, token=TOKEN)
    list(client.pages(narrow=ListingFilter(), traffic=Traffic()))
    assert hub.seen[-1].headers["Authorization"] == f"Bearer {TOKEN}"
    assert hub.seen[-1].headers["User-Agent"].startswith("modelkin/")
    assert TOKEN not in caplog.text + repr(client)
    asyncio.run(client.close())


def test_no_token_is_looked_up(hub: FaultyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    listing(hub)
    assert "Authorization" not in hub.seen[-1].headers


def test_a_loopback_endpoint_works_in_offline_mode(
    hub: FaultyHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert describe(hub, "acme/base").name == "acme/base"
