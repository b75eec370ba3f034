"""Listings by page: models by name, findings, coverage, scans; and the lists of one model."""

from __future__ import annotations

from ..database import Database
from ..names import find_id, name_of
from ..staging import text
from .paging import Page, Record, page, records

_SEARCH = """
SELECT n.name AS model, n.source, n.hidden, n.created_at, n.downloads, n.license, n.direct,
    n.total, n.lost, n.lost_below, n.refusal, n.tombstone_reason, count(*) OVER () AS matched
FROM explorer.nodes n
WHERE ($words IS NULL OR contains(lower(n.name), lower($words)))
ORDER BY lower(n.name) = lower(coalesce($words, '')) DESC, n.total DESC,
    n.downloads DESC NULLS LAST, n.name
LIMIT $limit OFFSET $offset
"""

_FINDINGS = """
SELECT f.*, count(*) OVER () AS matched FROM v1.findings f
WHERE ($kind IS NULL OR f.kind = $kind) AND ($severity IS NULL OR f.severity = $severity)
    AND ($status IS NULL OR f.status = $status
        OR ($status = 'live' AND f.status IN ('new', 'open')))
    AND ($words IS NULL OR contains(lower(f.model), lower($words))
        OR contains(lower(f.ancestor), lower($words)))
ORDER BY f.last_scan DESC, f.first_scan DESC,
    CASE f.severity WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END,
    f.value DESC NULLS LAST, f.model, f.finding_id
LIMIT $limit OFFSET $offset
"""

_FINDINGS_ON = """
SELECT f.finding_id, f.kind, f.severity, f.ancestor, f.value, f.ci_low, f.ci_high, f.q_value,
    f.status, f.evidence_id, f.first_scan, f.last_scan, f.detail
FROM internal.findings f WHERE f.model = ?
ORDER BY f.status IN ('new', 'open') DESC, f.kind, f.finding_id
"""

_REVISIONS = """
SELECT r.sha, r.seen_at, r.format, r.dtype, r.n_params, r.outcome, r.weights_digest
FROM internal.revisions r WHERE r.model = ? ORDER BY r.id DESC LIMIT ?
"""

_COVERAGE = """
SELECT v.*, count(*) OVER () AS matched FROM v1.coverage v
WHERE ($scan IS NULL OR v.scan = $scan) AND ($outcome IS NULL OR v.outcome = $outcome)
    AND ($words IS NULL OR contains(lower(v.model), lower($words)))
ORDER BY v.scan DESC, v.model, v.visited_at LIMIT $limit OFFSET $offset
"""

_OUTCOMES = """
SELECT v.outcome, v.stage, v.reason, count(*) AS models FROM internal.coverage v
WHERE ($scan IS NULL OR v.scan = $scan)
GROUP BY ALL ORDER BY models DESC, v.outcome, v.stage, v.reason LIMIT 200
"""


def search(database: Database, words: str | None, *, limit: int, offset: int) -> Page:
    """Models whose name holds the words, those with most descendants first."""
    values = {"words": text(words) or None, "limit": limit, "offset": offset}
    return page(database, _SEARCH, values)


def largest(database: Database, limit: int) -> list[str]:
    """Models with most descendants."""
    found = database.rows(
        "SELECT name FROM explorer.nodes WHERE total > 0 ORDER BY total DESC, id LIMIT ?", [limit]
    )
    return [name for (name,) in found]


def list_findings(
    database: Database,
    *,
    kind: str | None,
    severity: str | None,
    status: str | None,
    words: str | None,
    limit: int,
    offset: int,
) -> Page:
    """Findings, latest first; status `live` is new or open."""
    values = {"kind": kind, "severity": severity, "status": status, "words": text(words)}
    return page(database, _FINDINGS, {**values, "limit": limit, "offset": offset})


def findings_on(database: Database, model: str) -> list[Record]:
    """Findings on one model, live ones first."""
    known = find_id(database, model)
    found = records(database, _FINDINGS_ON, [known])
    for row in found:
        ancestor = row["ancestor"]
        row["model"] = name_of(database, known)
        row["ancestor"] = None if ancestor is None else name_of(database, ancestor)
    return found


def finding_kinds(database: Database) -> list[str]:
    """Kinds of finding that the store holds."""
    found = database.rows("SELECT DISTINCT kind FROM internal.findings ORDER BY kind")
    return [kind for (kind,) in found]


def revisions(database: Database, model: str, *, limit: int) -> list[Record]:
    """Commits of a model that scans have seen, newest first."""
    return records(database, _REVISIONS, [find_id(database, model), limit])


def coverage(
    database: Database,
    *,
    scan: int | None,
    outcome: str | None,
    words: str | None,
    limit: int,
    offset: int,
) -> Page:
    """What became of each model in a scan, or in all of them."""
    values = {"scan": scan, "outcome": outcome, "words": text(words)}
    return page(database, _COVERAGE, {**values, "limit": limit, "offset": offset})


def outcomes_by_reason(database: Database, scan: int | None) -> list[Record]:
    """Models of a scan by outcome, stage and reason, the most frequent first."""
    return database.records(_OUTCOMES, {"scan": scan})


def scan_totals(database: Database) -> list[Record]:
    """The rows of `v1.scans`, newest first."""
    return records(database, "SELECT s.* EXCLUDE (parameters) FROM v1.scans s ORDER BY s.scan DESC")


def probes(database: Database) -> list[str]:
    """Probes with a usable score."""
    found = database.rows(
        "SELECT DISTINCT probe FROM internal.scores WHERE status = 'ok' ORDER BY probe"
    )
    return [probe for (probe,) in found]


def schema(database: Database) -> dict[str, list[Record]]:
    """Views of schema v1 with their columns, types and comments."""
    found = database.records(
        "SELECT c.table_name, c.column_name, c.data_type, c.comment FROM duckdb_columns() c "
        "WHERE c.schema_name = 'v1' ORDER BY c.table_name, c.column_index"
    )
    tables: dict[str, list[Record]] = {}
    for record in found:
        tables.setdefault(record.pop("table_name"), []).append(record)
    return tables
