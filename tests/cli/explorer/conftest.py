"""The explorer on a loopback port, over a small store with a known tree."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import uvicorn
from small_registry import build_registry

from modelkin.cli.explorer.app import make_app
from modelkin.cli.explorer.guard import LONGEST_ADDRESS, Buckets
from modelkin.cli.explorer.library import Library


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A client of one server."""

    def __init__(self, port: int, library: Library) -> None:
        self.port = port
        self.library = library
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Reply:
        """Ask for an address as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            body = answer.read()
        finally:
            connection.close()
        if found.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        return Reply(status=answer.status, headers=found, body=body)

    def ask(self, path: str, **values: Any) -> Reply:
        """Ask for a path with parameters."""
        return self.get(f"{path}?{urlencode(values, doseq=True, quote_via=quote)}")

    def sql(self, query: str, *, form: str = "json") -> Reply:
        """Run a query."""
        return self.ask(f"/sql.{form}", query=query)


Serve = Callable[..., Served]


@contextmanager
def running(store: Path, room: Path, **options: Any) -> Iterator[Served]:
    """A server over a store, for the length of the block."""
    room.mkdir()
    library = Library(store, room=room)
    # What a query may take is no matter of the machine but where bombs are tried.
    defaults: dict[str, Any] = {"buckets": Buckets(rate=0, burst=0), "sql_seconds": 60.0}
    app = make_app(library, **{**defaults, **options})
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="critical",
        h11_max_incomplete_event_size=LONGEST_ADDRESS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.02)
        yield Served(server.servers[0].sockets[0].getsockname()[1], library)
    finally:
        server.should_exit = True
        thread.join(20)
        library.close()


@pytest.fixture(scope="session")
def explorer_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small registry, for the explorer alone."""
    return build_registry(tmp_path_factory.mktemp("explored") / "store")


@pytest.fixture(scope="session")
def served(explorer_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over the small registry, shared: it changes nothing."""
    with running(explorer_store, tmp_path_factory.mktemp("room") / "copies") as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers that end with the test."""
    with ExitStack() as stack:
        count = iter(range(100))

        def start(store: Path, **options: Any) -> Served:
            return stack.enter_context(running(store, tmp_path / f"room-{next(count)}", **options))

        yield start
