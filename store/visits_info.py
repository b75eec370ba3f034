"""Rows of models as the records that a source gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..lineage.records import ModelFile, ModelInfo
from .database import Database
from .staging import aware


def infos_of(database: Database, found: Sequence[tuple[Any, ...]]) -> list[ModelInfo]:
    """Models with their files from rows of (source .. tags, revision id)."""
    ids = [row[12] for row in found]
    files: dict[int, list[ModelFile]] = {}
    for revision, path, size, sha256, blob in database.rows(
        "SELECT f.revision, f.path, f.size, f.sha256, f.blob FROM internal.files f "
        "WHERE list_contains(?::INTEGER[], f.revision) ORDER BY f.revision, f.path",
        [ids],
    ):
        file = ModelFile(path=path, size=size, sha256=sha256, blob=blob)
        files.setdefault(revision, []).append(file)
    return [_info(row, files=files.get(row[12], [])) for row in found]


def _info(row: tuple[Any, ...], *, files: Sequence[ModelFile]) -> ModelInfo:
    return ModelInfo(
        source=row[0],
        source_id=row[1],
        name=row[2],
        sha=row[3],
        created_at=aware(row[4]),
        last_modified=aware(row[5]),
        library=row[6],
        license=row[7],
        gated=row[8],
        disabled=row[9],
        downloads=row[10],
        tags=tuple(row[11] or ()),
        files=tuple(files),
    )
