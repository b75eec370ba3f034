"""What a scan of every night keeps in the store beside models and edges.

Sweeps of the listing, the queue of visits, shapes to infer anew, events for people, and which
snapshots were published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..lineage.records import DeclaredParent, ModelInfo
from . import events, schedule, sweeps
from .closing import maintain_closure
from .database import Database
from .facts import Event, Publication, Queue, RevisionFacts, Sweep
from .history import listing_kept
from .redaction import Redactions
from .sketch_scrub import clear_sketches
from .staging import aware, json_text, utc

MOST_CHANGE_EVENTS = 10_000
_COUNTS = """
SELECT
    (SELECT count(*) FROM internal.models m WHERE m.tombstone_reason IS NULL
        AND m.source <> 'declared') AS models,
    (SELECT count(*) FROM internal.edges e WHERE e.declared) AS declared_edges,
    (SELECT count(*) FROM internal.edges e WHERE e.inferred) AS inferred_edges,
    (SELECT count(*) FROM internal.findings f WHERE f.status IN ('new', 'open')) AS findings,
    (SELECT count(*) FROM internal.revisions r WHERE r.sketch_path IS NOT NULL) AS sketches
"""
# Each of these is 0 in a sound store.
_FLAWS = {
    "models that are there twice": """
        SELECT count(*) - count(DISTINCT (m.source, m.source_id)) FROM internal.models m""",
    "edges that are there twice": """
        SELECT count(*) - count(DISTINCT (e.child, e.parent)) FROM internal.edges e""",
    "edges of a model with itself": """
        SELECT count(*) FROM internal.edges e WHERE e.child = e.parent""",
    "edges to models that are not there": """
        SELECT count(*) FROM internal.edges e
        WHERE e.parent NOT IN (SELECT id FROM internal.models)
            OR e.child NOT IN (SELECT id FROM internal.models)""",
    "confidences outside [0, 1]": """
        SELECT count(*) FROM internal.edges e WHERE e.confidence NOT BETWEEN 0 AND 1""",
    "inferred edges without evidence": """
        SELECT count(*) FROM internal.edges e WHERE e.inferred AND (e.evidence_id IS NULL
            OR e.evidence_id NOT IN (SELECT evidence_id FROM internal.evidence))""",
    "findings on models that are not there": """
        SELECT count(*) FROM internal.findings f
        WHERE f.model NOT IN (SELECT id FROM internal.models)""",
    "visits without a known outcome": """
        SELECT count(*) FROM internal.coverage v WHERE v.outcome = 'unknown'""",
}


class Ledger:
    """Made by `Registry.ledger`. Each writing method is one transaction that may be repeated."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweeps(self, scan: int | None = None) -> list[Sweep]:
        """Sweeps of one scan, or of all, newest scan first."""
        return sweeps.sweeps(self._database, scan=scan)

    def add_pages(
        self,
        models: Sequence[ModelInfo],
        *,
        sweep: Sweep,
        claims_of: Callable[[ModelInfo], Sequence[DeclaredParent]],
        now: datetime,
    ) -> int:
        """Store models of a sweep together with where it stands after them.

        Parameters
        ----------
        claims_of : what a model claims; asked only for commits that the store has not seen.

        Returns
        -------
        How many of the models the store had at that very commit.
        """
        with self._database.transaction() as connection:
            redacted = Redactions.of(connection)
            models = [info for info in models if not redacted.hold(info)]
            with listing_kept(connection, models, scan=sweep.scan):
                return sweeps.add_sweep_pages(
                    connection,
                    models,
                    sweep=sweep,
                    claims_of=lambda info: redacted.masked_claims(claims_of(info)),
                    now=now,
                )

    def end_listing(self, scan: int) -> None:
        """Note that all sweeps of a scan are done; bring the closure up to what cards claim."""
        with self._database.transaction() as connection:
            sweeps.listing_done(connection, scan=scan)
            maintain_closure(connection)

    def watermarks(self, scan: int) -> dict[str, datetime]:
        """The newest `created` and `modified` dates that finished sweeps like this began with."""
        return sweeps.watermarks(self._database, scan=scan)

    def last_full(self, scan: int) -> datetime | None:
        """When the last full sweep that ended was begun, of a listing like this scan's."""
        return sweeps.last_full(self._database, scan=scan)

    def missing(self, scan: int, *, source: str, limit: int) -> list[str]:
        """Live models that the full sweep of a scan did not name, most used first."""
        return sweeps.missing(self._database, source=source, scan=scan, limit=limit)

    def tombstone(
        self, names: Sequence[str], *, source: str, reason: str, scan: int, now: datetime
    ) -> None:
        """Mark models as gone from their source."""
        with (
            self._database.transaction() as connection,
            listing_kept(connection, (), names=names, scan=scan),
        ):
            sweeps.tombstone(connection, names, source=source, reason=reason, scan=scan, now=now)

    def waiting(
        self, *, source: str, plan: str, watched: Sequence[str], now: datetime, limit: int
    ) -> list[ModelInfo]:
        """Models whose current commit wants a visit now, the most wanted first."""
        return schedule.waiting(
            self._database, source=source, plan=plan, watched=watched, now=now, limit=limit
        )

    def queue(self, *, source: str, plan: str, now: datetime) -> Queue:
        """How many models want a visit: now, after a cooldown, after a new commit."""
        return schedule.queue(self._database, source=source, plan=plan, now=now)

    def stale_shapes(self) -> list[str]:
        """Shape keys whose models changed since they were last inferred."""
        found = self._database.rows(
            "SELECT DISTINCT shape_key FROM internal.stale_shapes ORDER BY 1"
        )
        return [key for (key,) in found]

    def shapes(self) -> dict[str, int]:
        """How many live sketched models have each shape key."""
        found = self._database.rows(
            "SELECT r.shape_key, count(*) FROM internal.models m "
            "JOIN internal.revisions r ON r.id = m.facts_revision "
            "WHERE m.tombstone_reason IS NULL AND r.sketch_path IS NOT NULL "
            "AND r.shape_key IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        return {key: int(models) for key, models in found}

    def known_weights(self, digests: Sequence[str], *, plan: str) -> dict[str, RevisionFacts]:
        """Facts of the first revision sketched with each of these weights digests."""
        found = self._database.records(
            "SELECT r.format, r.dtype, r.architecture, r.shape_key, r.n_params, r.sketch_plan, "
            "r.sketch_digest, r.sketch_path, r.weights_digest FROM internal.revisions r "
            "WHERE r.sketch_path IS NOT NULL AND r.sketch_plan = $plan "
            "AND list_contains($digests::VARCHAR[], r.weights_digest) "
            "QUALIFY row_number() OVER (PARTITION BY r.weights_digest ORDER BY r.id) = 1",
            {"plan": plan, "digests": list(digests)},
        )
        return {record["weights_digest"]: RevisionFacts(**record) for record in found}

    def mark_inferred(self, shapes: Collection[str]) -> None:
        """Note that these shapes have been inferred anew."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM internal.stale_shapes WHERE list_contains(?::VARCHAR[], shape_key)",
                [list(shapes)],
            )

    def add_events(
        self,
        rows: Iterable[tuple[str, str, str, Mapping[str, Any]]],
        *,
        scan: int,
        now: datetime,
    ) -> None:
        """Write events (kind, subject, severity, body); those that are there stay as they are."""
        with self._database.transaction() as connection:
            events.add_events(connection, rows, scan=scan, now=now)

    def add_change_events(self, scan: int, *, now: datetime) -> None:
        """Write events for what a scan noted as changed, 10,000 at the most."""
        with self._database.transaction() as connection:
            events.add_change_events(connection, scan=scan, now=now, limit=MOST_CHANGE_EVENTS)

    def events(self, *, since: int = 0, until: int | None = None) -> list[Event]:
        """Events of scans from one on (to another), oldest first."""
        return events.events(self._database, since=since, until=until)

    def enqueue(
        self, ids: Sequence[str], *, receiver: str, again: bool = False, now: datetime
    ) -> None:
        """Put events on the way to a receiver, once; `again` sends even what was delivered."""
        with self._database.transaction() as connection:
            events.enqueue(connection, ids, receiver=receiver, again=again, now=now)

    def due(self, *, receiver: str, now: datetime) -> list[tuple[Event, int]]:
        """Events whose next attempt is due, with the attempts made before."""
        return events.due(self._database, receiver=receiver, now=now)

    def note_attempt(
        self,
        event: str,
        *,
        receiver: str,
        status: str,
        answer: str,
        not_before: datetime,
        now: datetime,
    ) -> None:
        """Write how an attempt ended and when the next may be made."""
        with self._database.transaction() as connection:
            events.note_attempt(
                connection,
                event=event,
                receiver=receiver,
                status=status,
                answer=answer,
                not_before=not_before,
                now=now,
            )

    def disable_receiver(self, receiver: str) -> None:
        """Give up all that is on its way to a receiver that said it is gone."""
        with self._database.transaction() as connection:
            events.disable_receiver(connection, receiver=receiver)

    def is_disabled(self, receiver: str) -> bool:
        """Whether a receiver has said that it is gone."""
        return events.is_disabled(self._database, receiver=receiver)

    def undelivered(self) -> int:
        """Events that wait for an attempt."""
        return events.undelivered(self._database)

    def counts(self) -> dict[str, int]:
        """Rows by kind: live models, edges, findings, sketches."""
        return dict(self._database.records(_COUNTS)[0])

    def flaws(self) -> dict[str, int]:
        """Broken invariants and how many rows break each; empty in a sound store."""
        found = {what: self._database.row(query) for what, query in _FLAWS.items()}
        return {what: int(row[0]) for what, row in found.items() if row and row[0]}

    def publications(self) -> list[Publication]:
        """What the publish gate said, newest first."""
        found = self._database.records(
            "SELECT scan, status, reasons, counts, accepted, judged_at "
            "FROM internal.publications ORDER BY scan DESC, judged_at DESC"
        )
        return [_publication(record) for record in found]

    def record_publication(self, publication: Publication) -> None:
        """Store what the gate said of a scan, in place of what it said before."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM internal.publications WHERE scan = ?", [publication.scan]
            )
            connection.execute(
                "INSERT INTO internal.publications VALUES (?, ?, ?::JSON, ?::JSON, ?, ?)",
                [
                    publication.scan,
                    publication.status,
                    json.dumps(list(publication.reasons)),
                    json_text(publication.counts),
                    publication.accepted,
                    utc(publication.judged_at),
                ],
            )

    def clear_sketches(self, paths: Sequence[str], *, scan: int, now: datetime) -> list[str]:
        """Forget sketches that are damaged, so that their models are read again; their names."""
        with self._database.transaction() as connection:
            return clear_sketches(connection, paths, scan=scan, now=now)


def _publication(record: dict[str, Any]) -> Publication:
    judged = aware(record["judged_at"])
    reasons, counts = json.loads(record["reasons"]), json.loads(record["counts"])
    changed = {"reasons": tuple(reasons), "counts": counts, "judged_at": judged}
    return Publication(**{**record, **changed})
