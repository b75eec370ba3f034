"""What stands before every answer: methods, sizes, rate, host, and headers on the way out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from .answers import JSON_TYPE, error_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_CLIENTS = 10_000
LONGEST_ADDRESS = 256 * 1024

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class Buckets:
    """A token bucket for each client.

    Parameters
    ----------
    rate : requests a second that a client may make for long; 0 for no limit.
    burst : requests that it may make at once.
    clock : monotonic seconds.
    """

    def __init__(
        self, *, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Seconds until this client may ask again; 0 takes a token."""
        if not self._rate:
            return 0.0
        now = self._clock()
        left, seen = self._held.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - seen) * self._rate)
        allowed = left >= 1
        self._held[client] = (left - allowed, now)
        if len(self._held) > MOST_CLIENTS:
            self._held.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


class Guard:
    """Refuses what should not reach the application, and adds the security headers.

    Parameters
    ----------
    app : the application behind it.
    buckets : the rate of each client.
    hosts : names that the `Host` header may hold; empty for any. A server on a loopback address
        names itself, so that a page elsewhere cannot reach it under a name of its own.
    """

    def __init__(self, app: App, *, buckets: Buckets, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._buckets = buckets
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] += [h for h in HEADERS if h[0] not in present]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
        else:
            await _refuse(guarded, *refusal)

    def _refusal(self, scope: Message) -> tuple[int, str, float | None] | None:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "only GET and HEAD are answered", None
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_ADDRESS:
            return 414, "the address is too long", None
        if self._hosts and _host(scope) not in self._hosts:
            return 421, "this server does not go by that name; see --allow-host", None
        client = scope["client"][0] if scope.get("client") else ""
        wait = self._buckets.wait(client)
        return (429, "too many requests", wait) if wait else None


def _host(scope: Message) -> str:
    values = [value for name, value in scope["headers"] if name == b"host"]
    host: str = values[0].decode("latin-1").lower() if len(values) == 1 else ""
    if host.startswith("["):
        # An address of IPv6 stands in brackets, for its own colons.
        name, _, port = host[1:].partition("]")
        return name if not port or port[1:].isdigit() else host
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host


async def _refuse(send: Send, status: int, words: str, wait: float | None) -> None:
    body = error_json(status, words)
    headers = [
        (b"content-type", JSON_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if wait is not None:
        headers.append((b"retry-after", str(max(1, round(wait + 0.5))).encode()))
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
