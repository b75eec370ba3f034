"""How likely a server's first tokens are: what it says beside an answer of one token.

Two shapes are in use, whatever the protocol: `logprobs.content[0].top_logprobs`, a list of tokens
with their log probabilities, and `logprobs.top_logprobs[0]`, a mapping from token to log
probability (older completions).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ...lineage.errors import TransientError
from .backend import UnsupportedModel

# Log odds of what is never said: a server may write any number.
_NOTHING: Final = -1e3
_SLACK: Final = 1e-3
"""How far rounding may bring probabilities above one."""

Odds = Mapping[str, float]


def parse_first_tokens(data: bytes, streamed: bool) -> Odds:
    """Probabilities of the likeliest first tokens of an answer.

    Returns
    -------
    Empty where the answer ended before its first token. Tokens that read alike (halves of a
    character) are counted together.

    Raises
    ------
    TransientError : no JSON with a choice; some servers send half a body under load.
    UnsupportedModel : an answer without log probabilities, or with numbers that are none.
    """
    for choice in _choices(data, streamed=streamed):
        told = choice.get("logprobs")
        if isinstance(told, dict):
            return _probabilities(_first_of(told))
    raise UnsupportedModel("the server answers without log probabilities")


def _choices(data: bytes, *, streamed: bool) -> Iterator[dict[str, Any]]:
    texts = _events(data) if streamed else [data.decode("utf-8", "replace")]
    for text in texts:
        try:
            choices = json.loads(text)["choices"]
            choice = choices[0] if choices or not streamed else {}
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise TransientError("the answer is no JSON object with a choice") from error
        if not isinstance(choice, dict):
            raise TransientError("a choice is no object")
        yield choice


def _events(data: bytes) -> list[str]:
    lines = data.decode("utf-8", "replace").splitlines()
    events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    return [event for event in events if event != "[DONE]"]


def _first_of(told: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(token, log probability) at the first place, as the server wrote them."""
    places, mappings = told.get("content"), told.get("top_logprobs")
    if isinstance(places, list):
        first = places[0] if places else {"top_logprobs": []}
        rows = first.get("top_logprobs") if isinstance(first, dict) else None
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            return [(row.get("token"), row.get("logprob")) for row in rows]
    elif isinstance(mappings, list):
        first = mappings[0] if mappings else {}
        if isinstance(first, dict):
            return list(first.items())
    raise UnsupportedModel("the server answers without the log probabilities of other tokens")


def _probabilities(rows: Sequence[tuple[Any, Any]]) -> Odds:
    found: dict[str, float] = {}
    for token, value in rows:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not isinstance(token, str) or not number or not value <= _SLACK:
            raise UnsupportedModel("the server's log probabilities are none")
        found[token] = found.get(token, 0.0) + math.exp(min(max(value, _NOTHING), 0.0))
    if sum(found.values()) > 1.0 + _SLACK:
        raise UnsupportedModel("the server's probabilities sum to more than one")
    return found
