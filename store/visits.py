"""What visits of models brought: facts, claims, coverage; and which models still want a visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb

from ..lineage.errors import NotInRegistry
from ..lineage.records import DeclaredParent, ModelInfo, Outcome
from .database import Database
from .declared import replace_claims
from .facts import Visit
from .listing import record_listing, retire, upsert_models
from .schedule import schedule_visits
from .staging import identity_key, json_text, staged, text, utc, whole
from .visits_info import infos_of

# What no second look at the same commit would change, unless the code that looks does.
PERMANENT = (Outcome.NO_WEIGHTS, Outcome.UNSUPPORTED, Outcome.MALFORMED)

_FACT_COLUMNS = {
    "revision": "int64",
    "model": "int64",
    "format": "string",
    "dtype": "string",
    "architecture": "string",
    "shape_key": "string",
    "n_params": "int64",
    "sketch_plan": "string",
    "sketch_digest": "string",
    "sketch_path": "string",
    "weights_digest": "string",
    "config": "string",
}
_COVERAGE_COLUMNS = {
    "pos": "int64",
    "model": "int64",
    "revision": "int64",
    "name": "string",
    "outcome": "string",
    "stage": "string",
    "reason": "string",
    "path": "string",
    "byte_offset": "int64",
    "requests": "int64",
    "bytes": "int64",
    "seconds": "double",
    "plan": "string",
    "hidden": "bool",
}
_WANTED_COLUMNS = {"pos": "int64", "key": "uint64", "source_id": "string", "sha": "string"}

_FACTS = """
UPDATE internal.revisions r SET format = f.format, dtype = f.dtype, architecture = f.architecture,
    shape_key = f.shape_key, n_params = f.n_params, sketch_plan = f.sketch_plan,
    sketch_digest = f.sketch_digest, sketch_path = f.sketch_path,
    weights_digest = f.weights_digest, config = f.config
FROM facts_in f WHERE r.id = f.revision
"""

_OUTCOMES = """
UPDATE internal.revisions r SET outcome = v.outcome, visited_plan = v.plan, visited_at = $now
FROM coverage_in v WHERE r.id = v.revision AND v.outcome <> 'unchanged'
"""

_COVERAGE = """
INSERT INTO internal.coverage
SELECT $scan, v.model, v.name, r.sha, v.outcome, v.stage, v.reason, v.path, v.byte_offset,
    v.requests, v.bytes, v.seconds, $now
FROM coverage_in v LEFT JOIN internal.revisions r ON r.id = v.revision ORDER BY v.pos
"""

_GONE = """
CREATE OR REPLACE TEMP TABLE gone AS
SELECT m.id, m.name FROM coverage_in v JOIN internal.models m ON m.id = v.model
WHERE v.outcome = 'not_found' AND v.path IS NULL AND NOT v.hidden
    AND m.tombstone_reason IS NULL
"""

_NEEDS = """
SELECT w.pos, NOT coalesce(
    (r.sketch_path IS NOT NULL AND r.sketch_plan = $plan)
    OR (list_contains($permanent, r.outcome) AND coalesce(r.visited_plan, $plan) = $plan), false)
FROM wanted_in w
LEFT JOIN internal.models m ON m.key = w.key AND m.source_id = w.source_id
LEFT JOIN internal.revisions r ON r.model = m.id AND r.sha = w.sha
ORDER BY w.pos
"""

_LAST_OUTCOMES = """
SELECT w.pos, r.outcome
FROM wanted_in w
LEFT JOIN internal.models m ON m.key = w.key AND m.source_id = w.source_id
LEFT JOIN internal.revisions r ON r.model = m.id AND r.sha = w.sha
ORDER BY w.pos
"""

_UNVISITED = """
SELECT m.source, m.source_id, m.name, r.sha, m.created_at, m.last_modified, m.library, m.license,
    m.gated, m.disabled, m.downloads, r.tags, r.id
FROM internal.listings l
JOIN internal.models m ON m.id = l.model
JOIN internal.revisions r ON r.id = m.revision
WHERE l.scan = $scan AND m.tombstone_reason IS NULL
    AND l.model NOT IN (
        SELECT v.model FROM internal.coverage v WHERE v.scan = $scan AND v.model IS NOT NULL)
