"""What others publish: edges and scores from a file, kept apart and held against what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ..lineage.errors import MalformedFile
from ..lineage.records import Relation
from .staging import text

KINDS = ("edges", "scores")

_READERS = {
    ".parquet": "read_parquet({path})",
    ".csv": "read_csv({path}, all_varchar = true, header = true)",
    ".tsv": "read_csv({path}, all_varchar = true, header = true, delim = '\t')",
    ".jsonl": "read_json({path}, format = 'newline_delimited', records = true)",
    ".json": "read_json({path}, records = true)",
}
_NEEDED = {"edges": ("child", "parent"), "scores": ("model", "probe", "value")}
_OPTIONAL = {
    "edges": {"relation": "VARCHAR", "confidence": "DOUBLE"},
    "scores": {
        "sha": "VARCHAR",
        "prompt_set": "VARCHAR",
        "judge": "VARCHAR",
        "n": "BIGINT",
        "ci_low": "DOUBLE",
        "ci_high": "DOUBLE",
        "unit": "VARCHAR",
    },
}

# Only live names that one model has count: a guess would put words into somebody's mouth.
_NAMED = """
CREATE OR REPLACE TEMP TABLE named AS
SELECT w.name, min(m.id) AS id
FROM ({names}) w
JOIN internal.name_index x ON x.name_key = md5_number_lower(w.name)
JOIN internal.models m ON m.id = x.model AND m.name = w.name
GROUP BY w.name HAVING count(DISTINCT m.id) = 1
"""
_EDGES = """
INSERT INTO internal.other_edges BY NAME
SELECT g.child, g.parent, c.id AS child_id, p.id AS parent_id,
    CASE WHEN g.relation IN ({relations}) THEN g.relation END AS relation,
    CASE WHEN g.confidence BETWEEN 0 AND 1 THEN g.confidence END AS confidence,
    $provenance AS provenance, $scan::INTEGER AS scan
FROM given g
LEFT JOIN named c ON c.name = g.child LEFT JOIN named p ON p.name = g.parent
"""
_SCORES = """
INSERT INTO internal.other_scores BY NAME
SELECT g.*, m.id AS model_id, $provenance AS provenance, $scan::INTEGER AS scan
FROM given g LEFT JOIN named m ON m.name = g.model
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What became of the rows of a file: taken in, left out as unusable, with unknown models."""

    taken: int
    left_out: int
    unknown: int


def ingest(
    connection: duckdb.DuckDBPyConnection, path: Path, *, kind: str, provenance: str, scan: int
) -> Ingested:
    """Take in a file of edges or scores, in place of what the same provenance gave before.

    Runs inside the caller's transaction. Columns by name: `child` and `parent`, and any of
    `relation`, `confidence`; or `model`, `probe` and `value`, and any of `sha`, `prompt_set`,
    `judge`, `n`, `ci_low`, `ci_high`, `unit`. Rows that lack a needed value are left out, and a
    relation that is none of modelkin's is dropped from its row. Rows about redacted models, or
    judged by one, are left out as well.

    Raises
    ------
    MalformedFile : a format or columns that cannot be read.
    """
    rows, usable = _read(connection, path, kind=kind)
    columns = ("child", "parent") if kind == "edges" else ("model",)
    told = columns if kind == "edges" else ("model", "judge", "prompt_set")
    usable -= _leave_out_redacted(connection, told)
    names = " UNION ".join(f"SELECT {column} AS name FROM given" for column in columns)
    connection.execute(_NAMED.format(names=names))
    table = f"internal.other_{kind}"
    connection.execute(f"DELETE FROM {table} WHERE provenance = ?", [text(provenance)])
    relations = ", ".join(f"'{relation.value}'" for relation in Relation)
    query = _EDGES.format(relations=relations) if kind == "edges" else _SCORES
    connection.execute(query, {"provenance": text(provenance), "scan": scan})
    missing = "child_id IS NULL OR parent_id IS NULL" if kind == "edges" else "model_id IS NULL"
    found = connection.execute(
        f"SELECT count(*) FROM {table} WHERE provenance = ? AND ({missing})", [text(provenance)]
    ).fetchall()
    return Ingested(taken=usable, left_out=rows - usable, unknown=int(found[0][0]))


def _read(connection: duckdb.DuckDBPyConnection, path: Path, *, kind: str) -> tuple[int, int]:
    """Leave the temporary table `given`; return rows of the file and rows that can be used."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise MalformedFile(f"not one of {', '.join(_READERS)}", path=str(path))
    source = reader.format(path="'" + str(path).replace("'", "''") + "'")
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        columns = {str(row[0]) for row in described}
        lacking = [name for name in _NEEDED[kind] if name not in columns]
        if lacking:
            raise MalformedFile(f"no column {lacking[0]!r}", path=str(path))
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE given AS SELECT {_casts(kind, columns)} FROM {source}"
        )
    except duckdb.Error as error:
        raise MalformedFile(f"cannot be read: {error}", path=str(path)) from error
    usable = " AND ".join(f"{name} IS NOT NULL AND {name}::VARCHAR <> ''" for name in _NEEDED[kind])
    ((rows, good),) = connection.execute(
        f"SELECT count(*), count(*) FILTER ({usable}) FROM given"
    ).fetchall()
    connection.execute(f"DELETE FROM given WHERE NOT ({usable})")
    return int(rows), int(good)


def _leave_out_redacted(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> int:
    """Take the rows that name a redacted model out of `given`; return how many."""
    held = " OR ".join(
        f"coalesce(sha256(lower({column})) IN (SELECT name_digest FROM internal.redactions), false)"
        for column in columns
    )
    return len(connection.execute(f"DELETE FROM given WHERE {held} RETURNING 1").fetchall())


def _casts(kind: str, columns: set[str]) -> str:
    needed = {name: "DOUBLE" if name == "value" else "VARCHAR" for name in _NEEDED[kind]}
    return ", ".join(
        f'TRY_CAST("{name}" AS {type}) AS {name}' if name in columns else f"NULL::{type} AS {name}"
        for name, type in {**needed, **_OPTIONAL[kind]}.items()
    )
