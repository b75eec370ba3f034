"""A loopback Hub with scripted faults, and the small models that it serves."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modelkin.lineage.records import ModelInfo
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.loopback import HubHandler, LoopbackHub
from modelkin.scanners.sources.retry import RetryPolicy

T = TypeVar("T")
Fault = Callable[[HubHandler], None]
WEIGHTS = "model.safetensors"
BASE = "acme/base"
SIZE = 200_000
TOKEN = "hf_canaryCanaryCanaryCanary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    host: str
    headers: dict[str, str]


@dataclass(slots=True)
class Naps:
    """Takes the place of sleeping and remembers for how long."""

    seconds: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        """Do not wait."""
        self.seconds.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Do not wait."""
        self.seconds.append(seconds)

    def policy(self, **more: Any) -> RetryPolicy:
        """A policy that does not wait and always draws the longest jitter but one."""
        return RetryPolicy(
            sleep=self.sleep, sleep_async=self.sleep_async, chance=lambda: 0.5, **more
        )


class FaultyHub(LoopbackHub):
    """Answers as planned: the first plan whose pattern is found in the path, while it lasts."""

    def __init__(self, root: Path, *, tokens: Collection[str] = ()) -> None:
        super().__init__(root, tokens=tokens)
        self.seen: list[Seen] = []
        self._plans: list[tuple[re.Pattern[str], Fault, list[int]]] = []

    def plan(self, pattern: str, fault: Fault, *, times: int = 1) -> None:
        """Let `fault` answer the next `times` requests for `pattern`."""
        self._plans.append((re.compile(pattern), fault, [times]))

    def intercept(self, request: HubHandler) -> bool:
        """Record the request, and answer it when a plan says so."""
        self.record(request)
        return self.planned(request)

    def record(self, request: HubHandler) -> None:
        """Keep what was asked."""
        self.seen.append(
            Seen(
                method=request.command,
                path=request.path,
                host=request.headers.get("Host", ""),
                headers=dict(request.headers.items()),
            )
        )

    def planned(self, request: HubHandler) -> bool:
        """Answer as the first plan says that fits and lasts; False without one."""
        for pattern, fault, left in self._plans:
            if left[0] > 0 and pattern.search(request.path):
                left[0] -= 1
                fault(request)
                return True
        return False

    def at_cdn(self) -> list[Seen]:
        """The requests that came to the content host."""
        return [seen for seen in self.seen if seen.path.startswith("/cdn/")]


class SlowHub(FaultyHub):
    """Answers each request after a while, and those beyond so many when it is told to."""

    delay = 0.0

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.most: int | None = None
        self.released = threading.Event()

    def intercept(self, request: HubHandler) -> bool:
        """Wait, then answer."""
        time.sleep(self.delay)
        self.record(request)
        if self.most is not None and len(self.seen) > self.most:
            self.released.wait(600)
        return self.planned(request)

    @contextmanager
    def holding(self, after: int) -> Iterator[None]:
        """Leave what is asked beyond so many further requests until the end of the block."""
        self.released.clear()
        self.most = len(self.seen) + after
        try:
            yield
        finally:
            self.most = None
            self.released.set()


def make_models(root: Path, *names: str, size: int = SIZE) -> dict[str, bytes]:
    """Write models of one weight file of random bytes, a config and a card; weights by name."""
    weights: dict[str, bytes] = {}
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        weights[name] = random.Random(name).randbytes(size)
        (folder / WEIGHTS).write_bytes(weights[name])
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bits": name}))
        (folder / "README.md").write_text("---\nlicense: mit\nbase_model: acme/base\n---\nText.\n")
    return weights


def serve_models(root: Path) -> FaultyHub:
    """A hub of an open, a gated, a disabled and a private model, to be entered."""
    make_models(root, BASE, "acme/gated", "acme/off", "acme/hidden")
    (root / BASE / "empty.bin").write_bytes(b"")
    (root / BASE / "sub").mkdir()
    (root / BASE / "sub" / "a b%#ü.json").write_text("{}")
    entries = {
        "acme/gated": {"gated": "auto"},
        "acme/off": {"disabled": True},
        "acme/hidden": {"private": True},
        BASE: {"moved_from": ["old/base"]},
    }
    (root / "hub.json").write_text(json.dumps(entries))
    return FaultyHub(root, tokens=[TOKEN])


