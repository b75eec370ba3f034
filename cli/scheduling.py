"""`schedule`: unit files that run `modelkin nightly`, correct as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from .unit_files import CRON, GITHUB, KUBERNETES, SYSTEMD_SERVICE, SYSTEMD_TIMER

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


@click.command("schedule")
@click.argument("kind", type=click.Choice(("systemd", "cron", "k8s", "github")))
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("/etc/modelkin/modelkin.toml"),
    show_default=True,
    help="The configuration that the night reads.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/modelkin"),
    show_default=True,
    help="Folder of the registry: what the unit may write to.",
)
@click.option("--at", "clock", default="02:30", show_default=True, help="UTC time, HH:MM.")
@click.option("--command", default="/usr/local/bin/modelkin", show_default=True, help="modelkin.")
@click.option("--image", default="modelkin:latest", show_default=True, help="Image for k8s.")
@click.option("--hours", type=click.IntRange(1, 23), default=6, show_default=True)
def schedule_command(
    *, kind: str, config_path: Path, store: Path, clock: str, command: str, image: str, hours: int
) -> None:
    """Print what runs `modelkin nightly` every night: systemd, cron, Kubernetes or GitHub."""
    found = _CLOCK.fullmatch(clock)
    if found is None:
        raise click.UsageError("--at is a time like 02:30")
    words = {
        "config": _plain(config_path),
        "store": _plain(store),
        "command": _plain(Path(command)),
        "image": _image(image),
        "hour": int(found[1]),
        "minute": int(found[2]),
        "clock": f"{int(found[1]):02}:{found[2]}",
        "seconds": hours * 3600,
        "minutes": hours * 60,
    }
    if kind == "systemd":
        click.echo(SYSTEMD_SERVICE.format(**words))
        click.echo(SYSTEMD_TIMER.format(**words), nl=False)
    else:
        template = {"cron": CRON, "k8s": KUBERNETES, "github": GITHUB}[kind]
        click.echo(template.format(**words), nl=False)


def _plain(path: Path) -> str:
    """A path that needs no quotes in any of the formats."""
    text = str(path)
    if shlex.quote(text) != text or "%" in text or not path.is_absolute():
        raise click.UsageError(f"{text!r} has to be an absolute path without special characters")
    return text


def _image(text: str) -> str:
    if re.fullmatch(r"[\w./:@-]{1,200}", text, re.ASCII) is None:
        raise click.UsageError(f"{text!r} is no image")
    return text
