"""Where file reads are led: foreign hosts, expired addresses, closed models, the token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_hub import (
    BASE,
    SIZE,
    TOKEN,
    WEIGHTS,
    FaultyHub,
    drop,
    listed,
    make_models,
    opened,
    ranges,
    serve_models,
    status,
    use,
    whole,
)

from modelkin.lineage.errors import (
    AccessDenied,
    FileChanged,
    ModelkinError,
    ModelNotFound,
    TransientError,
    UnsafeRequest,
)
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.hub import HubSource


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_models(tmp_path_factory.mktemp("hub"), BASE, size=SIZE)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultyHub]:
    with serve_models(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "location",
    [
        "http://evil.example/x",
        "https://evil.example/x",
        "http://169.254.169.254/latest",
        "http://localhost@evil.example/x",
        "//evil.example/x",
        "file:///etc/passwd",
        "http://[::1",
    ],
)
def test_a_redirect_to_a_foreign_host_is_refused(hub: FaultyHub, location: str) -> None:
    hub.plan("/resolve/", status(302, Location=location, X_Linked_Size=str(SIZE)), times=2)
    with pytest.raises(UnsafeRequest):
        opened(hub, listed(hub))
    with pytest.raises(UnsafeRequest):
        whole(hub, WEIGHTS)
    assert len(hub.seen) == 2


def test_redirects_without_end_or_target_are_refused(hub: FaultyHub) -> None:
    hub.plan("/resolve/", status(307, Location="/acme/base/resolve/again"), times=10)
    for once in (lambda: opened(hub, listed(hub)), lambda: whole(hub, WEIGHTS)):
        with pytest.raises(UnsafeRequest):
            once()
    assert len(hub.seen) == 10
    hub.plan("/resolve/", status(307), times=99)
    with pytest.raises(TransientError):
        opened(hub, listed(hub))


def test_an_expired_address_is_resolved_once_more(
    hub: FaultyHub, weights: dict[str, bytes]
) -> None:
    hub.plan("/cdn/", status(403))
    traffic = Traffic()
    assert ranges(hub, (0, 9), (9, 20), traffic=traffic) == [weights[BASE][:9], weights[BASE][9:20]]
    assert hub.counters["resolve"] == 2
    assert traffic.requests == 5


def test_ranges_under_way_share_the_second_resolve(
    hub: FaultyHub, weights: dict[str, bytes]
) -> None:
    old = f"http://localhost:{hub.port}/cdn/old"
    hub.plan("/resolve/", status(302, Location=old, X_Linked_Size=str(SIZE)))
    hub.plan("/cdn/old", status(403), times=99)
    info = replace(listed(hub), files=())

    async def work(client: HubSource) -> list[bytes]:
        file = await client.open(info, WEIGHTS, traffic=Traffic())
        return await asyncio.gather(*(file.read(i, i + 1) for i in range(8)))

    assert b"".join(use(hub, work, connections=8)) == weights[BASE][:8]
    assert hub.counters == {"resolve": 1, "cdn": 8, "content_bytes": 8}


def test_a_fresh_address_that_is_refused_too_is_a_denial(hub: FaultyHub) -> None:
    hub.plan("/cdn/", status(403), times=99)
    with pytest.raises(AccessDenied):
        ranges(hub, (0, 9))
    assert (len(hub.at_cdn()), hub.counters["resolve"]) == (2, 2)


def test_another_file_at_the_second_resolve_is_refused(hub: FaultyHub) -> None:
    moved = status(302, Location="http://localhost/x", X_Linked_Size="5")
    info = replace(listed(hub), files=())

    async def work(client: HubSource) -> bytes:
        file = await client.open(info, WEIGHTS, traffic=Traffic())
        hub.plan("/cdn/", status(403))
        hub.plan("/resolve/", moved)
        return await file.read(0, 9)

    with pytest.raises(FileChanged):
        use(hub, work)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("acme/gated", AccessDenied, "gated"),
        ("acme/off", AccessDenied, "disabled"),
        ("acme/hidden", ModelNotFound, None),
    ],
)
def test_closed_models_say_why(
    hub: FaultyHub, name: str, kind: type[ModelkinError], reason: str | None
) -> None:
    with pytest.raises(kind) as caught:
        opened(hub, listed(hub, name))
    assert getattr(caught.value, "reason", None) == reason
    if name != "acme/off":
        opened(hub, listed(hub, name), token=TOKEN)


def test_missing_files_and_revisions_are_not_found(hub: FaultyHub) -> None:
    info = listed(hub)
    with pytest.raises(ModelNotFound, match="no such revision"):
        opened(hub, replace(info, sha="0" * 40))
    with pytest.raises(ModelNotFound, match="no such file"):
        opened(hub, replace(info, sha=info.sha), "nothing.bin")
    with pytest.raises(ModelNotFound):
        opened(hub, replace(info, name="no/such"))
    with pytest.raises(AccessDenied) as caught:
        opened(hub, info, token="hf_wrong")
    assert caught.value.reason == "token"


def test_a_renamed_model_is_still_read_at_its_revision(hub: FaultyHub) -> None:
    opened(hub, replace(listed(hub), name="old/base"))
    assert hub.counters["resolve"] == 2


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a\\b", "a\0b", "", "x" * 300])
def test_crafted_names_and_unpinned_reads_ask_nothing(hub: FaultyHub, path: str) -> None:
    info = listed(hub)
    for bad, name in [(info, path), (replace(info, sha="main"), "f"), (replace(info, sha=""), "f")]:
        with pytest.raises(UnsafeRequest):
            opened(hub, bad, name)
    with pytest.raises(UnsafeRequest):
        opened(hub, replace(info, name="a/b/../c"))
    assert hub.seen == []


def test_the_token_never_leaves_the_endpoint(
    hub: FaultyHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.plan("/cdn/", drop, times=2)
    texts: list[str] = []
    ranges(hub, (0, 9), token=TOKEN)
    whole(hub, WEIGHTS, token=TOKEN)
    for fault, where in [(drop, "/cdn/"), (status(403), "/cdn/"), (drop, "/resolve/")]:
        hub.plan(where, fault, times=12)
        with pytest.raises(ModelkinError) as caught:
            ranges(hub, (0, 9), token=TOKEN)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        texts.append(str(caught.value))
    own = [seen for seen in hub.seen if "/resolve/" in seen.path]
    assert {seen.headers["Authorization"] for seen in own} == {f"Bearer {TOKEN}"}
    assert hub.at_cdn()
    for seen in hub.at_cdn():
        assert seen.host.startswith("localhost:")
        assert TOKEN not in repr(seen)
        assert "Authorization" not in seen.headers
    assert TOKEN not in caplog.text + "".join(texts)
    assert "Signature" not in caplog.text + "".join(texts)
