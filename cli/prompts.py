"""`prompts`: the prompt sets at hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..scanners.probes.inspect_tasks import write_task
from ..scanners.probes.prompt_sets import MAX_BYTES, PromptSet
from ..scanners.probes.shelf import PromptShelf, check_bytes, fetch_set, split, write_set
from . import options
from .output import emit, say

COLUMNS = ("name", "digest", "license", "pairs", "capability", "origin")


@click.group("prompts")
def prompts_command() -> None:
    """List, show, add and split prompt sets."""


@prompts_command.command("list")
@options.store
@options.output_format
def list_command(store: Path, *, output_format: str) -> None:
    """Every prompt set: shipped, and added to the store."""
    rows = [
        {**_row(one.prompts), "origin": one.origin} for one in PromptShelf(store / "prompts").sets()
    ]
    emit(rows, output_format=output_format, columns=COLUMNS)


@prompts_command.command("show")
@click.argument("name")
@click.option("--text", is_flag=True, help="The prompts themselves.")
@options.store
@options.output_format
def show_command(name: str, *, text: bool, store: Path, output_format: str) -> None:
    """What a prompt set holds, by category; the prompts only with --text."""
    found = PromptShelf(store / "prompts").find(name)
    say(f"{found.name}, {found.license or 'no licence stated'}, sha256 {found.digest}")
    classes = found.categories or ("harmful",) * len(found.harmful)
    if text:
        rows: list[dict[str, Any]] = [
            {"category": category, "prompt": prompt}
            for category, prompt in zip(classes, found.harmful, strict=True)
        ]
        rows += [{"category": "harmless", "prompt": prompt} for prompt in found.harmless]
        rows += [{"category": "capability", "prompt": one.prompt} for one in found.capability]
        emit(rows, output_format=output_format, columns=("category", "prompt"))
        return
    counts = Counter(classes) | Counter(
        {"harmless": len(found.harmless), "capability": len(found.capability)}
    )
    listed = [{"category": category, "prompts": n} for category, n in sorted(counts.items())]
    emit(listed, output_format=output_format, columns=("category", "prompts"))


@prompts_command.command("add")
@click.argument("place", metavar="FILE|URL")
@click.option("--sha256", metavar="HEX", help="What the bytes must be; needed for a URL.")
@click.option("--license", "licence", metavar="SPDX", help="Licence, over the one the file states.")
@options.store
def add_command(place: str, *, sha256: str | None, licence: str | None, store: Path) -> None:
    """Put a prompt set into the store."""
    if place.startswith(("http://", "https://")):
        if sha256 is None:
            raise click.UsageError("a prompt set by URL needs --sha256: its text may change")
        data = asyncio.run(fetch_set(place, sha256=sha256))
        name = place.rpartition("/")[2] or "prompts"
    else:
        with Path(place).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        name = Path(place).name
        if sha256 is not None:
            check_bytes(data, sha256=sha256, path=place)
    found = PromptShelf(store / "prompts").add(data, path=name, license=licence)
    say(f"{found.name}: {len(found.harmful)} harmful and {len(found.harmless)} harmless prompts")
    click.echo(found.digest)


@prompts_command.command("export")
@click.argument("name")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the task.",
)
@options.store
def export_command(name: str, *, out: Path, store: Path) -> None:
    """Write a prompt set as a task of Inspect; `probe --inspect-log` reads its log."""
    for path in write_task(out, PromptShelf(store / "prompts").find(name)):
        click.echo(str(path))


@prompts_command.command("split")
@click.argument("name")
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with the secret that draws the half.",
)
@click.option("--period", required=True, help="What the half is drawn for, such as 2026-12.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the two halves.",
)
@options.store
def split_command(name: str, *, key: Path, period: str, out: Path, store: Path) -> None:
    """Draw a private half of a set for one period; publish its digest, keep its file."""
    secret = key.read_bytes()
    if len(secret) < 16:
        raise click.UsageError(f"{key}: a key of fewer than 16 bytes can be guessed")
    if not period.replace("-", "").isalnum():
        raise click.UsageError("a period is letters, digits and hyphens")
    out.mkdir(parents=True, exist_ok=True)
    for half in split(PromptShelf(store / "prompts").find(name), key=secret, period=period):
        write_set(out / f"{half.name}.json", half)
        click.echo(f"{half.digest}  {half.name}")


def _row(found: PromptSet) -> dict[str, Any]:
    return {
        "name": found.name,
        "digest": found.digest,
        "license": found.license,
        "pairs": min(len(found.harmful), len(found.harmless)),
        "capability": len(found.capability),
    }
