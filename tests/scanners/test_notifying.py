"""Webhooks: what a receiver can check, how often it is asked, and what it is spared."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from hypothesis import given
from hypothesis import strategies as st
from nights import SECRET

from modelkin.lineage.errors import UnsafeRequest
from modelkin.lineage.records import Finding
from modelkin.scanners.notifying import (
    LARGEST,
    WAITS,
    Courier,
    Receiver,
    payload,
    signed,
    signing_key,
)
from modelkin.store import Registry
from modelkin.store.facts import Event

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
URL = "https://hooks.example/modelkin"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "store", create=True) as opened:
        yield opened


def receiver(**more: Any) -> Receiver:
    return Receiver(**{"name": "ops", "url": URL, "secret": SECRET, "mode": "each", **more})


def courier(registry: Registry, clock: Clock) -> Courier:
    return Courier(ledger=registry.ledger(), now=clock, chance=lambda: 0.0)


def put(registry: Registry, *kinds: str, severity: str = "info", scan: int = 2) -> None:
    """Events of these kinds, and an earlier night so that they are news."""
    if not registry.scans():
        first = registry.start_scan(kind="nightly", source="hub", parameters={}, now=NOW)
        registry.finish_scan(first, status="done", now=NOW)
    rows = [(kind, f"subject {at}", severity, {}) for at, kind in enumerate(kinds)]
    registry.ledger().add_events(rows, scan=scan, now=NOW)


@responses.activate
def test_a_delivery_is_signed_as_the_standard_says(registry: Registry) -> None:
    responses.add(responses.POST, URL, status=204)
    put(registry, "finding.new", severity="high")
    clock = Clock()
    sender = courier(registry, clock)
    sender.enqueue([receiver()], scan=2)
    assert sender.deliver([receiver()]) == {"delivered": 1}
    (call,) = responses.calls
    headers, body = call.request.headers, call.request.body
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.new(base64.b64decode(SECRET[6:]), content, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert json.loads(body)["type"] == "finding.new"
    assert sender.deliver([receiver()]) == {}, "what was taken is not sent again"


def test_the_signature_of_the_published_example() -> None:
    headers = signed(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        at=datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@responses.activate
def test_what_fails_is_tried_again_with_growing_waits_and_given_up(registry: Registry) -> None:
    responses.add(responses.POST, URL, status=503)
    put(registry, "finding.new")
    clock = Clock()
    sender = courier(registry, clock)
    sender.enqueue([receiver()], scan=2)
    ids = set()
    for wait in WAITS:
        assert sender.deliver([receiver()]) == {"pending": 1}
        assert sender.deliver([receiver()]) == {}, "not before its time"
        clock.time += timedelta(seconds=wait)
    assert sender.deliver([receiver()]) == {"failed": 1}
    ids = {call.request.headers["webhook-id"] for call in responses.calls}
    assert len(ids) == 1
    assert len(responses.calls) == len(WAITS) + 1
    assert sum(WAITS) >= 60 * 3600


@responses.activate
def test_a_receiver_that_is_gone_is_asked_no_more(registry: Registry) -> None:
    responses.add(responses.POST, URL, status=410)
    put(registry, "finding.new", "finding.fixed", "edge.added")
    sender = courier(registry, Clock())
    sender.enqueue([receiver()], scan=2)
    assert sender.deliver([receiver()]) == {"disabled": 1}
    put(registry, "scan.failed", scan=3)
    sender.enqueue([receiver()], scan=3)
    assert sender.deliver([receiver()]) == {}
    assert len(responses.calls) == 1
    assert registry.ledger().undelivered() == 0


@responses.activate
def test_a_redirect_is_a_failure_and_is_not_followed(registry: Registry) -> None:
    responses.add(responses.POST, URL, status=302, headers={"Location": "http://169.254.169.254/"})
    put(registry, "finding.new")
    sender = courier(registry, Clock())
    sender.enqueue([receiver()], scan=2)
    assert sender.deliver([receiver()]) == {"pending": 1}
    assert len(responses.calls) == 1


@responses.activate
def test_no_answer_stores_no_address(registry: Registry) -> None:
    secret_url = URL + "?token=hunter2"
    responses.add(responses.POST, URL, body=requests.ConnectionError(f"no route to {secret_url}"))
    put(registry, "finding.new")
    sender = courier(registry, Clock())
    sender.enqueue([receiver(url=secret_url)], scan=2)
    sender.deliver([receiver(url=secret_url)])
    stored = registry.sql("SELECT answer FROM internal.deliveries").fetchall()
    assert stored == [("ConnectionError",)]
    assert "hunter2" not in repr(receiver(url=secret_url))
    assert SECRET not in repr(receiver())


def test_digest_mode_sends_the_digest_and_what_is_grave() -> None:
    def event(kind: str, *, severity: str = "info", baseline: bool = False) -> Event:
        return Event(
            event_id="e",
            kind=kind,
            scan=1,
            subject="s",
            severity=severity,
            baseline=baseline,
            body={},
            created_at=NOW,
        )

    digests, each = receiver(mode="digest"), receiver()
    assert digests.wants(event("digest.daily"))
    assert not each.wants(event("digest.daily"))
    assert digests.wants(event("publish.blocked"))
    assert digests.wants(event("scan.failed"))
    assert not digests.wants(event("finding.new", severity="high"))
    assert digests.wants(event("finding.new", severity="critical"))
    assert each.wants(event("finding.new"))
    assert not each.wants(event("finding.new", baseline=True))
    assert not receiver(kinds=("edge.added",)).wants(event("finding.new"))


def test_an_event_is_committed_with_its_finding_or_not_at_all(registry: Registry) -> None:
    from store_factories import make_info

    put(registry)
    scan = registry.start_scan(kind="nightly", source="hub", parameters={}, now=NOW)
    registry.add_page(scan, [make_info("o/a"), make_info("o/b")], next_cursor=None, now=NOW)
    finding = Finding(
        finding_id="f1",
        kind="undeclared_parent",
        severity="high",
        model="o/a",
        ancestor="o/b",
        value=1.0,
        ci_low=None,
        ci_high=None,
        q_value=None,
        status="new",
    )
    registry.replace_findings(scan, "undeclared_parent", [finding], now=NOW)
    registry.replace_findings(scan, "undeclared_parent", [finding], now=NOW)
    (event,) = registry.ledger().events(since=scan)
    assert (event.kind, event.subject, event.severity) == ("finding.new", "f1", "high")
    assert event.body["model"] == "o/a"
    assert not event.baseline
    registry.replace_findings(scan, "undeclared_parent", [], now=NOW)
    kinds = [event.kind for event in registry.ledger().events(since=scan)]
    assert sorted(kinds) == ["finding.fixed", "finding.new"]


def test_the_first_night_is_the_baseline(registry: Registry) -> None:
    scan = registry.start_scan(kind="nightly", source="hub", parameters={}, now=NOW)
    registry.ledger().add_events([("finding.new", "f", "low", {})], scan=scan, now=NOW)
    (event,) = registry.ledger().events(since=scan)
    assert event.baseline


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://hooks.example/"},
        {"url": "https://user@hooks.example/"},
        {"url": "file:///etc/passwd"},
        {"secret": "short"},
        {"secret": "whsec_!!!"},
        {"secret": "whsec_" + base64.b64encode(b"x" * 8).decode()},
    ],
)
def test_an_unsafe_receiver_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(UnsafeRequest):
        receiver(**changes)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=4000), max_size=12))
def test_a_payload_stays_small_and_is_json(body: dict[str, str]) -> None:
    event = Event(
        event_id="e",
        kind="test",
        scan=1,
        subject="s",
        severity="info",
        baseline=False,
        body=body,
        created_at=NOW,
    )
    data = payload(event)
    assert len(data) <= LARGEST
    assert json.loads(data)["type"] == "test"


def test_a_real_receiver_checks_the_signature(registry: Registry) -> None:
    taken: list[tuple[str, bool]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}."
            digest = hmac.new(signing_key(SECRET), content.encode() + body, hashlib.sha256)
            good = self.headers["webhook-signature"] == (
                "v1," + base64.b64encode(digest.digest()).decode()
            )
            taken.append((json.loads(body)["type"], good))
            self.send_response(200 if good else 400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        local = receiver(url=f"http://127.0.0.1:{server.server_address[1]}/")
        put(registry, "finding.new", "edge.added")
        with requests.Session() as session:
            sender = Courier(ledger=registry.ledger(), now=Clock(), post=session.post)
            sender.enqueue([local], scan=2)
            assert sender.deliver([local]) == {"delivered": 2}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert sorted(taken) == [("edge.added", True), ("finding.new", True)]
