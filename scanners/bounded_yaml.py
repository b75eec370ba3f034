"""YAML from strangers, read event by event inside fixed bounds.

A document is built straight from the parser's events, so an alias, a foreign tag or a deep nest
is refused before anything is made of it: nothing is ever expanded or instantiated. Scalars
follow the YAML 1.2 core schema, as the Hub reads cards (`no` is Norwegian, not False), narrowed
to what JSON can hold: dates, infinities and integers of more than 18 digits stay text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from ..lineage.errors import LimitExceeded, MalformedFile
from .bounded_json import clean_text

MAX_YAML_BYTES: Final = 64 * 1024
MAX_YAML_DEPTH: Final = 16

_CORE: Final = "tag:yaml.org,2002:"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT: Final = re.compile(
    r"[-+]?(?=[0-9]*[.eE])(?:\.[0-9]{1,32}|[0-9]{1,32}(?:\.[0-9]{0,32})?)(?:[eE][-+]?[0-9]{1,4})?"
)
_KINDS: Final = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the text lies in its file, to give errors a byte offset."""

    text: str
    path: str
    offset: int

    def at(self, index: int | None) -> int:
        return self.offset + len(self.text[: index or 0].encode("utf-8", "surrogatepass"))

    def malformed(self, message: str, index: int | None) -> MalformedFile:
        return MalformedFile(message, path=self.path, offset=self.at(index))


@dataclass(slots=True, kw_only=True)
class _Frame:
    """An open collection; `key` waits for its value."""

    value: dict[str, Any] | list[Any]
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None


@dataclass(slots=True, kw_only=True)
class _Builder:
    """Turns parser events into dicts, lists and scalars."""

    place: _Place
    stack: list[_Frame] = field(default_factory=list)
    roots: list[Any] = field(default_factory=list)

    def feed(self, event: Any) -> None:
        index = event.start_mark.index if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self.place.malformed("anchors and aliases are not read", index)
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, index)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, index)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self.stack.pop().value)

    def _open(self, event: Any, index: int | None) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _CORE + ("map" if mapping else "seq")):
            raise self.place.malformed("a tag outside the core schema", index)
        if self.stack and self.stack[-1].wants_key:
            raise self.place.malformed("a collection stands as a key", index)
        if len(self.stack) >= MAX_YAML_DEPTH:
            raise LimitExceeded(
                "nesting too deep",
                path=self.place.path,
                limit=MAX_YAML_DEPTH,
                actual=len(self.stack) + 1,
                offset=self.place.at(index),
            )
        self.stack.append(_Frame(value={} if mapping else []))

    def _scalar(self, event: Any, index: int | None) -> None:
        if self.stack and self.stack[-1].wants_key:
            self.stack[-1].key = clean_text(event.value)
            return
        try:
            self._add(_scalar_value(event))
        except ValueError as error:
            raise self.place.malformed(str(error), index) from None

    def _add(self, value: Any) -> None:
        if not self.stack:
            self.roots.append(value)
            return
        frame = self.stack[-1]
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is not None:
            frame.value[frame.key] = value
            frame.key = None


def _plain_value(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return clean_text(text)


def _scalar_value(event: Any) -> Any:
    tag = event.tag
    if tag is None:
        return _plain_value(event.value) if event.implicit[0] else clean_text(event.value)
    if tag in ("!", _CORE + "str"):
        return clean_text(event.value)
    kind = tag.removeprefix(_CORE)
    if tag == kind or kind not in _KINDS:
        raise ValueError("a tag outside the core schema")
    value = _plain_value(event.value)
    if type(value) not in _KINDS[kind]:
        raise ValueError(f"a value that is not of its own tag, {kind}")
    return value


def _events(place: _Place) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.parse(place.text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or "not YAML"
        raise place.malformed(message, mark.index if mark else None) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise place.malformed("not YAML", getattr(error, "position", None)) from None


def parse_yaml_mapping(text: str, *, path: str, offset: int = 0) -> dict[str, Any]:
    """Read one YAML mapping of at most 64 KiB and 16 levels into JSON-able values.

    Parameters
    ----------
    text : the YAML.
    path : name of the file, for errors.
    offset : byte offset of `text` in that file.

    Returns
    -------
    dict of str to None, bool, int, float, str, list, dict. Keys are the text as written (`1:`
    gives "1"). Of two equal keys the later wins, as in the loaders of the Hub's client; where the
    first stood decides the order. Empty text gives {}.

    Raises
    ------
    LimitExceeded : more bytes or levels than are read.
    MalformedFile : not YAML; an anchor, an alias or a tag outside the core schema; a collection
        as a key; more than one document; something else than a mapping.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_YAML_BYTES:
        raise LimitExceeded(
            "YAML too long", path=path, limit=MAX_YAML_BYTES, actual=size, offset=offset
        )
    builder = _Builder(place=_Place(text=text, path=path, offset=offset))
    for event in _events(builder.place):
        builder.feed(event)
    if len(builder.roots) > 1:
        raise MalformedFile("more than one YAML document", path=path, offset=offset)
    root = builder.roots[0] if builder.roots else None
    if root is None:
        return {}
    if not isinstance(root, dict):
        raise MalformedFile("YAML that is not a mapping", path=path, offset=offset)
    return root
