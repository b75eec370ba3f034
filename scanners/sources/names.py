"""Which model ids and file names are safe to build a request or a path from."""

from __future__ import annotations

import re
from urllib.parse import quote

from ...lineage.errors import UnsafeRequest

_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40,64}")
# C0, DEL and C1 controls, and the bidirectional marks that make a name read as another one.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_PART = 255
_LONGEST_PATH = 1024


def is_model_id(text: object) -> bool:
    """Whether `text` is an `org/name` id, or a one-part one of the Hub's early days."""
    if not isinstance(text, str) or _ID.fullmatch(text) is None:
        return False
    return all(part.strip(".") for part in text.split("/"))


def check_model_id(text: str) -> str:
    """`text`, when it may stand in a request.

    Raises
    ------
    UnsafeRequest : not `[A-Za-z0-9_.-]{1,96}`, once or twice, or a part of dots alone.
    """
    if not is_model_id(text):
        raise UnsafeRequest(f"{text[:120]!r} is not a model id (org/name)")
    return text


def check_sha(text: str) -> str:
    """`text`, when it is a full commit or content digest (40 to 64 lower-case hex digits).

    Raises
    ------
    UnsafeRequest : anything else; a read that is not pinned to a revision is refused.
    """
    if _SHA.fullmatch(text) is None:
        raise UnsafeRequest(f"{text[:80]!r} is not a full revision digest to pin a read to")
    return text


def is_sha(text: object) -> bool:
    """Whether `text` is a full commit or content digest."""
    return isinstance(text, str) and _SHA.fullmatch(text) is not None


def check_file_path(text: str) -> str:
    """`text`, when it is a relative path that names one file below its revision.

    Raises
    ------
    UnsafeRequest : empty, absolute, with `.`, `..`, a backslash, a drive, a control or
        direction character, not UTF-8, a part above 255 bytes or a whole above 1,024.
    """
    reason = _path_fault(text)
    if reason is not None:
        raise UnsafeRequest(f"file name {text[:120]!r} is refused: {reason}")
    return text


def quote_path(text: str) -> str:
    """A checked path with every part percent-quoted, slashes kept."""
    return quote(check_file_path(text), safe="/")


def _path_fault(text: str) -> str | None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    if not raw or len(raw) > _LONGEST_PATH:
        return f"{len(raw)} bytes long"
    if _HIDDEN.search(text):
        return "control or direction characters"
    if "\\" in text or _DRIVE.match(text):
        return "backslash or drive"
    for part in text.split("/"):
        if part in {"", ".", ".."}:
            return "absolute, empty or upward part"
        if len(part.encode()) > _LONGEST_PART:
            return f"a part above {_LONGEST_PART} bytes"
    return None
