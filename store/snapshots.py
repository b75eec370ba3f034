"""Snapshots: immutable copies of the store in `snapshots/<scan>/`, and the link `current` to one.

A snapshot is a folder with `registry.duckdb` (a registry of its own, in the storage format that
DuckDB 1.2 reads), one folder of Parquet files for each view of schema v1, and `manifest.json`. It
appears under its name only when all of it is on the disk. Writing one and publishing it (moving
`current`) are separate steps: what stands between them is the caller's judgement.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb

from .. import __version__
from ..lineage.errors import FormatError, NotInRegistry, RegistryError
from .database import FILE_NAME, STORAGE_VERSION, Database, require_space, translated
from .durable import point, sync, sync_tree
from .manifest import (
    SnapshotManifest,
    SnapshotTable,
    content_digest,
    file_of,
    is_name,
    read_manifest,
    write_manifest,
)
from .migrate import known_migrations, migrate

SNAPSHOTS = "snapshots"
CURRENT = "current"
TABLES = "tables"
KEEP = 14
MEMORY = 2_500_000_000
"""Bytes that writing a snapshot may take of DuckDB's memory; more goes to the disk."""

_PARTIAL = ".partial-"
_PARQUET = "FORMAT parquet, COMPRESSION zstd, FILE_SIZE_BYTES '256MB'"

# Nightly changes are appended; a copy is the occasion to sort what look-ups find by its order.
ORDERS = {
    "closure": "ancestor, descendant",
    "closure_up": "descendant, ancestor",
    "name_index": "name_key, model",
}

# Tables that begin their comment so stay in the store they were made in.
PRIVATE = "Private: "


def write_snapshot(database: Database, *, folder: Path, now: datetime) -> SnapshotManifest:
    """Write a snapshot of what is committed, and leave `current` alone.

    Writers of this process may go on: the snapshot holds the state at its beginning. When the
    newest snapshot of the same scan holds the same rows, that one is returned and nothing is left.

    Parameters
    ----------
    database : open for writing.
    folder : the store folder.
    now : when, an aware time.

    Raises
    ------
    RegistryError : opened read-only, no scan yet, or the disk is full. Nothing of it is left.
    """
    if database.read_only:
        raise RegistryError("a snapshot is written from a store that is opened for writing")
    home = folder / SNAPSHOTS
    with translated(database.path):
        home.mkdir(exist_ok=True)
        _sweep(home)
        require_space(home, also=database.path.stat().st_size)
        partial = Path(tempfile.mkdtemp(dir=home, prefix=_PARTIAL))
        try:
            partial.chmod(0o755)
            manifest = _fill(database, partial, now=now)
            return _keep(home, partial, manifest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def publish_snapshot(folder: Path, name: str) -> None:
    """Make readers see a snapshot from now on; those that have one open keep it.

    Raises
    ------
    NotInRegistry : the store has no such snapshot.
    MalformedFile : its manifest is damaged.
    """
    read_manifest(snapshot_folder(folder, name))
    with translated(folder):
        point(folder / CURRENT, f"{SNAPSHOTS}/{name}")


def published_snapshot(folder: Path) -> str | None:
    """The name of the snapshot that `current` leads to, None before the first."""
    try:
        return Path(os.readlink(folder / CURRENT)).name
    except OSError:
        return None


def snapshot_folder(folder: Path, name: str) -> Path:
    """Where a snapshot of a store lies.

    Raises
    ------
    NotInRegistry : the store has no such snapshot.
    """
    path = folder / SNAPSHOTS / name
    if not is_name(name) or not path.is_dir():
        raise NotInRegistry(f"{folder} has no snapshot {name!r:.80}", name=name)
    return path


def list_snapshots(folder: Path) -> list[SnapshotManifest]:
    """Manifests of all snapshots of a store, newest first; damaged ones are left out."""
    found = []
    for name in snapshot_names(folder):
        with suppress(FormatError):
            found.append(read_manifest(folder / SNAPSHOTS / name))
    return found


def snapshot_names(folder: Path) -> list[str]:
    """Names of all snapshots of a store, newest first."""
    home = folder / SNAPSHOTS
    names = [path.name for path in home.iterdir() if is_name(path.name)] if home.is_dir() else []
    return sorted(names, key=_place, reverse=True)


def prune_snapshots(folder: Path, *, keep: int = KEEP) -> list[str]:
    """Delete all but the newest snapshots and the published one; return the names deleted."""
    if keep < 1:
        raise ValueError(f"at least one snapshot is kept, not {keep}")
    published = published_snapshot(folder)
    old = [name for name in snapshot_names(folder)[keep:] if name != published]
    home = folder / SNAPSHOTS
    with translated(home):
        for name in old:
            # Under another name first: a kill in the middle leaves no snapshot with half its files.
            doomed = home / f"{_PARTIAL}{name}"
            os.replace(home / name, doomed)
            shutil.rmtree(doomed)
    return old


def fresh_database(path: Path, *, upto: int | None = None) -> None:
    """Make an empty registry file, with the migrations up to a number or all of them."""
    path.write_bytes(_empty_registry(upto))


@functools.cache
def _empty_registry(upto: int | None) -> bytes:
    """The file itself, a few megabytes: six hundred comments take half a second to write."""
    steps = tuple(step for step in known_migrations() if upto is None or step.version <= upto)
    config: dict[str, str | bool | int | float | list[str]] = {
        "storage_compatibility_version": STORAGE_VERSION
    }
    with tempfile.TemporaryDirectory(prefix="modelkin-empty-") as room:
        path = Path(room) / FILE_NAME
        with duckdb.connect(path, config=config) as connection:
            migrate(connection, migrations=steps)
        return path.read_bytes()


@contextmanager
def attached(
    connection: duckdb.DuckDBPyConnection, path: Path, *, alias: str, read_only: bool = False
) -> Iterator[None]:
    """A second database file under an alias for the length of the block."""
    quoted = str(path).replace("'", "''")
    mode = " (READ_ONLY)" if read_only else ""
    connection.execute(f"ATTACH '{quoted}' AS {alias}{mode}")
    try:
        yield
    finally:
        connection.execute(f"DETACH {alias}")


def copy_tables(
    connection: duckdb.DuckDBPyConnection,
    *,
    source: str,
    target: str,
    orders: Mapping[str, str] = ORDERS,
    selected: Mapping[str, str] | None = None,
) -> None:
    """Append every table of one attached registry to the empty tables of another, by column name.

    `orders` names tables that are sorted on the way, `selected` what is taken of some in place of
    all. Only base tables are read: a view of a file from elsewhere could run anything.
    """
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = "
        "'internal' AND table_name <> 'schema_migrations' AND NOT starts_with("
        "coalesce(comment, ''), ?) AND table_name IN (SELECT t.table_name FROM duckdb_tables() t "
        "WHERE t.database_name = ? AND t.schema_name = 'internal') ORDER BY table_name",
        [source, PRIVATE, target],
    ).fetchall()
    taken = selected or {}
    for (table,) in rows:
        order = f" ORDER BY {orders[table]}" if table in orders else ""
        connection.execute(
            f'INSERT INTO {target}.internal."{table}" BY NAME '
            f'SELECT {taken.get(table, "*")} FROM {source}.internal."{table}"{order}'
        )


