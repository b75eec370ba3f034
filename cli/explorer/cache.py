"""Bodies that were sent lately, within a number of bytes."""

from __future__ import annotations

import gzip
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

SMALL = 1024
LARGE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A whole body and its compressed form, None where that is not worth it."""

    content: bytes
    media_type: str
    packed: bytes | None = None
    status: int = 200

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.content) + len(self.packed or b"")


def pack(content: bytes, media_type: str, *, status: int = 200) -> Body:
    """A body with its compressed form; large ones are compressed fast rather than well."""
    packed = None
    if len(content) >= SMALL:
        packed = gzip.compress(content, compresslevel=1 if len(content) >= LARGE else 6, mtime=0)
    return Body(content=content, media_type=media_type, packed=packed, status=status)


class Bodies:
    """A cache that computes each missing body once, however many threads ask for it.

    Parameters
    ----------
    most : bytes to keep; the body used longest ago goes first.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, Body] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._busy: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Body]) -> Body:
        """The body under a key, made if it is not there; an error of `make` is not kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            turn = self._busy.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._held:
                    return self._held[key]
            try:
                body = make()
                self._keep(key, body)
            finally:
                with self._lock:
                    self._busy.pop(key, None)
        return body

    def _keep(self, key: Hashable, body: Body) -> None:
        if body.size > self._most:
            return
        with self._lock:
            before = self._held.pop(key, None)
            self._held[key] = body
            self._size += body.size - (0 if before is None else before.size)
            while self._size > self._most:
                _, gone = self._held.popitem(last=False)
                self._size -= gone.size
