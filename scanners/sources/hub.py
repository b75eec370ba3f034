"""The Hugging Face Hub as a source: listing by stored cursor, descriptions, ranged reads."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Iterator

import huggingface_hub

from ... import __version__
from ...lineage.errors import AccessDenied, MalformedFile, UnsafeRequest
from ...lineage.records import ModelInfo
from ..bytes import ByteSource, Traffic
from .answers import Subject, next_link
from .base import ListingFilter, ListingPage
from .endpoint import HUB_HOSTS, Endpoint
from .hub_api import Answer, HubApi
from .hub_files import HubFiles
from .hub_records import parse_body, parse_model
from .names import check_model_id
from .retry import ReadLimits, RetryPolicy
from .spool import PageSpool
from .transport import FileTransport

logger = logging.getLogger(__name__)

# What a listing may carry. Sizes, digests and the Hub's own parent graph are not among it.
EXPAND = (
    "sha",
    "lastModified",
    "createdAt",
    "tags",
    "cardData",
    "config",
    "safetensors",
    "gguf",
    "siblings",
    "gated",
    "disabled",
    "library_name",
    "downloads",
    "downloadsAllTime",
)
_HOPS = 5
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


class HubSource:
    """Models of a Hub endpoint.

    Parameters
    ----------
    endpoint : str
        `https://…`, or `http://` on a loopback host.
    token : str, optional
        Sent in `Authorization` to the endpoint's own origin and nowhere else. Never looked up:
        without one the source is anonymous, whatever the machine has stored.
    limits, retry : optional
        Bounds of one request, and of asking again.
    allowed_hosts : tuple of str, optional
        Hosts that file redirects may lead to besides the endpoint's own (`*.` for sub-domains);
        the Hub's content hosts by default. A loopback endpoint may redirect to loopback.
    connections : int
        Ranged reads in flight at once.
    page_size : int
        Models asked for in one listing page; the Hub's most is 1,000.
    user_agent : str, optional
        What the client calls itself.
    spool : PageSpool, optional
        Where listing pages are kept until their models are committed.

    Raises
    ------
    UnsafeRequest : plain http to another machine, or a token no header can carry.
    """

    kind = "hub"

    def __init__(
        self,
        *,
        endpoint: str = "https://huggingface.co",
        token: str | None = None,
        limits: ReadLimits | None = None,
        retry: RetryPolicy | None = None,
        allowed_hosts: tuple[str, ...] | None = None,
        connections: int = 16,
        page_size: int = 1000,
        user_agent: str | None = None,
        spool: PageSpool | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            url=endpoint.rstrip("/"),
            allowed=HUB_HOSTS if allowed_hosts is None else allowed_hosts,
        )
        limits, retry = limits or ReadLimits(), retry or RetryPolicy()
        agent = {"User-Agent": user_agent or _user_agent()}
        own = {**agent, **_authorization(token)}
        self._api = HubApi(self._endpoint, headers=own, limits=limits, retry=retry)
        self._transport = FileTransport(
            self._endpoint,
            headers=agent,
            authorization=_authorization(token),
            limits=limits,
            retry=retry,
            connections=connections,
        )
        self._files = HubFiles(self._endpoint, transport=self._transport, retry=retry)
        self._page_size = page_size
        self._spool = spool

    @property
    def endpoint(self) -> str:
        """The address that is asked, without a trailing slash."""
        return self._endpoint.url

    def pages(
        self, *, cursor: str | None = None, narrow: ListingFilter, traffic: Traffic
    ) -> Iterator[ListingPage]:
        """The listing by creation time, newest first: the one order that stands still.

        A cursor is the whole address of the next page, filters included; it is followed only on
        the endpoint itself. Models without a usable id are left out with a warning.

        Raises
        ------
        UnsafeRequest : a cursor that leads elsewhere.
        MalformedFile : a page that is no list, or a listing that runs in a circle.
        TransientError : all attempts failed; the last page's cursor resumes.
        """
        url = self._first_page(narrow) if cursor is None else self._endpoint.listing_cursor(cursor)
        return self._walk(url, traffic=traffic)

    def info(self, model: str, *, traffic: Traffic) -> ModelInfo:
        """One model with sizes and digests of its files; a rename is followed on the endpoint.

        The name in the answer is the model's name now; `source_id` tells whether it is still the
        same repository.

        Raises
        ------
        UnsafeRequest : not an id, or a redirect that leads elsewhere.
        ModelNotFound, AccessDenied, TransientError : as the contract says.
        """
        subject = Subject(model=check_model_id(model))
        answer, asked = self._describe(model, subject=subject, traffic=traffic)
        found = parse_model(answer.value, fallback=asked)
        if found is None:
            raise MalformedFile("the answer describes no model", path=model)
        if found.disabled:
            raise AccessDenied(f"{model}: disabled by the Hub", model=model, reason="disabled")
        return found

    async def open(self, info: ModelInfo, path: str, *, traffic: Traffic) -> ByteSource:
        """A ranged reader of one file at `info.sha`; its one resolve happens here.

        Raises
        ------
        UnsafeRequest : a crafted name, no revision to pin to, a redirect that is not allowed.
        AccessDenied, ModelNotFound, FileChanged, TransientError : as the contract says.
        """
        return await self._files.open(info, path, traffic=traffic)

    async def read(self, info: ModelInfo, path: str, *, limit: int, traffic: Traffic) -> bytes:
        """A whole small file at `info.sha`; errors as `open`, and `LimitExceeded`."""
        return await self._files.read(info, path, limit=limit, traffic=traffic)

    async def close(self) -> None:
        """Give back all connections."""
        self._api.close()
        await self._transport.close()

    def _first_page(self, narrow: ListingFilter) -> str:
        sort = "createdAt" if narrow.order == "created" else "lastModified"
        query = [("sort", sort), ("limit", str(self._page_size))]
        query += [("expand", field) for field in EXPAND]
        query += [("author", narrow.author)] if narrow.author else []
        query += [("search", narrow.search)] if narrow.search else []
        query += [("filter", tag) for tag in narrow.tags]
        return self._endpoint.models_url(query)

    def _walk(self, url: str, *, traffic: Traffic) -> Iterator[ListingPage]:
        seen = {url}
        first = url if "cursor=" not in url else None
        following: str | None = url
        while following is not None:
            asked = self._endpoint.listing_cursor(following)
            answer = self._page(asked, resumable=asked != first, traffic=traffic)
            following = next_link(answer.headers)
            if following in seen:
                raise MalformedFile("the listing runs in a circle", path="/api/models")
            seen.add(following or "")
            yield ListingPage(models=_models(answer), next_cursor=following)

    def _page(self, url: str, *, resumable: bool, traffic: Traffic) -> Answer:
        """A page, from the spool where a killed run has left it there."""
        if self._spool is None or not resumable:
            return self._api.get(url, subject=Subject(model=""), traffic=traffic)
        kept = self._spool.load(url)
        if kept is not None:
            body, following = kept
            link = {} if following is None else {"Link": f'<{following}>; rel="next"'}
            return Answer(value=parse_body(body, path="/api/models"), headers=link)
        answer = self._api.get(url, subject=Subject(model=""), traffic=traffic)
        self._spool.save(url, answer.body, following=next_link(answer.headers))
        return answer

    def _describe(self, model: str, *, subject: Subject, traffic: Traffic) -> tuple[Answer, str]:
        for _ in range(_HOPS):
            url = self._endpoint.model_url(model)
            answer = self._api.get(url, subject=subject, traffic=traffic)
            if answer.location is None:
                return answer, model
            model = self._endpoint.renamed(url, location=answer.location)
            logger.debug("%s stands under %s now", subject, model)
        raise UnsafeRequest(f"{subject}: more than {_HOPS} redirects")


def _models(answer: Answer) -> tuple[ModelInfo, ...]:
    if not isinstance(answer.value, list):
        raise MalformedFile("the listing is not a list of models", path="/api/models")
    parsed = [parse_model(item) for item in answer.value]
    models = tuple(model for model in parsed if model is not None)
    if len(models) < len(parsed):
        logger.warning(
            "%d of %d listed models have no usable id", len(parsed) - len(models), len(parsed)
        )
    return models


def _authorization(token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    if _TOKEN.fullmatch(token) is None:
        raise UnsafeRequest("the token holds characters that no header can carry")
    return {"Authorization": f"Bearer {token}"}


def _user_agent() -> str:
    client = f"huggingface_hub/{huggingface_hub.__version__}"
    return f"modelkin/{__version__}; python/{platform.python_version()}; {client}"
