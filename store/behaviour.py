"""Fingerprints of hidden states and the pairs that are near. Writers run in the caller's
transaction."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from ..lineage.errors import NotInRegistry
from .database import Database
from .facts import BehaviourRow, FingerprintRow
from .inference import find_nodes
from .staging import staged

FOLDER = "activations"

_COLUMNS = {
    "first": "string",
    "second": "string",
    "n": "int64",
    "debiased_cka": "double",
    "cka": "double",
    "null_pairs": "int64",
    "p_value": "double",
    "q_value": "double",
}

_FINGERPRINTS = """
SELECT m.name AS model, r.sha, f.prompt_set, f.version, f.path, f.sha256
FROM internal.fingerprints f
JOIN internal.models m ON m.id = f.model
JOIN internal.revisions r ON r.id = f.revision
WHERE f.prompt_set = ? AND f.version = ? AND m.tombstone_reason IS NULL
QUALIFY row_number() OVER (PARTITION BY f.model ORDER BY f.scan DESC, f.revision DESC) = 1
ORDER BY m.name
"""

_LINES = """
SELECT m.name, a.name
FROM internal.models m
JOIN internal.closure_up k ON k.descendant = m.id
JOIN internal.models a ON a.id = k.ancestor
WHERE m.tombstone_reason IS NULL AND m.id IN (
    SELECT f.model FROM internal.fingerprints f WHERE f.prompt_set = ? AND f.version = ?)
ORDER BY m.name, k.distance, a.name
"""

_INSERT = """
INSERT INTO internal.behaviour
SELECT a.id, b.id, $prompt_set, $version, p.n, p.debiased_cka, p.cka, p.null_pairs, p.p_value,
    p.q_value, $scan
FROM (SELECT first, second, * EXCLUDE (first, second) FROM pairs_in
    UNION ALL SELECT second, first, * EXCLUDE (first, second) FROM pairs_in) p
JOIN nodes a ON a.name = p.first JOIN nodes b ON b.name = p.second
ORDER BY ALL
"""


def add_fingerprint(
    connection: duckdb.DuckDBPyConnection, row: FingerprintRow, *, scan: int
) -> None:
    """Store where a fingerprint is; the same revision, prompt set and version are replaced.

    Raises
    ------
    NotInRegistry : no such model, or no such revision of it.
    """
    found = connection.execute(
        "SELECT r.model, r.id FROM internal.revisions r JOIN internal.models m ON m.id = r.model "
        "WHERE m.name = ? AND r.sha = ?",
        [row.model, row.sha],
    ).fetchall()
    if not found:
        raise NotInRegistry(f"{row.model} has no revision {row.sha}", name=row.model)
    model, revision = found[0]
    connection.execute(
        "DELETE FROM internal.fingerprints WHERE revision = ? AND prompt_set = ? AND version = ?",
        [revision, row.prompt_set, row.version],
    )
    connection.execute(
        "INSERT INTO internal.fingerprints VALUES (?, ?, ?, ?, ?, ?, ?)",
        [model, revision, row.prompt_set, row.version, row.path, row.sha256, scan],
    )


def fingerprints(database: Database, *, prompt_set: str, version: str) -> list[FingerprintRow]:
    """The newest fingerprint of each live model on a prompt set, by name."""
    found = database.records(_FINGERPRINTS, [prompt_set, version])
    return [FingerprintRow(**record) for record in found]


def fingerprinted_lines(
    database: Database, *, prompt_set: str, version: str
) -> list[tuple[str, str]]:
    """(model, ancestor) for all ancestors of the live models with a fingerprint, by name."""
    return [(model, ancestor) for model, ancestor in database.rows(_LINES, [prompt_set, version])]


def replace_behaviour(
    connection: duckdb.DuckDBPyConnection,
    pairs: Sequence[BehaviourRow],
    *,
    prompt_set: str,
    version: str,
    scan: int,
) -> None:
    """Make these the near pairs of a prompt set; each stands in the table both ways.

    Raises
    ------
    NotInRegistry : a model that the store does not hold.
    """
    connection.execute("DELETE FROM internal.behaviour WHERE prompt_set = ?", [prompt_set])
    if not pairs:
        return
    find_nodes(connection, {name for pair in pairs for name in (pair.first, pair.second)})
    rows = [tuple(getattr(pair, name) for name in _COLUMNS) for pair in pairs]
    with staged(connection, "pairs_in", _COLUMNS, rows):
        connection.execute(_INSERT, {"prompt_set": prompt_set, "version": version, "scan": scan})


def forget_fingerprints(connection: duckdb.DuckDBPyConnection, model: int) -> list[str]:
    """Take a model out of all of it; the paths of its files."""
    paths = connection.execute(
        "DELETE FROM internal.fingerprints WHERE model = ? RETURNING path", [model]
    ).fetchall()
    connection.execute("DELETE FROM internal.behaviour WHERE ? IN (model, other)", [model])
    return [path for (path,) in paths]
