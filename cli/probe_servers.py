"""Options and wiring of servers: the one that is probed, and the one that judges."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ..lineage.safety.protocol import Tier
from ..scanners.probes.contexts import NAMES, Context, context
from ..scanners.probes.endpoint_backend import Api, EndpointBackend, EndpointLimits
from ..scanners.probes.judging import ServerJudge
from ..scanners.sources.retry import RetryPolicy
from .interrupts import Interrupts

Command = TypeVar("Command", bound=Callable[..., Any])
MAX_SYSTEM = 64 << 10


def server(command: Command) -> Command:
    """The options of the tier `deployment`."""
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
        )
    ):
        command = option(command)
    return command


def judge(command: Command) -> Command:
    """The options of a judge behind a server."""
    command = click.option(
        "--judge-model", metavar="NAME", help="Name that the judging server knows its model by."
    )(command)
    return click.option(
        "--judge-server",
        metavar="URL",
        help="Server whose model grades as well; it is sent prompts and replies. "
        "Key in MODELKIN_JUDGE_KEY.",
    )(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server to probe and what is composed around each prompt."""

    backend: EndpointBackend
    contexts: list[Context]


def open_served(
    tier: Tier,
    models: tuple[str, ...],
    *,
    url: str | None,
    model: str | None,
    api: Api,
    contexts: tuple[str, ...],
    system: Path | None,
    max_calls: int | None,
    interrupts: Interrupts,
) -> Served | None:
    """The server of the tier `deployment`, None for every other tier.

    Raises
    ------
    click.UsageError : more or less than one checkpoint, no address, or options of a server with
        another tier.
    """
    if tier is not Tier.DEPLOYMENT:
        if url or model or contexts or system or max_calls:
            raise click.UsageError("options of a server go with --tier deployment")
        return None
    backend = open_server(url, model, api=api, max_calls=max_calls, interrupts=interrupts)
    if len(models) != 1:
        raise click.UsageError("--tier deployment takes one MODEL: the checkpoint served")
    return Served(backend=backend, contexts=chosen_contexts(contexts, system))


def open_server(
    url: str | None,
    model: str | None,
    *,
    api: Api,
    max_calls: int | None,
    interrupts: Interrupts,
) -> EndpointBackend:
    """The server to probe.

    Raises
    ------
    click.UsageError : no address or no name.
    """
    if url is None or model is None:
        raise click.UsageError("--tier deployment needs --server and --served-model")
    return EndpointBackend(
        url=url,
        model=model,
        key=os.environ.get("MODELKIN_SERVER_KEY"),
        api=api,
        limits=EndpointLimits(max_requests=max_calls),
        retry=RetryPolicy(attempts=4, sleep_async=interrupts.sleep_async),
        interrupted=interrupts.stopped,
    )


def open_judge(url: str | None, model: str | None, *, interrupts: Interrupts) -> ServerJudge | None:
    """The judge behind a server, None where none was asked for.

    Raises
    ------
    click.UsageError : only one of address and name.
    """
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise click.UsageError("--judge-server and --judge-model go together")
    backend = EndpointBackend(
        url=url,
        model=model,
        key=os.environ.get("MODELKIN_JUDGE_KEY"),
        retry=RetryPolicy(attempts=4, sleep_async=interrupts.sleep_async),
        interrupted=interrupts.stopped,
    )
    return ServerJudge(backend=backend, model=model)


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
