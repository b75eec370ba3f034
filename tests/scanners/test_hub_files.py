"""Ranged reads of the Hub's files: one resolve, exact ranges, and every way to be lied to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import (
    BASE,
    SIZE,
    WEIGHTS,
    Fault,
    FaultyHub,
    Flood,
    Naps,
    drip,
    drop,
    listed,
    make_models,
    opened,
    ranges,
    rate_limited,
    serve_models,
    status,
    truncated,
    use,
    whole,
)

from modelkin.lineage.errors import (
    FileChanged,
    LimitExceeded,
    MalformedFile,
    RangeIgnored,
    TransientError,
    TruncatedRead,
)
from modelkin.lineage.records import ModelFile
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.hub_files import HubBytes
from modelkin.scanners.sources.retry import ReadLimits


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_models(tmp_path_factory.mktemp("hub"), BASE, size=SIZE)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultyHub]:
    with serve_models(tmp_path) as running:
        yield running


def test_ranges_are_exact_and_cost_one_resolve(hub: FaultyHub, weights: dict[str, bytes]) -> None:
    traffic = Traffic()
    asked = [(0, 100), (SIZE - 1, SIZE), (5_000, 9_096), (0, SIZE), (7, 7)]
    assert ranges(hub, *asked, traffic=traffic) == [weights[BASE][a:b] for a, b in asked]
    assert (hub.counters["resolve"], hub.counters["cdn"]) == (1, 4)
    assert traffic.requests == 5
    assert traffic.bytes == 100 + 1 + 4_096 + SIZE
    assert {seen.headers["Accept-Encoding"] for seen in hub.seen} == {"identity"}


def test_the_reader_knows_path_size_and_digest(hub: FaultyHub) -> None:
    async def work(client: HubSource) -> tuple[str, int, str | None]:
        file = await client.open(listed(hub), WEIGHTS, traffic=Traffic())
        assert isinstance(file, HubBytes)
        return file.path, file.size, file.digest

    file = hub.exhibits[BASE].file(WEIGHTS)
    assert file is not None
    assert use(hub, work) == (WEIGHTS, SIZE, file.sha256)


def test_many_ranges_at_once_and_over_two_event_loops(
    hub: FaultyHub, weights: dict[str, bytes]
) -> None:
    client = HubSource(endpoint=hub.url, connections=3)

    async def work() -> list[bytes]:
        file = await client.open(listed(hub), WEIGHTS, traffic=Traffic())
        return await asyncio.gather(*(file.read(i, i + 10) for i in range(0, 1_000, 10)))

    for _ in range(2):
        assert b"".join(asyncio.run(work())) == weights[BASE][:1_000]
    asyncio.run(client.close())


def test_a_small_file_outside_lfs_is_read_and_ranged(hub: FaultyHub) -> None:
    assert whole(hub, "config.json").startswith(b'{"model_type"')
    assert whole(hub, "sub/a b%#ü.json") == b"{}"
    assert whole(hub, "empty.bin") == b""

    async def work(client: HubSource) -> bytes:
        file = await client.open(listed(hub), "config.json", traffic=Traffic())
        return await file.read(1, 13)

    assert use(hub, work) == b'"model_type"'


def test_a_file_served_at_once_without_redirect(hub: FaultyHub) -> None:
    body = b"x" * 50
    hub.plan("/resolve/.*README", status(200, body=body), times=2)
    info = replace(listed(hub), files=())

    async def work(client: HubSource) -> bytes:
        file = await client.open(info, "README.md", traffic=Traffic())
        return await file.read(0, file.size)

    # A 200 is the range asked for when that range is the whole file.
    assert use(hub, work) == body


def test_a_whole_file_above_its_limit_is_refused(hub: FaultyHub) -> None:
    with pytest.raises(LimitExceeded):
        whole(hub, WEIGHTS, limit=1_000)
    flood = Flood()
    hub.plan("/cdn/", flood)
    with pytest.raises(LimitExceeded):
        whole(hub, WEIGHTS, limit=1_000)
    assert flood.sent < 2**24


def test_a_range_outside_the_file_asks_nothing(hub: FaultyHub) -> None:
    for asked in [(-1, 5), (5, 4), (0, SIZE + 1)]:
        with pytest.raises(MalformedFile):
            ranges(hub, asked)
    assert hub.at_cdn() == []


def test_a_server_that_ignores_the_range_is_cut_off(hub: FaultyHub) -> None:
    flood = Flood()
    hub.plan("/cdn/", flood, times=9)
    traffic = Traffic()
    with pytest.raises(RangeIgnored):
        ranges(hub, (0, 100), traffic=traffic)
    assert traffic.bytes == 0
    assert traffic.requests == 2
    hub.__exit__(None, None, None)
    assert flood.sent < 2**24


@pytest.mark.parametrize(
    "content_range",
    ["bytes 1-100/200000", "bytes 0-98/200000", "bytes */200000", "0-99/200000", "bytes 0-99/*"],
)
def test_another_range_than_asked_for_is_refused(hub: FaultyHub, content_range: str) -> None:
    hub.plan("/cdn/", status(206, body=bytes(100), Content_Range=content_range))
    with pytest.raises(RangeIgnored):
        ranges(hub, (0, 100))


def test_a_range_without_its_header_or_compressed_is_refused(hub: FaultyHub) -> None:
    good = f"bytes 0-99/{SIZE}"
    for fault in (
        status(206, body=bytes(100)),
        status(206, body=bytes(100), Content_Range=good, Content_Encoding="gzip"),
        status(206, body=bytes(101), Content_Range=good),
        status(204, body=b""),
        status(302, body=b"", Location="http://localhost/x"),
    ):
        hub.plan("/cdn/", fault)
        with pytest.raises(RangeIgnored):
            ranges(hub, (0, 100))


def test_a_changed_tag_or_length_is_a_changed_file(hub: FaultyHub) -> None:
    ranged = f"bytes 0-99/{SIZE}"
    first = status(206, body=bytes(100), Content_Range=ranged, ETag='"one"')
    for second in (
        status(206, body=bytes(100), Content_Range=ranged, ETag='"two"'),
        status(206, body=bytes(100), Content_Range=f"bytes 0-99/{SIZE + 1}", ETag='"one"'),
        status(416, Content_Range="bytes */5"),
    ):
        hub.plan("/cdn/", first)
        hub.plan("/cdn/", second)
        with pytest.raises(FileChanged):
            ranges(hub, (0, 100), (0, 100))


def test_a_file_that_is_not_the_listed_one_is_refused(hub: FaultyHub) -> None:
    for file in (
        ModelFile(path=WEIGHTS, size=5),
        ModelFile(path=WEIGHTS, sha256="0" * 64),
    ):
        with pytest.raises(FileChanged):
            opened(hub, replace(listed(hub), files=(file,)))


def test_a_file_of_unknown_length_is_refused(hub: FaultyHub) -> None:
    hub.plan("/resolve/", status(302, Location="http://localhost/x"))
    with pytest.raises(MalformedFile):
        opened(hub, replace(listed(hub), files=()))


def test_short_bodies_are_tried_again_and_then_reported(
    hub: FaultyHub, weights: dict[str, bytes]
) -> None:
    short = truncated(b"abc", total=SIZE, promised=100)
    hub.plan("/cdn/", short, times=2)
    assert ranges(hub, (0, 100)) == [weights[BASE][:100]]
    hub.plan("/cdn/", short, times=99)
    with pytest.raises(TruncatedRead):
        ranges(hub, (0, 100))
    hub.plan("config.json", truncated(b"{", total=9, promised=9), times=99)
    assert len(hub.at_cdn()) == 3 + 6


def test_a_short_whole_body_is_tried_again(hub: FaultyHub) -> None:
    def short(request: Any) -> None:
        request.close_connection = True
        request.send_response(200)
        request.send_header("Content-Length", "90")
        request.end_headers()
        request.wfile.write(b"{")

    hub.plan("resolve-cache", short, times=2)
    assert whole(hub, "config.json").startswith(b'{"model_type"')


@pytest.mark.parametrize("fault", [rate_limited(9), status(503), drop])
@pytest.mark.parametrize("where", ["/resolve/", "/cdn/"])
def test_passing_faults_are_waited_out(
    hub: FaultyHub, weights: dict[str, bytes], fault: Fault, where: str
) -> None:
    hub.plan(where, fault, times=3)
    assert ranges(hub, (10, 20)) == [weights[BASE][10:20]]


def test_a_rate_limited_resolver_is_waited_for_as_long_as_it_says(hub: FaultyHub) -> None:
    naps = Naps()
    hub.plan("/resolve/", rate_limited(42))
    ranges(hub, (0, 1), retry=naps.policy())
    assert [round(nap) for nap in naps.seconds] == [42, 42]


@pytest.mark.parametrize("where", ["/resolve/", "/cdn/"])
def test_a_storm_ends_after_the_attempts(hub: FaultyHub, where: str) -> None:
    traffic = Traffic()
    hub.plan(where, status(503), times=99)
    with pytest.raises(TransientError):
        ranges(hub, (0, 1), traffic=traffic)
    assert traffic.requests == len(hub.seen) == (6 if where == "/resolve/" else 7)


def test_a_drip_is_a_fault(hub: FaultyHub) -> None:
    # Long enough that a busy machine does not look like silence.
    limits = ReadLimits(window=2.0, min_rate=10_000)
    dripping = drip(206, length=100_000, seconds=600, Content_Range=f"bytes 0-99999/{SIZE}")
    hub.plan("/cdn/", dripping, times=9)
    with pytest.raises(TransientError, match="drips"):
        ranges(hub, (0, 100_000), limits=limits, retry=Naps().policy(attempts=1))


def test_a_total_deadline_ends_a_body(hub: FaultyHub) -> None:
    limits = ReadLimits(total=0.2, min_rate=1e9)
    dripping = drip(206, length=100_000, seconds=3, Content_Range=f"bytes 0-99999/{SIZE}")
    hub.plan("/cdn/", dripping, times=9)
    with pytest.raises(TransientError):
        ranges(hub, (0, 100_000), limits=limits, retry=Naps().policy(attempts=1))
