"""JSON from strangers: bounded before it is parsed, and without JSON's ambiguities."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ...lineage.errors import LimitExceeded, MalformedFile

_QUOTE = ord('"')
_INT_DIGITS = 20
_FLOAT_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLimits:
    """Bounds of one document.

    `size` in bytes; `depth` of nesting; `objects` in all; `elements` (colons and commas) in all,
    of which there may be `per_object` more for each object.
    """

    size: int
    depth: int
    objects: int
    elements: int
    per_object: int = 0


def parse_object(
    data: bytes, *, path: str, limits: JsonLimits, offset: int = 0, floats: bool = False
) -> dict[str, Any]:
    """The object that `data` holds and nothing else but spaces after it.

    Parameters
    ----------
    data : bytes
        UTF-8, from `{` on.
    path, offset : where `data` starts, for messages
    limits : checked on the bytes, before anything is built from them
    floats : bool
        Whether fractions are expected at all; without, only integers are numbers.

    Raises
    ------
    LimitExceeded : larger, deeper or longer than `limits`, or an integer of over 20 digits.
    MalformedFile : not UTF-8, not JSON, a key twice in one object, NaN or Infinity, an unpaired
        surrogate, something behind the object.
    """
    checked = _Checked(path=path, offset=offset, floats=floats)
    checked.bound(data, limits)
    return checked.parse(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """One document: the checks that `json` calls back, and the place for messages."""

    path: str
    offset: int
    floats: bool

    def fail(self, message: str, *, at: int = 0) -> NoReturn:
        raise MalformedFile(message, path=self.path, offset=self.offset + at)

    def bound(self, data: bytes, limits: JsonLimits) -> None:
        self._at_most(len(data), limits.size, what="JSON of too many bytes")
        if not data.startswith(b"{"):
            self.fail("the JSON does not start with an object")
        bare = _without_strings(data)
        objects = bare.count(b"{")
        self._at_most(objects, limits.objects, what="too many JSON objects")
        elements = bare.count(b",") + bare.count(b":")
        allowed = limits.elements + limits.per_object * objects
        self._at_most(elements, allowed, what="too many JSON elements")
        self._at_most(_depth(bare), limits.depth, what="JSON nested too deeply")

    def parse(self, data: bytes) -> dict[str, Any]:
        try:
            text = data.decode("utf-8").rstrip(" ")
            value = json.loads(
                text,
                object_pairs_hook=self._object,
                parse_int=self._int,
                parse_float=self._float,
                parse_constant=self._constant,
            )
            if b"\\u" in data:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeDecodeError as error:
            self.fail("the JSON is not UTF-8", at=error.start)
        except UnicodeEncodeError:
            self.fail("unpaired surrogate in the JSON")
        except json.JSONDecodeError as error:
            self.fail(f"invalid JSON: {error.msg}", at=len(text[: error.pos].encode()))
        if not text.endswith("}"):
            self.fail("only spaces may follow the JSON object", at=len(text.encode()))
        result: dict[str, Any] = value
        return result

    def _at_most(self, actual: int, limit: int, *, what: str) -> None:
        if actual > limit:
            raise LimitExceeded(
                what, path=self.path, limit=limit, actual=actual, offset=self.offset
            )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self.fail(f"key {twice[:80]!r} stands twice in one JSON object")
        return result

    def _int(self, digits: str) -> int:
        if len(digits) > _INT_DIGITS:
            self._at_most(len(digits), _INT_DIGITS, what="JSON integer of too many digits")
        if digits == "-0":
            self.fail("-0 is no integer")
        return int(digits)

    def _float(self, digits: str) -> float:
        self._at_most(len(digits), _FLOAT_DIGITS, what="JSON number of too many digits")
        value = float(digits)
        if not self.floats or not math.isfinite(value):
            self.fail(f"the number {digits} is no integer")
        return value

    def _constant(self, name: str) -> NoReturn:
        self.fail(f"{name} is no JSON")


def _without_strings(data: bytes) -> bytes:
    """The bytes outside of strings, without quotes; a string left open runs to the end."""
    if b"\\" in data:
        # In pairs from the left, so that what is left of a backslash escapes what follows it.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    codes = np.frombuffer(data, dtype=np.uint8)
    quotes = codes == _QUOTE
    # Only the parity of the count of quotes is needed, which 8 bits keep.
    inside = np.cumsum(quotes, dtype=np.uint8) & 1
    return bytes(codes[(inside == 0) & ~quotes])


def _depth(bare: bytes) -> int:
    """Deepest nesting of brackets."""
    codes = np.frombuffer(bare, dtype=np.uint8)
    opened = (codes == ord("{")) | (codes == ord("["))
    closed = (codes == ord("}")) | (codes == ord("]"))
    steps = (opened.view(np.int8) - closed.view(np.int8))[opened | closed]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))
