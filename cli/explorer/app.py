"""The explorer as an ASGI application: which address gives what, in which form."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from ... import __version__
from ...lineage.errors import BadRequest, ModelkinError, NotInRegistry, TransientError
from . import charts
from .answers import CSV_TYPE, JSON_TYPE, as_csv, as_error, as_json, error_json, to_json
from .cache import Bodies, Body, pack
from .drawing import MAP_FORMS, map_body
from .guard import App, Buckets, Guard
from .library import Library, Shelf
from .openapi import describe_api
from .questions import MODEL, PROBE, QUESTIONS, Question
from .rendering import Pages, ServedLinks
from .sql_page import SqlService
from .static import STATIC
from .values import Parameter, Values, read_values

logger = logging.getLogger(__name__)

HTML_TYPE = "text/html; charset=utf-8"
SVG_TYPE = "image/svg+xml"
AS_OF = Parameter(
    name="as_of", about="Snapshot to answer from; the newest state without it", longest=24
)
MOST_PAIRS = 512
CACHE_BYTES = 64 * 1024 * 1024
MAPS_AHEAD = 4
SQL_SECONDS = 2.0

Form = Literal["html", "json", "csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one address asks for: the values, the snapshot, and what it is a picture of."""

    values: Values
    as_of: str | None


