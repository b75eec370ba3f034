"""What a store holds of one model: its row, its scores, the evidence for its parents.

Every question finds its rows by id. The views of schema v1 are joins over all models, which a
condition on a name does not shorten: asked for one model, they read millions of rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..lineage.records import Clue, Score
from .database import Database
from .facts import Candidate, Claim, Decision, EdgeEvidence, Why
from .names import find_id, name_of
from .staging import aware

_MODEL = """
SELECT m.name AS model, m.source, NULL AS sha, m.author, m.created_at, m.last_modified, m.library,
    NULL AS format, NULL AS dtype, NULL AS architecture, NULL AS shape_key, NULL AS n_params,
    m.license, m.gated, m.downloads, m.hidden, m.first_seen_scan, m.last_seen_scan,
    m.tombstone_reason, m.source_id, m.disabled, NULL AS tags, NULL AS facts_sha,
    NULL AS weights_digest, false AS sketched, m.revision, m.facts_revision
FROM internal.models m WHERE m.id = ?
"""
_REVISION = """
SELECT r.sha AS facts_sha, r.format, r.dtype, r.architecture, r.shape_key, r.n_params,
    r.weights_digest, r.sketch_path IS NOT NULL AS sketched
FROM internal.revisions r WHERE r.id = ?
"""
_CURRENT = "SELECT r.sha, r.tags FROM internal.revisions r WHERE r.id = ?"

_EDGES = """
SELECT p.name AS parent, e.relation, e.detail, e.declared, e.declared_relation, e.inferred,
    e.confidence, e.direction_confidence, e.share, e.evidence_id, e.first_seen_scan,
    e.last_seen_scan, e.child_revision, e.parent_revision
FROM internal.edges e JOIN internal.models p ON p.id = e.parent
WHERE e.child = $child AND ($parent IS NULL OR e.parent = $parent)
ORDER BY e.inferred DESC, e.confidence DESC NULLS LAST, p.name
"""

_CLUES = """
SELECT evidence_id, kind, statistic, value, llr, ci_low, ci_high, n, p_value, code_version,
    inputs_digest
FROM internal.evidence WHERE evidence_id {among}
ORDER BY abs(llr) DESC, kind, statistic
"""

_FEW = 16
"""Groups of evidence that are named one by one, which finds them three times faster."""

_CANDIDATES = """
SELECT p.name AS parent, k.rank, k.score, k.rejected_because
FROM internal.candidates k JOIN internal.models p ON p.id = k.parent
WHERE k.child = $child AND ($parent IS NULL OR k.parent = $parent)
ORDER BY k.rank, p.name
"""

# A file may decide on a parent that the store does not hold; it is shown by the name given.
_DECISIONS = """
SELECT coalesce(p.name, c.parent) AS parent, c.verdict, c.relation, c.reason, c.decided_by,
    c.decided_at
FROM internal.corrections c LEFT JOIN internal.models p ON p.id = c.parent_id
WHERE c.child_id = $child AND ($parent IS NULL OR c.parent_id = $parent)
ORDER BY c.verdict, parent
"""

_CLAIMS = """
SELECT d.raw, d.parent, d.relation, d.via, d.note FROM internal.declared d
WHERE d.model = $child AND ($parent IS NULL OR d.parent = $parent) ORDER BY d.position
"""

_SCORES = """
SELECT s.revision, s.probe, s.probe_version, s.prompt_set, s.n, s.status, s.value, s.ci_low,
    s.ci_high, s.unit, s.judge, s.corrected, s.environment, s.seconds, s.scored_at
