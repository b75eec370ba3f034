"""A server that answers, and everything that can go wrong with one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from faulty_hub import Naps
from hypothesis import given
from hypothesis import strategies as st
from openai_server import Fault, Served, body, cut, hang, openai_server, status, stream

from modelkin.lineage.errors import BudgetExceeded, ProbeError, TransientError
from modelkin.lineage.safety.profile import Grade
from modelkin.scanners.probes.contexts import NAMES, context
from modelkin.scanners.probes.endpoint_backend import (
    EndpointBackend,
    EndpointLimits,
    parse_answer,
    parse_stream,
)
from modelkin.scanners.probes.graders import LexicalGrader
from modelkin.scanners.probes.judging import ServerJudge

KEY = "sk-canary-canary"


def echo(asked: dict[str, Any]) -> str:
    text = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
    return f"you said {text}"


@pytest.fixture
def served() -> Iterator[Served]:
    with openai_server(echo) as server:
        yield server


def backend(served: Served, naps: Naps | None = None, **more: Any) -> EndpointBackend:
    defaults: dict[str, Any] = {"retry": (naps or Naps()).policy(attempts=4)}
    return EndpointBackend(url=served.url, model="toy", **{**defaults, **more})


def test_replies_come_in_the_order_of_the_prompts(served: Served) -> None:
    prompts = [f"question {at}" for at in range(30)]
    one = backend(served, key=KEY, limits=EndpointLimits(at_once=8))
    assert one.generate(prompts, 5) == [f"you said {prompt}" for prompt in prompts]
    assert {asked["max_tokens"] for asked in served.asked} == {5}
    assert {asked["temperature"] for asked in served.asked} == {0}
    assert set(served.keys) == {f"Bearer {KEY}"}
    assert (one.spent.requests, one.spent.tokens) == (30, 150)
    assert KEY not in repr(one)
    assert KEY not in json.dumps(dict(one.environment()))


def test_completions_and_streams_are_understood(served: Served) -> None:
    assert backend(served, api="completions").generate(["a"], 5) == ["you said a"]
    served.streams = True
    assert backend(served).generate(["a b"], 5)[0].split() == ["you", "said", "a", "b"]


@pytest.mark.parametrize(
    "fault",
    [
        status(429),
        status(503),
        body(b"{not json"),
        body(b"[]"),
        body(b'{"choices": []}'),
        body(b'{"choices": [{"message": {"content": 5}}]}'),
        body(b"\xff\xfe" * 30),
        body(b"[" * 100_000),
        body(stream("sorry i", end=False), kind="text/event-stream"),
        body(b"data: {oops\n\n", kind="text/event-stream"),
        cut,
    ],
    ids=[
        *("429", "503", "broken", "list", "empty", "number", "bytes", "deep"),
        *("cut-stream", "bad-event", "cut"),
    ],
)
def test_what_may_pass_is_tried_again(served: Served, fault: Fault) -> None:
    served.faults = [fault]
    assert backend(served).generate(["a"], 5) == ["you said a"]
    assert len(served.asked) == 2


def test_an_answer_that_does_not_come_is_asked_for_again(served: Served) -> None:
    released = threading.Event()
    served.faults = [hang(released)]
    # A busy machine may be late with the other answers as well: none of them is the last.
    retry = Naps().policy(attempts=20)
    one = backend(served, retry=retry, limits=EndpointLimits(timeout=1.0))
    try:
        assert one.generate(["a"], 5) == ["you said a"]
    finally:
        released.set()
    assert len(served.asked) > 1


def test_the_wait_that_a_server_names_is_kept(served: Served) -> None:
    served.faults = [status(429, Retry_After="7")]
    naps = Naps()
    backend(served, naps).generate(["a"], 5)
    assert naps.seconds == [7.5]


def test_a_server_that_stays_broken_is_an_error(served: Served) -> None:
    served.faults = [body(b"nope")] * 10
    with pytest.raises(ProbeError, match="no JSON"):
        backend(served).generate(["a"], 5)
    assert len(served.asked) == 4


@pytest.mark.parametrize("code", [400, 401, 404, 302])
def test_what_will_not_pass_is_not_tried_again(served: Served, code: int) -> None:
    served.faults = [status(code, Location="http://127.0.0.1:1/")]
    with pytest.raises(ProbeError, match=str(code)) as caught:
        backend(served, key=KEY).generate(["a"], 5)
    assert len(served.asked) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("limit", [{"max_requests": 3}, {"max_tokens": 15}])
def test_a_budget_ends_a_run(served: Served, limit: dict[str, int]) -> None:
    one = backend(served, limits=EndpointLimits(at_once=1, **limit))
    with pytest.raises(BudgetExceeded, match="used up"):
        one.generate(["a"] * 10, 5)
    assert len(served.asked) == 3


def test_a_signal_ends_a_run(served: Served) -> None:
    with pytest.raises(ProbeError, match="interrupted"):
        backend(served, interrupted=lambda: True).generate(["a"], 5)
    assert served.asked == []


def test_an_endless_answer_is_cut_off(served: Served) -> None:
    served.faults = [body(b" " * (5 << 20))]
    with pytest.raises(ProbeError, match="above"):
        backend(served).generate(["a"], 5)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://u:p@host/v1", "localhost:8000"])
def test_only_plain_addresses_are_taken(url: str) -> None:
    with pytest.raises(ProbeError) as caught:
        EndpointBackend(url=url, model="m")
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_each_context_is_composed_around_the_prompt(served: Served, name: str) -> None:
    one = backend(served, context=context(name))
    one.generate(["what is it?"], 5)
    asked = served.asked[0]
    assert asked["messages"][-1]["content"].endswith("what is it?")
    assert ("tools" in asked) == (name == "tools")
    assert (asked["messages"][0]["role"] == "system") == (name == "system")
    size = len(asked["messages"][-1]["content"])
    assert {"documents": 400 < size < 2_000, "long": size > 20_000}.get(name, size < 20)


def test_contexts_differ_in_their_record() -> None:
    records = {json.dumps(context(name).record(), sort_keys=True) for name in NAMES}
    assert len(records) == len(NAMES)
    own = context("tools", system="be a pirate").record()
    assert own["system_sha256"] is not None
    assert "pirate" not in json.dumps(own)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    parsers: tuple[Callable[..., str], ...] = (parse_answer, parse_stream)
    for parse in parsers:
        with suppress(TransientError):
            assert isinstance(parse(data, api="chat"), str)


@given(st.text(max_size=80))
def test_a_reply_comes_back_as_it_was_sent(text: str) -> None:
    data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    assert parse_answer(data, api="chat") == text


@pytest.mark.parametrize(
    ("letter", "grade"),
    [
        ("R", Grade.REFUSE),
        (" c.", Grade.COMPLY),
        ("**P**", Grade.PARTIAL),
        ("I", Grade.INCOHERENT),
        ("Refusing is right", Grade.PARTIAL),
        ("<think>hm</think>R", Grade.REFUSE),
        ("", Grade.PARTIAL),
    ],
)
def test_a_judge_behind_a_server_answers_with_a_letter(letter: str, grade: Grade) -> None:
    with openai_server(lambda _: letter) as served:
        judge = ServerJudge(backend=backend(served), model="toy")
        first = [LexicalGrader(["cannot"]).grade("an answer")]
        assert judge.grade(["a request"], ["an answer"], first) == [grade]
    assert "a request" in served.asked[0]["messages"][0]["content"]
    assert judge.name.startswith("llm-toy@")
