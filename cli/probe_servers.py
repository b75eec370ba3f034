"""Options and wiring of servers: the one that is probed, and the one that judges."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from ..lineage.safety.protocol import Tier
from ..scanners.probes.contexts import NAMES, Context, context
from ..scanners.probes.endpoint_backend import Api, EndpointBackend, EndpointLimits
from ..scanners.probes.judging import ServerJudge
from ..scanners.sources.retry import RetryPolicy
from .interrupts import Interrupts

Command = TypeVar("Command", bound=Callable[..., Any])
MAX_SYSTEM = 64 << 10
_SERVER = ("api", "contexts", "system", "max_calls", "logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What was asked of the tier `deployment` on the command line."""

    url: str | None
    model: str | None
    api: Api
    contexts: tuple[str, ...]
    system: Path | None
    max_calls: int | None
    logprobs: bool

    @property
    def given(self) -> bool:
        """Whether anything was asked that only a server can be asked."""
        texts = (self.url, self.model, self.contexts, self.system)
        return any(texts) or self.max_calls is not None or self.logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """The judge behind a server, as it was asked for."""

    url: str | None
    model: str | None


def server(command: Command) -> Command:
    """The options of the tier `deployment`, given to the command as one `server`."""

    @wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        asked = ServerOptions(
            url=given.pop("server"),
            model=given.pop("served_model"),
            **{name: given.pop(name) for name in _SERVER},
        )
        return command(*args, server=asked, **given)

    wrapped = cast(Command, gathered)
    for option in reversed(
        (
            click.option(
                "--server",
                metavar="URL",
                help="OpenAI-compatible server to probe, /v1 included; key in MODELKIN_SERVER_KEY.",
            ),
            click.option("--served-model", metavar="NAME", help="Name the server knows it by."),
            click.option(
                "--api",
                type=click.Choice(("chat", "completions")),
                default="chat",
                show_default=True,
                help="Protocol of the server.",
            ),
            click.option(
                "--context",
                "contexts",
                multiple=True,
                type=click.Choice((*NAMES, "all")),
                help="What is composed around each prompt; bare without it. Repeatable.",
            ),
            click.option(
                "--system",
                type=click.Path(path_type=Path, dir_okay=False, exists=True),
                help="The deployment's own system prompt, for every context but bare.",
            ),
            click.option(
                "--max-calls", type=click.IntRange(min=1), help="Requests to the server at most."
            ),
            click.option(
                "--logprobs",
                is_flag=True,
                help="Also ask how likely the first tokens of each reply are, in one more request "
                "for each prompt of the two classes.",
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped


def judge(command: Command) -> Command:
    """The options of a judge behind a server, given to the command as one `judge`."""

    @wraps(command)
    def gathered(
        *args: Any, judge_server: str | None, judge_model: str | None, **given: Any
    ) -> Any:
        return command(*args, judge=JudgeOptions(url=judge_server, model=judge_model), **given)

    wrapped = click.option(
        "--judge-model", metavar="NAME", help="Name that the judging server knows its model by."
    )(cast(Command, gathered))
    return click.option(
        "--judge-server",
        metavar="URL",
        help="Server whose model grades as well; it is sent prompts and replies. "
        "Key in MODELKIN_JUDGE_KEY.",
    )(wrapped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server to probe, what is composed around each prompt, and whether odds are asked for."""

    backend: EndpointBackend
    contexts: list[Context]
    odds: bool = False


def open_served(
    tier: Tier, models: tuple[str, ...], asked: ServerOptions, *, interrupts: Interrupts
) -> Served | None:
    """The server of the tier `deployment`, None for every other tier.

    Raises
    ------
    click.UsageError : more or less than one checkpoint, no address, or options of a server with
        another tier.
    """
    if tier is not Tier.DEPLOYMENT:
        if asked.given:
            raise click.UsageError("options of a server go with --tier deployment")
        return None
    if asked.url is None or asked.model is None:
        raise click.UsageError("--tier deployment needs --server and --served-model")
    if len(models) != 1:
        raise click.UsageError("--tier deployment takes one MODEL: the checkpoint served")
    backend = EndpointBackend(
        url=asked.url,
        model=asked.model,
        key=os.environ.get("MODELKIN_SERVER_KEY"),
        api=asked.api,
        limits=EndpointLimits(max_requests=asked.max_calls),
        retry=RetryPolicy(attempts=4, sleep_async=interrupts.sleep_async),
        interrupted=interrupts.stopped,
    )
    contexts = chosen_contexts(asked.contexts, asked.system)
    return Served(backend=backend, contexts=contexts, odds=asked.logprobs)


def open_judge(asked: JudgeOptions, *, interrupts: Interrupts) -> ServerJudge | None:
    """The judge behind a server, None where none was asked for.

    Raises
    ------
    click.UsageError : only one of address and name.
    """
    if asked.url is None and asked.model is None:
        return None
    if asked.url is None or asked.model is None:
        raise click.UsageError("--judge-server and --judge-model go together")
    backend = EndpointBackend(
        url=asked.url,
        model=asked.model,
        key=os.environ.get("MODELKIN_JUDGE_KEY"),
        retry=RetryPolicy(attempts=4, sleep_async=interrupts.sleep_async),
        interrupted=interrupts.stopped,
    )
    return ServerJudge(backend=backend, model=asked.model)


def chosen_contexts(names: tuple[str, ...], system: Path | None) -> list[Context]:
    """The contexts asked for, each once; `bare` without any.

    Raises
    ------
    click.UsageError : a system prompt above 64 KiB or not UTF-8.
    """
    text = None
    if system is not None:
        data = system.read_bytes()
        try:
            text = data.decode() if len(data) <= MAX_SYSTEM else None
        except UnicodeDecodeError:
            text = None
        if text is None:
            raise click.UsageError(f"{system}: not UTF-8 text of at most {MAX_SYSTEM:,} bytes")
    wanted = NAMES if "all" in names else tuple(dict.fromkeys(names)) or ("bare",)
    return [context(name, system=text) for name in wanted]
