"""`verify`: hash what is stored again, check invariants, send what is damaged back to the queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click

from ..lineage.errors import FormatError
from ..scanners.verifying import verify_store
from ..store import Registry
from ..store.lock import scan_lock
from ..store.signing import check_signature
from ..store.snapshots import snapshot_folder, snapshot_names
from . import options
from .opening import utc_now
from .output import console, emit, emit_ids, say
from .progress import Watch


@click.command("verify")
@click.option("--repair", is_flag=True, help="Forget damaged sketches: the next scan reads again.")
@options.signed_by
@options.data
@click.pass_context
def verify_command(
    ctx: click.Context,
    *,
    repair: bool,
    signed_by: Path | None,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Hash every sketch and snapshot again and check what is always true of the tables."""
    with (
        scan_lock(store) if repair else nullcontext(),
        Registry.open(store, read_only=not repair) as registry,
        Watch(console(stderr=True)) as watch,
    ):
        scrub = verify_store(registry, repair=repair, now=utc_now, progress=watch)
    rows = [{"kind": kind, "what": what, "fault": fault} for kind, what, fault in scrub.faults]
    if signed_by is not None:
        rows += _unsigned(store, key=signed_by)
    if quiet:
        emit_ids([row["what"] for row in rows])
    else:
        emit(rows, output_format=output_format, columns=("kind", "what", "fault"))
    say(f"{scrub.sketches:,} sketches, {scrub.snapshots:,} snapshots: {len(rows):,} faults")
    if scrub.repaired:
        say(f"{len(scrub.repaired):,} models will be read again by the next scan")
    ctx.exit(2 if rows and not (repair and _only_sketches(rows)) else 0)


def _unsigned(store: Path, *, key: Path) -> Iterator[dict[str, str]]:
    for name in snapshot_names(store):
        try:
            check_signature(snapshot_folder(store, name), key=key)
        except FormatError as error:
            yield {"kind": "signature", "what": name, "fault": str(error)}


def _only_sketches(rows: list[dict[str, str]]) -> bool:
    return all(row["kind"] == "sketch" for row in rows)
