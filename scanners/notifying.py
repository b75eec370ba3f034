"""Telling people: events of the outbox, signed and sent as Standard Webhooks.

An event is committed with what it is about and stays in the outbox until a receiver took it, so
news is delivered at least once; `webhook-id` is the same at every attempt.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import requests

from ..lineage.errors import UnsafeRequest
from ..store.facts import Event
from ..store.ledger import Ledger
from .sources.endpoint import redact

logger = logging.getLogger(__name__)

EVENT_KINDS = (
    "finding.new",
    "finding.fixed",
    "edge.added",
    "edge.removed",
    "edge.changed",
    "repo.moved",
    "repo.removed",
    "repo.returned",
    "repo.gated",
    "repo.rewound",
    "coverage.dropped",
    "scan.completed",
    "scan.failed",
    "publish.blocked",
    "digest.daily",
    "test",
)
SEVERITIES = ("info", "low", "medium", "high", "critical")
ALWAYS = frozenset({"scan.failed", "publish.blocked", "coverage.dropped", "digest.daily", "test"})
"""What a receiver of digests gets at once: the digest itself, and that something is wrong."""
WAITS = tuple(map(float, (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)))
"""Seconds before each further attempt: about three days in all."""
LARGEST = 20_000
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Where events go. `mode` `digest` sends one a night and the graver ones at once."""

    name: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    kinds: tuple[str, ...] = EVENT_KINDS
    mode: str = "digest"
    immediate: str = "critical"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        local = parts.hostname in _LOOPBACK
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise UnsafeRequest(f"receiver {self.name}: the url has to be https")
        if not parts.hostname or "@" in parts.netloc:
            raise UnsafeRequest(f"receiver {self.name}: the url names no plain host")
        signing_key(self.secret)

    def wants(self, event: Event) -> bool:
        """Whether the event goes to this receiver on its own."""
        if event.kind not in (*self.kinds, "test"):
            return False
        if event.baseline and event.kind not in ALWAYS:
            return False
        if self.mode == "each":
            return event.kind != "digest.daily"
        grave = SEVERITIES.index(event.severity) >= SEVERITIES.index(self.immediate)
        return event.kind in ALWAYS or grave


@dataclass(slots=True, kw_only=True)
class Courier:
    """Sends what is due.

    Parameters
    ----------
    post : `requests.Session.post` or what takes its place.
    seconds : how long an answer may take.
    """

    ledger: Ledger
    now: Callable[[], datetime]
    post: Callable[..., Any] = field(default_factory=lambda: requests.Session().post)
    chance: Callable[[], float] = random.random
    stopped: Callable[[], bool] = lambda: False
    seconds: float = 10.0

    def enqueue(self, receivers: Sequence[Receiver], *, scan: int) -> None:
        """Put the events of a scan on their way to the receivers that want them."""
        events = self.ledger.events(since=scan, until=scan)
        for receiver in receivers:
            wanted = [event.event_id for event in events if receiver.wants(event)]
            if wanted:
                self.ledger.enqueue(wanted, receiver=receiver.name, now=self.now())

    def deliver(self, receivers: Sequence[Receiver]) -> dict[str, int]:
        """Send everything that is due; how many attempts ended in which way."""
        ends: dict[str, int] = {}
        for receiver in receivers:
            if self.ledger.is_disabled(receiver.name):
                self.ledger.disable_receiver(receiver.name)
                continue
            for event, attempts in self.ledger.due(receiver=receiver.name, now=self.now()):
                if self.stopped():
                    return ends
                status = self._send(receiver, event, attempts=attempts)
                ends[status] = ends.get(status, 0) + 1
                if status == "disabled":
                    self.ledger.disable_receiver(receiver.name)
                    break
                if status == "pending":
                    # A receiver that is down gets the rest in order when it is back.
                    break
        return ends

    def _send(self, receiver: Receiver, event: Event, *, attempts: int) -> str:
        moment = self.now()
        body = payload(event)
        headers = signed(event.event_id, body, secret=receiver.secret, at=moment)
        try:
            response = self.post(
                receiver.url,
                data=body,
                headers=headers,
                timeout=self.seconds,
                allow_redirects=False,
            )
            code = int(response.status_code)
            answer = f"HTTP {code}"
        except requests.RequestException as error:
            # The error's text may hold the address, and an address may hold a secret.
            code, answer = 0, type(error).__name__
        status = _status(code, attempts=attempts)
        wait = WAITS[min(attempts, len(WAITS) - 1)] * (1 + 0.1 * self.chance())
        logger.info("%s to %s at %s: %s", event.kind, receiver.name, redact(receiver.url), answer)
        self.ledger.note_attempt(
            event.event_id,
            receiver=receiver.name,
            status=status,
            answer=answer,
            not_before=moment + timedelta(seconds=wait),
            now=moment,
        )
        return status


def payload(event: Event) -> bytes:
    """The body of a delivery, below 20 kB: a longer one says so and leaves its particulars out."""
    data = {"scan": event.scan, "subject": event.subject, "severity": event.severity}
    whole = {
        "type": event.kind,
        "timestamp": event.created_at.isoformat(),
        "data": {**data, **event.body},
    }
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) <= LARGEST:
        return text
    return json.dumps({**whole, "data": {**data, "truncated": len(text)}}).encode()


def signing_key(secret: str) -> bytes:
    """The key in a `whsec_…` secret.

    Raises
    ------
    UnsafeRequest : no such prefix, no base64, or fewer than 24 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise UnsafeRequest("a webhook secret is whsec_ and base64 of 24 to 64 bytes")
    return key


def signed(event_id: str, body: bytes, *, secret: str, at: datetime) -> dict[str, str]:
    """Headers of a delivery: id, time and HMAC-SHA256 over `id.time.body`.

    References
    ----------
    Standard Webhooks specification, section "Signature scheme".
    """
    stamp = str(int(at.timestamp()))
    content = f"{event_id}.{stamp}.".encode() + body
    digest = hmac.new(signing_key(secret), content, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "modelkin",
        "webhook-id": event_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _status(code: int, *, attempts: int) -> str:
    """What an answer means for the delivery; a redirect is a failure."""
    if 200 <= code < 300:
        return "delivered"
    if code == 410:
        return "disabled"
    return "failed" if attempts >= len(WAITS) else "pending"
