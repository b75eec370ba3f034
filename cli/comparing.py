"""`compare`: two models side by side."""

from __future__ import annotations

from pathlib import Path

import click

from ..lineage.compute import Device
from ..lineage.errors import NotComparable
from ..store import Registry
from . import options
from .output import emit, emit_ids
from .pairs import compare_models, show_pair

BLOCK_COLUMNS = (
    "block",
    "relative_distance",
    "same_share",
    "rank",
    "full_rank",
    "cosine",
    "sampled",
    "dtype_a",
    "dtype_b",
)


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--full", is_flag=True, help="Read all weights of both from the source.")
@click.option("--source", default="hub", show_default=True, help="With --full: hub, or dir:PATH.")
@options.endpoint
@options.device
@options.data
@click.pass_context
def compare_command(
    ctx: click.Context,
    a: str,
    b: str,
    *,
    full: bool,
    source: str,
    endpoint: str,
    device: Device,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Two models side by side: facts, kinship, refusal, and their weights block by block.

    JSON is one object: `facts`, `kinship`, `refusal`, `weights` (null when the two cannot be
    compared), `blocks`. CSV has one row a block. -q writes the nearest common ancestors. Where the
    weights cannot be compared the rest is written all the same, and the exit code is 2.

    With --full nothing of the store is used: all weights are read, tensor by tensor, and compared.
    JSON is one object: the whole, `tensors`, `skipped`. -q writes the tensors that differ.
    """
    if not full:
        options.refuse(ctx, "source", "endpoint", "device", because="goes with --full")
    if full:
        options.refuse(ctx, "store", because="--full reads the source alone")
        # Imported where it is used: looking at what the store holds starts faster without it.
        from .full_comparing import run_full

        ctx.exit(
            run_full(
                (a, b),
                source=source,
                endpoint=endpoint,
                device=device,
                output_format=output_format,
                quiet=quiet,
            )
        )
    with Registry.open(store, read_only=True) as registry:
        pair = compare_models(registry, a, b)
    if quiet:
        emit_ids(pair.kinship.common)
    elif output_format == "table":
        show_pair(pair)
    elif output_format == "csv":
        emit(pair.block_rows(), output_format="csv", columns=BLOCK_COLUMNS)
    else:
        emit([pair.as_mapping()], output_format=output_format, columns=())
    if pair.not_comparable is not None and not quiet:
        raise NotComparable(pair.not_comparable)