ORDER BY l.rowid LIMIT $limit
"""


def add_page(
    connection: duckdb.DuckDBPyConnection,
    models: Sequence[ModelInfo],
    *,
    scan: int,
    next_cursor: str | None,
    declared: Mapping[str, Sequence[DeclaredParent]],
    now: datetime,
) -> None:
    """Store one listing page together with the cursor after it.

    Raises
    ------
    NotInRegistry : there is no such scan.
    """
    moved = connection.execute(
        "UPDATE internal.scans SET cursor = ?, listing_done = ? WHERE scan = ? RETURNING scan",
        [next_cursor, next_cursor is None, scan],
    ).fetchall()
    if not moved:
        raise NotInRegistry(f"there is no scan {scan}", name=str(scan))
    if not models:
        return
    upsert_models(connection, models, scan=scan, now=now)
    record_listing(connection, scan=scan)
    if declared:
        names = connection.execute("SELECT name, pos FROM page").fetchall()
        by_name = {text(name): parents for name, parents in declared.items()}
        claims = {pos: by_name[name] for name, pos in names if name in by_name}
        replace_claims(connection, claims, scan=scan, now=now)


def record_visits(
    connection: duckdb.DuckDBPyConnection, visits: Sequence[Visit], *, scan: int, now: datetime
) -> None:
    """Store what visits brought; a second visit of a model in a scan replaces the first.

    Raises
    ------
    NotInRegistry : facts for a model that is neither described by the visit nor in the store.
    """
    visits = list({visit.coverage.model: visit for visit in visits}.values())
    infos = [visit.info for visit in visits if visit.info is not None]
    if infos:
        upsert_models(connection, infos, scan=scan, now=now)
    places = _places(connection, visits, described=bool(infos))
    facts = [
        _fact_row(visit, place)
        for visit, place in zip(visits, places, strict=True)
        if visit.facts is not None
    ]
    if facts:
        _store_facts(connection, facts)
    if infos:
        _store_claims(connection, visits, scan=scan, now=now)
    _store_coverage(connection, visits, places, scan=scan, now=now)


def needs_visits(database: Database, infos: Sequence[ModelInfo], *, plan: str) -> list[bool]:
    """For each model, whether its sha still wants a visit under this sketch plan.

    False when the sha has a sketch of this plan, or when a visit under this plan found that it
    never will (no weights, an undecodable format, malformed files).
    """
    return [
        bool(needed)
        for needed in _of_each(
            database, infos, _NEEDS, plan=plan, permanent=[outcome.value for outcome in PERMANENT]
        )
    ]


def last_outcomes(database: Database, infos: Sequence[ModelInfo]) -> list[Outcome | None]:
    """For each model, how the last visit of its sha ended; None where there was none."""
    found = _of_each(database, infos, _LAST_OUTCOMES)
    return [None if outcome is None else Outcome(outcome) for outcome in found]


def _of_each(
    database: Database, infos: Sequence[ModelInfo], query: str, **parameters: Any
) -> list[Any]:
    """One answer a model, in order, from a query over their identities."""
    if not infos:
        return []
    rows = [
        (pos, identity_key(info.source, info.source_id), text(info.source_id), text(info.sha))
        for pos, info in enumerate(infos)
    ]
    with database.cursor() as cursor, staged(cursor, "wanted_in", _WANTED_COLUMNS, rows):
        return [answer for _, answer in cursor.execute(query, parameters).fetchall()]


def unvisited(database: Database, *, scan: int, limit: int) -> list[ModelInfo]:
    """Models that a scan has listed and not visited yet, in listing order.

    The description is what the store holds: no card and no config.
    """
    return infos_of(database, database.rows(_UNVISITED, {"scan": scan, "limit": limit}))


def _places(
    connection: duckdb.DuckDBPyConnection, visits: Sequence[Visit], *, described: bool
) -> list[tuple[int | None, int | None]]:
    """Model and revision id of each visit: by the description, else by the name it was made for."""
    by_identity: dict[tuple[str, str], tuple[int, int]] = {}
    if described:
        for source, source_id, model, revision in connection.execute(
            "SELECT source, source_id, model, revision FROM page"
        ).fetchall():
            by_identity[source, source_id] = (model, revision)
    places: list[tuple[int | None, int | None]] = []
    for visit in visits:
        if visit.info is not None:
            identity = (text(visit.info.source) or "", text(visit.info.source_id) or "")
            places.append(by_identity[identity])
        else:
            places.append(_place_by_name(connection, visit.coverage.model))
    return places


def _place_by_name(
    connection: duckdb.DuckDBPyConnection, name: str
) -> tuple[int | None, int | None]:
    found = connection.execute(
        "SELECT id, revision FROM internal.models WHERE id = internal.find_model(?)", [text(name)]
    ).fetchall()
    return (found[0][0], found[0][1]) if found else (None, None)


def _fact_row(visit: Visit, place: tuple[int | None, int | None]) -> tuple[object, ...]:
    facts, (model, revision) = visit.facts, place
    if facts is None or model is None or revision is None:
        name = visit.coverage.model
        raise NotInRegistry(f"{name} has facts but is not in the store", name=name)
    return (
        revision,
        model,
        facts.format,
        facts.dtype,
        facts.architecture,
        facts.shape_key,
        whole(facts.n_params),
        facts.sketch_plan,
        facts.sketch_digest,
        facts.sketch_path,
        facts.weights_digest,
        json_text(facts.config) if facts.config else None,
    )


def _note_stale(connection: duckdb.DuckDBPyConnection) -> None:
    """Shapes that a model left or joined in these visits have to be inferred anew."""
    connection.execute(
        "INSERT INTO internal.stale_shapes SELECT DISTINCT r.shape_key FROM coverage_in v "
        "JOIN internal.revisions r ON r.model = v.model "
        "WHERE r.shape_key IS NOT NULL AND (v.outcome IN ('ok', 'malformed') OR v.model IN "
        "(SELECT id FROM gone)) AND r.shape_key NOT IN "
        "(SELECT shape_key FROM internal.stale_shapes) ORDER BY 1"
    )


def _store_facts(connection: duckdb.DuckDBPyConnection, rows: Sequence[tuple[object, ...]]) -> None:
    with staged(connection, "facts_in", _FACT_COLUMNS, rows):
        connection.execute(_FACTS)
        connection.execute(
            "UPDATE internal.models m SET facts_revision = f.revision "
            "FROM facts_in f WHERE m.id = f.model"
        )


def _store_claims(
    connection: duckdb.DuckDBPyConnection, visits: Sequence[Visit], *, scan: int, now: datetime
) -> None:
    positions = {
        (source, source_id): pos
        for source, source_id, pos in connection.execute(
            "SELECT source, source_id, pos FROM page"
        ).fetchall()
    }
    claims = {
        positions[text(visit.info.source), text(visit.info.source_id)]: visit.declared
        for visit in visits
        if visit.info is not None and visit.declared is not None
    }
    replace_claims(connection, claims, scan=scan, now=now)


def _store_coverage(
    connection: duckdb.DuckDBPyConnection,
    visits: Sequence[Visit],
    places: Sequence[tuple[int | None, int | None]],
    *,
    scan: int,
    now: datetime,
) -> None:
    latest = {
        visit.coverage.model if place[0] is None else place[0]: (visit, place)
        for visit, place in zip(visits, places, strict=True)
    }
    rows = [_coverage_row(pos, *pair) for pos, pair in enumerate(latest.values())]
    moment = {"scan": scan, "now": utc(now)}
    with staged(connection, "coverage_in", _COVERAGE_COLUMNS, rows):
        for column in ("model", "name"):
            connection.execute(
                f"DELETE FROM internal.coverage c WHERE c.scan = $scan AND c.{column} IN "
                f"(SELECT v.{column} FROM coverage_in v)",
                {"scan": scan},
            )
        connection.execute(_COVERAGE, moment)
        connection.execute(_OUTCOMES, {"now": utc(now)})
        connection.execute(_GONE)
        retire(connection, "gone", reason="not_found", scan=scan, now=now)
        schedule_visits(connection, now=now)
        _note_stale(connection)


def _coverage_row(
    pos: int, visit: Visit, place: tuple[int | None, int | None]
) -> tuple[object, ...]:
    coverage = visit.coverage
    return (
        pos,
        *place,
        coverage.model,
        coverage.outcome.value,
        coverage.stage,
        coverage.reason,
        coverage.path,
        whole(coverage.offset),
        whole(coverage.requests),
        whole(coverage.bytes_read),
        coverage.seconds,
        visit.plan or (visit.facts.sketch_plan if visit.facts else None),
        visit.hidden,
    )
