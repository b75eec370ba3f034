"""Results of inference: edges with their evidence, runners-up, hidden models.

All functions run inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import duckdb

from ..lineage.errors import NotInRegistry
from ..lineage.records import Clue, InferredEdge, RejectedParent
from .closing import maintain_closure
from .database import Database
from .facts import HiddenModel
from .listing import retire
from .staging import group_id, identity_key, json_text, staged, utc

_HIDDEN_COLUMNS = {
    "name": "string",
    "key": "uint64",
    "shape_key": "string",
    "architecture": "string",
}
_EDGE_COLUMNS = {
    "child_name": "string",
    "parent_name": "string",
    "relation": "string",
    "detail": "string",
    "confidence": "double",
    "direction_confidence": "double",
    "share": "double",
    "evidence_id": "string",
}
_CLUE_COLUMNS = {
    "evidence_id": "string",
    "kind": "string",
    "statistic": "string",
    "value": "double",
    "llr": "double",
    "ci_low": "double",
    "ci_high": "double",
    "n": "int64",
    "p_value": "double",
}
_REJECTED_COLUMNS = {
    "child_name": "string",
    "parent_name": "string",
    "rank": "int64",
    "score": "double",
    "rejected_because": "string",
}

_NEW_HIDDEN = """
INSERT INTO internal.models BY NAME
SELECT ((SELECT coalesce(max(id), 0) FROM internal.models)
    + row_number() OVER (ORDER BY h.name))::INTEGER AS id,
    h.key, 'inferred' AS source, h.name AS source_id, h.name, md5_number_lower(h.name) AS name_key,
    false AS disabled, true AS hidden, $scan AS first_seen_scan, $scan AS last_seen_scan
FROM hidden_in h
WHERE h.name NOT IN (SELECT m.name FROM internal.models m WHERE m.source = 'inferred')
"""

_HIDDEN_FACTS = """
INSERT INTO internal.revisions BY NAME
SELECT ((SELECT coalesce(max(id), 0) FROM internal.revisions)
    + row_number() OVER (ORDER BY m.id))::INTEGER AS id,
    m.id AS model, h.name AS sha, $scan AS first_seen_scan, $now AS seen_at, h.shape_key,
    h.architecture
FROM hidden_in h JOIN internal.models m ON m.source = 'inferred' AND m.name = h.name
WHERE m.facts_revision IS NULL
"""

# A name means its live model; the oldest of several, for the order of rows to be the same always.
_NODES = """
CREATE OR REPLACE TEMP TABLE nodes AS
SELECT n.name, m.id, m.facts_revision AS revision
FROM nodes_in n
LEFT JOIN internal.models m ON m.name_key = md5_number_lower(n.name) AND m.name = n.name
QUALIFY row_number() OVER (
    PARTITION BY n.name
    ORDER BY m.source <> 'declared' DESC, m.tombstone_reason IS NULL DESC, m.id
) = 1
"""

_NEW_EDGES = """
CREATE OR REPLACE TEMP TABLE new_edges AS
SELECT c.id AS child, p.id AS parent, c.revision AS child_revision, p.revision AS parent_revision,
    e.relation, e.detail::JSON AS detail, e.confidence, e.direction_confidence, e.share,
    e.evidence_id
FROM edges_in e JOIN nodes c ON c.name = e.child_name JOIN nodes p ON p.name = e.parent_name
WHERE c.id <> p.id
"""

_OLD_EDGES = """
CREATE OR REPLACE TEMP TABLE old_edges AS
SELECT e.child, e.parent, e.relation, e.share, e.confidence, e.evidence_id, e.declared
FROM internal.edges e WHERE e.inferred AND {condition}
"""

# Confidence moves a little with every new neighbour; a change worth a row moves a belief.
_CHANGES = """
INSERT INTO internal.changes
SELECT $scan,
    CASE WHEN x.before IS NULL THEN 'edge_added' WHEN x.after IS NULL THEN 'edge_removed'
        ELSE 'edge_changed' END,
    c.name || ' <- ' || p.name, x.before, x.after, $now
