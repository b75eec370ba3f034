"""JSON from strangers: size, depth and number of values are checked before anything is built."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from ..lineage.errors import LimitExceeded, MalformedFile

MAX_JSON_BYTES: Final = 1024 * 1024
MAX_JSON_DEPTH: Final = 64
MAX_JSON_VALUES: Final = 1_000_000
MAX_INTEGER_DIGITS: Final = 64

# Possessive quantifiers: one pass whatever the text, an unclosed string runs to the end.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]},]', re.DOTALL)
_ODD_ESCAPE: Final = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_ODD: Final = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """`text` with NUL and lone surrogates replaced by U+FFFD, so that every store can hold it."""
    return _ODD.sub("\ufffd", text)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    return value


def _check_shape(data: bytes, path: str) -> None:
    depth = 0
    values = 1
    for match in _TOKEN.finditer(data):
        token = data[match.start()]
        if token in b"]}":
            depth -= 1
            continue
        if token == ord('"'):
            continue
        values += 1
        depth += token != ord(",")
        if depth > MAX_JSON_DEPTH:
            raise LimitExceeded(
                "nesting too deep",
                path=path,
                limit=MAX_JSON_DEPTH,
                actual=depth,
                offset=match.start(),
            )
        if values > MAX_JSON_VALUES:
            raise LimitExceeded(
                "too many values",
                path=path,
                limit=MAX_JSON_VALUES,
                actual=values,
                offset=match.start(),
            )


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits")
    return int(text)


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _load(data: bytes, path: str) -> Any:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFile("not UTF-8", path=path, offset=error.start) from None
    try:
        value = json.loads(
            text.removeprefix("\ufeff"), parse_int=_integer, parse_float=_float, parse_constant=str
        )
    except json.JSONDecodeError as error:
        bom = 3 if text.startswith("\ufeff") else 0
        offset = bom + len(error.doc[: error.pos].encode())
        raise MalformedFile(f"not JSON: {error.msg}", path=path, offset=offset) from None
    except ValueError as error:
        raise MalformedFile(str(error), path=path) from None
    return _clean(value) if _ODD_ESCAPE.search(text) else value


def parse_json_object(data: bytes, *, path: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object such as config.json inside fixed bounds.

    Parameters
    ----------
    data : the whole file, UTF-8 with or without a byte order mark.
    path : name of the file, for errors.
    limit : largest length of `data` in bytes.

    Returns
    -------
    dict. Of two equal keys the later wins, as in the libraries that load models. NaN and the
    infinities, which real configs hold, become their text; NUL and lone surrogates in strings
    become U+FFFD.

    Raises
    ------
    LimitExceeded : more bytes than `limit`, 64 levels or 1,000,000 values.
    MalformedFile : not UTF-8, not JSON, not an object, an integer of more than 64 digits.
    """
    if len(data) > limit:
        raise LimitExceeded("file too long", path=path, limit=limit, actual=len(data))
    _check_shape(data, path)
    value = _load(data, path)
    if not isinstance(value, dict):
        raise MalformedFile("JSON that is not an object", path=path, offset=0)
    return value