FROM internal.scores s WHERE s.model = $model AND ($probe IS NULL OR s.probe = $probe)
ORDER BY s.scored_at DESC, s.probe, s.prompt_set, s.judge
"""


def describe(database: Database, name: str) -> dict[str, Any]:
    """The row of `v1.models` of one model, with aware UTC times."""
    found = database.records(_MODEL, [find_id(database, name)])[0]
    for query, revision in ((_CURRENT, "revision"), (_REVISION, "facts_revision")):
        for facts in database.records(query, [found.pop(revision)]):
            found |= facts
    return {**found, "created_at": aware(found["created_at"]),
            "last_modified": aware(found["last_modified"])}  # fmt: skip


def scores_of(database: Database, name: str, *, probe: str | None) -> list[Score]:
    """Probe results of a model, newest first."""
    model = find_id(database, name)
    known = name_of(database, model)
    found = database.records(_SCORES, {"model": model, "probe": probe})
    shas = {one: _sha(database, one) for one in {record["revision"] for record in found}}
    for record in found:
        record["model"] = known
        record["sha"] = shas[record.pop("revision")]
        record["environment"] = mapping(record["environment"])
        record["scored_at"] = aware(record["scored_at"])
    return [Score(**record) for record in found]


def why(database: Database, child: str, *, parent: str | None) -> Why:
    """Everything for and against the parents of a child, or against one parent only."""
    known = find_id(database, child)
    pair = {"child": known, "parent": None if parent is None else find_id(database, parent)}
    decisions = [
        Decision(**{**one, "decided_at": aware(one["decided_at"])})
        for one in database.records(_DECISIONS, pair)
    ]
    return Why(
        child=name_of(database, known),
        edges=tuple(_edges(database, pair, decisions=decisions)),
        candidates=tuple(Candidate(**one) for one in database.records(_CANDIDATES, pair)),
        claims=tuple(_claim(database, one) for one in database.records(_CLAIMS, pair)),
        decisions=tuple(decisions),
    )


def clues_of(database: Database, groups: Sequence[str]) -> dict[str, tuple[Clue, ...]]:
    """The clues of some evidence groups, strongest first."""
    return {group: tuple(_clue(row) for row in rows) for group, rows in _evidence(database, groups)}


def mapping(value: str | None) -> Mapping[str, Any]:
    """A JSON column as a mapping, empty for NULL."""
    loaded = json.loads(value) if value else {}
    return loaded if isinstance(loaded, dict) else {}


def _edges(
    database: Database, pair: Mapping[str, Any], *, decisions: Sequence[Decision]
) -> list[EdgeEvidence]:
    rows = database.records(_EDGES, pair)
    groups = [row["evidence_id"] for row in rows if row["evidence_id"]]
    evidence = dict(_evidence(database, groups))
    verdicts = {one.parent: one.verdict for one in decisions}
    found = []
    for row in rows:
        clues = evidence.get(row["evidence_id"], [])
        child, parent = row.pop("child_revision"), row.pop("parent_revision")
        found.append(
            EdgeEvidence(
                **{**row, "detail": mapping(row["detail"])},
                child=name_of(database, pair["child"]),
                child_sha=_sha(database, child),
                parent_sha=_sha(database, parent),
                code_version=clues[0]["code_version"] if clues else None,
                inputs_digest=clues[0]["inputs_digest"] if clues else None,
                clues=tuple(_clue(clue) for clue in clues),
                correction=verdicts.get(row["parent"]),
            )
        )
    return found


def _evidence(database: Database, groups: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    if not groups:
        return []
    values: list[Any]
    if len(groups) <= _FEW:
        among, values = f"IN ({', '.join('?' * len(groups))})", list(groups)
    else:
        among, values = "IN (SELECT unnest(?::VARCHAR[]))", [list(groups)]
    found: dict[str, list[dict[str, Any]]] = {}
    for record in database.records(_CLUES.format(among=among), values):
        found.setdefault(record["evidence_id"], []).append(record)
    return list(found.items())


def _clue(record: Mapping[str, Any]) -> Clue:
    names = ("kind", "statistic", "value", "llr", "ci_low", "ci_high", "n", "p_value")
    return Clue(**{name: record[name] for name in names})


def _claim(database: Database, record: Mapping[str, Any]) -> Claim:
    parent = record["parent"]
    return Claim(**{**record, "parent": None if parent is None else name_of(database, parent)})


def _sha(database: Database, revision: int | None) -> str | None:
    if revision is None:
        return None
    found = database.row("SELECT sha FROM internal.revisions WHERE id = ?", [revision])
    return None if found is None else str(found[0])
