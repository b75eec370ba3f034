"""Every export by its name on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TextIO

from ...lineage.errors import RegistryError
from ..database import Database, translated
from . import bom, drawing, findings
from .graph import Graph, stream

# Newest first where a mirror reads until it meets what it has.
VIEW_ORDERS = {
    "changes": "changed_at DESC, scan DESC, kind, subject",
    "scores": "scored_at DESC, model",
    "scans": "scan DESC",
}

Writer = Callable[[Graph, "Selection"], Iterator[str]]

_WRITERS: dict[str, Writer] = {
    "graphml": lambda graph, _: drawing.graphml(graph),
    "gexf": lambda graph, _: drawing.gexf(graph),
    "dot": lambda graph, _: drawing.dot(graph),
    "mermaid": lambda graph, wanted: drawing.mermaid(graph, max_nodes=wanted.max_nodes),
    "cyclonedx": lambda graph, wanted: bom.cyclonedx(graph, now=wanted.now),
    "spdx": lambda graph, wanted: bom.spdx(graph, now=wanted.now),
    "sarif": lambda graph, _: findings.sarif(graph),
    "intoto": lambda graph, _: findings.intoto(graph),
}
FORMATS = (*_WRITERS, "parquet", "jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to export.

    `model` with its descendants, or its ancestors with `up` (always for CycloneDX), or everything
    when None; `view` is the view of schema v1 that Parquet and JSON lines hold.
    """

    now: datetime
    model: str | None = None
    up: bool = False
    depth: int | None = None
    max_nodes: int = drawing.MERMAID_NODES
    view: str = "edges"


def export(
    database: Database, selection: Selection, *, to: str, out: Path | None, stdout: TextIO
) -> None:
    """Write a selection in a format to a file, which appears whole or not at all, or to stdout.

    Raises
    ------
    NotInRegistry : no such model.
    RegistryError : no such view, Parquet without a file, or a chart too large to draw.
    """
    if to == "parquet":
        _parquet(database, selection.view, out)
    elif to == "jsonl":
        _write(_lines(database, selection.view), out=out, stdout=stdout)
    else:
        up = selection.up or to == "cyclonedx"
        graph = Graph(database, root=selection.model, up=up, depth=selection.depth)
        with closing(graph):
            _write(_WRITERS[to](graph, selection), out=out, stdout=stdout)


def _write(pieces: Iterable[str], *, out: Path | None, stdout: TextIO) -> None:
    if out is None:
        stdout.writelines(pieces)
        return
    with _whole(out) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(pieces)


def _lines(database: Database, view: str) -> Iterator[str]:
    query = f"SELECT * FROM v1.{_known(database, view)}"
    if view in VIEW_ORDERS:
        query += f" ORDER BY {VIEW_ORDERS[view]}"
    with translated(database.path), database.cursor() as cursor:
        for row in stream(cursor, query):
            yield json.dumps(row, default=_json) + "\n"


def _parquet(database: Database, view: str, out: Path | None) -> None:
    if out is None:
        raise RegistryError("Parquet goes to a file: give -o FILE")
    _known(database, view)
    with _whole(out) as partial, translated(database.path), database.cursor() as cursor:
        quoted = str(partial).replace("'", "''")
        cursor.execute(
            f"COPY (SELECT * FROM v1.{view}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)"
        )


def _known(database: Database, view: str) -> str:
    views = [
        name
        for (name,) in database.rows(
            "SELECT view_name FROM duckdb_views() WHERE schema_name = 'v1' ORDER BY 1"
        )
    ]
    if view not in views:
        raise RegistryError(f"there is no view {view!r:.80}, but {', '.join(views)}")
    return view


class _whole:
    """A temporary name beside a file, renamed to it when the block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")

    def __enter__(self) -> Path:
        return self._partial

    def __exit__(self, kind: object, error: object, at: object) -> None:
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)


def _json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime | date) else str(value)
