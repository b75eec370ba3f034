"""Claims of parentage: kept word for word, and as the declared flag of edges.

All functions run inside the caller's transaction, after `upsert_models`, whose temporary table
`page` they read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import duckdb

from ..lineage.records import DeclaredParent
from .staging import identity_key, staged, utc

_CLAIM_COLUMNS = {
    "pos": "int64",
    "position": "int64",
    "raw": "string",
    "name": "string",
    "key": "uint64",
    "relation": "string",
    "via": "string",
    "parent_revision": "string",
    "note": "string",
}

# A claimed name means the live model of that name, of the child's own source if there is one;
# failing that a model that had the name before; failing that a model nobody has listed yet.
_PARENTS = """
CREATE OR REPLACE TEMP TABLE claimed AS
WITH wanted AS (
    SELECT DISTINCT p.source, c.name, md5_number_lower(c.name) AS name_key, c.key
    FROM claims_in c JOIN page p ON p.pos = c.pos WHERE c.name IS NOT NULL
), found AS (
    SELECT w.source, w.name, m.id
    FROM wanted w
    JOIN internal.name_index x ON x.name_key = w.name_key
    JOIN internal.models m ON m.id = x.model
    WHERE m.name = w.name OR EXISTS (
        SELECT 1 FROM internal.former_names h WHERE h.model = m.id AND h.name = w.name)
    QUALIFY row_number() OVER (
        PARTITION BY w.source, w.name
        ORDER BY m.name = w.name DESC, m.source <> 'declared' DESC, m.source = w.source DESC,
            m.tombstone_reason IS NULL DESC, m.id
    ) = 1
)
SELECT w.source, w.name, w.name_key, w.key, f.id
FROM wanted w LEFT JOIN found f ON f.source = w.source AND f.name = w.name
"""

_EXTERNAL = """
CREATE OR REPLACE TEMP TABLE external AS
SELECT ((SELECT coalesce(max(id), 0) FROM internal.models)
    + row_number() OVER (ORDER BY name))::INTEGER AS id, name, name_key, key
FROM (SELECT DISTINCT name, name_key, key FROM claimed WHERE id IS NULL)
"""

_INSERT_EXTERNAL = """
INSERT INTO internal.models BY NAME
SELECT id, key, 'declared' AS source, name AS source_id, name, name_key,
    CASE WHEN contains(name, '/') THEN split_part(name, '/', 1) END AS author,
    false AS disabled, false AS hidden, $scan AS first_seen_scan, $scan AS last_seen_scan
FROM external ORDER BY id
"""

_WANTED_EDGES = """
CREATE OR REPLACE TEMP TABLE wanted_edges AS
SELECT d.model AS child, any_value(d.revision) AS child_revision, d.parent,
    arg_min(d.relation, d.position) AS relation
FROM internal.declared d
WHERE d.model IN (SELECT model FROM claimants) AND d.parent IS NOT NULL AND d.parent <> d.model
GROUP BY d.model, d.parent
"""

# The first sight of a model is no change of its claims.
_CHANGES = """
INSERT INTO internal.changes
SELECT $scan, x.kind, c.name || ' <- ' || p.name, x.before, x.after, $now FROM (
    SELECT w.child, w.parent, 'claim_added' AS kind, NULL AS before,
        coalesce(w.relation, 'unknown') AS after
    FROM wanted_edges w
    LEFT JOIN internal.edges e ON e.child = w.child AND e.parent = w.parent AND e.declared
    WHERE e.child IS NULL
    UNION ALL
    SELECT e.child, e.parent, 'claim_removed', coalesce(e.declared_relation, 'unknown'), NULL
    FROM internal.edges e
    LEFT JOIN wanted_edges w ON w.child = e.child AND w.parent = e.parent
    WHERE e.declared AND w.child IS NULL AND e.child IN (SELECT model FROM claimants)
) x
JOIN internal.models c ON c.id = x.child
JOIN internal.models p ON p.id = x.parent
WHERE c.first_seen_scan < $scan
ORDER BY c.name, p.name
"""

_STALE = """e.child IN (SELECT model FROM claimants) AND e.declared AND NOT EXISTS (
    SELECT 1 FROM wanted_edges w WHERE w.child = e.child AND w.parent = e.parent)"""

_CONFIRM = """
UPDATE internal.edges e SET declared = true, declared_relation = w.relation,
    relation = CASE WHEN e.inferred THEN e.relation ELSE w.relation END,
    child_revision = CASE WHEN e.inferred THEN e.child_revision ELSE w.child_revision END,
    last_seen_scan = $scan
