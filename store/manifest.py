"""The manifest of a snapshot: what it holds, so that a copy can be checked on any machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ..lineage.errors import LimitExceeded, MalformedFile
from .durable import write_whole

FILE_NAME = "manifest.json"
SIGNATURE = "snapshot.sig"
FORMAT = 1
MAX_BYTES = 16 * 1024 * 1024

_RELATIVE = re.compile(r"[\w=%+-][\w.=%+-]*(/[\w=%+-][\w.=%+-]*)*", re.ASCII)
_NAME = re.compile(r"\d{1,10}(\.\d{1,10})?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """A file of a snapshot: path inside its folder, bytes, sha256 of the content."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTable:
    """A view of schema v1 as Parquet; `columns` maps names to DuckDB types, in order."""

    name: str
    rows: int
    columns: Mapping[str, str]
    files: tuple[SnapshotFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotManifest:
    """What a snapshot holds.

    `name` is its folder: the scan number, with `.1`, `.2` after it when the store changed without
    a new scan. `schema` names the migrations of its database. `content` is a digest over all
    tables: two snapshots with the same rows in the same order share it.
    """

    name: str
    scan: int
    created_at: datetime
    modelkin: str
    duckdb: str
    storage_version: str
    schema: tuple[str, ...]
    content: str
    tables: tuple[SnapshotTable, ...]
    database: SnapshotFile
    format: int = FORMAT

    def rows(self, table: str) -> int:
        """Rows of a table, 0 for one that the snapshot does not have."""
        return sum(one.rows for one in self.tables if one.name == table)

    def files(self) -> Iterator[SnapshotFile]:
        """Every file but the manifest itself."""
        yield self.database
        for table in self.tables:
            yield from table.files


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFault:
    """A file of a snapshot that is not as its manifest says."""

    path: str
    what: str


def write_manifest(folder: Path, manifest: SnapshotManifest) -> None:
    """Write `manifest.json` into a snapshot's folder."""
    plain = {**asdict(manifest), "created_at": manifest.created_at.isoformat()}
    write_whole(folder / FILE_NAME, (json.dumps(plain, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> SnapshotManifest:
    """Read the manifest of a snapshot.

    Raises
    ------
    MalformedFile : it is missing, is no manifest, is newer than this modelkin, or names a file
        outside its folder.
    LimitExceeded : above 16 MiB.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MalformedFile(f"no snapshot: {error.strerror}", path=str(path)) from error
    if len(content) > MAX_BYTES:
        raise LimitExceeded(
            "the manifest is too large", path=str(path), limit=MAX_BYTES, actual=len(content)
        )
    try:
        return _manifest(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedFile(
            f"not a manifest of a snapshot: {type(error).__name__}: {error}", path=str(path)
        ) from error


def verify_snapshot(folder: Path) -> tuple[SnapshotFault, ...]:
    """Hash every file of a snapshot and hold it against the manifest; empty when all is well.

    Raises
    ------
    MalformedFile, LimitExceeded : the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    promised = {file.path: file for file in manifest.files()}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    found -= {FILE_NAME, SIGNATURE}
    faults = [
        SnapshotFault(path=path, what="not in the manifest") for path in found - set(promised)
    ]
    for path, file in promised.items():
        what = "missing" if path not in found else _difference(folder / path, file)
        if what is not None:
            faults.append(SnapshotFault(path=path, what=what))
    return tuple(sorted(faults, key=lambda fault: fault.path))


def file_of(folder: Path, path: Path) -> SnapshotFile:
    """The manifest's entry for a file below a snapshot's folder."""
    return SnapshotFile(
        path=str(path.relative_to(folder)), bytes=path.stat().st_size, sha256=_digest(path)
    )


def content_digest(tables: tuple[SnapshotTable, ...]) -> str:
    """One digest over what all tables hold."""
    lines = [
        f"{table.name} {table.rows} {file.sha256}\n" for table in tables for file in table.files
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_name(text: str) -> bool:
    """Whether a text can be the name of a snapshot's folder."""
    return _NAME.fullmatch(text) is not None


def _difference(path: Path, file: SnapshotFile) -> str | None:
    if path.is_symlink():
        return "a link"
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"{size:,} bytes, the manifest says {file.bytes:,}"
        return None if _digest(path) == file.sha256 else "other content than the manifest says"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(raw: Any) -> SnapshotManifest:
    if _typed(raw["format"], int) > FORMAT:
        raise ValueError(f"format {raw['format']} is newer than {FORMAT}: upgrade modelkin")
    return SnapshotManifest(
        name=_matching(raw["name"], is_name),
        scan=_count(raw["scan"]),
        created_at=datetime.fromisoformat(raw["created_at"]),
        modelkin=_typed(raw["modelkin"], str),
        duckdb=_typed(raw["duckdb"], str),
        storage_version=_typed(raw["storage_version"], str),
        schema=tuple(_typed(name, str) for name in _typed(raw["schema"], list)),
        content=_matching(raw["content"], lambda text: bool(_DIGEST.fullmatch(text))),
        tables=tuple(_table(table) for table in _typed(raw["tables"], list)),
        database=_file(raw["database"]),
        format=raw["format"],
    )


def _table(raw: Any) -> SnapshotTable:
    columns = _typed(raw["columns"], dict)
    return SnapshotTable(
        name=_matching(raw["name"], str.isidentifier),
        rows=_count(raw["rows"]),
        columns={name: _typed(kind, str) for name, kind in columns.items()},
        files=tuple(_file(file) for file in _typed(raw["files"], list)),
    )


def _file(raw: Any) -> SnapshotFile:
    # The pattern lets no part of a path begin with a dot: nothing leads out of the folder.
    return SnapshotFile(
        path=_matching(raw["path"], lambda text: bool(_RELATIVE.fullmatch(text))),
        bytes=_count(raw["bytes"]),
        sha256=_matching(raw["sha256"], lambda text: bool(_DIGEST.fullmatch(text))),
    )


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if _typed(value, int) < 0:
        raise ValueError(f"{value} is negative")
    return int(value)


def _matching(value: Any, fits: Callable[[str], bool]) -> str:
    if not fits(_typed(value, str)):
        raise ValueError(f"{value!r:.80} cannot stand there")
    return str(value)
