"""The simulated Hub over HTTP/1.1: listing pages, descriptions, rate limits, latency, faults."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from .population import FORMATS, Population


@dataclass(slots=True)
class Conditions:
    """How the server behaves: seconds of latency, requests a window, share of 503 answers."""

    latency: float = 0.0
    quota: int | None = None
    window: float = 300.0
    failing: float = 0.0
    seed: int = 0
    counters: Counter[str] = field(default_factory=Counter)


class EcosystemHub:
    """Serves a population until it is closed; a context manager."""

    def __init__(self, population: Population, conditions: Conditions | None = None) -> None:
        self.population = population
        self.conditions = conditions or Conditions()
        self.chance = random.Random(self.conditions.seed)
        self.used, self.until = 0, 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: _Handler(*a, hub=self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> EcosystemHub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def allowed(self) -> tuple[bool, dict[str, str]]:
        """Whether a request fits in the window, and the headers that say so."""
        quota = self.conditions.quota
        if quota is None:
            return True, {}
        now = time.monotonic()
        if now >= self.until:
            self.used, self.until = 0, now + self.conditions.window
        self.used += 1
        left, seconds = max(0, quota - self.used), int(self.until - now) + 1
        headers = {
            "RateLimit": f'"api";r={left};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"api";q={quota};w={int(self.conditions.window)}',
        }
        return self.used <= quota, headers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: Any, hub: EcosystemHub) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
        state, counters = self.hub.conditions, self.hub.conditions.counters
        if state.latency:
            time.sleep(state.latency)
        counters["requests"] += 1
        allowed, headers = self.hub.allowed()
        if not allowed:
            counters["429"] += 1
            self._send(429, b"{}", headers)
        elif state.failing and self.hub.chance.random() < state.failing:
            counters["503"] += 1
            self._send(503, b"{}", headers)
        else:
            self._route(headers)

    def _route(self, headers: dict[str, str]) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/api/models":
            self._listing(parse_qs(parts.query), headers)
        elif parts.path.startswith("/api/models/"):
            self._describe(parts.path.removeprefix("/api/models/"), headers)
        else:
            self._send(404, b"{}", {**headers, "X-Error-Code": "EntryNotFound"})

    def _listing(self, query: dict[str, list[str]], headers: dict[str, str]) -> None:
        people = self.hub.population
        limit = int(query.get("limit", ["1000"])[0])
        by_time = query.get("sort", ["createdAt"])[0] == "createdAt"
        begin = people.size - 1 if by_time else 0
        start = int(query["cursor"][0]) if "cursor" in query else begin
        page = people.newest_first if by_time else people.modified_first
        found, after = page(start, limit)
        if after is not None:
            following = urlencode({**query, "cursor": [str(after)]}, doseq=True)
            headers["Link"] = f'<{self.hub.url}/api/models?{following}>; rel="next"'
        body = "[" + ",".join(map(people.item, found)) + "]"
        self.hub.conditions.counters["pages"] += 1
        self._send(200, body.encode(), headers)

    def _describe(self, name: str, headers: dict[str, str]) -> None:
        people = self.hub.population
        tail = name.rpartition("/model-")[2]
        number, _, again = tail.partition("-r")
        model = int(number) if number.isdigit() else -1
        self.hub.conditions.counters["details"] += 1
        if not 0 <= model < people.size or model in people.deleted:
            self._send(404, b"{}", {**headers, "X-Error-Code": "RepoNotFound"})
        elif int(again or 0) != people.renamed.get(model, 0):
            target = f"/api/models/{people.name(model)}"
            self._send(307, b"", {**headers, "Location": target})
        else:
            self._send(200, self._described(model), headers)

    def _described(self, model: int) -> bytes:
        item = json.loads(self.hub.population.item(model))
        kind = FORMATS[self.hub.population.format[model]]
        for at, file in enumerate(item["siblings"]):
            file["size"] = 1000 + at
            if kind != "none" and file["rfilename"].endswith((".safetensors", ".gguf", ".bin")):
                file["lfs"] = {"sha256": f"{model:060x}{at:04x}", "size": 1000 + at}
        return json.dumps(item).encode()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
