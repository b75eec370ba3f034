"""Scrubbing: every stored sketch and snapshot hashed again, every invariant counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ..lineage.errors import FormatError
from ..store.manifest import verify_snapshot
from ..store.registry import Registry
from ..store.snapshots import snapshot_folder, snapshot_names
from .progress import Progress, Silence

Fault = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """What a scrub looked at and found: (kind, what, fault) rows, and models to be read again."""

    sketches: int
    snapshots: int
    faults: tuple[Fault, ...]
    repaired: tuple[str, ...]


def verify_store(
    registry: Registry,
    *,
    repair: bool,
    now: Callable[[], datetime],
    progress: Progress | None = None,
) -> Scrub:
    """Hash sketches and snapshots, and check what is always true of the tables.

    Parameters
    ----------
    repair : forget damaged sketches, so that the next scan reads the weights again.

    Raises
    ------
    RegistryError : `repair` on a store that is open read-only.
    """
    watch = progress or Silence()
    rows = registry.sketched()
    watch.stage("verify", len(rows))
    damaged: dict[str, str] = {}
    for row in rows:
        if not registry.sketches.verify(row.sketch_path, sha256=row.sketch_digest or ""):
            damaged[row.sketch_path] = row.model
        watch.step(row.model)
    faults: list[Fault] = [
        ("sketch", model, "missing or damaged") for model in sorted(damaged.values())
    ]
    names = snapshot_names(registry.path)
    for name in names:
        faults += [("snapshot", name, what) for what in _snapshot(registry, name)]
    flaws = registry.ledger().flaws()
    faults += [("invariant", what, f"{rows:,} rows") for what, rows in sorted(flaws.items())]
    repaired: list[str] = []
    if repair and damaged:
        scan = registry.start_scan(kind="verify", source="store", parameters={}, now=now())
        repaired = registry.ledger().clear_sketches(sorted(damaged), scan=scan, now=now())
        registry.finish_scan(scan, status="done", now=now())
    return Scrub(
        sketches=len(rows), snapshots=len(names), faults=tuple(faults), repaired=tuple(repaired)
    )


def _snapshot(registry: Registry, name: str) -> list[str]:
    try:
        faults = verify_snapshot(snapshot_folder(registry.path, name))
    except FormatError as error:
        return [str(error)]
    return [f"{fault.path}: {fault.what}" for fault in faults]
