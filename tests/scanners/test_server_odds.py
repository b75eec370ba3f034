"""What a server says of its first tokens: both shapes, lies, and a probe made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from faulty_hub import Naps
from hypothesis import given
from hypothesis import strategies as st
from openai_server import Fault, Served, body, openai_server, status

from modelkin.lineage.errors import ProbeError, TransientError
from modelkin.lineage.safety.protocol import Status
from modelkin.scanners.probes.answer_odds import parse_first_tokens
from modelkin.scanners.probes.backend import UnsupportedModel
from modelkin.scanners.probes.endpoint_backend import EndpointBackend, EndpointLimits
from modelkin.scanners.probes.prompt_sets import PromptSet, parse_prompt_set
from modelkin.scanners.probes.server_odds import ServerOdds

NO, YES = {"I": 0.9, "Sure": 0.06}, {"Sure": 0.95, "I": 0.01}


def few() -> PromptSet:
    content = {
        "harmful": [f"bad {at}" for at in range(8)],
        "harmless": [f"good {at}" for at in range(8)],
    }
    return parse_prompt_set(json.dumps(content).encode(), path="few.json", default_name="few")


def asked_for(asked: dict[str, Any]) -> str:
    return str(asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"])


def odds(asked: dict[str, Any]) -> dict[str, float]:
    return NO if asked_for(asked).startswith("bad") else YES


@pytest.fixture
def served() -> Iterator[Served]:
    with openai_server(lambda _: "I cannot") as server:
        server.odds = odds
        yield server


def backend(served: Served, **more: Any) -> EndpointBackend:
    return EndpointBackend(url=served.url, model="toy", retry=Naps().policy(attempts=2), **more)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_first_tokens_come_in_the_shape_of_either_protocol(served: Served, api: Any) -> None:
    found = backend(served, api=api).first_tokens(["bad 1", "good"])
    assert [dict(one) for one in found] == [pytest.approx(NO), pytest.approx(YES)]
    assert {one["max_tokens"] for one in served.asked} == {1}
    assert served.asked[0]["logprobs"] == (True if api == "chat" else 5)


def test_first_tokens_of_a_server_that_always_streams(served: Served) -> None:
    served.streams = True
    assert dict(backend(served).first_tokens(["bad 1"])[0]) == pytest.approx(NO)


def test_a_context_is_held_against_the_first_that_refuses(served: Served) -> None:
    probe = ServerOdds(prompts=few())
    bare = probe.measure(backend(served), context="bare")
    served.odds = lambda _: YES
    freed = probe.measure(backend(served), context="documents")
    assert bare.value is not None
    assert bare.value > 5.0
    assert freed.value == pytest.approx(0.0)
    assert (bare.status, freed.status, freed.n) == (Status.OK, Status.OK, 16)
    assert bare.detail["reference"] == freed.detail["reference"] == "bare"


def test_where_nothing_is_refused_there_is_nothing_to_compare(served: Served) -> None:
    served.odds = lambda _: YES
    assert ServerOdds(prompts=few()).measure(backend(served), context="bare").status == (
        Status.UNALIGNABLE
    )


@pytest.mark.parametrize(
    "fault", [status(400), status(404), status(422), status(501), body(b'{"choices": [{}]}')]
)
def test_a_server_that_tells_no_odds_is_asked_once(served: Served, fault: Fault) -> None:
    served.faults = [fault]
    found = ServerOdds(prompts=few()).measure(backend(served), context="bare")
    assert (found.status, len(served.asked)) == (Status.UNSUPPORTED, 1)
    assert found.reason is not None
    assert "log probabilities" in found.reason


def test_a_server_that_fails_or_a_budget_that_ends_is_an_error(served: Served) -> None:
    served.faults = [body(b"nope")] * 2
    broken = ServerOdds(prompts=few()).measure(backend(served), context="bare")
    bounded = backend(served, limits=EndpointLimits(max_requests=3))
    ended = ServerOdds(prompts=few()).measure(bounded, context="bare")
    assert (broken.status, ended.status) == (Status.ERROR, Status.ERROR)
    assert ended.reason is not None
    assert "used up" in ended.reason


def told(logprobs: object) -> bytes:
    return json.dumps({"choices": [{"logprobs": logprobs}]}).encode()


@pytest.mark.parametrize(
    "lie",
    [
        {},
        {"content": None},
        {"content": [5]},
        {"content": [{"token": "a", "logprob": -0.1}]},
        {"content": [{"top_logprobs": [{"token": 5, "logprob": -1.0}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": 3.0}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": math.nan}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": True}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": 10**400}]}]},
        {"content": [{"top_logprobs": [{"token": t, "logprob": -0.1} for t in "ab"]}]},
        {"top_logprobs": [None]},
    ],
)
def test_numbers_that_are_no_log_probabilities_are_no_odds(lie: object) -> None:
    with pytest.raises(UnsupportedModel):
        parse_first_tokens(told(lie), False)


def test_halves_of_a_character_are_counted_together() -> None:
    rows = [{"token": "?", "logprob": math.log(0.2)}, {"token": "?", "logprob": -9999.0}] * 2
    assert parse_first_tokens(told({"content": [{"top_logprobs": rows}]}), False) == {
        "?": pytest.approx(0.4)
    }
    assert parse_first_tokens(told({"content": []}), False) == {}


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_break_the_parser(data: bytes, streamed: bool) -> None:
    with suppress(TransientError, ProbeError):
        parse_first_tokens(data, streamed)


@given(st.dictionaries(st.text(max_size=5), st.floats(1e-6, 0.1), max_size=9))
def test_probabilities_come_back_as_they_were_told(found: dict[str, float]) -> None:
    rows = [{"token": token, "logprob": math.log(p)} for token, p in found.items()]
    data = told({"content": [{"top_logprobs": rows}]})
    assert parse_first_tokens(data, False) == pytest.approx(found)
