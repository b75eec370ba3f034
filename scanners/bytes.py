"""Where bytes come from: one socket for a local file and a ranged HTTP read.

A `ByteSource` is one file of one revision. Reads are half-open ranges of absolute offsets, and
a read gives exactly the bytes asked for or raises. `Traffic` counts what a model cost.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..lineage.errors import MalformedFile, TruncatedRead

# What lies in memory is copied at once up to this length: a thread costs more than the copy.
AT_ONCE = 1 << 20
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)
# A file that something else took the place of must not block either.
_OPENED = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(slots=True)
class Traffic:
    """Requests sent and body bytes received, added up over one model or one scan."""

    requests: int = 0
    bytes: int = 0

    def add(self, *, requests: int = 0, size: int = 0) -> None:
        """Count `requests` more requests and `size` more bytes."""
        self.requests += requests
        self.bytes += size


class ByteSource(Protocol):
    """One file, read by range."""

    @property
    def path(self) -> str:
        """Name of the file inside its revision, for messages."""
        ...

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        ...

    async def read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end): exactly `end - begin` of them.

        Raises
        ------
        TruncatedRead, RangeIgnored, FileChanged : the answer is not the range asked for.
        TransientError : the failure may pass.
        """
        ...


class LocalBytes:
    """A file on disk. The path on disk is opened anew for each read; nothing is kept open.

    Bytes that the system holds in memory are copied where the read is asked for; a read that would
    wait for the disk goes to a thread.
    """

    def __init__(self, file: Path, *, name: str, traffic: Traffic | None = None) -> None:
        self._file = file
        self._name = name
        self._size = file.stat().st_size
        self._traffic = traffic or Traffic()

    @property
    def path(self) -> str:
        """Name of the file inside its revision."""
        return self._name

    @property
    def size(self) -> int:
        """Length of the file when it was opened."""
        return self._size

    async def read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of the file."""
        if not 0 <= begin <= end <= self._size:
            raise MalformedFile(
                f"range {begin}-{end} lies outside the file of {self._size} bytes",
                path=self._name,
                offset=begin,
            )
        data = self._at_hand(begin, end)
        if data is None:
            data = await asyncio.to_thread(self._read, begin, end)
        self._traffic.add(requests=1, size=len(data))
        if len(data) != end - begin:
            raise TruncatedRead(
                f"{len(data)} of {end - begin} bytes came", path=self._name, offset=begin
            )
        return data

    def _at_hand(self, begin: int, end: int) -> bytes | None:
        """The bytes if no wait is needed for them; None, too, where the system cannot say so."""
        if _NO_WAIT is None or end - begin > AT_ONCE:
            return None
        data = bytearray(end - begin)
        try:
            descriptor = os.open(self._file, _OPENED)
            try:
                count = os.preadv(descriptor, [data], begin, _NO_WAIT)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return bytes(data) if count == len(data) else None

    def _read(self, begin: int, end: int) -> bytes:
        with open(os.open(self._file, _OPENED), "rb") as file:
            file.seek(begin)
            return file.read(end - begin)
