"""Listing sweeps of a nightly scan: pages with the cursor after them, and what is missing after.

All writing functions run inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import duckdb

from ..lineage.records import DeclaredParent, ModelInfo
from .database import Database
from .declared import replace_claims
from .facts import Sweep
from .listing import record_listing, retire, upsert_models
from .schedule import reopen_gates
from .staging import aware, text, utc

_SWEEP = (
    "SELECT s.scan, s.kind, s.cursor, s.done, s.pages, s.listed, s.known, s.short_pages, "
    "s.disordered, s.newest, s.oldest FROM internal.sweeps s"
)

# A listing that was narrowed otherwise, or of another endpoint, says nothing about this one.
_ALIKE = (
    "(SELECT a.scan FROM internal.scans a, internal.scans b "
    "WHERE b.scan = $scan AND a.parameters::VARCHAR = b.parameters::VARCHAR)"
)

# What a listing of everything did not name: deleted, made private, or lost by the listing. There is
# one Hub; of what other folders hold, a listing of this one says nothing.
_MISSING = f"""
SELECT m.name FROM internal.models m
WHERE m.source = $source AND m.tombstone_reason IS NULL
    AND (m.source = 'hub'
        OR m.id IN (SELECT l.model FROM internal.listings l WHERE l.scan IN {_ALIKE}))
    AND m.id NOT IN (SELECT l.model FROM internal.listings l WHERE l.scan = $scan)
ORDER BY m.downloads DESC NULLS LAST, m.id LIMIT $limit
"""


def sweeps(database: Database, *, scan: int | None = None) -> list[Sweep]:
    """Sweeps of one scan, or of all, newest scan first."""
    condition = "" if scan is None else " WHERE s.scan = ?"
    found = database.records(
        f"{_SWEEP}{condition} ORDER BY s.scan DESC, s.kind", [] if scan is None else [scan]
    )
    for record in found:
        record["newest"], record["oldest"] = aware(record["newest"]), aware(record["oldest"])
    return [Sweep(**record) for record in found]


def add_sweep_pages(
    connection: duckdb.DuckDBPyConnection,
    models: Sequence[ModelInfo],
    *,
    sweep: Sweep,
    claims_of: Callable[[ModelInfo], Sequence[DeclaredParent]],
    now: datetime,
) -> int:
    """Store models of a sweep and where it stands after them.

    Parameters
    ----------
    claims_of : what a model claims; asked only for commits that the store has not seen.

    Returns
    -------
    How many of the models the store had at that very commit.
    """
    known = 0
    if models:
        # A page may name a repository twice: the later entry counts, as in the store.
        upsert_models(connection, models, scan=sweep.scan, now=now)
        reopen_gates(connection)
        record_listing(connection, scan=sweep.scan)
        found = connection.execute("SELECT count(*) FROM page WHERE NOT is_new_revision").fetchone()
        known = int(found[0]) if found else 0
        fresh = connection.execute(
            "SELECT source_id, pos FROM page WHERE is_new_revision ORDER BY pos"
        ).fetchall()
        by_identity = {text(info.source_id): info for info in models}
        claims = {pos: claims_of(by_identity[identity]) for identity, pos in fresh}
        replace_claims(connection, claims, scan=sweep.scan, now=now)
    connection.execute(
        "DELETE FROM internal.sweeps WHERE scan = ? AND kind = ?", [sweep.scan, sweep.kind]
    )
    connection.execute(
        "INSERT INTO internal.sweeps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            sweep.scan,
            sweep.kind,
            sweep.cursor,
            sweep.done,
            sweep.pages,
            sweep.listed,
            sweep.known + known,
            sweep.short_pages,
            sweep.disordered,
            utc(sweep.newest),
            utc(sweep.oldest),
        ],
    )
    return known


def listing_done(connection: duckdb.DuckDBPyConnection, *, scan: int) -> None:
    """Note that all sweeps of a scan are done."""
    connection.execute("UPDATE internal.scans SET listing_done = true WHERE scan = ?", [scan])


def missing(database: Database, *, source: str, scan: int, limit: int) -> list[str]:
    """Live models that the full sweep of a scan did not name, most used first.

    Of folders, those that a listing with the same parameters named before.
    """
    found = database.rows(_MISSING, {"source": source, "scan": scan, "limit": limit})
    return [name for (name,) in found]


def watermarks(database: Database, *, scan: int) -> dict[str, datetime]:
    """By kind of sweep, the newest date that a finished sweep of the same listing began with.

    A full sweep counts as both others: what was created or modified after it began is newer than
    the newest model that it began with. The Hub's dates, never this machine's clock.
    """
    found = database.rows(
        "SELECT s.kind, max(s.newest) FROM internal.sweeps s WHERE s.done "
        f"AND s.newest IS NOT NULL AND s.scan IN {_ALIKE} GROUP BY 1",
        {"scan": scan},
    )
    marks = {kind: moment.replace(tzinfo=None) for kind, moment in found}
    full = marks.get("full")
    known: dict[str, datetime] = {}
    for kind in ("created", "modified"):
        moments = [m for m in (marks.get(kind), full) if m is not None]
        if full is not None and moments:
            stamped = aware(max(moments))
            if stamped is not None:
                known[kind] = stamped
    return known


def last_full(database: Database, *, scan: int) -> datetime | None:
    """When the last full sweep of the same listing that ended was begun, UTC."""
    found = database.row(
        "SELECT max(c.started_at) FROM internal.sweeps s JOIN internal.scans c ON c.scan = s.scan "
        f"WHERE s.kind = 'full' AND s.done AND s.scan IN {_ALIKE}",
        {"scan": scan},
    )
    return aware(found[0]) if found else None


def tombstone(
    connection: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    *,
    source: str,
    reason: str,
    scan: int,
    now: datetime,
) -> None:
    """Put a tombstone on live models of a source, by name."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE departed AS SELECT m.id, m.name FROM internal.models m "
        "WHERE m.source = ? AND m.tombstone_reason IS NULL "
        "AND list_contains(?::VARCHAR[], m.name)",
        [source, [text(name) for name in names]],
    )
    retire(connection, "departed", reason=reason, scan=scan, now=now)
