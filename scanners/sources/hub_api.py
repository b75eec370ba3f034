"""The Hub's JSON API through huggingface_hub's HTTP session: bounded, timed, asked again."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from huggingface_hub import get_session

from ...lineage.errors import LimitExceeded, ModelkinError, TransientError, TruncatedRead
from ..bytes import Traffic
from .answers import Subject, parse_length, refusal, window_wait
from .endpoint import Endpoint, redact
from .hub_records import parse_body
from .retry import Hold, RateWatch, ReadLimits, RetryPolicy

logger = logging.getLogger(__name__)

# The client library's own HTTP module: httpx under huggingface_hub 1.x, httpx2 under 2.x.
httpx: Any = import_module("huggingface_hub.utils").httpx

_ERROR_BYTES = 64 * 2**10
_STEP = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success (`value` is its JSON `body`) or a redirect (`location` is its target)."""

    value: Any
    headers: Mapping[str, str]
    location: str | None = None
    body: bytes = b""


class HubApi:
    """GET requests to `/api` of one endpoint.

    Parameters
    ----------
    endpoint : Endpoint
        Where requests go; the caller builds addresses with it.
    headers : mapping
        Sent with each request; the only place where a token may stand.
    limits, retry
        Bounds of one request, and of asking again.

    Notes
    -----
    The session is huggingface_hub's (its proxies, certificates and offline switch apply), except
    for a loopback endpoint, which needs neither and works in offline mode too.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        limits: ReadLimits,
        retry: RetryPolicy,
    ) -> None:
        self._endpoint = endpoint
        # gzip alone: its decoder here has a hard bound, unlike those of other encodings.
        self._headers = {**headers, "Accept": "application/json", "Accept-Encoding": "gzip"}
        self._limits = limits
        self._retry = retry
        self._hold = Hold(longest=retry.longest_wait)
        self._local = _plain_client(endpoint) if endpoint.is_loopback else None

    def get(self, url: str, *, subject: Subject, traffic: Traffic) -> Answer:
        """The answer to one request, asked again while failures may pass.

        Raises
        ------
        ModelNotFound, AccessDenied : the Hub says no.
        LimitExceeded, MalformedFile : the body is too large, or not JSON.
        TransientError : all attempts failed.
        """
        return self._retry.run(partial(self._once, url, subject=subject, traffic=traffic))

    def close(self) -> None:
        """Close the session, unless it is huggingface_hub's shared one."""
        if self._local is not None:
            self._local.close()

    def _once(self, url: str, *, subject: Subject, traffic: Traffic) -> Answer:
        waiting = self._hold.remaining()
        if waiting:
            self._retry.sleep(waiting)
        traffic.add(requests=1)
        try:
            with self._session().stream(
                "GET", url, headers=self._headers, timeout=self._timeout(), follow_redirects=False
            ) as response:
                self._hold.note(window_wait(response.headers))
                return self._answer(response, subject=subject, traffic=traffic)
        except httpx.HTTPError as error:
            # Neither chained nor quoted: the client's errors hold the request and its headers.
            fault = TransientError(f"{subject}: {_reached(error)} at {redact(url)}")
        except ConnectionError:
            # huggingface_hub's own refusal to reach out while HF_HUB_OFFLINE is set.
            fault_text = "huggingface_hub is in offline mode (HF_HUB_OFFLINE)"
            raise ModelkinError(f"{subject}: {fault_text}") from None
        logger.debug("%s", fault)
        raise fault

    def _answer(self, response: Any, *, subject: Subject, traffic: Traffic) -> Answer:
        status, headers = response.status_code, response.headers
        if 300 <= status < 400 and headers.get("Location"):
            return Answer(value=None, headers=headers, location=headers["Location"])
        path = str(subject)
        if status != 200:
            body = self._error_body(response, path=path, traffic=traffic)
            raise refusal(status, headers, subject=subject, body=body)
        body = self._body(response, path=path, limit=self._limits.page_bytes, traffic=traffic)
        return Answer(value=parse_body(body, path=path), headers=headers, body=body)

    def _error_body(self, response: Any, *, path: str, traffic: Traffic) -> bytes:
        try:
            return self._body(response, path=path, limit=_ERROR_BYTES, traffic=traffic)
        except (LimitExceeded, TransientError, TruncatedRead):
            return b""

    def _body(self, response: Any, *, path: str, limit: int, traffic: Traffic) -> bytes:
        declared = parse_length(response.headers.get("Content-Length"))
        if declared is not None and declared > limit:
            raise LimitExceeded("the answer is too large", path=path, limit=limit, actual=declared)
        body = bytearray()
        chunks = self._chunks(response, size=limit, traffic=traffic)
        for chunk in _inflate(chunks, response=response):
            body += chunk
            if len(body) > limit:
                raise LimitExceeded(
                    "the answer is too large", path=path, limit=limit, actual=len(body)
                )
        return bytes(body)

    def _chunks(self, response: Any, *, size: int, traffic: Traffic) -> Iterator[bytes]:
        watch = RateWatch(self._limits, size=size)
        for chunk in response.iter_raw():
            traffic.add(size=len(chunk))
            watch.saw(len(chunk))
            yield chunk

    def _session(self) -> Any:
        return get_session() if self._local is None else self._local

    def _timeout(self) -> Any:
        limits = self._limits
        return httpx.Timeout(limits.window, connect=limits.connect, pool=limits.total)


def _inflate(chunks: Iterator[bytes], *, response: Any) -> Iterator[bytes]:
    """The body in steps of at most 1 MiB, whatever it is compressed to."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in {"identity", ""}:
        yield from chunks
        return
    if encoding != "gzip":
        raise TransientError("the answer came in an encoding that was not asked for")
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                yield decoder.decompress(rest, _STEP)
                rest = decoder.unconsumed_tail
    except zlib.error:
        raise TransientError("the compressed answer is damaged") from None
    if not decoder.eof:
        raise TruncatedRead("the compressed answer ends early", path="/api")


def _plain_client(endpoint: Endpoint) -> Any:
    # Certificates take longer to load than a loopback scan to run; http has no use for them.
    return httpx.Client(trust_env=False, verify=endpoint.url.startswith("https:"))


def _reached(error: Exception) -> str:
    """What went wrong, in words where the address is the likeliest cause."""
    if isinstance(error, httpx.ConnectError):
        return "nothing answers (check the endpoint and the network)"
    return type(error).__name__
