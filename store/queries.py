"""What a store answers: kin, findings, scans, status. Names in, records out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..lineage.errors import NotInRegistry
from ..lineage.records import Outcome
from .database import Database
from .facts import (
    Change,
    FindingRow,
    Kin,
    OutcomeCount,
    ScanState,
    SketchRow,
    Status,
)
from .names import find_id, name_of
from .one_model import clues_of, mapping
from .staging import aware

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCAN = """
SELECT s.scan, s.kind, s.source, s.target, s.parameters, s.status, s.cursor, s.listing_done,
    s.started_at, s.finished_at,
    (SELECT count(*) FROM internal.listings l WHERE l.scan = s.scan) AS listed,
    (SELECT count(*) FROM internal.coverage v WHERE v.scan = s.scan) AS visited
FROM internal.scans s
"""

_SKETCHED = """
SELECT r.id AS revision, m.name AS model, m.source, r.sha, m.revision = r.id AS current,
    m.created_at, m.last_modified, r.format, r.dtype, r.architecture, r.shape_key, r.n_params,
    r.sketch_plan, r.sketch_digest, r.sketch_path, r.weights_digest, m.downloads
FROM internal.models m JOIN internal.revisions r ON r.id = m.facts_revision
WHERE m.tombstone_reason IS NULL AND r.sketch_path IS NOT NULL
    AND ($shape_keys IS NULL OR list_contains($shape_keys::VARCHAR[], r.shape_key))
    AND ($formats IS NULL OR list_contains($formats::VARCHAR[], r.format))
    AND {named} ORDER BY m.name, r.id
"""
_ANY = "$names::VARCHAR[] IS NULL"
# By the sorted index first: the names of all models are a hundred times more to read.
_NAMED = """m.id IN (SELECT x.model FROM internal.name_index x
        WHERE x.name_key IN (SELECT md5_number_lower(unnest($names::VARCHAR[]))))
    AND list_contains($names::VARCHAR[], m.name)"""

_FINDINGS = """
SELECT f.finding_id, f.kind, f.severity, f.model, f.ancestor, f.value, f.ci_low, f.ci_high,
    f.q_value, f.status, f.evidence_id, f.detail, f.first_scan, f.last_scan
FROM v1.findings f JOIN internal.findings i ON i.finding_id = f.finding_id
WHERE ($kind IS NULL OR f.kind = $kind)
    AND ($ancestor IS NULL OR i.ancestor = $ancestor OR i.model = $ancestor OR i.model IN (
        SELECT k.descendant FROM internal.closure k WHERE k.ancestor = $ancestor))
ORDER BY f.kind, f.value DESC NULLS LAST, f.model, f.finding_id
"""

_COUNTS = """
SELECT
    count(*) FILTER (m.source NOT IN ('declared', 'inferred') AND m.tombstone_reason IS NULL)
        AS models,
    count(*) FILTER (m.source = 'declared' AND m.tombstone_reason IS NULL) AS named_only,
    count(*) FILTER (m.hidden AND m.tombstone_reason IS NULL) AS hidden,
    count(*) FILTER (m.tombstone_reason IS NOT NULL) AS tombstones,
    count(*) FILTER (f.sketch_path IS NOT NULL AND m.tombstone_reason IS NULL) AS sketched,
    count(*) FILTER (m.source NOT IN ('declared', 'inferred') AND m.tombstone_reason IS NULL
        AND c.outcome IS NULL) AS backlog
FROM internal.models m
LEFT JOIN internal.revisions c ON c.id = m.revision
LEFT JOIN internal.revisions f ON f.id = m.facts_revision
"""

_OUTCOMES = """
SELECT outcome, reason, count(*) FROM internal.coverage WHERE scan = ?
GROUP BY outcome, reason ORDER BY count(*) DESC, outcome, reason
"""


def scans(
    database: Database, *, condition: str = "true", values: Sequence[Any] = ()
) -> list[ScanState]:
    """Scans that meet a condition written by this package, newest first."""
    found = database.records(f"{_SCAN} WHERE {condition} ORDER BY s.scan DESC", values)
    return [_scan(record) for record in found]


def sketched(
    database: Database,
    *,
    shape_keys: Collection[str] | None,
    formats: Collection[str] | None,
    names: Collection[str] | None,
) -> list[SketchRow]:
    """The newest sketched revision of each live model, by name; None stands for any."""
    wanted = {"shape_keys": shape_keys, "formats": formats, "names": names}
    lists = {column: None if some is None else list(some) for column, some in wanted.items()}
    query = _SKETCHED.format(named=_ANY if names is None else _NAMED)
    found = database.records(query, lists)
    for record in found:
        record["created_at"] = aware(record["created_at"])
        record["last_modified"] = aware(record["last_modified"])
    return [SketchRow(**record) for record in found]


def kin(
    database: Database, name: str, *, up: bool, max_depth: int | None, min_confidence: float
) -> list[Kin]:
    """Descendants (or ancestors) by distance, then name."""
    macro = "ancestors" if up else "descendants"
    found = database.rows(
        f"SELECT model, distance, confidence, hidden FROM v1.{macro}($name, max_depth := $depth, "
        "min_confidence := $confidence)",
        {
            "name": name_of(database, find_id(database, name)),
            "depth": max_depth,
            "confidence": min_confidence,
        },
    )
    return [
        Kin(model=model, distance=distance, confidence=confidence, hidden=hidden)
        for model, distance, confidence, hidden in found
    ]


def page(database: Database, name: str, *, up: bool, limit: int, offset: int) -> list[Kin]:
    """Some of the descendants (or ancestors), by distance, then by when the store met them."""
    near, far = ("descendant", "ancestor") if up else ("ancestor", "descendant")
    found = database.rows(
        f"WITH part AS (SELECT {far} AS id, distance, confidence FROM "
        f"internal.closure{'_up' if up else ''} WHERE {near} = ? ORDER BY distance, {far} "
        "LIMIT ? OFFSET ?) SELECT m.name, p.distance, p.confidence, m.hidden FROM part p "
        "JOIN internal.models m ON m.id = p.id ORDER BY p.distance, p.id",
        [find_id(database, name), limit, offset],
    )
    return [
        Kin(model=model, distance=distance, confidence=confidence, hidden=hidden)
        for model, distance, confidence, hidden in found
    ]


def descendant_ids(database: Database, name: str) -> NDArray[np.int32]:
    """(k,) int32 ids of all descendants: the closure's slice, without the cost of names."""
    with database.cursor() as cursor:
        found = cursor.execute(
            "SELECT descendant FROM internal.closure WHERE ancestor = ?", [find_id(database, name)]
        ).fetchnumpy()
    ids: NDArray[np.int32] = found["descendant"]
    return ids


