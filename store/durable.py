"""Files and links that are there whole or not at all, whenever the machine stops."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_whole(path: Path, content: bytes, *, prefix: str = ".partial-") -> None:
    """Write a file that appears under its name only when all of it is on the disk."""
    with whole_file(path, prefix=prefix) as file:
        file.write(content)


@contextmanager
def whole_file(
    path: Path, *, prefix: str = ".partial-", lasting: bool = True
) -> Iterator[IO[bytes]]:
    """A file to write to, which appears under its name when the block ends well.

    Parameters
    ----------
    lasting : wait until it is on the disk; not for what can be made again after a power cut.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if lasting:
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` everything below a folder, files before the folders that name them."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def point(link: Path, target: str) -> None:
    """Make a symbolic link lead to `target`; readers see the old one or the new one."""
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
    sync(link.parent)
