"""The outbox: events committed with what they are about, and their way to receivers.

The writing functions run inside the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb

from .database import Database
from .facts import Event
from .staging import aware, group_id, json_text, staged, utc

_EVENT_COLUMNS = {
    "event_id": "string",
    "kind": "string",
    "subject": "string",
    "severity": "string",
    "body": "string",
}

# What the first finished scan finds is the baseline. A nightly scan that is still running counts
# for itself only through an earlier one.
_BASELINE = """
(SELECT count(*) = 0 FROM internal.scans c
 WHERE c.kind = 'nightly' AND c.status = 'done' AND c.scan < $scan)
"""

_INSERT = f"""
INSERT INTO internal.events
SELECT e.event_id, e.kind, $scan, e.subject, e.severity, {_BASELINE}, e.body::JSON, $now
FROM events_in e WHERE e.event_id NOT IN (SELECT event_id FROM internal.events)
ORDER BY e.kind, e.subject
"""

# Findings that this transaction opened or closed, as its temporary tables name them.
_FINDINGS = """
SELECT 'finding.new' AS kind, n.finding_id, n.severity, n.kind AS finding, m.name, a.name
FROM new_findings n JOIN internal.models m ON m.id = n.model
LEFT JOIN internal.models a ON a.id = n.ancestor
WHERE n.old_status IS NULL OR n.old_status = 'fixed'
UNION ALL
SELECT 'finding.fixed', f.finding_id, 'info', o.kind, m.name, a.name
FROM fixed f JOIN internal.findings o ON o.finding_id = f.finding_id
JOIN internal.models m ON m.id = o.model LEFT JOIN internal.models a ON a.id = o.ancestor
ORDER BY ALL
"""

_MOVES = {"renamed": "repo.moved", "removed": "repo.removed", "returned": "repo.returned"}
_MOVES |= {"gated": "repo.gated", "rewound": "repo.rewound"}
_MOVES |= {"edge_added": "edge.added", "edge_removed": "edge.removed"}
_MOVES |= {"edge_changed": "edge.changed"}

_CHANGES = """
SELECT DISTINCT c.kind, c.subject, c.before, c.after FROM internal.changes c
WHERE c.scan = $scan AND list_contains($kinds::VARCHAR[], c.kind)
ORDER BY ALL LIMIT $limit
"""

_EVENTS = (
    "SELECT e.event_id, e.kind, e.scan, e.subject, e.severity, e.baseline, e.body, e.created_at "
    "FROM internal.events e"
)

_ENQUEUE = """
INSERT INTO internal.deliveries
SELECT e.event_id, $receiver, 'pending', 0, $now, NULL, $now FROM internal.events e
WHERE list_contains($ids::VARCHAR[], e.event_id) AND e.event_id NOT IN (
    SELECT d.event_id FROM internal.deliveries d WHERE d.receiver = $receiver)