FROM (
    SELECT coalesce(n.child, o.child) AS child, coalesce(n.parent, o.parent) AS parent,
        CASE WHEN o.child IS NOT NULL THEN json_object('relation', o.relation,
            'confidence', round(o.confidence, 3), 'share', round(o.share, 3)) END AS before,
        CASE WHEN n.child IS NOT NULL THEN json_object('relation', n.relation,
            'confidence', round(n.confidence, 3), 'share', round(n.share, 3)) END AS after
    FROM new_edges n FULL JOIN old_edges o ON o.child = n.child AND o.parent = n.parent
    WHERE n.child IS NULL OR o.child IS NULL OR n.relation <> o.relation
        OR abs(n.confidence - o.confidence) >= 0.05
        OR abs(coalesce(n.share, 0) - coalesce(o.share, 0)) >= 0.05
) x
JOIN internal.models c ON c.id = x.child
JOIN internal.models p ON p.id = x.parent
ORDER BY c.name, p.name
"""

_LOST = """EXISTS (SELECT 1 FROM old_edges o WHERE o.child = e.child AND o.parent = e.parent)
    AND NOT EXISTS (SELECT 1 FROM new_edges n WHERE n.child = e.child AND n.parent = e.parent)"""

_FALL_BACK = f"""
UPDATE internal.edges e SET inferred = false, relation = declared_relation, detail = NULL,
    confidence = NULL, direction_confidence = NULL, share = NULL, evidence_id = NULL,
    parent_revision = NULL
WHERE e.declared AND {_LOST}
"""

_CONFIRM = """
UPDATE internal.edges e SET inferred = true, child_revision = n.child_revision,
    parent_revision = n.parent_revision, relation = n.relation, detail = n.detail,
    confidence = n.confidence, direction_confidence = n.direction_confidence, share = n.share,
    evidence_id = n.evidence_id, last_seen_scan = $scan
FROM new_edges n WHERE e.child = n.child AND e.parent = n.parent
"""

_ADD = """
INSERT INTO internal.edges BY NAME
SELECT n.*, false AS declared, true AS inferred, $scan AS first_seen_scan, $scan AS last_seen_scan
FROM new_edges n ANTI JOIN internal.edges e ON e.child = n.child AND e.parent = n.parent
ORDER BY n.child, n.parent
"""

_PLACED = """
SELECT m.name FROM internal.placements p JOIN internal.models m ON m.facts_revision = p.revision
WHERE p.code_version = $code AND m.tombstone_reason IS NULL
"""

_BELIEVED = """
SELECT c.name, p.name, e.relation
FROM internal.edges e
JOIN internal.models c ON c.id = e.child JOIN internal.models p ON p.id = e.parent
WHERE e.inferred
ORDER BY c.name, e.share DESC NULLS LAST, p.name
"""

_ORPHANS = """
CREATE OR REPLACE TEMP TABLE orphans AS
SELECT m.id, m.name FROM internal.models m
WHERE m.hidden AND m.tombstone_reason IS NULL
    AND m.name NOT IN (SELECT name FROM hidden_in)
    AND m.id NOT IN (SELECT e.parent FROM internal.edges e WHERE e.inferred)
