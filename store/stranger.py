"""One query of a stranger, inside a process that is thrown away after it.

DuckDB's settings keep the query away from files, network, extensions and settings. They do not
contain it: a single scalar call ignores the interrupt and the memory limit. The caller runs this
under resource limits and kills the process when its time is up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ..lineage.errors import QueryRefused, RegistryError
from .sandbox import LOCK_DOWN, only_query

_LIMITS = (
    "SET memory_limit = '512MB'",
    "SET threads = 2",
    "SET max_expression_depth = 200",
    "SET search_path = 'v1,main'",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A query that has begun to answer: its columns, and the rest from the cursor."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    cursor: duckdb.DuckDBPyConnection

    def rows(self, most: int) -> Iterator[tuple[Any, ...]]:
        """Rows one by one, at most so many."""
        left = most
        while left > 0 and (batch := self.cursor.fetchmany(min(left, 256))):
            left -= len(batch)
            yield from batch

    def arrow(self, most: int) -> Any:
        """At most so many rows as an Arrow table."""
        import pyarrow as pa

        reader: Any = self.cursor.to_arrow_reader(2048)
        batches, left = [], most
        for batch in reader:
            batches.append(batch.slice(0, left))
            left -= len(batches[-1])
            if left <= 0:
                break
        return pa.Table.from_batches(batches, schema=reader.schema)


@contextmanager
def ask(path: Path, query: str, *, seconds: float) -> Iterator[Running]:
    """Run one SELECT or EXPLAIN on a public copy, interrupted when its time is up.

    Parameters
    ----------
    path : the copy. The query can ask where it lies, and read the very bytes of it.
    seconds : how long it may take.

    Raises
    ------
    QueryRefused : not one read-only query, or it reaches outside the copy.
    RegistryError : DuckDB cannot answer, or was interrupted.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "python_enable_replacements": "false"
    }
    # Never closed: the process ends with the answer, and closing takes as long as a query.
    connection = duckdb.connect(path, read_only=True, config=config)
    for setting in (*_LIMITS, *LOCK_DOWN):
        connection.execute(setting)
    statement = only_query(query, connection=connection)
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    with _told(seconds):
        connection.execute(statement)
        described = connection.description or ()
        yield Running(
            columns=tuple(str(column[0]) for column in described),
            types=tuple(str(column[1]) for column in described),
            cursor=connection,
        )
    timer.cancel()


@contextmanager
def _told(seconds: float) -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException as error:
        raise RegistryError(f"stopped after {seconds:g} seconds") from error
    except duckdb.PermissionException as error:
        raise QueryRefused(f"only the store itself can be read: {error}") from error
    except duckdb.OutOfMemoryException as error:
        raise RegistryError("the query needs more memory than it may have") from error
    except duckdb.Error as error:
        raise QueryRefused(str(error)) from error