def _fill(database: Database, partial: Path, *, now: datetime) -> SnapshotManifest:
    copy = partial / FILE_NAME
    fresh_database(copy)
    with database.cursor() as cursor, _memory(cursor):
        found = cursor.execute("SELECT current_database()").fetchall()
        with attached(cursor, copy, alias="snapshot"):
            cursor.execute("BEGIN TRANSACTION")
            try:
                scan = _last_scan(cursor)
                copy_tables(cursor, source=found[0][0], target="snapshot")
                tables = tuple(_parquet(cursor, view, partial) for view in _views(cursor))
                cursor.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                raise
            cursor.execute("CHECKPOINT snapshot")
    return SnapshotManifest(
        name=str(scan),
        scan=scan,
        created_at=now,
        modelkin=__version__,
        duckdb=duckdb.__version__,
        storage_version=STORAGE_VERSION,
        schema=tuple(step.name for step in known_migrations()),
        content=content_digest(tables),
        tables=tables,
        database=file_of(partial, copy),
    )


@contextmanager
def _memory(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Less memory for the length of the block: DuckDB takes what it may, and a scan goes on."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(duckdb.Error):  # what is in use may be more, and stays
        cursor.execute(f"SET memory_limit = '{min(MEMORY, ram // 2)}B'")
    try:
        yield
    finally:
        with suppress(duckdb.Error):  # a full disk has ended the connection
            cursor.execute("RESET memory_limit")


def _last_scan(cursor: duckdb.DuckDBPyConnection) -> int:
    found = cursor.execute("SELECT max(scan) FROM internal.scans").fetchall()
    if found[0][0] is None:
        raise RegistryError("the store has no scan yet: run `modelkin scan` or `modelkin map`")
    return int(found[0][0])


def _views(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    return [
        name
        for (name,) in cursor.execute(
            "SELECT view_name FROM duckdb_views() WHERE schema_name = 'v1' "
            "AND database_name = current_database() ORDER BY view_name"
        ).fetchall()
    ]


def _parquet(cursor: duckdb.DuckDBPyConnection, view: str, partial: Path) -> SnapshotTable:
    folder = partial / TABLES / view
    folder.mkdir(parents=True)
    described = cursor.execute(f"DESCRIBE v1.{view}").fetchall()
    quoted = str(folder).replace("'", "''")
    copied = cursor.execute(
        f"COPY (SELECT * FROM v1.{view}) TO '{quoted}' ({_PARQUET}, OVERWRITE_OR_IGNORE)"
    ).fetchall()
    return SnapshotTable(
        name=view,
        rows=int(copied[0][0]),
        columns={column[0]: column[1] for column in described},
        files=tuple(file_of(partial, path) for path in sorted(folder.iterdir())),
    )


def _keep(home: Path, partial: Path, manifest: SnapshotManifest) -> SnapshotManifest:
    """Give a whole snapshot its name, unless the newest of its scan has the same rows."""
    name, older = manifest.name, [n for n in snapshot_names(home.parent) if _same(n, manifest)]
    if older:
        with suppress(FormatError):
            known = read_manifest(home / older[0])
            if (known.content, known.schema) == (manifest.content, manifest.schema):
                return known
        name = f"{manifest.scan}.{_place(older[0])[1] + 1}"
    manifest = replace(manifest, name=name)
    write_manifest(partial, manifest)
    sync_tree(partial)
    os.replace(partial, home / name)
    sync(home)
    return manifest


def _same(name: str, manifest: SnapshotManifest) -> bool:
    return _place(name)[0] == manifest.scan


def _place(name: str) -> tuple[int, int]:
    scan, _, again = name.partition(".")
    return int(scan), int(again or 0)


def _sweep(home: Path) -> None:
    """Remove what a kill left behind: nobody but the one writer makes these folders."""
    for path in home.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)
