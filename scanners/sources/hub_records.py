"""The Hub's JSON as records: every field is checked, and a field of the wrong type is dropped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ...lineage.errors import MalformedFile
from ...lineage.records import ModelFile, ModelInfo
from ..bounded_json import clean_text
from .names import is_model_id, is_sha

# Only an escape can smuggle these past the UTF-8 decoder and the parser; most pages have none.
_ODD_ESCAPE = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_LONGEST_TEXT = 4096
_LARGEST_COUNT = 2**62
_DEEPEST = 16


def parse_body(body: bytes, *, path: str) -> Any:
    """A JSON answer as a value; NUL and lone surrogates become U+FFFD so that text can be stored.

    Raises
    ------
    MalformedFile : not JSON, not UTF-8, nested beyond the interpreter's depth.
    """
    try:
        value = json.loads(body, parse_constant=str)
        return _scrub(value) if _ODD_ESCAPE.search(body) else value
    except (ValueError, RecursionError):
        raise MalformedFile("the answer is not JSON", path=path) from None


def parse_model(item: Any, *, fallback: str | None = None) -> ModelInfo | None:
    """One model of a listing or a description; None when it has no usable id.

    Parameters
    ----------
    item : JSON value
        Shape of `/api/models` items and `/api/models/{id}`; missing keys are fine.
    fallback : str, optional
        The id asked for, used when the answer names none.

    Returns
    -------
    ModelInfo or None. `sha` is "" when the answer has no revision (a server that ignores
    `expand`): such a model has to be described by `info` before its files can be read.
    `downloads` is the 30-day count where there is one, as listing and description both have it.
    """
    if not isinstance(item, Mapping):
        return None
    name = item.get("id", item.get("modelId", fallback))
    if not is_model_id(name):
        return None
    card = _mapping(item.get("cardData"))
    tags = _texts(item.get("tags"))
    sha = item.get("sha")
    identity = item.get("_id")
    known = isinstance(identity, str) and _SOURCE_ID.fullmatch(identity)
    downloads = _count(item.get("downloads"))
    return ModelInfo(
        source="hub",
        source_id=str(identity) if known else name,
        name=name,
        sha=sha if isinstance(sha, str) and is_sha(sha) else "",
        created_at=parse_time(item.get("createdAt")),
        last_modified=parse_time(item.get("lastModified")),
        library=_text(item.get("library_name")),
        license=_license(card, tags),
        gated=_gated(item.get("gated")),
        disabled=item.get("disabled") is True,
        downloads=_count(item.get("downloadsAllTime")) if downloads is None else downloads,
        tags=tags,
        card=card,
        config=_mapping(item.get("config")),
        files=_files(item.get("siblings")),
    )


def parse_time(value: Any) -> datetime | None:
    """An ISO 8601 time in UTC (a time without a zone is UTC); None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _files(value: Any) -> tuple[ModelFile, ...]:
    if not isinstance(value, list):
        return ()
    if all(map(_is_name_alone, value)):
        # A listing gives names alone: twenty million of them on the whole Hub.
        names = dict.fromkeys([_text(item.get("rfilename")) for item in value])
        return tuple([_named(name) for name in names if name is not None])
    found: dict[str, ModelFile] = {}
    for item in value:
        name = _text(item.get("rfilename")) if isinstance(item, Mapping) else None
        if name is not None and name not in found:
            found[name] = _file(name, item)
    return tuple(found.values())


def _is_name_alone(item: Any) -> bool:
    return type(item) is dict and len(item) == 1


@lru_cache(maxsize=16_384)
def _named(name: str) -> ModelFile:
    """A file of which only the name is known; most repositories have the same ones."""
    return ModelFile(path=name)


def _file(name: str, item: Mapping[str, Any]) -> ModelFile:
    lfs = _mapping(item.get("lfs"))
    digest = lfs.get("sha256", lfs.get("oid"))
    size = _count(item.get("size"))
    return ModelFile(
        path=name,
        size=_count(lfs.get("size")) if size is None else size,
        sha256=digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None,
        blob=_text(item.get("blobId")),
    )


def _license(card: Mapping[str, Any], tags: tuple[str, ...]) -> str | None:
    stated = card.get("license")
    if isinstance(stated, list) and stated:
        stated = stated[0]
    named = _text(stated)
    if named is not None:
        return named
    return next((tag[8:] for tag in tags if tag.startswith("license:")), None)


def _gated(value: Any) -> str | None:
    if value is True:
        return "manual"
    return value if value in ("auto", "manual") else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) and _is_shallow(value, _DEEPEST) else {}


def _is_shallow(value: dict[str, Any] | list[Any], left: int) -> bool:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)) and (left <= 1 or not _is_shallow(item, left - 1)):
            return False
    return True


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple([text for text in map(_text, value) if text is not None])


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT else None


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST_COUNT else None


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    if isinstance(value, dict):
        return {_scrub(key): _scrub(item) for key, item in value.items()}
    return value
