"""What a Hub answer means: waits, refusals, next pages, ranges. Headers in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...lineage.errors import (
    AccessDenied,
    ModelkinError,
    ModelNotFound,
    TransientError,
    UnsafeRequest,
)

# `"api";r=0;t=55`: r requests are left in the window, which ends in t seconds.
_RATE_LIMIT = re.compile(r'"\w+"\s*;\s*r\s*=\s*(\d{1,9})\s*;\s*t\s*=\s*(\d{1,6})')
# `"fixed window";"api";q=500;w=300`: q requests a window of w seconds.
_POLICY = re.compile(r"\bq\s*=\s*(\d{1,9})")
_SECONDS = re.compile(r"\s*(\d{1,6})\s*")
_NEXT = re.compile(r'<([^<>]{1,8192})>\s*;\s*rel="?next"?')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_DIGITS = re.compile(r"\d{1,19}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRANSIENT = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRange:
    """The half-open range [begin, end) that a 206 carries, and the file's length, in bytes."""

    begin: int
    end: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a request was about, for errors: a model, and a file of it when there is one."""

    model: str
    path: str | None = None

    def __str__(self) -> str:
        if not self.model:
            return "the listing"
        return self.model if self.path is None else f"{self.model}: {self.path}"


RESERVE = 0.2
"""Share of a rate-limit window that is left to others who use the same token or address."""


def window_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds until the rate-limit window ends when our share of it is used up, else None.

    Where the answer states the window's size, the last fifth of it is not touched: requests in
    flight, and other users of the same token, need it.
    """
    found = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    if found is None:
        return None
    policy = _POLICY.search(headers.get("RateLimit-Policy", ""))
    kept = 0 if policy is None else int(RESERVE * int(policy[1]))
    return float(found[2]) if int(found[1]) <= kept else None


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal asks for: the window's end, else a numeric `Retry-After`."""
    wait = window_wait(headers)
    if wait is not None:
        return wait
    found = _SECONDS.fullmatch(headers.get("Retry-After", ""))
    return None if found is None else float(found[1])


def next_link(headers: Mapping[str, str]) -> str | None:
    """The `rel="next"` target of a `Link` header, as written."""
    found = _NEXT.search(headers.get("Link", ""))
    return None if found is None else found[1]


def parse_content_range(text: str | None) -> ContentRange | None:
    """`bytes 0-99/1000` as a half-open range; None for anything else."""
    found = _CONTENT_RANGE.fullmatch(text or "")
    if found is None:
        return None
    return ContentRange(begin=int(found[1]), end=int(found[2]) + 1, total=int(found[3]))


def parse_length(text: str | None) -> int | None:
    """A non-negative decimal header (`Content-Length`, `X-Linked-Size`), else None."""
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


def parse_etag(text: str | None) -> str | None:
    """An entity tag without its quotes and weakness mark, else None."""
    return None if text is None else (text.strip().removeprefix("W/").strip('"') or None)


def parse_digest(text: str | None) -> str | None:
    """The SHA-256 in an entity tag (an LFS file's `X-Linked-Etag`), else None."""
    tag = parse_etag(text)
    return tag if tag is not None and _SHA256.fullmatch(tag) else None


def refusal(
    status: int, headers: Mapping[str, str], *, subject: Subject, body: bytes = b""
) -> ModelkinError:
    """The error that an answer other than success or redirect stands for.

    Notes
    -----
    The Hub answers 401 alike for a missing and for a private repository: both are `ModelNotFound`,
    which says "missing or hidden", never "deleted". Server text is read for its reason and is not
    quoted in the error.
    """
    code = headers.get("X-Error-Code", "")
    said = headers.get("X-Error-Message", "") + body[:4096].decode("utf-8", "replace")
    if status in _TRANSIENT or status >= 500:
        return TransientError(f"{subject}: HTTP {status}", retry_after=asked_wait(headers))
    if code == "GatedRepo":
        return _denied(subject, reason="gated")
    if status == 451 or (status == 403 and "disabled" in said):
        return _denied(subject, reason="disabled")
    if status == 401 and "Invalid credentials" in said:
        return _denied(subject, reason="token")
    if status == 403 or (status == 401 and not subject.model):
        return _denied(subject, reason="unauthorized")
    if status in {401, 404, 410}:
        what = {"EntryNotFound": "no such file", "RevisionNotFound": "no such revision"}
        reason = what.get(code, "missing, or hidden from this client")
        text = f"{subject}: {reason} (HTTP {status})"
        return ModelNotFound(text, model=subject.model, hidden=status == 401)
    return UnsafeRequest(f"{subject}: the server refuses the request (HTTP {status})")


def _denied(subject: Subject, *, reason: str) -> AccessDenied:
    told = "the token is refused: expired or revoked" if reason == "token" else reason
    return AccessDenied(f"{subject}: access denied ({told})", model=subject.model, reason=reason)