def findings(database: Database, *, kind: str | None, ancestor: str | None) -> list[FindingRow]:
    """Findings of a kind, about a model and its descendants or measured against it."""
    top = None if ancestor is None else find_id(database, ancestor)
    found = database.records(_FINDINGS, {"kind": kind, "ancestor": top})
    clues = clues_of(database, [record["evidence_id"] for record in found])
    return [
        FindingRow(
            **{**record, "detail": mapping(record["detail"])},
            clues=clues.get(record["evidence_id"], ()),
        )
        for record in found
    ]


def outcomes(database: Database, *, scan: int) -> dict[Outcome, int]:
    """Models of a scan by how their visit ended."""
    counts: dict[Outcome, int] = {}
    for outcome, _, models in database.rows(_OUTCOMES, [scan]):
        counts[Outcome(outcome)] = counts.get(Outcome(outcome), 0) + models
    return counts


def scored(database: Database, prompt_set: str) -> list[str]:
    """Models whose current revision has scores on a prompt set."""
    found = database.rows(
        "SELECT DISTINCT m.name FROM internal.scores s "
        "JOIN internal.models m ON m.id = s.model AND m.revision = s.revision "
        "WHERE ends_with(s.prompt_set, ?) AND m.tombstone_reason IS NULL ORDER BY m.name",
        [prompt_set],
    )
    return [name for (name,) in found]


def measured(database: Database, probe: str, *, prompt_set: str | None = None) -> set[str]:
    """Models whose current revision has a score of a probe (on a prompt set) with status `ok`."""
    found = database.rows(
        "SELECT DISTINCT m.name FROM internal.scores s "
        "JOIN internal.models m ON m.id = s.model AND m.revision = s.revision "
        "WHERE s.probe = $probe AND s.status = 'ok' AND m.tombstone_reason IS NULL "
        "AND ($prompts IS NULL OR ends_with(s.prompt_set, $prompts))",
        {"probe": probe, "prompts": prompt_set},
    )
    return {name for (name,) in found}


def changes(database: Database, *, after: int, until: int) -> list[Change]:
    """What the scans after one and up to another found different."""
    found = database.records(
        "SELECT * FROM v1.changes WHERE scan > ? AND scan <= ? ORDER BY scan, kind, subject",
        [after, until],
    )
    return [Change(**{**row, "changed_at": aware(row["changed_at"])}) for row in found]


def diff(database: Database, scan_a: int, scan_b: int) -> list[dict[str, Any]]:
    """What differs between the ends of two scans; 0 is before the first.

    Raises
    ------
    NotInRegistry : there is no such scan.
    """
    for scan in (scan_a, scan_b):
        if scan and not scans(database, condition="s.scan = ?", values=[scan]):
            raise NotInRegistry(f"there is no scan {scan}", name=str(scan))
    return database.records(
        "SELECT * FROM v1.diff($a, $b) ORDER BY scan, kind, subject", {"a": scan_a, "b": scan_b}
    )


def status(database: Database) -> Status:
    """What the store holds and what is still to do."""
    known = scans(database)
    counts = database.records(_COUNTS)[0]
    edges = database.row(
        "SELECT count(*) FILTER (inferred), count(*) FILTER (declared) FROM internal.edges"
    )
    open_findings = database.row(
        "SELECT count(*) FROM internal.findings WHERE status IN ('new', 'open')"
    )
    last = known[0] if known else None
    outcomes = [] if last is None else database.rows(_OUTCOMES, [last.scan])
    return Status(
        last_scan=last,
        unfinished=tuple(scan for scan in known if scan.status in ("running", "interrupted")),
        outcomes=tuple(
            OutcomeCount(outcome=outcome, reason=reason, models=models)
            for outcome, reason, models in outcomes
        ),
        inferred_edges=edges[0] if edges else 0,
        declared_edges=edges[1] if edges else 0,
        open_findings=open_findings[0] if open_findings else 0,
        **counts,
    )


def _scan(record: dict[str, Any]) -> ScanState:
    return ScanState(
        **{
            **record,
            "parameters": mapping(record["parameters"]),
            "started_at": aware(record["started_at"]),
            "finished_at": aware(record["finished_at"]),
        }
    )
