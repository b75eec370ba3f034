"""`export`: the graph for other tools."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..store import Registry
from ..store.export import FORMATS, Selection
from ..store.export.drawing import MERMAID_NODES
from ..store.signing import sign
from . import options
from .opening import utc_now
from .output import say


@click.command("export")
@click.argument("model", required=False)
@click.option("--to", type=click.Choice(FORMATS), required=True, help="The format.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file.")
@click.option("--up", is_flag=True, help="The ancestors of MODEL instead of its descendants.")
@click.option("--depth", type=click.IntRange(min=1), help="At most so many steps from MODEL.")
@click.option(
    "--max-nodes",
    type=click.IntRange(min=1),
    default=MERMAID_NODES,
    show_default=True,
    help="Models that a Mermaid chart may hold.",
)
@click.option("--view", default="edges", show_default=True, help="View for parquet and jsonl.")
@options.signing
@options.store
def export_command(
    model: str | None,
    *,
    to: str,
    output: Path | None,
    up: bool,
    depth: int | None,
    max_nodes: int,
    view: str,
    sign_key: Path | None,
    sign_password: str | None,
    store: Path,
) -> None:
    """Write MODEL and its kin, or the whole graph, in the format of another tool.

    A CycloneDX bill is of one MODEL and its ancestors. Parquet and JSON lines hold a whole view.
    """
    if sign_key is not None and output is None:
        raise click.UsageError("a signature lies beside a file: give -o FILE with --sign-key")
    selection = Selection(
        now=utc_now(), model=model, up=up, depth=depth, max_nodes=max_nodes, view=view
    )
    with Registry.open(store, read_only=True) as registry:
        registry.export(selection, to=to, out=output, stdout=sys.stdout)
    if output is not None:
        say(f"{output}: {output.stat().st_size:,} bytes")
        if sign_key is not None:
            say(f"signed: {sign(output, key=sign_key, password=sign_password)}")
