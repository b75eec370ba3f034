"""`dump`, `restore` and `diff`: snapshots of the store, and what changed between two scans."""

from __future__ import annotations

from pathlib import Path

import click

from ..store import Registry
from ..store.lock import scan_lock
from ..store.manifest import SnapshotManifest, is_name
from ..store.restoring import REPLACED, restore_snapshot
from ..store.signing import check_signature, sign, signature_of
from ..store.snapshots import (
    KEEP,
    SNAPSHOTS,
    list_snapshots,
    prune_snapshots,
    publish_snapshot,
    published_snapshot,
)
from . import options
from .opening import utc_now
from .output import emit, emit_ids, say

TABLE_COLUMNS = ("table", "rows", "bytes", "files")
LIST_COLUMNS = ("snapshot", "created_at", "models", "edges", "bytes", "published", "signed")
DIFF_COLUMNS = ("scan", "kind", "subject", "before", "after")


@click.command("dump")
@click.option(
    "--publish/--no-publish",
    default=True,
    show_default=True,
    help="Move the link `current` to the snapshot.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=KEEP,
    show_default=True,
    help="Snapshots to keep; the published one always stays.",
)
@click.option("--list", "only_list", is_flag=True, help="List the snapshots there are, and end.")
@options.signing
@options.data
@click.pass_context
def dump_command(
    ctx: click.Context,
    *,
    publish: bool,
    keep: int,
    only_list: bool,
    sign_key: Path | None,
    sign_password: str | None,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Write a snapshot: a DuckDB file, Parquet for each view of v1, and a manifest.

    With -q only the folder of the snapshot is written to stdout.
    """
    if only_list:
        options.refuse(
            ctx, "publish", "keep", "sign_key", "sign_password", because="--list writes nothing"
        )
        _list(store, output_format=output_format, quiet=quiet)
        return
    with scan_lock(store):
        with Registry.open(store) as registry:
            manifest = registry.write_snapshot(now=utc_now())
        if sign_key is not None:
            written = store / SNAPSHOTS / manifest.name
            say(f"signed: {sign(written, key=sign_key, password=sign_password)}")
        if publish:
            publish_snapshot(store, manifest.name)
        pruned = prune_snapshots(store, keep=keep)
    folder = store / SNAPSHOTS / manifest.name
    if quiet:
        emit_ids([str(folder)])
    else:
        emit(_tables(manifest), output_format=output_format, columns=TABLE_COLUMNS)
    say(f"snapshot {manifest.name} of scan {manifest.scan}: {folder}")
    if pruned:
        say(f"deleted the older snapshots {', '.join(pruned)}")


@click.command("restore")
@click.argument("snapshot")
@click.option("--replace", is_flag=True, help="Over a registry that is there; it is kept beside.")
@options.signed_by
@options.store
def restore_command(snapshot: str, *, replace: bool, signed_by: Path | None, store: Path) -> None:
    """Make the registry of the store from SNAPSHOT: a folder, a name in the store, or `current`.

    Every file is held against the manifest first.
    """
    folder = _snapshot_folder(snapshot, store=store)
    if signed_by is not None:
        check_signature(folder, key=signed_by)
    with scan_lock(store):
        manifest = restore_snapshot(folder, store, replace=replace)
    say(
        f"restored scan {manifest.scan} of {manifest.created_at:%Y-%m-%d %H:%M} UTC: "
        f"{manifest.rows('models'):,} models, {manifest.rows('edges'):,} edges"
    )
    if replace:
        say(f"what was there before is {store / REPLACED}")


@click.command("diff")
@click.argument("scan_a", type=click.IntRange(min=0))
@click.argument("scan_b", type=click.IntRange(min=0))
@options.data
def diff_command(scan_a: int, scan_b: int, *, store: Path, output_format: str, quiet: bool) -> None:
    """What changed from the end of SCAN_A to the end of SCAN_B; SCAN_A 0 is before the first.

    With -q only the subjects are written: models, `child <- parent`, finding ids.
    """
    with Registry.open(store, read_only=True) as registry:
        rows = registry.diff(scan_a, scan_b)
    if quiet:
        emit_ids(list(dict.fromkeys(row["subject"] for row in rows)))
    else:
        emit(rows, output_format=output_format, columns=DIFF_COLUMNS)


def _list(store: Path, *, output_format: str, quiet: bool) -> None:
    manifests, published = list_snapshots(store), published_snapshot(store)
    if quiet:
        emit_ids([manifest.name for manifest in manifests])
        return
    rows = [
        {
            "snapshot": manifest.name,
            "created_at": manifest.created_at,
            "models": manifest.rows("models"),
            "edges": manifest.rows("edges"),
            "bytes": sum(file.bytes for file in manifest.files()),
            "published": manifest.name == published,
            "signed": signature_of(store / SNAPSHOTS / manifest.name).is_file(),
        }
        for manifest in manifests
    ]
    emit(rows, output_format=output_format, columns=LIST_COLUMNS)


def _snapshot_folder(snapshot: str, *, store: Path) -> Path:
    if snapshot == "current":
        return store / SNAPSHOTS / (published_snapshot(store) or "none")
    path = Path(snapshot)
    inside = store / SNAPSHOTS / snapshot
    return inside if is_name(snapshot) and inside.is_dir() and not path.is_dir() else path


def _tables(manifest: SnapshotManifest) -> list[dict[str, object]]:
    return [
        {
            "table": table.name,
            "rows": table.rows,
            "bytes": sum(file.bytes for file in table.files),
            "files": len(table.files),
        }
        for table in manifest.tables
    ]