class Explorer:
    """Answers requests from the copies of a library.

    Parameters
    ----------
    library : the public copies.
    bodies : a cache of what was sent lately.
    sql : runs queries of strangers.
    """

    def __init__(self, library: Library, *, bodies: Bodies, sql: SqlService) -> None:
        self._library = library
        self._bodies = bodies
        self._pages = Pages(snapshots=library.snapshots, served=True)
        self.sql = sql

    def routes(self) -> list[Route]:
        """Every address."""
        found = [Route("/", self._handler("home", "html"))]
        for name, question in QUESTIONS.items():
            found += [
                Route(f"/{name}.json", self._handler(name, "json")),
                Route(f"/{name}.csv", self._handler(name, "csv")),
                Route(f"/api/v1/{name}", self._handler(name, "json")),
            ]
            if question.template is not None and name != "home":
                found.append(Route(f"/{name}", self._handler(name, "html")))
        found += [Route(f"/map/{form}", self._map_handler(form)) for form in MAP_FORMS]
        found += [Route(f"/plots/{name}.svg", self._plot_handler(name)) for name in charts.PLOTS]
        found += [
            Route("/sql", self._sql_page),
            *(
                Route(f"/sql.{form}", self._sql_handler(form))
                for form in ("json", "csv", "parquet")
            ),
            Route("/api/v1/sql", self._sql_handler("json")),
            Route("/api/v1/snapshots", self._snapshots),
            Route("/api/v1/openapi.json", self._openapi),
            Route("/api/v1", lambda request: RedirectResponse("/api/v1/openapi.json")),
            Route("/static/{version}/{name}", self._static),
            Route("/robots.txt", lambda request: Response("User-agent: *\nDisallow: /sql\n")),
        ]
        return found

    def draw_ahead(self) -> None:
        """Lay out the largest maps, so that the first who looks at one does not wait for it."""
        with self._library.shelf() as shelf:
            for model in shelf.reader.largest(MAPS_AHEAD):
                self._map(shelf, model, form="layout")

    def failed(self, request: Request, error: Exception) -> Response:
        """The page or JSON object of an error."""
        status, words = as_error(error)
        if status == 500:
            logger.error("%s failed", request.url.path, exc_info=error)
        headers = {"cache-control": "no-store"}
        if isinstance(error, TransientError):
            headers["retry-after"] = f"{max(1, round(error.retry_after or 1))}"
        path = request.url.path
        if path.startswith("/api/") or path.endswith((".json", ".csv", ".parquet")):
            return Response(error_json(status, words), status, headers, JSON_TYPE)
        page = self._pages.fill("error.html", status=status, words=words)
        return Response(page, status, headers, HTML_TYPE)

    def _handler(self, name: str, form: Form) -> Callable[[Request], Response]:
        question = QUESTIONS[name]

        def answer(request: Request) -> Response:
            asked = _read(request, question.parameters)
            with self._library.shelf(asked.as_of) as shelf:
                key = (shelf.state, shelf.as_of, name, form, _key(asked.values))
                body = self._bodies.get(key, lambda: self._make(question, form, asked, shelf))
            return _send(request, body, key=key, fixed=asked.as_of is not None)

        return answer

    def _make(self, question: Question, form: Form, asked: Asked, shelf: Shelf) -> Body:
        answer = question.ask(shelf.reader, asked.values)
        if form == "csv":
            return pack(as_csv(answer), CSV_TYPE)
        if form == "json":
            about = {k: v for k, v in answer.about.items() if k != "root"}
            return pack(as_json(answer, about=about, as_of=shelf.as_of), JSON_TYPE)
        links = ServedLinks(as_of=shelf.as_of)
        page = self._pages.render(
            question, answer, values=asked.values, as_of=shelf.as_of, links=links
        )
        return pack(page.encode("utf-8", "replace"), HTML_TYPE)

    def _map(self, shelf: Shelf, model: str, *, form: str) -> tuple[object, Body]:
        key = (shelf.state, shelf.as_of, "map", form, model)
        return key, self._bodies.get(key, lambda: map_body(shelf.reader, model, form=form))

    def _map_handler(self, form: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            asked = _read(request, (MODEL,))
            model = asked.values["model"]
            with self._library.shelf(asked.as_of) as shelf:
                key, body = self._map(shelf, model, form=form)
            return _send(request, body, key=key, fixed=asked.as_of is not None)

        return answer

    def _plot_handler(self, name: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            asked = _read(request, (MODEL, PROBE))
            with self._library.shelf(asked.as_of) as shelf:
                found = QUESTIONS["plots"].ask(shelf.reader, asked.values)
                body = pack(charts.draw(name, found).encode(), SVG_TYPE)
                key = (shelf.state, shelf.as_of, "plot", name, _key(asked.values))
            return _send(request, body, key=key, fixed=asked.as_of is not None)

        return answer

    def _sql_handler(self, form: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            asked = _read(request, self.sql.parameters)
            body, state = await self.sql.answer(asked.values["query"], form=form, as_of=asked.as_of)
            key = (state, "sql", form, asked.values["query"])
            return _send(request, body, key=key, fixed=asked.as_of is not None)

        return answer

    async def _sql_page(self, request: Request) -> Response:
        asked = _read(request, self.sql.page_parameters)
        context = await self.sql.page(asked.values["query"], as_of=asked.as_of)
        links = ServedLinks(as_of=asked.as_of)
        status = context.pop("status")
        page = self._pages.fill(
            "sql.html", links=links, as_of=asked.as_of, values=asked.values, **context
        )
        headers = {"cache-control": "no-cache"}
        if status == 503:
            headers["retry-after"] = "1"
        return Response(page, status, headers, HTML_TYPE)

    def _snapshots(self, request: Request) -> Response:
        _read(request, ())
        rows = [{"as_of": name} for name in self._library.snapshots()]
        return Response(to_json({"ok": True, "rows": rows}), media_type=JSON_TYPE)

    def _openapi(self, request: Request) -> Response:
        _read(request, ())
        return Response(json.dumps(describe_api()), media_type=JSON_TYPE)

    def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise NotInRegistry("no such file", name=name[:80])
        headers = {"cache-control": "public, max-age=86400"}
        return FileResponse(STATIC[name], headers=headers)


def make_app(
    library: Library,
    *,
    buckets: Buckets,
    hosts: Collection[str] = (),
    sql_workers: int = 2,
    sql_waiting: int = 8,
    sql_seconds: float = SQL_SECONDS,
    cache_bytes: int = CACHE_BYTES,
) -> App:
    """The whole application, guard included.

    Parameters
    ----------
    library : the public copies; the caller closes it.
    hosts : names the server goes by; empty for any.
    sql_workers, sql_waiting : queries of strangers at once, and how many may wait.
    sql_seconds : how long each may take.
    """
    sql = SqlService(library, workers=sql_workers, waiting=sql_waiting, seconds=sql_seconds)
    explorer = Explorer(library, bodies=Bodies(most=cache_bytes), sql=sql)

    async def failed(request: Request, error: Exception) -> Response:
        return explorer.failed(request, error)

    async def missing(request: Request, error: Exception) -> Response:
        return explorer.failed(request, NotInRegistry("there is no such page", name=""))

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with sql.lifespan(app):
            ahead = asyncio.create_task(asyncio.to_thread(explorer.draw_ahead))
            yield
            await asyncio.gather(ahead, return_exceptions=True)

    inner = Starlette(
        routes=explorer.routes(),
        exception_handlers={404: missing, ModelkinError: failed, Exception: failed},
        lifespan=lifespan,
    )
    return Guard(inner, buckets=buckets, hosts=hosts)


def _read(request: Request, parameters: Sequence[Parameter]) -> Asked:
    query = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, max_num_fields=MOST_PAIRS, errors="replace"
        )
    except ValueError as error:
        raise BadRequest(f"more than {MOST_PAIRS} parameters", parameter="address") from error
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        given.setdefault(name[:40], []).append(value)
    values = dict(read_values((*parameters, AS_OF), given))
    return Asked(as_of=values.pop("as_of"), values=values)


def _key(values: Values) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))


def _send(request: Request, body: Body, *, key: object, fixed: bool) -> Response:
    """A body with its validator; compressed when the client takes that and it is smaller."""
    tag = hashlib.sha256(f"{__version__}{key!r}".encode("utf-8", "replace")).hexdigest()[:20]
    headers = {
        "etag": f'W/"{tag}"',
        "vary": "accept-encoding",
        "cache-control": "public, max-age=31536000, immutable" if fixed else "no-cache",
    }
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    content = body.content
    if body.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        content = body.packed
        headers["content-encoding"] = "gzip"
    if body.media_type == CSV_TYPE:
        headers["content-disposition"] = 'attachment; filename="modelkin.csv"'
    return Response(content, body.status, headers, body.media_type)
