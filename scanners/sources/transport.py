"""Requests for file bytes: one pooled session per event loop, timed, with the token kept home."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ...lineage.errors import TransientError, TruncatedRead
from ..bytes import Traffic
from .answers import window_wait
from .endpoint import Endpoint, redact
from .retry import Hold, RateWatch, ReadLimits, RetryPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Lane:
    """One event loop's session. The gate keeps the wait for a connection out of the deadlines."""

    session: aiohttp.ClientSession
    gate: asyncio.Semaphore
    keeper: AsyncGenerator[None, None]


class FileTransport:
    """Sends single requests and receives bounded bodies; it follows and repeats nothing.

    Parameters
    ----------
    endpoint : Endpoint
        Whose own origin alone is shown `authorization`.
    headers, authorization : mapping
        Sent with every request; sent to the endpoint's own origin only.
    limits, retry
        Bounds of one request; how a rate-limited endpoint is waited for.
    connections : int
        Requests in flight at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        authorization: Mapping[str, str],
        limits: ReadLimits,
        retry: RetryPolicy,
        connections: int,
    ) -> None:
        self._endpoint = endpoint
        # A gzip bomb needs a client that agrees to gzip.
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._authorization = dict(authorization)
        self._limits = limits
        self._retry = retry
        self._connections = connections
        self._hold = Hold(longest=retry.longest_wait)
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        size: int,
        traffic: Traffic,
        extra: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, counted; the deadline suits a body of `size` bytes.

        Raises
        ------
        TransientError : no connection, no answer in time, or a connection lost.
        """
        own = self._endpoint.owns(url)
        if own and self._hold.remaining():
            await self._retry.sleep_async(self._hold.remaining())
        headers = {**self._headers, **(self._authorization if own else {}), **(extra or {})}
        lane = await self._lane()
        async with lane.gate:
            traffic.add(requests=1)
            try:
                async with lane.session.request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    allow_redirects=False,
                    timeout=self._timeout(size),
                    proxy=None if self._endpoint.is_loopback else _proxy(url),
                ) as response:
                    if own:
                        self._hold.note(window_wait(response.headers))
                    yield response
                    return
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                fault = TransientError(f"{redact(url)}: {type(error).__name__}")
        logger.debug("%s", fault)
        # Neither chained nor quoted: the client's errors may hold the signed address.
        raise fault from None

    async def receive(
        self, response: aiohttp.ClientResponse, *, size: int, path: str, traffic: Traffic
    ) -> bytes:
        """The body; where it is longer than `size` the connection is cut and the excess shows.

        Raises
        ------
        TruncatedRead : the connection ended before the promised length.
        TransientError : slower than the limits allow.
        """
        watch = RateWatch(self._limits, size=size)
        chunks: list[bytes] = []
        came = 0
        try:
            async for chunk in response.content.iter_any():
                traffic.add(size=len(chunk))
                chunks.append(chunk)
                came += len(chunk)
                if came > size:
                    response.close()
                    break
                watch.saw(len(chunk))
        except aiohttp.ClientPayloadError:
            text = f"the connection ended after {came} bytes"
            raise TruncatedRead(text, path=path) from None
        return b"".join(chunks)

    async def close(self) -> None:
        """Close the sessions of all event loops; that of a loop that has ended is closed."""
        lanes, self._lanes = self._lanes, {}
        running = asyncio.get_running_loop()
        for loop, lane in lanes.items():
            if loop is running:
                await lane.keeper.aclose()
            elif loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(lane.keeper.aclose(), loop)
                await asyncio.wrap_future(closing)

    def _timeout(self, size: int) -> aiohttp.ClientTimeout:
        limits = self._limits
        return aiohttp.ClientTimeout(
            total=limits.deadline(size), sock_connect=limits.connect, sock_read=limits.window
        )

    async def _lane(self) -> _Lane:
        loop = asyncio.get_running_loop()
        if loop not in self._lanes:
            self._lanes = {known: lane for known, lane in self._lanes.items() if known.is_running()}
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            lane = _Lane(session, asyncio.Semaphore(self._connections), _keep(session))
            self._lanes[loop] = lane
            await anext(lane.keeper)
        return self._lanes[loop]


async def _keep(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Close the session when the loop shuts its asynchronous generators down, or before."""
    try:
        yield
    finally:
        await session.close()


def _proxy(url: str) -> str | None:
    """The environment's proxy for `url`. The client's own reading of it would add netrc logins."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
