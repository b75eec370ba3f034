"""What an address asks for: parameters with their kinds, bounds and defaults.

One table of parameters reads the query string, fills the forms and writes the OpenAPI document.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ...lineage.errors import BadRequest

MAX_TEXT = 512
MAX_LIST = 64

Kind = Literal["text", "integer", "number", "flag", "date", "list"]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a question.

    `choices` closes a text or list; `low` and `high` bound numbers; `longest` bounds a text in
    characters. A required parameter has no default.
    """

    name: str
    about: str
    kind: Kind = "text"
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    longest: int = MAX_TEXT


def read_values(parameters: Sequence[Parameter], given: Mapping[str, Sequence[str]]) -> Values:
    """The values of a query string.

    Parameters
    ----------
    given : name to all its values, in order. Empty ones count as absent; a form sends those.

    Raises
    ------
    BadRequest : an unknown parameter, a missing one, or a value out of bounds.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise BadRequest(f"no such parameter; there are {', '.join(known)}", parameter=name)
    return {name: _read(one, given.get(name, ())) for name, one in known.items()}


def text_values(parameters: Sequence[Parameter], values: Values) -> dict[str, list[str]]:
    """Values as a query string says them; those at their defaults are left out."""
    found: dict[str, list[str]] = {}
    for one in parameters:
        value = values.get(one.name)
        if value is None or value == one.default or value == ():
            continue
        parts = value if isinstance(value, tuple) else (value,)
        found[one.name] = [_text(part) for part in parts]
    return found


def seal(position: Mapping[str, int]) -> str:
    """A place in a listing as an opaque token."""
    written = json.dumps(dict(position), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(written).decode().rstrip("=")


def unseal(token: str | None, name: str) -> int | None:
    """The position under a name in a token that `seal` made; None without a token.

    Raises
    ------
    BadRequest : it is no such token.
    """
    if token is None:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        position = None
    value = position.get(name) if isinstance(position, dict) else None
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise BadRequest("not a token that this listing gave", parameter="next")
    return value


def _read(one: Parameter, given: Sequence[str]) -> Any:
    found = [value for value in given if value != ""]
    if one.kind == "list":
        return _list(one, found)
    if len(found) > 1:
        raise BadRequest("given more than once", parameter=one.name)
    if not found:
        if one.required:
            raise BadRequest(f"missing: {one.about}", parameter=one.name)
        return one.default
    return _single(one, found[0])


def _list(one: Parameter, found: Sequence[str]) -> tuple[str, ...]:
    if len(found) > MAX_LIST:
        raise BadRequest(f"more than {MAX_LIST} values", parameter=one.name)
    return tuple(_chosen(one, value) for value in found)


def _single(one: Parameter, value: str) -> Any:
    match one.kind:
        case "integer":
            return int(_number(one, value, whole=True))
        case "number":
            return _number(one, value, whole=False)
        case "flag":
            if value not in ("0", "1"):
                raise BadRequest("a flag is 0 or 1", parameter=one.name)
            return value == "1"
        case "date":
            return _date(one, value)
    return _chosen(one, value)


def _chosen(one: Parameter, value: str) -> str:
    if len(value) > one.longest:
        raise BadRequest(f"longer than {one.longest:,} characters", parameter=one.name)
    if one.choices and value not in one.choices:
        raise BadRequest(f"one of {', '.join(one.choices)}", parameter=one.name)
    return value


def _number(one: Parameter, value: str, *, whole: bool) -> float:
    try:
        # An integer of 4,300 digits is an error of its own kind; nothing near it is in bounds.
        number = int(value[:20]) if whole else float(value[:40])
    except ValueError:
        number = math.nan
    low = -math.inf if one.low is None else one.low
    high = math.inf if one.high is None else one.high
    if not low <= number <= high or len(value) > 40:
        kind = "a whole number" if whole else "a number"
        raise BadRequest(f"{kind} from {low:g} to {high:g}", parameter=one.name)
    return number


def _date(one: Parameter, value: str) -> datetime:
    try:
        found = datetime.fromisoformat(value[:40])
    except ValueError:
        raise BadRequest("a date such as 2026-11-24", parameter=one.name) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(value: Any) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case datetime():
            return f"{value:%Y-%m-%d}" if (value.hour, value.minute) == (0, 0) else str(value)
        case float():
            return f"{value:g}"
    return str(value)
