"""One scan at a time: an advisory lock on `scan.lock` in the store folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..lineage.errors import RegistryBusy, RegistryError

FILE_NAME = "scan.lock"


@contextmanager
def scan_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the scan lock of a store for the length of the block.

    The kernel gives the lock back when the process ends, however it ends, so a file left behind
    by a kill is never stale. The file names the holder's process id for people.

    Parameters
    ----------
    path : the store folder; made when it is missing.

    Raises
    ------
    RegistryBusy : another process scans into this store (exit 4).
    RegistryError : the lock file cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RegistryError(f"cannot lock the store {folder}: {error.strerror}") from error
    try:
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        raise RegistryBusy(
            f"another scan (process {holder or 'unknown'}) is writing to {folder}; wait for it"
        ) from error
