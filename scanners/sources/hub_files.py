"""Files of the Hub by range: one resolve a file, then the signed address for all its ranges."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import aiohttp

from ...lineage.errors import (
    AccessDenied,
    FileChanged,
    LimitExceeded,
    MalformedFile,
    ModelkinError,
    RangeIgnored,
    TransientError,
    TruncatedRead,
    UnsafeRequest,
)
from ...lineage.records import ModelFile, ModelInfo
from ..bytes import Traffic
from .answers import (
    Subject,
    parse_content_range,
    parse_digest,
    parse_etag,
    parse_length,
    refusal,
)
from .endpoint import Endpoint, redact
from .retry import RetryPolicy
from .transport import FileTransport

_HOPS = 5
# What a content host says to a signature that is no longer good.
_EXPIRED = frozenset({400, 401, 403, 404, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Where the bytes of a file lie now; `url` may be signed and is never logged.

    `size` is bytes; `digest` is the SHA-256 the Hub states for an LFS file.
    """

    url: str
    size: int
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hop:
    """What one step of a resolve said."""

    target: str | None
    size: int | None
    digest: str | None


class HubFiles:
    """Resolves and ranged reads at one endpoint.

    Parameters
    ----------
    endpoint : Endpoint
        Whose redirects are followed, and to where.
    transport : FileTransport
        What sends the requests; closed by its owner.
    retry : RetryPolicy
        How often a failed request is sent again.
    """

    def __init__(self, endpoint: Endpoint, *, transport: FileTransport, retry: RetryPolicy) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._retry = retry

    async def open(self, info: ModelInfo, path: str, *, traffic: Traffic) -> HubBytes:
        """A ranged reader of one file.

        Raises
        ------
        UnsafeRequest, AccessDenied, ModelNotFound, TransientError : see `HubSource.open`.
        FileChanged : size or digest differ from the listing's.
        """
        resolved = await self.resolve(info, path, traffic=traffic)
        return HubBytes(self, info=info, path=path, resolved=resolved, traffic=traffic)

    async def read(self, info: ModelInfo, path: str, *, limit: int, traffic: Traffic) -> bytes:
        """A whole file of at most `limit` bytes; `LimitExceeded` when it is longer."""
        subject = Subject(model=info.name, path=path)
        url = self._endpoint.file_url(info.name, sha=info.sha, path=path)
        for _ in range(_HOPS):
            once = partial(self._whole, url, subject=subject, limit=limit, traffic=traffic)
            data = await self._retry.run_async(once)
            if isinstance(data, bytes):
                return data
            url = data
        raise UnsafeRequest(f"{subject}: more than {_HOPS} redirects")

    async def resolve(self, info: ModelInfo, path: str, *, traffic: Traffic) -> Resolved:
        """Where a file's bytes lie: redirects on the endpoint followed, one off it returned."""
        subject = Subject(model=info.name, path=path)
        listed = next((file for file in info.files if file.path == path), ModelFile(path=path))
        url = self._endpoint.file_url(info.name, sha=info.sha, path=path)
        size: int | None = None
        digest: str | None = None
        for _ in range(_HOPS):
            hop = await self._retry.run_async(
                partial(self._ask, url, subject=subject, traffic=traffic)
            )
            size = hop.size if size is None else size
            digest = digest or hop.digest
            if hop.target is None or not self._endpoint.owns(hop.target):
                return _settle(hop.target or url, listed=listed, size=size, digest=digest)
            url = hop.target
        raise UnsafeRequest(f"{subject}: more than {_HOPS} redirects")

    async def fetch(
        self, url: str, *, begin: int, end: int, subject: Subject, traffic: Traffic
    ) -> tuple[bytes, int, str | None] | None:
        """One try at the bytes [begin, end) at a resolved address.

        Returns
        -------
        The bytes, the file's total length and entity tag as this answer states them; None when
        the content host no longer honours the address.

        Raises
        ------
        RangeIgnored : other bytes than asked for; the connection is cut, the body left unread.
        TruncatedRead, TransientError : worth another try.
        """
        path, size = subject.path or "", end - begin
        ranged = {"Range": f"bytes={begin}-{end - 1}"}
        async with self._transport.request(
            "GET", url, extra=ranged, size=size, traffic=traffic
        ) as response:
            if response.status not in {200, 206}:
                if response.status in _EXPIRED and not self._endpoint.owns(url):
                    return None
                raise self._refused(response, subject=subject, begin=begin)
            total = _total_of(response, begin=begin, end=end)
            if total is None or _is_encoded(response):
                response.close()
                raise RangeIgnored(
                    f"HTTP {response.status} is not the range {begin}-{end}",
                    path=path,
                    offset=begin,
                )
            data = await self._transport.receive(response, size=size, path=path, traffic=traffic)
            if len(data) > size:
                raise RangeIgnored("more bytes came than the range has", path=path, offset=begin)
            if len(data) < size:
                raise TruncatedRead(f"{len(data)} of {size} bytes came", path=path, offset=begin)
            return data, total, parse_etag(response.headers.get("ETag"))

    async def repeat(self, once: Callable[[], Awaitable[bytes]]) -> bytes:
        """The first success of `once` under the retry policy."""
        return await self._retry.run_async(once)

    async def _ask(self, url: str, *, subject: Subject, traffic: Traffic) -> _Hop:
        async with self._transport.request("HEAD", url, size=0, traffic=traffic) as response:
            headers = response.headers
            target = self._target(response, url=url)
            if target is None and response.status != 200:
                raise self._refused(response, subject=subject)
            size = parse_length(headers.get("X-Linked-Size"))
            if size is None and target is None and not _is_encoded(response):
                size = parse_length(headers.get("Content-Length"))
            return _Hop(target=target, size=size, digest=parse_digest(headers.get("X-Linked-Etag")))

    async def _whole(
        self, url: str, *, subject: Subject, limit: int, traffic: Traffic
    ) -> bytes | str:
        """One try at a whole body; a redirect's target instead when the answer is one."""
        path = subject.path or ""
        async with self._transport.request("GET", url, size=limit, traffic=traffic) as response:
            target = self._target(response, url=url)
            if target is not None:
                return target
            if response.status != 200:
                raise self._refused(response, subject=subject)
            if _is_encoded(response):
                raise RangeIgnored("came in an encoding that was not asked for", path=path)
            declared = parse_length(response.headers.get("Content-Length")) or 0
            if declared <= limit:
                data = await self._transport.receive(
                    response, size=limit, path=path, traffic=traffic
                )
                declared = len(data)
            if declared > limit:
                response.close()
                raise LimitExceeded("file is too large", path=path, limit=limit, actual=declared)
            return data

    def _target(self, response: aiohttp.ClientResponse, *, url: str) -> str | None:
        if not 300 <= response.status < 400:
            return None
        location = response.headers.get("Location")
        if location is None:
            raise TransientError(f"{redact(url)}: a redirect to nowhere")
        return self._endpoint.redirect(url, location=location)

    @staticmethod
    def _refused(
        response: aiohttp.ClientResponse, *, subject: Subject, begin: int | None = None
    ) -> ModelkinError:
        status, headers = response.status, response.headers
        if status == 416:
            text = "the file is shorter than it was"
            return FileChanged(text, path=subject.path or "", offset=begin)
        if 200 <= status < 400:
            text = f"HTTP {status} is not the file"
            return RangeIgnored(text, path=subject.path or "", offset=begin)
        return refusal(status, headers, subject=subject)