FROM wanted_edges w WHERE e.child = w.child AND e.parent = w.parent
"""

_ADD = """
INSERT INTO internal.edges BY NAME
SELECT w.child, w.child_revision, w.parent, w.relation, true AS declared,
    w.relation AS declared_relation, false AS inferred,
    $scan AS first_seen_scan, $scan AS last_seen_scan
FROM wanted_edges w ANTI JOIN internal.edges e ON e.child = w.child AND e.parent = w.parent
ORDER BY w.child, w.parent
"""


def replace_claims(
    connection: duckdb.DuckDBPyConnection,
    claims: Mapping[int, Sequence[DeclaredParent]],
    *,
    scan: int,
    now: datetime,
) -> None:
    """Replace what some models of `page` claim; the others keep their claims.

    Parameters
    ----------
    claims : position in `page` to everything that model claims now, possibly nothing.
    """
    if not claims:
        return
    with staged(connection, "claimants_in", {"pos": "int64"}, [(pos,) for pos in claims]):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE claimants AS "
            "SELECT p.model FROM page p SEMI JOIN claimants_in c ON c.pos = p.pos"
        )
    connection.execute("DELETE FROM internal.declared WHERE model IN (SELECT model FROM claimants)")
    with staged(connection, "claims_in", _CLAIM_COLUMNS, _claim_rows(claims)):
        _insert_claims(connection, scan=scan)
    _refresh_edges(connection, scan=scan, now=now)


def _insert_claims(connection: duckdb.DuckDBPyConnection, *, scan: int) -> None:
    connection.execute(_PARENTS)
    connection.execute(_EXTERNAL)
    connection.execute(_INSERT_EXTERNAL, {"scan": scan})
    connection.execute(
        "INSERT INTO internal.name_index SELECT name_key, id FROM external ORDER BY id"
    )
    connection.execute(
        "INSERT INTO internal.declared "
        "SELECT p.model, p.revision, c.position, c.raw, c.name, coalesce(k.id, e.id), c.relation, "
        "c.via, c.parent_revision, c.note "
        "FROM claims_in c JOIN page p ON p.pos = c.pos "
        "LEFT JOIN claimed k ON k.source = p.source AND k.name = c.name "
        "LEFT JOIN external e ON e.name = c.name ORDER BY p.model, c.position"
    )


def _refresh_edges(connection: duckdb.DuckDBPyConnection, *, scan: int, now: datetime) -> None:
    connection.execute(_WANTED_EDGES)
    connection.execute(_CHANGES, {"scan": scan, "now": utc(now)})
    connection.execute(f"DELETE FROM internal.edges e WHERE NOT e.inferred AND {_STALE}")
    connection.execute(
        "UPDATE internal.edges e SET declared = false, declared_relation = NULL "
        f"WHERE e.inferred AND {_STALE}"
    )
    connection.execute(_CONFIRM, {"scan": scan})
    connection.execute(_ADD, {"scan": scan})


def _claim_rows(claims: Mapping[int, Sequence[DeclaredParent]]) -> list[tuple[object, ...]]:
    return [
        (
            pos,
            position,
            claim.raw,
            claim.name,
            None if claim.name is None else identity_key("declared", claim.name),
            None if claim.relation is None else claim.relation.value,
            claim.via,
            claim.revision,
            claim.note,
        )
        for pos, parents in claims.items()
        for position, claim in enumerate(parents)
    ]
