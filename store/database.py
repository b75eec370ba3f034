"""The DuckDB file of a store: opening it, transactions, and its errors in modelkin's words."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from ..lineage.errors import ModelkinError, RegistryBusy, RegistryError
from .migrate import check_version, migrate

FILE_NAME = "registry.duckdb"
STORAGE_VERSION = "v1.2.0"  # files that DuckDB 2 writes by default cannot be opened by 1.x
RESERVE_BYTES = 32 * 1024 * 1024
# A checkpoint costs as much as the store is large: at the usual 16 MB, one a commit of a listing.
CHECKPOINT_THRESHOLD = "128MB"

_DISK_WORDS = ("no space left", "file too large", "could not write", "disk quota", "read-only file")


Parameters = Sequence[Any] | Mapping[str, Any]


class Database:
    """One connection to `registry.duckdb`, shared by the threads of a process.

    Reads run on a cursor of their own and see the last commit; writes run one at a time in
    `transaction`.

    Parameters
    ----------
    connection : an open DuckDB connection; this object closes it.
    path : the database file, for messages and for the free-space check.
    read_only : whether `transaction` is refused. No process can write a file that one reads, so
        what was found there stays true; `ids` keeps what names were found to mean.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, path: Path, read_only: bool
    ) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self.path = path
        self.read_only = read_only
        self.ids: dict[str, int] = {}

    @classmethod
    def open(cls, folder: Path, *, read_only: bool, create: bool) -> Database:
        """Open the file of a store folder; a writable open brings the schema up to date.

        Raises
        ------
        RegistryBusy : another process holds the file and no published copy can stand in.
        SchemaTooNew : written by a newer modelkin.
        RegistryError : there is no store, the file is no registry, or the disk is full.
        """
        path = folder / FILE_NAME
        if create and not read_only:
            _make_folder(folder)
        elif not path.exists() and not (read_only and _published(folder).exists()):
            raise RegistryError(
                f"no store at {folder}: run `modelkin scan` or `modelkin map` first"
            )
        connection, opened = _connect(folder, read_only=read_only)
        database = cls(connection, path=opened, read_only=read_only)
        try:
            with translated(opened):
                check_version(connection) if read_only else migrate(connection)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """All or nothing: commit when the block ends, roll back when it raises.

        Raises
        ------
        RegistryError : opened read-only, the disk is full, or DuckDB failed.
        """
        if self.read_only:
            raise RegistryError(f"{self.path}: opened read-only")
        with self._lock, translated(self.path):
            require_space(self.path)
            self._connection.execute("BEGIN TRANSACTION")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """All rows of a query that modelkin wrote itself."""
        with translated(self.path), self._connection.cursor() as cursor:
            return cursor.execute(query, parameters).fetchall()

    def row(self, query: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
        """The first row of a query, None when it has none."""
        found = self.rows(query, parameters)
        return found[0] if found else None

    def records(self, query: str, parameters: Parameters = ()) -> list[dict[str, Any]]:
        """All rows of a query as mappings from column name to value."""
        with translated(self.path), self._connection.cursor() as cursor:
            result = cursor.execute(query, parameters)
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same database; the caller closes it."""
        with translated(self.path):
            return self._connection.cursor()

    def close(self) -> None:
        """Close the file; everything committed is already safe."""
        with translated(self.path):
            self._connection.close()

    def _roll_back(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error:
            # A failed commit has ended the transaction already; the first error is the one to tell.
            return


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors into the registry's, with what to do about them."""
    try:
        yield
    except ModelkinError:
        raise
    except duckdb.Error as error:
        raise _translation(error, path=path) from error
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror or error}") from error


def _translation(error: duckdb.Error, *, path: Path) -> RegistryError:
    text = str(error)
    lower = text.lower()
    if "could not set lock" in lower or "different configuration than existing" in lower:
        return RegistryBusy(f"{path} is open in another process, a scan perhaps: wait for it")
    if any(word in lower for word in _DISK_WORDS):
        return RegistryError(
            f"{path}: {text}. Free some disk space and run the command again; what was committed "
            "before is safe"
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return RegistryError(f"{path}: {text}. Give the machine more memory or ask for less")
    if isinstance(error, duckdb.FatalException):
        return RegistryError(
            f"{path}: {text}. The connection is lost, not the data: run the command again"
        )
    return RegistryError(f"{path}: {text}")


def _connect(folder: Path, *, read_only: bool) -> tuple[duckdb.DuckDBPyConnection, Path]:
    path = folder / FILE_NAME
    config: dict[str, str | bool | int | float | list[str]] = {
        # A table name typed by a user must never be looked up among Python variables.
        "python_enable_replacements": "false"
    }
    if not read_only:
        config["storage_compatibility_version"] = STORAGE_VERSION
        config["checkpoint_threshold"] = CHECKPOINT_THRESHOLD
    published = _published(folder)
    if read_only and not path.exists():
        path = published.resolve()
    try:
        with translated(path):
            return duckdb.connect(path, read_only=read_only, config=config), path
    except RegistryBusy:
        if not (read_only and published.exists()):
            raise
    # A new name per snapshot: resolve the link once, so that one open sees one snapshot.
    path = published.resolve()
    with translated(path):
        return duckdb.connect(path, read_only=True, config=config), path


def _published(folder: Path) -> Path:
    return folder / "current" / FILE_NAME


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"cannot make the store {folder}: {error.strerror}") from error


def require_space(path: Path, *, also: int = 0) -> None:
    """Refuse to begin a write that the disk has no room for: the reserve, and `also` bytes.

    Raises
    ------
    RegistryError : too few bytes are free.
    """
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    if free < RESERVE_BYTES + also:
        raise RegistryError(
            f"{path}: {free:,} bytes free, {RESERVE_BYTES + also:,} wanted before a write. Free "
            "some disk space and run the command again; what was committed before is safe"
        )
