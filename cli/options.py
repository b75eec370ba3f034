"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl", "csv")

store = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("modelkin-store"),
    envvar="MODELKIN_STORE",
    show_default=True,
    show_envvar=True,
    help="Folder of the registry.",
)
output_format = click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How rows are written to stdout.",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Only ids, one a line.")
device = click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="Where dense arithmetic and models run.",
)
endpoint = click.option(
    "--endpoint",
    default="https://huggingface.co",
    envvar="HF_ENDPOINT",
    show_default=True,
    show_envvar=True,
    help="Address of the Hub.",
)
prompts = click.option(
    "--prompts",
    metavar="NAME|FILE",
    help="Prompt set: its name, digest or JSON file; the shipped refusal-v2 without it.",
)
fail_on = click.option(
    "--fail-on",
    type=click.Choice(("low", "medium", "high")),
    help="Exit 1 when an open finding is at least this severe.",
)
min_coverage = click.option(
    "--min-coverage",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Exit 3 when a smaller share of the models could be read.",
)

_KEY = click.Path(path_type=Path, dir_okay=False, exists=True)
signed_by = click.option(
    "--signed-by",
    type=_KEY,
    metavar="PUBLIC_KEY",
    help="Take only what was signed with the private half of this key (PEM).",
)


def signing(command: Command) -> Command:
    """The options of every verb that can sign what it writes: --sign-key, --sign-password."""
    command = click.option(
        "--sign-password",
        envvar="MODELKIN_SIGN_PASSWORD",
        show_envvar=True,
        help="Password of an encrypted key.",
    )(command)
    return click.option(
        "--sign-key",
        type=_KEY,
        help="Sign it with this elliptic-curve private key (PEM); needs the extra sign.",
    )(command)


def data(command: Command) -> Command:
    """The options of every verb that writes rows: --store, --format, -q."""
    return store(output_format(quiet(command)))


def limits(command: Command) -> Command:
    """The budget of a scan: --max-bytes, --max-requests, --deadline."""
    command = click.option(
        "--deadline", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop after this long."
    )(command)
    command = click.option(
        "--max-requests", type=click.IntRange(min=1), help="Stop after so many requests."
    )(command)
    return click.option(
        "--max-bytes", type=click.IntRange(min=1), help="Stop after so many bytes received."
    )(command)


def refuse(ctx: click.Context, *names: str, because: str) -> None:
    """Refuse options that were typed and would do nothing.

    Parameters
    ----------
    names : of parameters; what comes from the environment or by default is let pass.

    Raises
    ------
    click.UsageError : one of them was given.
    """
    typed = click.core.ParameterSource.COMMANDLINE
    flags = {param.name: param.opts[0] for param in ctx.command.params}
    given = [flags[name] for name in names if ctx.get_parameter_source(name) is typed]
    if given:
        raise click.UsageError(f"{', '.join(given)}: {because}")
