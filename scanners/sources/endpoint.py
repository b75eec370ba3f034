"""Where requests may go: the Hub's own origin, and the hosts that it may redirect to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit, urlunsplit

from ...lineage.errors import UnsafeRequest
from .names import check_model_id, check_sha, is_model_id, quote_path

HUB_HOSTS = ("*.huggingface.co", "*.hf.co", "*.xethub.hf.co")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Two URL parsers must not read a link in two ways: printable ASCII and no backslash.
_PLAIN = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,8192}")
_DEFAULT_PORTS = {"https": 443, "http": 80}


def redact(url: str) -> str:
    """`url` without what may be secret in it (query, fragment, user), for messages and logs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<malformed link>"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path[:200], "", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A Hub's address, the requests it takes and the redirects that may be followed.

    `url` has no trailing slash. `allowed` are host names; `*.` stands for any sub-domain.
    """

    url: str
    allowed: tuple[str, ...] = HUB_HOSTS

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts.query or parts.fragment or self.url.endswith("/"):
            raise UnsafeRequest("an endpoint is a scheme, a host and a path without query or slash")
        if parts.scheme != "https" and not self.is_loopback:
            raise UnsafeRequest(f"endpoint {redact(self.url)} must be https (or a loopback host)")

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine, where http is fine."""
        return _origin_of(self.url)[1] in _LOOPBACK

    def owns(self, url: str) -> bool:
        """Whether `url` has the endpoint's scheme, host and port: where the token may go."""
        return _origin_of(url) == _origin_of(self.url)

    def models_url(self, query: list[tuple[str, str]]) -> str:
        """The listing with `query`."""
        return f"{self.url}/api/models?{urlencode(query)}"

    def model_url(self, model: str) -> str:
        """The description of one model with sizes and digests of its files."""
        return f"{self.url}/api/models/{check_model_id(model)}?blobs=true"

    def file_url(self, model: str, *, sha: str, path: str) -> str:
        """The resolver's address of one file at one revision."""
        return f"{self.url}/{check_model_id(model)}/resolve/{check_sha(sha)}/{quote_path(path)}"

    def listing_cursor(self, url: str) -> str:
        """`url`, when it is a page of this endpoint's listing.

        Raises
        ------
        UnsafeRequest : another scheme, host, port or path.
        """
        absolute = _join(f"{self.url}/", url)
        if not self.owns(absolute) or _split(absolute).path != self._path("/api/models"):
            raise UnsafeRequest(f"listing cursor leads away from {self.url}: {redact(absolute)}")
        return absolute

    def renamed(self, url: str, *, location: str) -> str:
        """The model id that a redirected description stands under now.

        Raises
        ------
        UnsafeRequest : the redirect leaves the endpoint, or names no model.
        """
        target = _split(_join(url, location))
        prefix = self._path("/api/models/")
        name = target.path.removeprefix(prefix)
        if (
            _origin(target) != _origin(_split(self.url))
            or not target.path.startswith(prefix)
            or not is_model_id(name)
        ):
            raise UnsafeRequest(f"redirect to {redact(location)} is not a model of {self.url}")
        return name

    def redirect(self, url: str, *, location: str) -> str:
        """The absolute target of a redirect met at `url`, when it may be followed.

        Raises
        ------
        UnsafeRequest : a foreign host, a downgrade to http, a user or odd bytes in the link.
        """
        target = _join(url, location)
        if not self.owns(target) and not self._allows(_split(target)):
            raise UnsafeRequest(f"redirect from {redact(url)} to {redact(target)} is not allowed")
        return target

    def _allows(self, target: SplitResult) -> bool:
        host = target.hostname or ""
        if self.is_loopback and host in _LOOPBACK:
            return target.scheme in _DEFAULT_PORTS
        own = _split(self.url)
        if target.scheme != "https" or _origin(target)[2] not in {443, _origin(own)[2]}:
            return False
        return host == own.hostname or any(_matches(host, pattern) for pattern in self.allowed)

    def _path(self, path: str) -> str:
        return _split(self.url).path + path


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) or host == pattern[2:]
    return host == pattern


def _join(base: str, link: str) -> str:
    if _PLAIN.fullmatch(link) is None:
        raise UnsafeRequest(f"a link from {redact(base)} holds characters no link may hold")
    try:
        return urljoin(base, link)
    except ValueError:
        raise UnsafeRequest(f"malformed link {redact(link)}") from None


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)


# An address is looked at before, while and after it is asked for.
@lru_cache(maxsize=256)
def _origin_of(url: str) -> tuple[str, str, int | None]:
    return _origin(_split(url))


def _split(url: str) -> SplitResult:
    if _PLAIN.fullmatch(url) is None:
        raise UnsafeRequest("a link holds characters no link may hold")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UnsafeRequest(f"malformed link {redact(url)}") from None
    if not parts.hostname or "@" in parts.netloc or port == 0:
        raise UnsafeRequest(f"malformed link {redact(url)}")
    return parts
