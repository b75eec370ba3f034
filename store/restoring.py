"""A store from a snapshot: its tables, never its views, into a file made by this modelkin."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import duckdb

from ..lineage.errors import MalformedFile, RegistryError, SchemaTooNew
from .database import FILE_NAME, require_space, translated
from .durable import sync
from .manifest import SnapshotManifest, read_manifest, verify_snapshot
from .migrate import known_migrations, migrate
from .redaction import redact
from .snapshots import attached, copy_tables, fresh_database

_PARTIAL = ".restoring.duckdb"
REPLACED = f"{FILE_NAME}.replaced"


def restore_snapshot(snapshot: Path, folder: Path, *, replace: bool = False) -> SnapshotManifest:
    """Make the registry of a store from a snapshot, after checking every file of it.

    The tables are copied into a new file and brought up to the schema of this modelkin; sketches
    in the store stay where they are, and what was redacted in it is masked again. A kill leaves
    the old registry, or the new one.

    Parameters
    ----------
    snapshot : folder of the snapshot; it may come from somebody else.
    folder : the store; made when it is missing.
    replace : over a registry that is there, which is kept beside as `registry.duckdb.replaced`.

    Raises
    ------
    MalformedFile : a file is missing or not as the manifest says.
    SchemaTooNew : written by a newer modelkin.
    RegistryError : the store has a registry, it is open elsewhere, or the disk is full.
    """
    manifest = _checked(snapshot)
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / FILE_NAME
        if target.exists() and not replace:
            raise RegistryError(f"{target} exists: --replace puts the snapshot in its place")
        require_space(folder, also=2 * manifest.database.bytes)
        partial = folder / _PARTIAL
        _remove(partial)
        try:
            _copy(snapshot / manifest.database.path, partial, manifest=manifest)
            if target.exists():
                _carry_redactions(target, partial)
            sync(partial)
            _swap(partial, target)
        finally:
            _remove(partial)
    return manifest


def _checked(snapshot: Path) -> SnapshotManifest:
    manifest = read_manifest(snapshot)
    known = [step.name for step in known_migrations()]
    strange = [name for name in manifest.schema if name not in known]
    if strange:
        raise SchemaTooNew(
            f"{snapshot} has the migration {strange[0]!r:.80}, which this modelkin does not know: "
            "upgrade modelkin",
            found=len(manifest.schema),
            known=len(known),
        )
    faults = verify_snapshot(snapshot)
    if faults:
        fault = faults[0]
        raise MalformedFile(
            f"{fault.what}; {len(faults)} files in all are not as the manifest says",
            path=str(snapshot / fault.path),
        )
    return manifest


def _copy(source: Path, partial: Path, *, manifest: SnapshotManifest) -> None:
    # Columns of a later migration stay empty until it runs over the copied rows.
    steps = {step.name: step.version for step in known_migrations()}
    fresh_database(partial, upto=max(steps[name] for name in manifest.schema))
    # In memory, DuckDB would spill into the folder that the user stands in.
    spill = partial.with_name(f"{partial.name}.tmp")
    with duckdb.connect(config={"temp_directory": str(spill)}) as connection:
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET autoinstall_known_extensions = false")
        with (
            attached(connection, source, alias="snapshot", read_only=True),
            attached(connection, partial, alias="restored"),
        ):
            # The file may come from anywhere: nothing in it can make DuckDB open another.
            connection.execute("SET enable_external_access = false")
            connection.execute("BEGIN TRANSACTION")
            copy_tables(connection, source="snapshot", target="restored")
            connection.execute("COMMIT")
            connection.execute("CHECKPOINT restored")
    with duckdb.connect(partial) as connection:
        migrate(connection)


def _carry_redactions(old: Path, partial: Path) -> None:
    # A snapshot from before a redaction must not bring back what it masks.
    with duckdb.connect(old, config={"python_enable_replacements": "false"}) as connection:
        migrate(connection)
        rows = connection.execute("FROM internal.redactions ORDER BY ALL").fetchall()
    with duckdb.connect(partial) as connection:
        connection.execute("BEGIN TRANSACTION")
        for key, reason, moment in dict.fromkeys((row[0], row[3], row[4]) for row in rows):
            found = connection.execute(
                "SELECT id FROM internal.models WHERE key = ?", [key]
            ).fetchall()
            for (model,) in found:
                redact(connection, model, reason=reason, now=moment)
        if rows:
            connection.executemany("INSERT INTO internal.redactions VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")


def _swap(partial: Path, target: Path) -> None:
    if target.exists():
        # Closing it cleanly puts its write-ahead log into the file; a lock elsewhere is told.
        duckdb.connect(target).close()
        os.replace(target, target.with_name(REPLACED))
    os.replace(partial, target)
    sync(target.parent)


def _remove(partial: Path) -> None:
    for path in (partial, partial.with_name(f"{partial.name}.wal")):
        with suppress(FileNotFoundError):
            path.unlink()