class HubBytes:
    """One file of the Hub at one revision, read by range.

    The address found by the resolve serves all ranges; when it expires one more resolve is made
    and has to find the same file.
    """

    def __init__(
        self,
        files: HubFiles,
        *,
        info: ModelInfo,
        path: str,
        resolved: Resolved,
        traffic: Traffic,
    ) -> None:
        self._files = files
        self._info = info
        self._path = path
        self._resolved = resolved
        self._traffic = traffic
        self._etag: str | None = None
        self._renewing = asyncio.Lock()

    @property
    def path(self) -> str:
        """Name of the file inside its revision."""
        return self._path

    @property
    def size(self) -> int:
        """Length of the file in bytes, as the resolver stated it."""
        return self._resolved.size

    @property
    def digest(self) -> str | None:
        """SHA-256 of the content as the resolver stated it; None for a file outside LFS."""
        return self._resolved.digest

    async def read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end): exactly `end - begin` of them.

        Raises
        ------
        MalformedFile : the range lies outside the file.
        RangeIgnored, FileChanged : the answer is not the range asked for, or of another file.
        TruncatedRead, TransientError : all attempts failed.
        """
        if not 0 <= begin <= end <= self.size:
            raise MalformedFile(
                f"range {begin}-{end} lies outside the file of {self.size} bytes",
                path=self._path,
                offset=begin,
            )
        if begin == end:
            return b""
        return await self._files.repeat(partial(self._read_once, begin, end))

    async def _read_once(self, begin: int, end: int) -> bytes:
        subject = Subject(model=self._info.name, path=self._path)
        for last in (False, True):
            used = self._resolved
            answer = await self._files.fetch(
                used.url, begin=begin, end=end, subject=subject, traffic=self._traffic
            )
            if answer is not None:
                data, total, etag = answer
                self._check_same(used, total=total, etag=etag)
                return data
            if not last:
                await self._renew(used)
        raise AccessDenied(
            f"{subject}: the content host refuses a fresh address",
            model=self._info.name,
            reason="unauthorized",
        )

    def _check_same(self, used: Resolved, *, total: int, etag: str | None) -> None:
        if total != self.size:
            raise FileChanged(f"{total} bytes long, was {self.size}", path=self._path)
        if used is not self._resolved:
            return
        if _differ(self._etag, etag):
            raise FileChanged("its entity tag changed between two reads", path=self._path)
        self._etag = self._etag or etag

    async def _renew(self, used: Resolved) -> None:
        async with self._renewing:
            if self._resolved is not used:
                return
            fresh = await self._files.resolve(self._info, self._path, traffic=self._traffic)
            if fresh.size != used.size or _differ(fresh.digest, used.digest):
                raise FileChanged("size or digest changed between two resolves", path=self._path)
            # Another content host may tag the same bytes otherwise.
            self._resolved, self._etag = fresh, None


def _settle(url: str, *, listed: ModelFile, size: int | None, digest: str | None) -> Resolved:
    if size is None:
        size = listed.size
    if size is None:
        raise MalformedFile("the server does not say how long the file is", path=listed.path)
    if listed.size is not None and listed.size != size:
        raise FileChanged(f"{size} bytes long, listed with {listed.size}", path=listed.path)
    if _differ(listed.sha256, digest):
        raise FileChanged("its digest is not the listed one", path=listed.path)
    return Resolved(url=url, size=size, digest=digest or listed.sha256)


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two stated identities contradict each other; an absent one says nothing."""
    return one is not None and other is not None and one != other


def _total_of(response: aiohttp.ClientResponse, *, begin: int, end: int) -> int | None:
    """The file's length when the answer is the range asked for, else None."""
    if response.status == 206:
        found = parse_content_range(response.headers.get("Content-Range"))
        same = found is not None and (found.begin, found.end) == (begin, end)
        return found.total if found is not None and same else None
    whole = parse_length(response.headers.get("Content-Length"))
    return whole if begin == 0 and whole == end else None


def _is_encoded(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() != "identity"
