"""What is exported: models and the believed edges between them, in batches from the store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from ..database import Database, Parameters, translated
from ..names import find_id

BATCH = 10_000

# Control characters, bidirectional marks and what is invisible: never wanted in another tool, and
# most of it cannot stand in XML at all.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff]"
)

_MEMBERS = """
CREATE OR REPLACE TEMP TABLE exported AS
SELECT $root::INTEGER AS id, 0 AS distance
UNION ALL
SELECT k.{far}, k.distance FROM internal.{closure} k
WHERE k.{near} = $root AND ($depth IS NULL OR k.distance <= $depth)
"""
_EVERYTHING = """
CREATE OR REPLACE TEMP TABLE exported AS
SELECT m.id, 0 AS distance FROM internal.models m WHERE m.tombstone_reason IS NULL
"""
_NODES = """
SELECT m.id, m.name, m.source, c.sha, m.license, f.format, f.dtype, f.architecture, f.n_params,
    m.downloads, m.created_at, m.hidden, m.id IN (
        SELECT x.model FROM internal.findings x
        WHERE x.kind = 'stripped_safety' AND x.status IN ('new', 'open')) AS stripped
FROM exported e JOIN internal.models m ON m.id = e.id
LEFT JOIN internal.revisions c ON c.id = m.revision
LEFT JOIN internal.revisions f ON f.id = m.facts_revision
ORDER BY e.distance, m.id
"""
_EDGES = """
SELECT b.parent, b.child, b.relation, b.confidence, b.declared, b.inferred, b.share
FROM internal.believed b
WHERE b.parent IN (SELECT id FROM exported) AND b.child IN (SELECT id FROM exported)
ORDER BY b.parent, b.child
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A model; `stripped` says that it has an open finding of lost safety training."""

    id: int
    name: str
    source: str
    sha: str | None
    license: str | None
    format: str | None
    dtype: str | None
    architecture: str | None
    n_params: int | None
    downloads: int | None
    created_at: datetime | None
    hidden: bool
    stripped: bool

    @property
    def label(self) -> str:
        """The name without control characters and bidirectional marks."""
        return harmless(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A believed edge, by the ids of its ends."""

    parent: int
    child: int
    relation: str | None
    confidence: float
    declared: bool
    inferred: bool
    share: float | None


class Graph:
    """Part of the store as nodes and links, each read when it is asked for.

    Parameters
    ----------
    database : the store.
    root : a model by name: it and its kin; None for all live models.
    up : its ancestors instead of its descendants.
    depth : at most so many steps away.
    """

    def __init__(
        self, database: Database, *, root: str | None, up: bool, depth: int | None
    ) -> None:
        self._path = database.path
        self._cursor = database.cursor()
        self.root = None if root is None else find_id(database, root)
        near, far = ("descendant", "ancestor") if up else ("ancestor", "descendant")
        query = _MEMBERS.format(near=near, far=far, closure="closure_up" if up else "closure")
        with translated(self._path):
            if self.root is None:
                self._cursor.execute(_EVERYTHING)
            else:
                self._cursor.execute(query, {"root": self.root, "depth": depth})

    def __len__(self) -> int:
        """How many nodes."""
        ((count,),) = self._cursor.execute("SELECT count(*) FROM exported").fetchall()
        return int(count)

    def nodes(self) -> Iterator[Node]:
        """The nodes, the root first."""
        for row in self.rows(_NODES):
            yield Node(**row)

    def links(self) -> Iterator[Link]:
        """The believed edges between the nodes."""
        for row in self.rows(_EDGES):
            yield Link(**row)

    def rows(self, query: str, parameters: Parameters = ()) -> Iterator[dict[str, Any]]:
        """Rows of a query by this package that may read the temporary table `exported` (id)."""
        with translated(self._path):
            yield from stream(self._cursor, query, parameters)

    def close(self) -> None:
        """Let go of the store's cursor."""
        self._cursor.close()


def stream(
    cursor: duckdb.DuckDBPyConnection, query: str, parameters: Parameters = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a query as mappings, a batch of them in memory at a time."""
    result = cursor.execute(query, parameters)
    names = [column[0] for column in result.description or ()]
    while batch := result.fetchmany(BATCH):
        for row in batch:
            yield dict(zip(names, row, strict=True))


def harmless(text: str) -> str:
    """Text without control characters, bidirectional marks and line ends."""
    return _UNSAFE.sub("\ufffd", text)


def attributes(node: Node) -> Sequence[tuple[str, str, Any]]:
    """What a graph file says of a node: name, type in GraphML's words, value; no missing ones."""
    found = [
        ("label", "string", node.label),
        ("source", "string", node.source),
        ("license", "string", node.license),
        ("format", "string", node.format),
        ("dtype", "string", node.dtype),
        ("architecture", "string", node.architecture),
        ("n_params", "long", node.n_params),
        ("downloads", "long", node.downloads),
        ("created_at", "string", node.created_at and node.created_at.isoformat()),
        ("hidden", "boolean", node.hidden),
        ("stripped", "boolean", node.stripped),
    ]
    return [one for one in found if one[2] is not None]


def link_attributes(link: Link) -> Sequence[tuple[str, str, Any]]:
    """What a graph file says of an edge."""
    found = [
        ("relation", "string", link.relation),
        ("confidence", "double", link.confidence),
        ("declared", "boolean", link.declared),
        ("inferred", "boolean", link.inferred),
        ("share", "double", link.share),
    ]
    return [one for one in found if one[2] is not None]
