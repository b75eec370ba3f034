"""The API: stable keys, pages, errors, caching, limits."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from small_registry import LISTED

from modelkin.cli.explorer.guard import Buckets
from modelkin.cli.explorer.questions import QUESTIONS

from .conftest import Serve, Served

KEYS = {"ok", "as_of", "rows", "total", "next"}
VALUES = {"model": "lab/base", "child": "alice/chat"}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_answer_has_the_same_keys(served: Served, name: str) -> None:
    required = [one.name for one in QUESTIONS[name].parameters if one.required]
    found = served.ask(f"/api/v1/{name}", **{key: VALUES[key] for key in required}).json()
    assert found.keys() >= KEYS
    assert found["ok"] is True


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("models", {}, "model"),
        ("children", {"model": "lab/base"}, "model"),
        ("descendants", {"model": "lab/base"}, "model"),
        ("ancestors", {"model": "erin/freed-8bit"}, "model"),
        ("coverage", {}, "model"),
        ("findings", {}, "finding_id"),
    ],
)
def test_pages_hold_every_row_once(
    served: Served, name: str, values: dict[str, str], key: str
) -> None:
    whole = [row[key] for row in served.ask(f"/api/v1/{name}", **values).json()["rows"]]
    paged: list[str] = []
    token = ""
    for _ in range(20):
        found = served.ask(f"/api/v1/{name}", **values, limit=2, next=token).json()
        assert found["total"] == len(whole)
        paged += [row[key] for row in found["rows"]]
        token = found["next"]
        if token is None:
            break
    assert paged == whole
    assert len(set(paged)) == len(paged) >= 2


def test_descendants_at_any_distance(served: Served) -> None:
    found = served.ask("/api/v1/descendants", model="lab/base").json()
    rows = {row["model"]: row for row in found["rows"]}
    assert found["total"] == len(rows) == 12
    assert rows["erin/freed-8bit"]["distance"] == 3
    assert rows["dave/freed"]["lost"] is True
    near = served.ask("/api/v1/descendants", model="lab/base", max_depth=1).json()
    assert near["total"] == len(near["rows"]) < 12
    assert len(near["rows"]) == 6
    sure = served.ask("/api/v1/descendants", model="lab/base", min_confidence=0.9).json()
    assert "gina/pruned" not in {row["model"] for row in sure["rows"]}


@pytest.mark.parametrize(
    "query",
    [
        "model=nobody/nothing",
        "model=",
        "",
        "model=lab/base&model=lab/base",
        "model=lab/base&limit=0",
        "model=lab/base&limit=1e9",
        "model=lab/base&limit=" + "9" * 5000,
        "model=lab/base&next=x",
        "model=lab/base&next=e30",
        "model=lab/base&next=eyJhdCI6LTF9",
        "model=lab/base&next=eyJhdCI6InggIn0",
        "model=lab/base&min_confidence=nan",
        "model=lab/base&since=yesterday",
        "model=lab/base&relation=theft",
        "model=lab/base&lost=yes",
        "model=lab/base&as_of=99",
        "model=lab/base&as_of=../../etc",
        "model=" + "x" * 600,
        "model=%ff%fe",
        "&".join(f"relation=copy&x{i}=1" for i in range(600)),
    ],
)
def test_what_cannot_be_read_is_an_error_object(served: Served, query: str) -> None:
    reply = served.get(f"/api/v1/children?{query}")
    assert reply.status in (400, 404)
    found = reply.json()
    assert found["ok"] is False
    assert found["status"] == reply.status
    assert isinstance(found["error"], str)
    assert reply.headers["cache-control"] == "no-store"


def test_the_openapi_document_lists_what_is_served(served: Served) -> None:
    found = served.get("/api/v1/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    for name, question in QUESTIONS.items():
        operation = found["paths"][f"/api/v1/{name}"]["get"]
        listed = {one["name"] for one in operation["parameters"]}
        assert listed == {one.name for one in question.parameters} | {"as_of"}
    for path in found["paths"]:
        assert served.get(path).status in (200, 400), path
    assert served.get("/api/v1").headers["location"] == "/api/v1/openapi.json"


def test_an_unchanged_answer_is_not_sent_again(served: Served) -> None:
    first = served.ask("/api/v1/models", q="lab")
    again = served.get("/api/v1/models?q=lab", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    other = served.ask("/api/v1/models", q="alice")
    assert other.headers["etag"] != first.headers["etag"]


def test_bodies_are_compressed_for_who_asks(served: Served) -> None:
    plain = served.ask("/api/v1/tree", model="lab/base")
    packed = served.get("/api/v1/tree?model=lab/base", accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.body == plain.body
    assert int(packed.headers["content-length"]) < len(plain.body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_is_posted(served: Served, method: str) -> None:
    reply = served.get("/api/v1/models", method=method)
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD"


def test_head_has_no_body(served: Served) -> None:
    reply = served.get("/", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")


def test_an_address_may_not_be_endless(served: Served) -> None:
    told = b""
    # A server that hangs up in the middle of it is right as well.
    with socket.create_connection(("127.0.0.1", served.port)) as line, suppress(ConnectionError):
        line.sendall(b"GET /models?q=" + b"x" * 600_000)
        line.settimeout(600)
        told = line.recv(100)
    assert told == b"" or told.split()[1] in (b"400", b"414", b"431")
    assert served.get("/models").status == 200


def test_a_client_in_a_hurry_is_slowed(explorer_store: Path, serve: Serve) -> None:
    client = serve(explorer_store, buckets=Buckets(rate=0.001, burst=3))
    replies = [client.get("/models.json") for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert int(replies[-1].headers["retry-after"]) > 1
    assert replies[-1].json()["ok"] is False


def test_buckets_fill_again() -> None:
    now = [0.0]
    buckets = Buckets(rate=2, burst=1, clock=lambda: now[0])
    assert buckets.wait("a") == 0
    assert buckets.wait("a") == pytest.approx(0.5)
    assert buckets.wait("b") == 0
    now[0] = 0.6
    assert buckets.wait("a") == 0


def test_a_server_answers_to_its_own_names_only(explorer_store: Path, serve: Serve) -> None:
    client = serve(explorer_store, hosts=("127.0.0.1", "explorer.example"))
    assert client.get("/models.json").status == 200
    assert client.get("/models.json", host="explorer.example").status == 200
    assert client.get("/models.json", host="EXPLORER.example:80").status == 200
    six = serve(explorer_store, hosts=("::1",))
    assert six.get("/models.json", host="[::1]").status == 200
    assert six.get("/models.json", host="[::1]:8765").status == 200
    assert six.get("/models.json", host="[::1]evil").status == 421
    for name in ("evil.example", "127.0.0.1.evil.example", "[::1]:x", ""):
        assert client.get("/models.json", host=name).status == 421, name


def test_a_store_that_is_busy_is_told_without_its_place(
    explorer_store: Path, tmp_path: Path, serve: Serve
) -> None:
    store = Path(shutil.copytree(explorer_store, tmp_path / "store"))
    with hold(store):
        client = serve(store)
        reply = client.get("/models.json")
    assert reply.status == 503
    assert str(tmp_path) not in reply.text
    assert client.get("/models.json").status == 200


@contextmanager
def hold(store: Path) -> Iterator[None]:
    """Another process has the store open for writing."""
    code = (
        "import sys; from modelkin.store import Registry\n"
        "with Registry.open(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        yield
        other.communicate()


def test_names_of_models_are_whole_in_json(served: Served) -> None:
    names = {row["model"] for row in served.ask("/api/v1/models", limit=1000).json()["rows"]}
    assert names >= set(LISTED)
