"""A small Hub on 127.0.0.1 that serves a folder of models: for the offline demo and for tests.

It speaks the part of the Hub's protocol that a scan uses: the listing with a `Link` cursor,
descriptions with sizes and digests, trees, resolves that redirect large files to a second host
name, ranges, and the Hub's own shapes of refusal. An optional `hub.json` in the folder adds what
files do not say: `{"org/name": {"created": ISO time, "downloads": n, "gated": "auto" | "manual",
"private": bool, "disabled": bool, "moved_from": ["old/name"]}}`.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from .exhibits import Exhibit, is_large, read_exhibits
from .folder import FolderSource

_MODEL = r"(?P<model>[^/]+(?:/[^/]+)?)"
_API = re.compile(rf"/api/models/{_MODEL}(?:/(?P<verb>tree|revision)/(?P<rev>[^/]+))?")
_RESOLVE = re.compile(rf"/{_MODEL}/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
_CONTENT = re.compile(
    rf"/(?P<door>cdn|api/resolve-cache/models)/{_MODEL}/(?P<sha>[0-9a-f]{{40,64}})/(?P<path>.+)"
)
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_STEP = 1 << 20


class LoopbackHub:
    """Serves the models below `root` until it is closed; a context manager.

    Parameters
    ----------
    root : Path
        Folder in any layout that `FolderSource` understands. It is read once, at the start.
    created : mapping, optional
        Creation times by model name, before those of `hub.json`.
    tokens : collection of str
        Tokens that are honoured (and granted every gate); any other one is refused.

    Attributes
    ----------
    url : the endpoint, `http://127.0.0.1:PORT`.
    counters : requests by kind (`api`, `resolve`, `cdn`), and `content_bytes` sent.
    """

    def __init__(
        self,
        root: Path,
        *,
        created: Mapping[str, datetime] | None = None,
        tokens: Collection[str] = (),
    ) -> None:
        self.source = FolderSource(root)
        self.tokens = frozenset(tokens)
        self.counters: Counter[str] = Counter()
        listed = read_exhibits(root, source=self.source, created=created or {})
        self.exhibits = {exhibit.info.name: exhibit for exhibit in listed}
        self.moved = {old: name for name in self.exhibits for old in self.exhibits[name].aliases}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), lambda *args: HubHandler(*args, hub=self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def intercept(self, request: HubHandler) -> bool:
        """Called before each answer; True when the request has been dealt with."""
        return False

    def count(self, kind: str, *, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self.counters[kind] += amount


class _Server(ThreadingHTTPServer):
    """Daemon threads, and no traceback on stderr when a client hangs up."""

    daemon_threads = True
    # The default of 5 makes a client with more connections wait a second for the sixth.
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def __init__(self, *args: Any, hub: LoopbackHub) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
        if self.hub.intercept(self):
            return
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if found := _CONTENT.fullmatch(path):
            self._content(found)
            return
        bearer = self.headers.get("Authorization", "Bearer ").removeprefix("Bearer ")
        if bearer and bearer not in self.hub.tokens:
            self.refuse(401, "Invalid credentials in Authorization header")
        elif path == "/api/models":
            self._listing(query)
        elif found := _API.fullmatch(path):
            self._model(found, query=query)
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found)
        else:
            self.refuse(404, "Not found")

    def answer(
        self, status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, *, code: str | None = None) -> None:
        """Send a refusal in the Hub's shape."""
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer(status, json.dumps({"error": message}).encode(), headers=headers)

    def send_file(self, file: Path, *, size: int, etag: str, commit: str) -> None:
        """Send a file or the one range of it that is asked for."""
        begin, end = 0, size
        if found := _RANGE.fullmatch(self.headers.get("Range", "")):
            begin = int(found[1])
            end = min(size, int(found[2]) + 1) if found[2] else size
            if begin >= end:
                self.answer(416, headers={"Content-Range": f"bytes */{size}"})
                return
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.hub.count("content_bytes", amount=end - begin)
        with file.open("rb") as stream:
            stream.seek(begin)
            while begin < end:
                chunk = stream.read(min(_STEP, end - begin))
                if not chunk:
                    self.close_connection = True
                    return
                self.wfile.write(chunk)
                begin += len(chunk)

    def _listing(self, query: Mapping[str, list[str]]) -> None:
        self.hub.count("api")
        shown = [exhibit for exhibit in self.hub.exhibits.values() if _matches(exhibit, query)]
        begin, limit = _number(query, "cursor", 0), max(1, min(1000, _number(query, "limit", 1000)))
        page = [exhibit.described(blobs=False) for exhibit in shown[begin : begin + limit]]
        if expand := query.get("expand"):
            kept = {"_id", "id", *expand}
            page = [{key: item[key] for key in item if key in kept} for item in page]
        more = {}
        if begin + limit < len(shown):
            following = urlencode({**query, "cursor": [str(begin + limit)]}, doseq=True)
            more["Link"] = f'<{self.hub.url}/api/models?{following}>; rel="next"'
        self._json(page, headers=more)

    def _model(self, found: re.Match[str], *, query: Mapping[str, list[str]]) -> None:
        self.hub.count("api")
        query_text = urlsplit(self.path).query
        exhibit = self._visible(found["model"], before="/api/models/", after=f"?{query_text}")
        if exhibit is None:
            return
        if found["rev"] not in {None, "main", exhibit.info.sha}:
            self.refuse(404, "Invalid rev id", code="RevisionNotFound")
        elif found["verb"] == "tree":
            self._json(exhibit.tree())
        else:
            self._json(exhibit.described(blobs="blobs" in query))

    def _resolve(self, found: re.Match[str]) -> None:
        self.hub.count("resolve")
        tail = f"/resolve/{found['rev']}/{quote(found['path'])}"
        exhibit = self._visible(found["model"], before="/", after=tail)
        if exhibit is None or self._closed(exhibit):
            return
        file, sha = exhibit.file(found["path"]), exhibit.info.sha
        if found["rev"] not in {"main", sha}:
            self.refuse(404, "Invalid rev id", code="RevisionNotFound")
        elif file is None or file.sha256 is None:
            self.refuse(404, "Entry not found", code="EntryNotFound")
        else:
            place = f"{exhibit.info.name}/{sha}/{quote(file.path)}"
            said = {"X-Repo-Commit": sha, "X-Linked-Size": str(file.size)}
            said["RateLimit"] = '"resolvers";r=2999;t=300'
            if is_large(file.path):
                said["Location"] = f"http://localhost:{self.hub.port}/cdn/{place}?Signature={sha}"
                said["X-Linked-Etag"] = f'"{file.sha256}"'
            else:
                said["Location"] = f"/api/resolve-cache/models/{place}"
                said["ETag"] = f'"{file.sha256[:40]}"'
            self.answer(302 if is_large(file.path) else 307, headers=said)

    def _content(self, found: re.Match[str]) -> None:
        exhibit = self.hub.exhibits.get(found["model"])
        file = None if exhibit is None else exhibit.file(found["path"])
        self.hub.count("cdn" if found["door"] == "cdn" else "resolve")
        if exhibit is None or file is None or file.size is None or file.sha256 is None:
            self.refuse(404, "Entry not found", code="EntryNotFound")
            return
        place = self.hub.source.locate(exhibit.info, file.path)
        self.send_file(place, size=file.size, etag=file.sha256[:40], commit=found["sha"])

    def _visible(self, name: str, *, before: str, after: str) -> Exhibit | None:
        """The model, unless it has moved or is hidden: then that has been answered."""
        if name in self.hub.moved:
            self.answer(307, headers={"Location": before + self.hub.moved[name] + after})
            return None
        exhibit = self.hub.exhibits.get(name)
        known = "Authorization" in self.headers
        if exhibit is not None and (known or exhibit.entry.get("private") is not True):
            return exhibit
        if known:
            self.refuse(404, "Repository not found", code="RepoNotFound")
        else:
            self.refuse(401, "Invalid username or password.")
        return None

    def _closed(self, exhibit: Exhibit) -> bool:
        """Whether the files are disabled or behind a gate: then that has been answered."""
        if exhibit.entry.get("disabled") is True:
            self.refuse(403, "Access to this resource is disabled.")
            return True
        if exhibit.closed and "Authorization" not in self.headers:
            self.refuse(401, "Access to this model is restricted.", code="GatedRepo")
            return True
        return False

    def _json(self, value: Any, *, headers: Mapping[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json", "RateLimit": '"api";r=499;t=295'}
        self.answer(200, json.dumps(value).encode(), headers={**kind, **(headers or {})})


def _matches(exhibit: Exhibit, query: Mapping[str, list[str]]) -> bool:
    name, tags = exhibit.info.name, exhibit.facts["tags"]
    if exhibit.entry.get("private") is True:
        return False
    if any(tag not in tags for value in query.get("filter", []) for tag in value.split(",")):
        return False
    if any(exhibit.info.author != author for author in query.get("author", [])):
        return False
    return all(text.lower() in name.lower() for text in query.get("search", []))


def _number(query: Mapping[str, list[str]], key: str, default: int) -> int:
    text = query.get(key, [""])[0]
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else default