"""


def replace_inference(
    connection: duckdb.DuckDBPyConnection,
    *,
    edges: Sequence[InferredEdge],
    rejected: Sequence[RejectedParent],
    hidden: Sequence[HiddenModel],
    scope: Collection[str] | None,
    code_version: str,
    inputs_digest: str,
    scan: int,
    now: datetime,
) -> None:
    """Replace what was inferred about the children in `scope`, and rebuild the closure.

    Parameters
    ----------
    scope : names whose parents were decided anew; None for all. Children of `edges` and
        `rejected` always belong to it.

    Raises
    ------
    NotInRegistry : an edge names a model that the store does not hold.
    """
    edges = list({(edge.child, edge.parent): edge for edge in edges}.values())
    decided = {e.child for e in edges} | {r.child for r in rejected} | set(scope or ())
    parents = {e.parent for e in edges} | {r.parent for r in rejected}
    with staged(connection, "hidden_in", _HIDDEN_COLUMNS, _hidden_rows(hidden)):
        _add_hidden(connection, scan=scan, now=now)
        find_nodes(connection, decided | parents)
        _replace_edges(
            connection,
            edges,
            decided=None if scope is None else decided,
            stamp=(code_version, inputs_digest),
            scan=scan,
            now=now,
        )
        _replace_candidates(connection, rejected, everything=scope is None)
        _mark_placed(connection, code_version=code_version)
        _retire_orphans(connection, scan=scan, now=now)
    maintain_closure(connection)


def placed_models(database: Database, *, code_version: str) -> frozenset[str]:
    """Names of the models whose sketched revision was decided by this code."""
    rows = database.rows(_PLACED, {"code": code_version})
    return frozenset(name for (name,) in rows)


def believed_parents(database: Database) -> list[tuple[str, str, str]]:
    """(child, parent, relation) of every inferred edge, the heaviest parent of a child first."""
    return [(child, parent, kind) for child, parent, kind in database.rows(_BELIEVED, {})]


def add_evidence(
    connection: duckdb.DuckDBPyConnection,
    groups: Iterable[tuple[str, Sequence[Clue]]],
    *,
    code_version: str | None,
    inputs_digest: str | None,
) -> None:
    """Write the clues of each evidence group in place of what the group held."""
    groups = list(groups)
    rows = [_clue_row(group, clue) for group, clues in groups for clue in clues]
    with staged(connection, "groups_in", {"evidence_id": "string"}, [(g,) for g, _ in groups]):
        connection.execute(
            "DELETE FROM internal.evidence WHERE evidence_id IN (SELECT evidence_id FROM groups_in)"
        )
    with staged(connection, "clues_in", _CLUE_COLUMNS, rows):
        connection.execute(
            "INSERT INTO internal.evidence BY NAME "
            "SELECT c.*, $code AS code_version, $inputs AS inputs_digest FROM clues_in c",
            {"code": code_version, "inputs": inputs_digest},
        )


def find_nodes(connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> None:
    """Leave the temporary table `nodes` (name, id, revision) for some names.

    Raises
    ------
    NotInRegistry : one of the names is not in the store.
    """
    rows = [(name,) for name in sorted(names)]
    with staged(connection, "nodes_in", {"name": "string"}, rows):
        connection.execute(_NODES)
    missing = connection.execute("SELECT name FROM nodes WHERE id IS NULL ORDER BY 1").fetchall()
    if missing:
        name = missing[0][0]
        raise NotInRegistry(f"{name} is not in the store", name=name)


def _add_hidden(connection: duckdb.DuckDBPyConnection, *, scan: int, now: datetime) -> None:
    connection.execute(_NEW_HIDDEN, {"scan": scan})
    connection.execute(_HIDDEN_FACTS, {"scan": scan, "now": utc(now)})
    connection.execute(
        "UPDATE internal.models m SET facts_revision = r.id FROM internal.revisions r "
        "WHERE r.model = m.id AND m.hidden AND m.facts_revision IS NULL"
    )
    connection.execute(
        "UPDATE internal.models SET last_seen_scan = $scan, tombstone_reason = NULL "
        "WHERE hidden AND name IN (SELECT name FROM hidden_in)",
        {"scan": scan},
    )
    connection.execute(
        "INSERT INTO internal.name_index SELECT m.name_key, m.id FROM internal.models m "
        "WHERE m.hidden AND m.id NOT IN (SELECT model FROM internal.name_index) ORDER BY m.id"
    )


def _replace_edges(
    connection: duckdb.DuckDBPyConnection,
    edges: Sequence[InferredEdge],
    *,
    decided: Collection[str] | None,
    stamp: tuple[str, str],
    scan: int,
    now: datetime,
) -> None:
    rows = [_edge_row(edge, stamp) for edge in edges]
    with staged(connection, "edges_in", _EDGE_COLUMNS, rows):
        connection.execute(_NEW_EDGES)
    within = "true" if decided is None else "e.child IN (SELECT id FROM scoped)"
    children = [(name,) for name in decided or ()]
    with staged(connection, "scope_in", {"name": "string"}, children):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE scoped AS SELECT n.id FROM nodes n SEMI JOIN scope_in s "
            "ON s.name = n.name"
        )
    connection.execute(_OLD_EDGES.format(condition=within))
    connection.execute(_CHANGES, {"scan": scan, "now": utc(now)})
    _drop_evidence(connection)
    connection.execute(f"DELETE FROM internal.edges e WHERE NOT e.declared AND {_LOST}")
    connection.execute(_FALL_BACK)
    connection.execute(_CONFIRM, {"scan": scan})
    connection.execute(_ADD, {"scan": scan})
    groups = [(_evidence_id(edge, stamp), edge.clues) for edge in edges]
    add_evidence(connection, groups, code_version=stamp[0], inputs_digest=stamp[1])


def _drop_evidence(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        "DELETE FROM internal.evidence WHERE evidence_id IN (SELECT evidence_id FROM old_edges)"
    )


def _replace_candidates(
    connection: duckdb.DuckDBPyConnection, rejected: Sequence[RejectedParent], *, everything: bool
) -> None:
    rows = [(r.child, r.parent, r.rank, r.score, r.rejected_because) for r in rejected]
    with staged(connection, "rejected_in", _REJECTED_COLUMNS, rows):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE losers AS SELECT c.id AS child, p.id AS parent, r.rank, "
            "r.score, r.rejected_because FROM rejected_in r "
            "JOIN nodes c ON c.name = r.child_name JOIN nodes p ON p.name = r.parent_name"
        )
    condition = "true" if everything else "child IN (SELECT id FROM scoped)"
    connection.execute(f"DELETE FROM internal.candidates WHERE {condition}")
    connection.execute(
        "INSERT INTO internal.candidates SELECT * FROM losers ORDER BY child, rank, parent"
    )


def _mark_placed(connection: duckdb.DuckDBPyConnection, *, code_version: str) -> None:
    """Remember the revisions of `scoped`, which `_replace_edges` left, as decided."""
    connection.execute(
        "INSERT OR REPLACE INTO internal.placements "
        "SELECT DISTINCT n.revision, $code FROM nodes n SEMI JOIN scoped s ON s.id = n.id "
        "WHERE n.revision IS NOT NULL",
        {"code": code_version},
    )


def _retire_orphans(connection: duckdb.DuckDBPyConnection, *, scan: int, now: datetime) -> None:
    # A hidden model that no child needs any more goes, and with it the edge to its own parent,
    # which may have been the only reason for another.
    while True:
        connection.execute(_ORPHANS)
        if not connection.execute("SELECT 1 FROM orphans LIMIT 1").fetchall():
            return
        connection.execute(_OLD_EDGES.format(condition="e.child IN (SELECT id FROM orphans)"))
        _drop_evidence(connection)
        connection.execute("DELETE FROM internal.edges WHERE child IN (SELECT id FROM orphans)")
        retire(connection, "orphans", reason="not_inferred", scan=scan, now=now)


def _hidden_rows(hidden: Sequence[HiddenModel]) -> list[tuple[object, ...]]:
    nodes = {node.node: node for node in hidden}
    return [
        (name, identity_key("inferred", name), node.shape_key, node.architecture)
        for name, node in nodes.items()
    ]


def _edge_row(edge: InferredEdge, stamp: tuple[str, str]) -> tuple[object, ...]:
    return (
        edge.child,
        edge.parent,
        edge.relation.value,
        json_text(edge.detail) if edge.detail else None,
        edge.confidence,
        edge.direction_confidence,
        edge.share,
        _evidence_id(edge, stamp),
    )


def _evidence_id(edge: InferredEdge, stamp: tuple[str, str]) -> str:
    return group_id("edge", edge.child, edge.parent, *stamp)


def _clue_row(group: str, clue: Clue) -> tuple[object, ...]:
    return (
        group,
        clue.kind,
        clue.statistic,
        clue.value,
        clue.llr,
        clue.ci_low,
        clue.ci_high,
        clue.n,
        clue.p_value,
    )
