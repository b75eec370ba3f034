"""The SQL page and its forms: what surrounds a query of a stranger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ...lineage.errors import ModelkinError
from ...store.spelt_out import EXAMPLES
from .answers import CSV_TYPE, JSON_TYPE, as_error, to_json
from .cache import Body, pack
from .library import Library, Shelf
from .sql_pool import MOST_QUERY_BYTES, SqlAnswer, SqlPool
from .values import Parameter

PARQUET_TYPE = "application/vnd.apache.parquet"
ABOUT = "One SELECT or EXPLAIN on schema v1"


class SqlService:
    """Answers queries from the copies of a library.

    Parameters
    ----------
    library : the public copies.
    workers, waiting : queries at once, and queries that may wait.
    seconds : how long a query may take.
    """

    parameters = (Parameter(name="query", about=ABOUT, required=True, longest=MOST_QUERY_BYTES),)
    page_parameters = (Parameter(name="query", about=ABOUT, longest=MOST_QUERY_BYTES),)

    def __init__(self, library: Library, *, workers: int, waiting: int, seconds: float) -> None:
        self._library = library
        self._seconds = seconds
        self._pool = SqlPool(workers=workers, waiting=waiting, seconds=seconds)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Start before the first request, end after the last."""
        await self._pool.start()
        try:
            yield
        finally:
            await self._pool.close()

    async def answer(self, query: str, *, form: str, as_of: str | None) -> tuple[Body, str]:
        """The answer as `json`, `csv` or `parquet`, and the state of the copy it is from.

        Raises
        ------
        QueryRefused : not one read-only query, or stopped at a limit.
        TransientError : too many are waiting.
        """
        found, shelf = await self._run(query, form=form, as_of=as_of)
        if form == "csv":
            return pack(found.payload, CSV_TYPE), shelf.state
        if form == "parquet":
            return Body(content=found.payload, media_type=PARQUET_TYPE), shelf.state
        answer = {
            "ok": True,
            "as_of": shelf.as_of,
            "columns": found.columns,
            "types": found.types,
            "truncated": found.truncated,
            "rows": json.loads(found.payload),
            "total": found.rows,
            "next": None,
        }
        return pack(to_json(answer), JSON_TYPE), shelf.state

    async def page(self, query: str | None, *, as_of: str | None) -> dict[str, Any]:
        """What the SQL page shows: schema, examples, and the answer or the error of a query."""
        schema = await asyncio.to_thread(self._schema, as_of)
        context: dict[str, Any] = {
            "schema": schema,
            "seconds": self._seconds,
            "examples": EXAMPLES,
            "answer": None,
            "rows": [],
            "words": None,
            "status": 200,
        }
        if query:
            try:
                found, _ = await self._run(query, form="json", as_of=as_of)
            except ModelkinError as error:
                status, words = as_error(error)
                return {**context, "words": words, "status": status}
            context |= {"answer": found, "rows": json.loads(found.payload)}
        return context

    async def _run(self, query: str, *, form: str, as_of: str | None) -> tuple[SqlAnswer, Shelf]:
        shelf = await asyncio.to_thread(self._library.borrow, as_of)
        try:
            found = await self._pool.run(shelf.path.parent, shelf.path.name, query, form=form)
        finally:
            await asyncio.to_thread(self._library.give_back, shelf)
        return found, shelf

    def _schema(self, as_of: str | None) -> dict[str, list[dict[str, Any]]]:
        with self._library.shelf(as_of) as shelf:
            return shelf.reader.schema()
