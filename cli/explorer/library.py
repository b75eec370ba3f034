"""The public copies being served: the newest state of a store, and its snapshots.

A copy is made when it is first asked for, so the store itself is never held open and a scan can go
on. Every copy has a file name of its own; readers of an old one keep it until they are done.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...lineage.errors import NotInRegistry, RegistryBusy, RegistryError
from ...store import Registry
from ...store.database import FILE_NAME
from ...store.explorer import PublicReader
from ...store.public_copy import write_public_copy
from ...store.snapshots import CURRENT, SNAPSHOTS, snapshot_names

logger = logging.getLogger(__name__)

MOST_COPIES = 4
LOOK_AGAIN = 10.0


@dataclass(slots=True)
class Shelf:
    """One public copy: `state` names what it holds, `as_of` the snapshot, None for the newest."""

    reader: PublicReader
    path: Path
    state: str
    as_of: str | None
    made_from: tuple[str, int, int]
    readers: int = 0
    retired: bool = False


class Library:
    """Public copies of a store, made on demand in a folder of its own.

    Threads may share it. While a newer state is copied, the older copy is served.

    Parameters
    ----------
    store : the store folder.
    room : a folder for copies, empty.
    clock : monotonic seconds; the store is looked at again after ten of them.
    start : runs a job beside the caller; in a thread of its own without it.
    """

    def __init__(
        self,
        store: Path,
        *,
        room: Path,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._store = store
        self._room = room
        self._clock = clock
        self._start = self._in_thread if start is None else start
        self._lock = threading.RLock()
        self._turns: dict[str | None, threading.Lock] = {}
        self._shelves: OrderedDict[str | None, Shelf] = OrderedDict()
        self._renewal: threading.Thread | None = None
        self._renewing = False
        self._looked = float("-inf")
        self._made = 0

    def snapshots(self) -> list[str]:
        """Names of the snapshots of the store, newest first."""
        names = snapshot_names(self._store)
        return [name for name in names if self._snapshot(name).exists()]

    @contextmanager
    def shelf(self, as_of: str | None = None) -> Iterator[Shelf]:
        """A copy to read from for the length of the block.

        Parameters
        ----------
        as_of : name of a snapshot; None for the newest state.

        Raises
        ------
        NotInRegistry : there is no such snapshot.
        RegistryError : the store cannot be read.
        """
        shelf = self.borrow(as_of)
        try:
            yield shelf
        finally:
            self.give_back(shelf)

    def borrow(self, as_of: str | None = None) -> Shelf:
        """A copy to read from until it is given back; raises as `shelf` does."""
        if as_of is None and self._wants_renewal():
            self._start(self._renew)
        while (shelf := self._take(as_of)) is None:
            source = self._find(as_of)
            # The first who asks makes it; others wait for that, and nobody else does.
            with self._turn(as_of):
                if as_of not in self._shelves:
                    self._put(as_of, self._copy(as_of, source))
        return shelf

    def give_back(self, shelf: Shelf) -> None:
        """The end of a `borrow`: a copy that nobody reads and nobody will ask for is removed."""
        with self._lock:
            shelf.readers -= 1
            self._sweep(shelf)

    def close(self) -> None:
        """Close all copies; one that is being made is waited for."""
        if self._renewal is not None:
            self._renewal.join()
        with self._lock:
            for shelf in self._shelves.values():
                shelf.reader.close()
            self._shelves.clear()

    def _take(self, as_of: str | None) -> Shelf | None:
        with self._lock:
            shelf = self._shelves.get(as_of)
            if shelf is not None:
                self._shelves.move_to_end(as_of)
                shelf.readers += 1
            return shelf

    def _turn(self, as_of: str | None) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(as_of, threading.Lock())

    def _put(self, as_of: str | None, fresh: Shelf) -> None:
        with self._lock:
            old = self._shelves.get(as_of)
            self._shelves[as_of] = fresh
            if old is not None:
                self._retire(old)
            if len(self._shelves) > MOST_COPIES:
                self._retire(self._shelves.pop(next(iter(self._shelves))))

    def _wants_renewal(self) -> bool:
        """Whether the newest copy is behind the store and nobody is at it; then the caller is."""
        with self._lock:
            shelf, now = self._shelves.get(None), self._clock()
            if shelf is None or self._renewing or now - self._looked < LOOK_AGAIN:
                return False
            self._looked = now
            path = self._source(None)
            self._renewing = path is not None and _fingerprint(path) != shelf.made_from
            return self._renewing

    def _in_thread(self, job: Callable[[], None]) -> None:
        self._renewal = threading.Thread(target=job, name="modelkin-copy")
        self._renewal.start()

    def _renew(self) -> None:
        try:
            self._put(None, self._copy(None, self._find(None)))
        except RegistryBusy:
            logger.info("the store is being written; the copy of before is served on")
        except RegistryError as error:
            logger.warning("the copy of before is served on: %s", error)
        finally:
            self._renewing = False

    def _find(self, as_of: str | None) -> Path:
        source = self._source(as_of)
        if source is None:
            # Says what to do when there is no store at all.
            Registry.open(self._store, read_only=True).close()
            raise NotInRegistry(f"no snapshot {as_of!s:.40} in this store", name=str(as_of))
        return source

    def _copy(self, as_of: str | None, source: Path) -> Shelf:
        made_from = _fingerprint(source)
        with self._lock:
            self._looked = self._clock()
            self._made += 1
            folder = self._room / f"copy-{self._made}"
        folder.mkdir()
        state = write_public_copy(source, folder / FILE_NAME)
        reader = PublicReader.open(folder)
        return Shelf(
            reader=reader,
            path=folder / FILE_NAME,
            state=state,
            as_of=as_of,
            made_from=made_from,
        )

    def _source(self, as_of: str | None) -> Path | None:
        """The file to copy: a snapshot, what `current` leads to, or the store's own file."""
        if as_of is not None:
            return self._snapshot(as_of) if as_of in self.snapshots() else None
        published, own = self._store / CURRENT / FILE_NAME, self._store / FILE_NAME
        found = published if published.exists() else own
        return found.resolve() if found.exists() else None

    def _snapshot(self, name: str) -> Path:
        return self._store / SNAPSHOTS / name / FILE_NAME

    def _retire(self, shelf: Shelf) -> None:
        shelf.retired = True
        self._sweep(shelf)

    def _sweep(self, shelf: Shelf) -> None:
        if shelf.retired and shelf.readers == 0:
            shelf.reader.close()
            shelf.path.unlink(missing_ok=True)


def _fingerprint(path: Path) -> tuple[str, int, int]:
    facts = os.stat(path)
    return str(path), facts.st_size, facts.st_mtime_ns
