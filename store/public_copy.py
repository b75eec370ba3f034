"""A copy of a registry that strangers may read, with tables of what an explorer asks most.

Whoever can run SQL on a file can read all of that file, whatever its views leave out. So strangers
get a file of its own: the tables of the registry without the columns that say how the scans were
run, beside derived tables in the schema `explorer`. Those are no part of the contract; they are
made anew with every copy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb

from .database import translated
from .migrate import check_known, known_migrations
from .snapshots import ORDERS, attached, copy_tables, fresh_database

# What a scan was started with can name folders and hosts of the machine it ran on. It is never
# written: what was and is changed stays in the bytes of a file, which its readers may look at.
_WITHHELD = {
    "scans": "* REPLACE (NULL AS cursor, '{}' AS parameters, split_part(source, ':', 1) AS source)"
}

# Evidence is found by its group; where groups lie together, that is one block and not all.
_ORDERS = {**ORDERS, "evidence": "evidence_id"}

# Models are laid beside each other: of each the judge and prompts that most of them share.
# One row a model in reach of `internal.models`, in the order of ids.
_NODES = """
CREATE TABLE explorer.nodes AS
WITH direct AS (
    SELECT e.parent AS id, count(*) AS n FROM explorer.links e GROUP BY e.parent
), lost AS (
    SELECT DISTINCT f.model AS id FROM internal.findings f
    WHERE f.kind = 'stripped_safety' AND f.status IN ('new', 'open')
), below AS (
    SELECT k.ancestor AS id, count(*) AS n,
        count(*) FILTER (WHERE k.descendant IN (SELECT l.id FROM lost l)) AS lost
    FROM internal.closure k GROUP BY k.ancestor
), asked AS (
    SELECT s.*, count(DISTINCT s.model) OVER (PARTITION BY s.judge, s.prompt_set) AS shared
    FROM internal.scores s JOIN internal.models m ON m.id = s.model AND m.revision = s.revision
    WHERE s.probe = 'selective_refusal' AND s.status = 'ok'
), refusal AS (
    SELECT s.model AS id, s.value, s.ci_low, s.ci_high FROM asked s
    QUALIFY row_number() OVER (PARTITION BY s.model ORDER BY s.shared DESC,
        s.judge = 'lexical' DESC, s.judge, s.prompt_set, s.scored_at DESC, s.revision DESC) = 1
)
SELECT m.id, m.name, m.source, m.author, m.created_at, m.downloads, m.license, m.hidden,
    m.tombstone_reason, coalesce(d.n, 0) AS direct, coalesce(b.n, 0) AS total,
    m.id IN (SELECT l.id FROM lost l) AS lost, coalesce(b.lost, 0) AS lost_below,
    r.value AS refusal, r.ci_low AS refusal_low, r.ci_high AS refusal_high
FROM internal.models m
LEFT JOIN direct d ON d.id = m.id
LEFT JOIN below b ON b.id = m.id
LEFT JOIN refusal r ON r.id = m.id
ORDER BY m.id
"""

_LINKS = """
CREATE TABLE explorer.links AS
SELECT b.child, b.parent, b.relation, b.detail, b.confidence, b.share, b.declared, b.inferred
FROM internal.believed b ORDER BY b.parent, b.child
"""

# One hop without a join: the rows of a parent stand together, with all that a page shows of them.
_CHILDREN = """
CREATE TABLE explorer.children AS
SELECT l.parent, l.relation, l.detail, l.confidence, l.share, l.declared, l.inferred, n.*
FROM explorer.links l JOIN explorer.nodes n ON n.id = l.child
ORDER BY l.parent, n.total DESC, n.name
"""


def write_public_copy(source: Path, target: Path) -> str:
    """Write the public copy of a registry file and return a digest that names its state.

    Parameters
    ----------
    source : a registry file; it is opened read-only and free again afterwards.
    target : the file to make; it must not exist.

    Raises
    ------
    RegistryBusy : another process writes to the source.
    SchemaTooNew : the source was written by a newer modelkin; older snapshots are copied.
    RegistryError : the source cannot be read, or the disk is full.
    """
    with translated(target):
        fresh_database(target)
    with translated(target), duckdb.connect(target) as connection:
        with translated(source), attached(connection, source, alias="source", read_only=True):
            check_known(connection, known_migrations(), alias="source")
            own = connection.execute("SELECT current_database()").fetchall()[0][0]
            copy_tables(connection, source="source", target=own, orders=_ORDERS, selected=_WITHHELD)
        connection.execute("CREATE SCHEMA explorer")
        connection.execute(_LINKS)
        connection.execute(_NODES)
        connection.execute(_CHILDREN)
        state = _state(connection)
    return hashlib.sha256(f"{state}{target.stat().st_size}".encode()).hexdigest()[:16]


def _state(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT (SELECT max(scan) FROM internal.scans), (SELECT max(finished_at) FROM "
        "internal.scans), (SELECT count(*) FROM internal.models), (SELECT sum(hash(child, parent, "
        "confidence)) FROM explorer.links), (SELECT sum(hash(finding_id, status)) FROM "
        "internal.findings), (SELECT sum(hash(id, name)) FROM explorer.nodes), "
        "(SELECT sum(hash(model, probe, value)) FROM internal.scores)"
    ).fetchall()
