"""`demo`: the main job on the shipped ecosystem, over HTTP and offline."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from ..lineage.errors import ModelkinError
from .mapping import map_command
from .output import say

RELEASE = "juniper/juniper-chat"
HUB = Path(__file__).resolve().parents[1] / "dumps" / "demo-hub"


@click.command("demo")
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the registry here; a temporary folder without it.",
)
@click.pass_context
def demo_command(ctx: click.Context, *, store: Path | None) -> None:
    """Serve the shipped ecosystem as a Hub on a loopback port and map one release of it."""
    from huggingface_hub import get_token

    from ..scanners.sources.loopback import LoopbackHub

    if not HUB.is_dir():
        raise ModelkinError(f"the demo ecosystem is not installed at {HUB}")
    # A map sends the token it finds; a Hub refuses one that it does not know.
    tokens = [token] if (token := get_token()) else []
    with (
        tempfile.TemporaryDirectory(prefix="modelkin-demo-") as folder,
        LoopbackHub(HUB, tokens=tokens) as hub,
    ):
        target = store or Path(folder)
        say(f"$ modelkin map {RELEASE} --endpoint {hub.url}")
        ctx.invoke(
            map_command,
            release=RELEASE,
            source="hub",
            endpoint=hub.url,
            store=target,
            prompts=HUB / "prompts.json",
        )
