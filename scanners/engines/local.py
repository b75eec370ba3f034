"""The local engine: asyncio in this process, or in a pool of processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event

from ...lineage.errors import ModelkinError
from ..fetching import Batch, Fetched, fetch_batch
from ..sources.base import Source
from .base import SourceSpec

MOST_RETRIES = 3


class InProcess:
    """One event loop in this process, kept for all batches so that connections are re-used.

    Parameters
    ----------
    source : closed by its owner, on this engine's loop when the engine closes.
    stopped : asked while a batch runs.
    """

    def __init__(
        self, source: Source, *, stopped: Callable[[], bool], concurrent: int = 64
    ) -> None:
        self._source = source
        self._stopped = stopped
        self._concurrent = concurrent
        self._runner = asyncio.Runner()

    def run(self, batches: Iterable[Batch]) -> Iterator[Fetched]:
        """Fetch batch by batch."""
        for batch in batches:
            yield self._runner.run(
                fetch_batch(
                    batch,
                    source=self._source,
                    stopped=self._stopped,
                    concurrent=self._concurrent,
                )
            )

    def close(self) -> None:
        """Close the source's connections and the loop."""
        self._runner.run(self._source.close())
        self._runner.close()


class ProcessPool:
    """Processes that fetch a batch each; what a killed one had is fetched again.

    Parameters
    ----------
    spec : how each process opens the source.
    processes : how many.
    stopped : asked between results; running batches are then told to end.
    """

    def __init__(self, spec: SourceSpec, *, processes: int, stopped: Callable[[], bool]) -> None:
        self._spec = spec
        self._processes = processes
        self._stopped = stopped
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._pool = self._begin()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return sorted(self._pool._processes or ())

    def run(self, batches: Iterable[Batch]) -> Iterator[Fetched]:
        """Fetch batches, one a process and one waiting; results in their order."""
        rest = iter(batches)
        flying: deque[tuple[Batch, Future[Fetched]]] = deque()
        with _Relay(self._stopped, self._stop.set):
            while True:
                while len(flying) <= self._processes and not self._stopped():
                    batch = next(rest, None)
                    if batch is None:
                        break
                    flying.append((batch, self._pool.submit(_work, batch)))
                if not flying:
                    return
                yield self._next(flying)

    def close(self) -> None:
        """End the processes."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _next(self, flying: deque[tuple[Batch, Future[Fetched]]]) -> Fetched:
        for _ in range(MOST_RETRIES):
            try:
                fetched = flying[0][1].result()
                flying.popleft()
                return fetched
            except BrokenProcessPool:
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = self._begin()
                again = [(batch, self._pool.submit(_work, batch)) for batch, _ in flying]
                flying.clear()
                flying.extend(again)
        raise ModelkinError(f"workers died {MOST_RETRIES} times over batch {flying[0][0].number}")

    def _begin(self) -> ProcessPoolExecutor:
        prepare = partial(_prepare, self._spec, self._stop)
        return ProcessPoolExecutor(self._processes, mp_context=self._context, initializer=prepare)


class _Relay:
    """Passes on, from a thread, that the run was asked to stop."""

    def __init__(self, stopped: Callable[[], bool], tell: Callable[[], None]) -> None:
        self._stopped, self._tell = stopped, tell
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="relay", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            if self._stopped():
                self._tell()
                return


class _Worker:
    """What a process keeps between its batches."""

    runner: asyncio.Runner
    source: Source
    stopped: Callable[[], bool]


def _prepare(spec: SourceSpec, stop: Event) -> None:
    # The parent says when to stop; a terminal's signal reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _Worker.runner = asyncio.Runner()
    _Worker.source = spec.open()
    _Worker.stopped = stop.is_set


def _work(batch: Batch) -> Fetched:
    return _Worker.runner.run(fetch_batch(batch, source=_Worker.source, stopped=_Worker.stopped))