def use(hub: FaultyHub, work: Callable[[HubSource], Awaitable[T]], **more: Any) -> T:
    """Run `work` with a client, and close the client."""
    retry = more.pop("retry", None) or Naps().policy()

    async def main() -> T:
        client = HubSource(endpoint=hub.url, retry=retry, **more)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def listed(hub: FaultyHub, name: str = BASE) -> ModelInfo:
    """The model as the hub lists it."""
    return hub.exhibits[name].info


def ranges(
    hub: FaultyHub, *asked: tuple[int, int], traffic: Traffic | None = None, **more: Any
) -> list[bytes]:
    """Open the weights and read ranges one after the other."""

    async def work(client: HubSource) -> list[bytes]:
        file = await client.open(listed(hub), WEIGHTS, traffic=traffic or Traffic())
        return [await file.read(begin, end) for begin, end in asked]

    return use(hub, work, **more)


def opened(hub: FaultyHub, info: ModelInfo, path: str = WEIGHTS, **more: Any) -> None:
    """Open a file."""

    async def work(client: HubSource) -> None:
        await client.open(info, path, traffic=Traffic())

    use(hub, work, **more)


def whole(hub: FaultyHub, path: str, *, limit: int = 2**20, **more: Any) -> bytes:
    """Read a whole file."""

    async def work(client: HubSource) -> bytes:
        return await client.read(listed(hub), path, limit=limit, traffic=Traffic())

    return use(hub, work, **more)


def status(code: int, *, body: bytes = b"{}", **headers: str) -> Fault:
    """A plain answer; underscores in header names become dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: request.answer(code, body, headers=named)


def rate_limited(seconds: int) -> Fault:
    """The Hub's 429, its window ending in `seconds`."""
    return status(429, RateLimit=f'"api";r=0;t={seconds}')


def value(item: Any, **headers: str) -> Fault:
    """A JSON answer."""
    return status(200, body=json.dumps(item).encode(), **headers)


def drop(request: HubHandler) -> None:
    """Reset the connection without a word."""
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def begin_body(request: HubHandler, code: int, *, length: int, **headers: str) -> None:
    """Send status and headers of a body of `length` bytes that may not come."""
    request.close_connection = True
    request.send_response(code)
    request.send_header("Content-Length", str(length))
    for name, text in headers.items():
        request.send_header(name.replace("_", "-"), text)
    request.end_headers()


def truncated(body: bytes, *, total: int, begin: int = 0, promised: int) -> Fault:
    """A 206 that promises more bytes than it sends."""

    def answer(request: HubHandler) -> None:
        last = begin + promised - 1
        begin_body(request, 206, length=promised, Content_Range=f"bytes {begin}-{last}/{total}")
        request.wfile.write(body)

    return answer


def drip(code: int, *, length: int, seconds: float, **headers: str) -> Fault:
    """One byte every 20 ms for at most `seconds`."""

    def answer(request: HubHandler) -> None:
        begin_body(request, code, length=length, **headers)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            request.wfile.write(b" ")
            time.sleep(0.02)

    return answer


@dataclass(slots=True)
class Flood:
    """A 200 of a whole terabyte; counts what was taken before the client hung up."""

    sent: int = 0
    cut: bool = False

    def __call__(self, request: HubHandler) -> None:
        """Send until the connection breaks, 64 MiB at the most."""
        begin_body(request, 200, length=2**40)
        try:
            while self.sent < 2**26:
                request.wfile.write(bytes(2**16))
                self.sent += 2**16
        except ConnectionError:
            self.cut = True


def gzip_bomb(size: int) -> Fault:
    """`size` bytes of blanks, compressed."""
    body = gzip.compress(b" " * size)
    return status(200, body=body, Content_Encoding="gzip")
