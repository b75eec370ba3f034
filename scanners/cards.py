"""Model cards: the front matter and the text of a README.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ..lineage.errors import LimitExceeded
from .bounded_json import clean_text
from .bounded_yaml import MAX_YAML_BYTES, parse_yaml_mapping

MAX_CARD_BYTES: Final = 1024 * 1024

_BOM: Final = b"\xef\xbb\xbf"
_OPENING: Final = re.compile(rb"---[ \t]*+\r?\n")
_CLOSING: Final = re.compile(rb"^---[ \t]*+\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card taken apart.

    `front_matter` holds JSON-able values only; `body` is the text after it.
    """

    front_matter: dict[str, Any]
    body: str


def _text(data: bytes) -> str:
    return clean_text(data.decode("utf-8", "replace"))


def parse_card(data: bytes, *, path: str = "README.md") -> Card:
    """Split a card into front matter and body.

    Front matter is what lies between a very first line `---` and the next such line; anything
    else, and a `---` that is never closed, is body. Invalid UTF-8 becomes U+FFFD; a byte order
    mark and CRLF line ends are tolerated.

    Parameters
    ----------
    data : the whole file.
    path : name of the file, for errors.

    Returns
    -------
    Card.

    Raises
    ------
    LimitExceeded : a card above 1 MiB, front matter above 64 KiB or 16 levels.
    MalformedFile : front matter that is not a plain YAML mapping; see `parse_yaml_mapping`.
    """
    if len(data) > MAX_CARD_BYTES:
        raise LimitExceeded("card too long", path=path, limit=MAX_CARD_BYTES, actual=len(data))
    start = len(_BOM) if data.startswith(_BOM) else 0
    opening = _OPENING.match(data, start)
    closing = _CLOSING.search(data, opening.end()) if opening else None
    if opening is None or closing is None:
        return Card(front_matter={}, body=_text(data[start:]))
    begin, end = opening.end(), closing.start()
    if end - begin > MAX_YAML_BYTES:
        raise LimitExceeded(
            "front matter too long",
            path=path,
            limit=MAX_YAML_BYTES,
            actual=end - begin,
            offset=begin,
        )
    front = data[begin:end].decode("utf-8", "replace")
    return Card(
        front_matter=parse_yaml_mapping(front, path=path, offset=begin),
        body=_text(data[closing.end() :]).lstrip("\r\n"),
    )
