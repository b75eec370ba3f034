"""A database that nobody writes: what was asked before is known."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import duckdb

from ..database import Database, Parameters

SHORT = 8
"""Rows of an answer that is kept."""
MOST_KEPT = 20_000
"""Answers that are kept; the one used longest ago goes first."""


class Unchanging(Database):
    """A database whose short answers are kept.

    One page resolves the same name many times, at a millisecond each.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, path: Path, read_only: bool
    ) -> None:
        super().__init__(connection, path=path, read_only=read_only)
        self._kept: OrderedDict[tuple[str, str], list[tuple[Any, ...]]] = OrderedDict()
        self._turn = threading.Lock()

    def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, perhaps those of an earlier time."""
        key = (query, repr(parameters))
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = super().rows(query, parameters)
        if len(found) <= SHORT:
            with self._turn:
                self._kept[key] = found
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        return found
