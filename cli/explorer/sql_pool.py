"""Queries of strangers, a few at a time: a bounded queue before the disposable processes."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...lineage.errors import QueryRefused, TransientError
from .sql_nursery import KILL_AFTER
from .sql_worker import MOST_BYTES

MOST_QUERY_BYTES = 64 * 1024
GRACE_SECONDS = 0.5
HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlAnswer:
    """The answer to a query in one form; `truncated` when rows were left out."""

    payload: bytes
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: int
    truncated: bool
    seconds: float


class Nursery:
    """The process that forks a child for each query; started when first used.

    Threads may share it.

    Parameters
    ----------
    seconds : how long a query may take.
    """

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start the process unless it runs."""
        with self._lock:
            self._ensure()

    def run(self, folder: Path, file: str, query: str, *, form: str) -> bytes:
        """Header line and payload that a child wrote; less than a line when it died first."""
        task = {"folder": str(folder), "file": file, "query": query, "form": form}
        reading, writing = os.pipe()
        try:
            self._send(json.dumps(task).encode(), writing)
        finally:
            os.close(writing)
        try:
            return _read_all(reading, seconds=self._seconds + KILL_AFTER + GRACE_SECONDS)
        finally:
            os.close(reading)

    def close(self) -> None:
        """End the process; it kills its children first."""
        with self._lock:
            if self._control is not None:
                self._control.close()
            if self._process is not None:
                self._process.wait(timeout=10)
            self._control = self._process = None

    def _send(self, message: bytes, descriptor: int) -> None:
        with self._lock:
            for last in (False, True):
                control = self._ensure()
                try:
                    socket.send_fds(control, [message], [descriptor])
                    return
                except OSError:
                    # It was killed, by a memory limit around the server perhaps: once more.
                    if last:
                        raise
                    self._forget()

    def _ensure(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = _spawn(theirs, seconds=self._seconds)
            self._control = ours
        return self._control

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


class SqlPool:
    """Runs queries, so many at once and so many waiting; more are turned away.

    Parameters
    ----------
    workers : queries at once.
    waiting : queries that may wait for their turn.
    seconds : how long a query may take.
    """

    def __init__(self, *, workers: int, waiting: int, seconds: float) -> None:
        self._seconds = seconds
        self._turns = asyncio.Semaphore(workers)
        self._room = workers + waiting
        self._inside = 0
        self._nursery = Nursery(seconds=seconds)

    async def start(self) -> None:
        """Start the process that forks, so that the first query finds it ready."""
        await asyncio.to_thread(self._nursery.start)

    async def run(self, folder: Path, file: str, query: str, *, form: str) -> SqlAnswer:
        """The answer to one query.

        Raises
        ------
        QueryRefused : not one read-only query, too long, or stopped at a limit.
        TransientError : too many are waiting.
        """
        if len(query.encode("utf-8", "replace")) > MOST_QUERY_BYTES:
            raise QueryRefused(f"the query is longer than {MOST_QUERY_BYTES:,} bytes")
        if self._inside >= self._room:
            raise TransientError("too many queries are waiting", retry_after=self._seconds)
        self._inside += 1
        try:
            async with self._turns:
                started = time.monotonic()
                told = await asyncio.to_thread(self._nursery.run, folder, file, query, form=form)
                if b"\n" not in told:
                    raise QueryRefused(
                        f"the query was stopped: it may take {self._seconds:g} seconds and 2 GiB "
                        "of memory"
                    )
                return _parse(told, seconds=time.monotonic() - started)
        finally:
            self._inside -= 1

    async def close(self) -> None:
        """End the processes."""
        await asyncio.to_thread(self._nursery.close)


def _spawn(theirs: socket.socket, *, seconds: float) -> subprocess.Popen[bytes]:
    # Nothing of this environment reaches a query: no token, no home, no proxy.
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
    }
    number = theirs.fileno()
    return subprocess.Popen(
        [sys.executable, "-m", "modelkin.cli.explorer.sql_nursery", str(number), str(seconds)],
        pass_fds=[number],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _read_all(descriptor: int, *, seconds: float) -> bytes:
    """What comes until the end of the pipe, the deadline or the cap."""
    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + seconds
    while size <= MOST_BYTES + HEADER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return b""
        part = os.read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    return b""


def _parse(told: bytes, *, seconds: float) -> SqlAnswer:
    line, _, payload = told.partition(b"\n")
    header: dict[str, Any] = json.loads(line)
    if header["status"] != "ok":
        raise QueryRefused(header["words"])
    return SqlAnswer(
        payload=payload,
        columns=tuple(header["columns"]),
        types=tuple(header["types"]),
        rows=header["rows"],
        truncated=header["truncated"],
        seconds=seconds,
    )