ORDER BY e.created_at, e.event_id
"""


def event_id(kind: str, *, scan: int, subject: str) -> str:
    """The name of an event: the same for the same news, however often it is written."""
    return "evt_" + group_id(kind, str(scan), subject)


def add_events(
    connection: duckdb.DuckDBPyConnection,
    rows: Iterable[tuple[str, str, str, Mapping[str, Any]]],
    *,
    scan: int,
    now: datetime,
) -> None:
    """Write events (kind, subject, severity, body) that are not there yet."""
    made = [
        (event_id(kind, scan=scan, subject=subject), kind, subject, severity, json_text(body))
        for kind, subject, severity, body in rows
    ]
    if made:
        with staged(connection, "events_in", _EVENT_COLUMNS, made):
            connection.execute(_INSERT, {"scan": scan, "now": utc(now)})


def add_finding_events(connection: duckdb.DuckDBPyConnection, *, scan: int, now: datetime) -> None:
    """Events for the findings that `new_findings` and `fixed` hold, in the same transaction."""
    found = connection.execute(_FINDINGS).fetchall()
    add_events(
        connection,
        [
            (kind, finding, severity, {"finding": what, "model": model, "ancestor": ancestor})
            for kind, finding, severity, what, model, ancestor in found
        ],
        scan=scan,
        now=now,
    )


def add_change_events(
    connection: duckdb.DuckDBPyConnection, *, scan: int, now: datetime, limit: int
) -> None:
    """Events for renames, removals and edges that a scan noted among its changes."""
    found = connection.execute(
        _CHANGES, {"scan": scan, "kinds": list(_MOVES), "limit": limit}
    ).fetchall()
    rows = [
        (_MOVES[kind], subject, "info", {"before": before, "after": after})
        for kind, subject, before, after in found
    ]
    add_events(connection, rows, scan=scan, now=now)


def events(database: Database, *, since: int = 0, until: int | None = None) -> list[Event]:
    """Events of scans from one on (to another), oldest first."""
    found = database.records(
        f"{_EVENTS} WHERE e.scan >= $since AND e.scan <= coalesce($until, e.scan) "
        "ORDER BY e.scan, e.created_at, e.kind, e.subject",
        {"since": since, "until": until},
    )
    return [_event(record) for record in found]


def enqueue(
    connection: duckdb.DuckDBPyConnection,
    ids: Sequence[str],
    *,
    receiver: str,
    again: bool,
    now: datetime,
) -> None:
    """Put events on the way to a receiver, once; `again` sends even what was delivered."""
    if again:
        connection.execute(
            "DELETE FROM internal.deliveries WHERE receiver = ? "
            "AND list_contains(?::VARCHAR[], event_id)",
            [receiver, list(ids)],
        )
    connection.execute(_ENQUEUE, {"receiver": receiver, "ids": list(ids), "now": utc(now)})


def due(database: Database, *, receiver: str, now: datetime) -> list[tuple[Event, int]]:
    """Events whose next attempt is due, with the attempts made, oldest first."""
    found = database.records(
        "SELECT e.event_id, e.kind, e.scan, e.subject, e.severity, e.baseline, e.body, "
        "e.created_at, d.attempts FROM internal.deliveries d "
        "JOIN internal.events e ON e.event_id = d.event_id "
        "WHERE d.receiver = $receiver AND d.status = 'pending' "
        # An attempt of the future was dated by a wrong clock.
        "AND (d.not_before <= $now OR d.changed_at > $now) "
        "ORDER BY e.scan, e.created_at, e.event_id",
        {"receiver": receiver, "now": utc(now)},
    )
    counted = [(record, int(record.pop("attempts"))) for record in found]
    return [(_event(record), attempts) for record, attempts in counted]


def note_attempt(
    connection: duckdb.DuckDBPyConnection,
    *,
    event: str,
    receiver: str,
    status: str,
    answer: str,
    not_before: datetime,
    now: datetime,
) -> None:
    """Write how an attempt ended and when the next may be made."""
    connection.execute(
        "UPDATE internal.deliveries SET status = ?, attempts = attempts + 1, answer = ?, "
        "not_before = ?, changed_at = ? WHERE event_id = ? AND receiver = ?",
        [status, answer, utc(not_before), utc(now), event, receiver],
    )


def disable_receiver(connection: duckdb.DuckDBPyConnection, *, receiver: str) -> None:
    """Give up all that is on its way to a receiver that said it is gone."""
    connection.execute(
        "UPDATE internal.deliveries SET status = 'disabled' "
        "WHERE receiver = ? AND status = 'pending'",
        [receiver],
    )


def is_disabled(database: Database, *, receiver: str) -> bool:
    """Whether a receiver has said that it is gone."""
    row = database.row(
        "SELECT count(*) FROM internal.deliveries WHERE receiver = ? AND status = 'disabled'",
        [receiver],
    )
    return bool(row and row[0])


def undelivered(database: Database) -> int:
    """Events that wait for an attempt."""
    row = database.row("SELECT count(*) FROM internal.deliveries WHERE status = 'pending'")
    return int(row[0]) if row else 0


def _event(record: dict[str, Any]) -> Event:
    created = aware(record["created_at"])
    return Event(**{**record, "body": json.loads(record["body"]), "created_at": created})
