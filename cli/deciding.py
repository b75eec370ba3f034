"""`correct`, `redact` and `ingest`: what people decide, and what others know."""

from __future__ import annotations

from pathlib import Path

import click

from ..store import Registry
from ..store.corrections import read_corrections
from ..store.lock import scan_lock
from ..store.others import KINDS
from . import options
from .opening import utc_now
from .output import say

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("correct")
@click.argument("file", type=_FILE)
@options.store
def correct_command(file: Path, *, store: Path) -> None:
    """Make FILE the reviewed decisions about edges, in place of those of an earlier file."""
    corrections = read_corrections(file)
    with scan_lock(store), Registry.open(store) as registry:
        scan = registry.start_scan(kind="correct", source="store", parameters={}, now=utc_now())
        missing = registry.replace_corrections(scan, corrections)
        registry.finish_scan(scan, status="done", now=utc_now())
    asserted = sum(one.verdict == "asserted" for one in corrections)
    say(f"{asserted:,} edges asserted, {len(corrections) - asserted:,} denied")
    for name in missing:
        say(f"{name} is not in the store: what is decided about it waits")


@click.command("redact")
@click.argument("model")
@click.option("--reason", required=True, help="Why; kept in the store, never published.")
@options.store
def redact_command(model: str, *, reason: str, store: Path) -> None:
    """Mask MODEL: its name and description go, its place in the graph stays, and it is not read
    again. Snapshots written before still show it."""
    with scan_lock(store), Registry.open(store) as registry:
        scan = registry.start_scan(kind="redact", source="store", parameters={}, now=utc_now())
        mask = registry.redact(model, reason=reason, now=utc_now())
        registry.finish_scan(scan, status="done", now=utc_now())
    say(f"it is {mask} from now on")
    say("earlier snapshots still name it: `modelkin dump --keep 1` replaces them")


@click.command("ingest")
@click.argument("file", type=_FILE)
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What the rows are.")
@click.option("--provenance", required=True, help="Where it comes from: a paper, a lab, a date.")
@options.store
def ingest_command(file: Path, *, kind: str, provenance: str, store: Path) -> None:
    """Take in edges or scores that others publish, from a Parquet, CSV, TSV or JSON FILE.

    They are kept apart from what is inferred here; `disagreements()` has the conflicts.
    """
    with scan_lock(store), Registry.open(store) as registry:
        scan = registry.start_scan(kind="ingest", source="store", parameters={}, now=utc_now())
        found = registry.ingest(scan, file, kind=kind, provenance=provenance)
        registry.finish_scan(scan, status="done", now=utc_now())
    say(f"{found.taken:,} {kind} taken in, {found.left_out:,} left out for a missing value")
    if found.unknown:
        say(f"{found.unknown:,} name a model that the store does not hold")
