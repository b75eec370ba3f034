"""Any server that speaks the OpenAI protocol: vLLM, llama-server, Ollama, a hosted deployment.

One request a prompt, several at once, each retried for what may pass. An answer is a JSON object
or, from servers that always stream, a stream of events; either is bounded, and one that ends
before it is whole is a fault and not an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

import aiohttp
from yarl import URL

from ...lineage.errors import BudgetExceeded, ProbeError, TransientError
from ..sources.retry import RetryPolicy
from .answer_odds import parse_first_tokens
from .backend import UnsupportedModel
from .contexts import BARE, Context

Api = Literal["chat", "completions"]
T = TypeVar("T")

MAX_ANSWER: Final = 4 << 20
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PATHS: Final[Mapping[Api, str]] = {"chat": "chat/completions", "completions": "completions"}
_MOST: Final = 5
_TOLD: Final[Mapping[str, Any]] = {"logprobs": True, "top_logprobs": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLimits:
    """Bounds of one endpoint.

    `timeout` is seconds for a whole answer; `at_once` requests run side by side. `max_requests`
    counts every attempt and `max_tokens` the new tokens asked for; None is unbounded.
    """

    timeout: float = 120.0
    at_once: int = 4
    max_requests: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question(Generic[T]):
    """What is asked of each prompt: new tokens, more of the body, and how an answer is read.

    `read` is given the body and whether it is a stream of events.
    """

    tokens: int
    read: Callable[[bytes, bool], T]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Spent:
    """What was asked of an endpoint so far: attempts, and new tokens that were asked for."""

    requests: int = 0
    tokens: int = 0


@dataclass(slots=True, kw_only=True)
class EndpointBackend:
    """Answers prompts through a server, each as one user turn within a context.

    Parameters
    ----------
    url : base address, `/v1` included, http or https; redirects are not followed.
    model : name that the server knows the model by.
    key : sent as a bearer token and kept nowhere else.
    api : `chat`, or `completions` for a model without a chat template.
    context : what is composed around each prompt.
    interrupted : asked before each request.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    api: Api = "chat"
    context: Context = BARE
    limits: EndpointLimits = field(default_factory=EndpointLimits)
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(attempts=4))
    interrupted: Callable[[], bool] = lambda: False
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        place = URL(self.url)
        if place.scheme not in ("http", "https") or not place.host or place.user:
            # The address itself is not repeated: a password may stand in it.
            raise ProbeError("a server's address is http(s)://HOST/..., without user and password")

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server: all of its address that is stored."""
        return str(URL(self.url).origin())

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy replies in the order of `prompts`; see `ChatBackend`.

        Raises
        ------
        ProbeError : the server refused, or did not answer within the attempts.
        BudgetExceeded : a limit is used up before every prompt was asked.
        """

        def reply(data: bytes, streamed: bool) -> str:
            parse = parse_stream if streamed else parse_answer
            return parse(data, api=self.api)

        return asyncio.run(self._each(prompts, _Question(tokens=max_new_tokens, read=reply)))

    def first_tokens(self, prompts: Sequence[str]) -> list[Mapping[str, float]]:
        """Probabilities of the likeliest first tokens of each reply, in the order of `prompts`.

        As many as servers of the protocol give: 20, or 5 for completions. One prompt is asked
        alone first, so that a server that tells none is asked once.

        Raises
        ------
        UnsupportedModel : the server does not tell them.
        ProbeError, BudgetExceeded : as for `generate`.
        """
        extra = {"logprobs": _MOST} if self.api == "completions" else _TOLD
        question = _Question(tokens=1, read=parse_first_tokens, extra=extra)
        first = asyncio.run(self._each(prompts[:1], question))
        return [*first, *asyncio.run(self._each(prompts[1:], question))]

    def environment(self) -> Mapping[str, Any]:
        """What the replies depend on, for the scores."""
        return {
            "engine": "openai-compatible",
            "server": self.origin,
            "served_model": self.model,
            "api": self.api,
            "decoding": "temperature 0",
            **self.context.record(),
        }

    async def _each(self, prompts: Sequence[str], question: _Question[T]) -> list[T]:
        gate = asyncio.Semaphore(self.limits.at_once)
        timeout = aiohttp.ClientTimeout(total=self.limits.timeout)
        # The environment's proxies must not see prompts or the key.
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:

            async def one(prompt: str) -> T:
                async with gate:
                    return await self.retry.run_async(lambda: self._ask(session, prompt, question))

            tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
            try:
                return list(await asyncio.gather(*tasks))
            except TransientError as error:
                raise ProbeError(f"{self.origin}: {error}") from error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, session: aiohttp.ClientSession, prompt: str, question: _Question[T]) -> T:
        self._take(question.tokens)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        body = {"model": self.model, "max_tokens": question.tokens, "temperature": 0}
        body |= {"stream": False, **question.extra, **self._question(prompt)}
        place = URL(self.url.rstrip("/") + "/") / _PATHS[self.api]
        try:
            async with session.post(
                place, json=body, headers=headers, allow_redirects=False
            ) as answer:
                self._check(answer, told=bool(question.extra))
                data = await _bounded(answer)
                streamed = answer.content_type == "text/event-stream"
        except TimeoutError as error:
            raise TransientError(f"no whole answer in {self.limits.timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        return question.read(data, streamed)

    def _take(self, tokens: int) -> None:
        if self.interrupted():
            raise ProbeError("interrupted")
        limits, spent = self.limits, self.spent
        for limit, actual, what in (
            (limits.max_requests, spent.requests + 1, "requests"),
            (limits.max_tokens, spent.tokens + tokens, "tokens"),
        ):
            if limit is not None and actual > limit:
                raise BudgetExceeded(
                    f"the budget of {limit:,} {what} is used up", limit=limit, actual=actual
                )
        spent.requests += 1
        spent.tokens += tokens

    def _question(self, prompt: str) -> dict[str, Any]:
        if self.api == "completions":
            return {"prompt": self.context.text(prompt)}
        question: dict[str, Any] = {"messages": self.context.messages(prompt)}
        if self.context.tools:
            question["tools"] = [dict(tool) for tool in self.context.tools]
        return question

    def _check(self, answer: aiohttp.ClientResponse, *, told: bool) -> None:
        if answer.status == 200:
            return
        if answer.status in _PASSING:
            raise TransientError(f"HTTP {answer.status}", retry_after=_retry_after(answer))
        if answer.status in (401, 403):
            raise ProbeError(f"{self.origin}: HTTP {answer.status}, the key is missing or refused")
        if told:
            raise UnsupportedModel(
                f"{self.origin}: HTTP {answer.status} to a request for log probabilities"
            )
        raise ProbeError(f"{self.origin}: HTTP {answer.status} to {_PATHS[self.api]}")


def parse_answer(data: bytes, *, api: Api) -> str:
    """The reply in a whole answer.

    Raises
    ------
    TransientError : not JSON, or JSON without a reply; some servers send half a body under load.
    """
    try:
        content = json.loads(data)
        choice = content["choices"][0]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise TransientError("the answer is no JSON object with a choice") from error
    return _reply_of(choice, api=api, key="message")


def parse_stream(data: bytes, *, api: Api) -> str:
    """The reply in a stream of events.

    Raises
    ------
    TransientError : the stream ended before it said so, or an event is no JSON.
    """
    parts: list[str] = []
    ended = False
    for line in data.decode("utf-8", "replace").splitlines():
        if not line.startswith("data:"):
            continue
        event = line.removeprefix("data:").strip()
        if event == "[DONE]":
            ended = True
            break
        try:
            choices = json.loads(event)["choices"]
            if choices == []:
                continue  # the last event of some servers tells the usage alone
            choice = choices[0]
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise TransientError("an event of the stream is no JSON with a choice") from error
        parts.append(_reply_of(choice, api=api, key="delta"))
        ended = ended or choice.get("finish_reason") is not None
    if not ended:
        raise TransientError("the stream was cut in the middle")
    return "".join(parts)


def _reply_of(choice: Any, *, api: Api, key: str) -> str:
    if not isinstance(choice, dict):
        raise TransientError("a choice is no object")
    if api == "completions":
        text = choice.get("text")
    else:
        message = choice.get(key)
        text = message.get("content") if isinstance(message, dict) else ""
        # A call of a tool without a word is an answer: the model did not refuse.
        if isinstance(message, dict) and not text and message.get("tool_calls"):
            text = "[calls a tool]"
    if text is not None and not isinstance(text, str):
        raise TransientError("a reply is no text")
    return text or ""


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for part in answer.content.iter_chunked(65_536):
        data += part
        if len(data) > MAX_ANSWER:
            raise ProbeError(f"an answer above {MAX_ANSWER:,} bytes")
    return bytes(data)


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "")))
    except ValueError:
        return None
