"""SQL for strangers: what leaks, writes or reconfigures is refused; bombs end in time."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hostile_sql import ATTACKS, BOMBS, LOOKS
from store_factories import NOW

from modelkin.cli.explorer.app import SQL_SECONDS
from modelkin.cli.explorer.sql_pool import Nursery
from modelkin.store import Registry

from .conftest import Reply, Serve, Served, running

CANARY = "canary-5f1d0c"
PATIENCE = 120.0
TOGETHER = 7
SERVER_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server with secrets around it."""

    client: Served
    places: dict[str, object]
    out: Path
    store: Path


@pytest.fixture(scope="module")
def target(explorer_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server whose store, environment and neighbours hold a canary."""
    base = tmp_path_factory.mktemp("target")
    store = base / "store"
    shutil.copytree(explorer_store, store)
    with Registry.open(store) as registry:
        parameters = {"source": f"dir:/home/{CANARY}", "token": CANARY}
        scan = registry.start_scan(
            kind="scan", source=f"dir:/home/{CANARY}", parameters=parameters, now=NOW
        )
        registry.add_page(scan, [], next_cursor=CANARY, now=NOW)
        registry.finish_scan(scan, status="done", now=NOW)
    secret, out = base / "secret.txt", base / "out"
    secret.write_text(CANARY, encoding="utf-8")
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setenv("HF_TOKEN", CANARY)
        patch.setenv("HOME", f"/home/{CANARY}")
        listener.setblocking(False)
        port = listener.getsockname()[1]
        places = {"secret": secret, "out": out, "store": store, "port": port}
        with running(store, tmp_path_factory.mktemp("room") / "copies") as client:
            yield Target(client=client, places=places, out=out, store=store)
        with pytest.raises(BlockingIOError):
            listener.accept()


def filled(query: str, target: Target) -> str:
    for name, value in target.places.items():
        query = query.replace("{" + name + "}", str(value))
    return query


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def attacked(target: Target) -> Iterator[dict[str, Reply]]:
    """The replies to all attacks, and to what may be looked at."""
    before = digest(target.store / "registry.duckdb")
    queries = (*ATTACKS, *LOOKS)
    with ThreadPoolExecutor(2) as pool:
        replies = pool.map(lambda query: target.client.sql(filled(query, target)), queries)
        found = dict(zip(queries, replies, strict=True))
    yield found
    assert digest(target.store / "registry.duckdb") == before


def test_there_are_enough_attacks() -> None:
    assert len(set(ATTACKS)) >= 80
    assert len(set(BOMBS)) >= 28


@pytest.mark.parametrize("query", ATTACKS)
def test_an_attack_is_refused(attacked: dict[str, Reply], query: str) -> None:
    reply = attacked[query]
    assert reply.status == 400, reply.text[:300]
    assert not reply.json()["ok"]


def test_no_attack_writes(target: Target, attacked: dict[str, Reply]) -> None:
    assert attacked
    assert list(target.out.iterdir()) == []


@pytest.mark.parametrize("query", LOOKS)
def test_what_may_be_read_holds_no_secret(attacked: dict[str, Reply], query: str) -> None:
    text = attacked[query].text
    assert CANARY not in text
    assert CANARY.encode().hex() not in text.lower()


def test_no_refusal_holds_a_secret(target: Target, attacked: dict[str, Reply]) -> None:
    # What the query itself says of a path is echoed; the content of a file is not.
    for query, reply in attacked.items():
        told = reply.text
        for place in target.places.values():
            told = told.replace(str(place), "")
        assert CANARY not in told, query


def test_bombs_end_and_others_are_answered_meanwhile(explorer_store: Path, serve: Serve) -> None:
    client = serve(explorer_store, sql_workers=TOGETHER, sql_seconds=SQL_SECONDS)
    statuses, peak, over = [], [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            statuses.append(client.get("/models.json").status)
            peak[0] = max(peak[0], resident())
            over.wait(0.2)

    def explode(query: str) -> tuple[str, Reply]:
        return query, client.sql(query)

    began_with = resident()
    with ThreadPoolExecutor(TOGETHER + 1) as pool:
        watcher = pool.submit(watch)
        ended = list(pool.map(explode, BOMBS))
        over.set()
        watcher.result()
    for query, reply in ended:
        assert reply.status in (200, 400), f"{query[:80]}: {reply.text[:200]}"
    assert peak[0] - began_with < SERVER_BYTES
    # A server that a bomb keeps from answering has told the watcher once, before or after it.
    assert len(statuses) > 2
    assert set(statuses) == {200}
    assert client.sql("SELECT 42 AS x").json()["rows"] == [{"x": 42}]
    wait_until_childless()


def resident() -> int:
    """Bytes of memory that this process, the server among it, takes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def wait_until_childless() -> None:
    """Fails when a query's process is still there long after its end."""
    until = time.monotonic() + PATIENCE
    while children_of(nurseries()):
        assert time.monotonic() < until, "a process outlived its query"
        time.sleep(0.05)


def children_of(processes: list[int]) -> list[str]:
    """Children that these processes have."""
    found = (Path(f"/proc/{one}/task/{one}/children").read_text().split() for one in processes)
    return [child for children in found for child in children]


def nurseries() -> list[int]:
    """The process ids of the nurseries of this process."""
    return [
        int(child)
        for task in Path(f"/proc/{os.getpid()}/task").iterdir()
        for child in (task / "children").read_text().split()
        if b"sql_nursery" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_the_nursery_has_one_thread_and_an_empty_environment(served: Served) -> None:
    assert served.sql("SELECT 1").status == 200
    allowed = {b"PYTHONPATH", b"OPENBLAS_NUM_THREADS", b"OMP_NUM_THREADS", b"LANG"}
    assert nurseries()
    for nursery in nurseries():
        assert len(list(Path(f"/proc/{nursery}/task").iterdir())) == 1
        environment = Path(f"/proc/{nursery}/environ").read_bytes().split(b"\0")
        assert {entry.partition(b"=")[0] for entry in environment if entry} <= allowed


def test_a_killed_nursery_is_replaced(served: Served) -> None:
    for nursery in nurseries():
        os.kill(nursery, signal.SIGKILL)
    replies = [served.sql("SELECT 1") for _ in range(3)]
    assert replies[-1].status == 200


def test_too_many_queries_are_turned_away(
    explorer_store: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(explorer_store, sql_workers=1, sql_waiting=1)
    released, run = threading.Event(), Nursery.run

    def held(*args: Any, **more: Any) -> bytes:
        released.wait(PATIENCE)
        return run(*args, **more)

    monkeypatch.setattr(Nursery, "run", held)
    with ThreadPoolExecutor(5) as pool:
        asked = as_completed([pool.submit(client.sql, "SELECT 1") for _ in range(5)])
        turned = [next(asked).result() for _ in range(3)]
        released.set()
        answered = [one.result() for one in asked]
    assert [reply.status for reply in turned] == [503] * 3
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in turned)
    assert [reply.status for reply in answered] == [200] * 2


def test_the_same_answer_in_three_forms(served: Served) -> None:
    query = "SELECT model, 1.5 AS x, NULL AS nothing FROM models ORDER BY model"
    rows = served.sql(query).json()["rows"]
    table = pq.read_table(io.BytesIO(served.sql(query, form="parquet").body))
    lines = list(csv.DictReader(io.StringIO(served.sql(query, form="csv").text)))
    assert [row["model"] for row in rows] == table["model"].to_pylist()
    assert len(lines) == len(rows) == 14
    assert {row["x"] for row in rows} == {1.5}


def test_rows_and_bytes_are_capped(served: Served) -> None:
    many = served.sql("SELECT range AS i FROM range(100000)").json()
    assert (len(many["rows"]), many["truncated"]) == (1000, True)
    few = served.sql("SELECT range AS i FROM range(1000)").json()
    assert (len(few["rows"]), few["truncated"]) == (1000, False)
    wide = served.sql("SELECT repeat('x', 100000) AS w FROM range(1000)").json()
    assert wide["truncated"]
    assert 0 < len(wide["rows"]) < 100
    assert len(served.sql("FROM range(60000)", form="csv").text.splitlines()) == 50_001


def test_a_query_beyond_64_kib_is_refused(served: Served) -> None:
    reply = served.sql("SELECT '" + "x" * 70_000 + "'")
    assert reply.status == 400
    assert served.sql("SELECT '" + "é" * 34_000 + "'").status == 400
    assert served.sql("SELECT length('" + "x" * 60_000 + "') AS n").json()["rows"] == [{"n": 60000}]


@pytest.mark.parametrize(
    "query",
    ["SELECT 'a' AS \"=cmd()\"", "SELECT '=cmd()' AS a", "SELECT '\t@x' AS a", "SELECT '+1' AS a"],
)
def test_a_spreadsheet_runs_nothing(served: Served, query: str) -> None:
    for cell in next(
        zip(*csv.reader(io.StringIO(served.sql(query, form="csv").text)), strict=True)
    ):
        assert not cell.startswith(("=", "+", "-", "@", "\t"))


def test_the_page_shows_answers_and_errors(served: Served) -> None:
    page = served.ask("/sql", query="SELECT '<script>alert(1)</script>' AS \"<b>\"")
    assert page.status == 200
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "<b>" not in page.text
    wrong = served.ask("/sql", query="SELECT no_such_column FROM models")
    assert wrong.status == 400
    assert "no_such_column" in wrong.text


def test_the_worker_starts_without_heavy_modules() -> None:
    script = "import sys, modelkin.cli.explorer.sql_nursery; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert not {"torch", "transformers", "uvicorn"} & set(ended.stdout.split())
