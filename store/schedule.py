"""When a model is visited again, and in which order: cooldowns, failures, priorities.

The writing functions run inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import duckdb

from ..lineage.records import ModelInfo
from .database import Database
from .facts import Queue
from .staging import utc
from .visits_info import infos_of

COOLDOWN = timedelta(hours=12)
"""After any visit: a repository that commits every minute is read twice a day."""
FAILED_COOLDOWN = timedelta(days=14)
ABSENT_COOLDOWN = timedelta(days=31)
"""After a gate, or an answer that says missing or private."""
MOST_FAILURES = 3

_VISITED = """
CREATE OR REPLACE TEMP TABLE scheduled AS
SELECT v.model, any_value(v.revision) AS revision, any_value(v.outcome) AS outcome,
    any_value(CASE WHEN v.outcome IN ('timeout', 'failed', 'malformed', 'gated', 'not_found')
        THEN 1 + CASE WHEN s.revision = v.revision THEN s.failures ELSE 0 END
        ELSE 0 END) AS failures
FROM coverage_in v LEFT JOIN internal.schedule s ON s.model = v.model
WHERE v.model IS NOT NULL AND v.revision IS NOT NULL AND v.stage <> 'list'
GROUP BY v.model
"""

_INSERT = """
INSERT INTO internal.schedule
SELECT model, revision, failures, $now, CASE
    WHEN outcome IN ('gated', 'not_found') THEN $absent
    WHEN outcome IN ('failed', 'malformed') THEN $failed
    ELSE $soon END, failures >= $most
FROM scheduled ORDER BY model
"""

# A skip without a shape is an adapter; one with a shape was made for the sake of one release. A
# skip without a row in the schedule was made at the listing, unread.
_WANTED = """
m.source = $source AND m.tombstone_reason IS NULL AND NOT m.disabled
AND NOT coalesce((r.sketch_path IS NOT NULL AND r.sketch_plan = $plan)
    OR (r.outcome IN ('no_weights', 'unsupported', 'malformed') AND r.visited_plan = $plan)
    OR (r.outcome = 'skipped' AND r.visited_plan = $plan AND r.shape_key IS NULL
        AND s.revision = r.id), false)
"""

# A visit of the future was dated by a wrong clock: its pauses would last until that day.
_COOL = "(s.model IS NULL OR s.visited_at + $cool <= $now OR s.visited_at > $now)"
_DUE = f"""{_COOL} AND (s.model IS NULL OR s.revision <> r.id
    OR (NOT s.disabled AND (s.not_before <= $now OR s.visited_at > $now)))"""

_FROM = """
FROM internal.models m JOIN internal.revisions r ON r.id = m.revision
LEFT JOIN internal.schedule s ON s.model = m.id
"""

# Kin of a watched release first, then by use: downloads, and models that others come from.
_WAITING = f"""
WITH watched AS (
    SELECT unnest($watched::INTEGER[]) AS id
), near AS (
    SELECT model, min(distance) AS distance FROM (
        SELECT id AS model, 0 AS distance FROM watched
        UNION ALL SELECT descendant, distance FROM internal.closure
        WHERE ancestor IN (SELECT id FROM watched)
        UNION ALL SELECT ancestor, distance FROM internal.closure_up
        WHERE descendant IN (SELECT id FROM watched)
    ) GROUP BY model
), families AS (
    SELECT parent, count(*) AS children FROM internal.edges GROUP BY parent
)
SELECT m.source, m.source_id, m.name, r.sha, m.created_at, m.last_modified, m.library, m.license,
    m.gated, m.disabled, m.downloads, r.tags, r.id
{_FROM}
LEFT JOIN near k ON k.model = m.id
LEFT JOIN families f ON f.parent = m.id
WHERE {_WANTED} AND {_DUE}
ORDER BY 20.0 / (1 + coalesce(k.distance, 1e9)) + ln(1 + greatest(0, coalesce(m.downloads, 0)))
    + 2 * ln(1 + coalesce(f.children, 0)) DESC, m.id
LIMIT $limit
"""

_QUEUE = f"""
SELECT count(*) FILTER ({_DUE}) AS waiting,
    count(*) FILTER (NOT ({_DUE}) AND NOT coalesce(s.disabled AND s.revision = r.id, false)),
    count(*) FILTER (coalesce(s.disabled AND s.revision = r.id, false))
{_FROM} WHERE {_WANTED}
"""


def schedule_visits(connection: duckdb.DuckDBPyConnection, *, now: datetime) -> None:
    """Set the next visits of the models in the staged view `coverage_in`."""
    connection.execute(_VISITED)
    connection.execute("DELETE FROM internal.schedule WHERE model IN (SELECT model FROM scheduled)")
    connection.execute(
        _INSERT,
        {
            "now": utc(now),
            "soon": utc(now + COOLDOWN),
            "failed": utc(now + FAILED_COOLDOWN),
            "absent": utc(now + ABSENT_COOLDOWN),
            "most": MOST_FAILURES,
        },
    )


def reopen_gates(connection: duckdb.DuckDBPyConnection) -> None:
    """Forget the failures of models in the temporary table `page` whose gate changed."""
    connection.execute(
        "DELETE FROM internal.schedule WHERE model IN (SELECT p.model FROM page p "
        "WHERE p.listed IS NOT NULL AND p.old_gated IS DISTINCT FROM p.gated)"
    )


def waiting(
    database: Database,
    *,
    source: str,
    plan: str,
    watched: Sequence[str],
    now: datetime,
    limit: int,
) -> list[ModelInfo]:
    """Models whose current commit wants a visit now, the most wanted first."""
    found = database.rows(
        _WAITING,
        {
            "source": source,
            "plan": plan,
            "watched": _ids(database, watched),
            "now": utc(now),
            "cool": COOLDOWN,
            "limit": limit,
        },
    )
    return infos_of(database, found)


def _ids(database: Database, names: Sequence[str]) -> list[int]:
    """Ids of the names that the store holds; a release that was never listed has none."""
    found = []
    for name in names:
        row = database.row("SELECT internal.find_model(?)", [name])
        found += [int(row[0])] if row and row[0] is not None else []
    return found


def queue(database: Database, *, source: str, plan: str, now: datetime) -> Queue:
    """How many models want a visit: now, after a cooldown, or only after a new commit."""
    row = database.row(_QUEUE, {"source": source, "plan": plan, "now": utc(now), "cool": COOLDOWN})
    waits, cooling, disabled = row or (0, 0, 0)
    return Queue(waiting=waits, cooling=cooling, disabled=disabled)
