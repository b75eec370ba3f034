"""Scores, findings and what they refer to. All functions run inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import duckdb

from ..lineage.errors import NotInRegistry
from ..lineage.records import Finding, Score
from .events import add_finding_events
from .facts import ProbeDefinition, PromptSet
from .inference import add_evidence, find_nodes
from .staging import group_id, json_text, staged, utc, whole

_SCORE_COLUMNS = {
    "name": "string",
    "sha": "string",
    "probe": "string",
    "probe_version": "string",
    "prompt_set": "string",
    "n": "int64",
    "status": "string",
    "value": "double",
    "ci_low": "double",
    "ci_high": "double",
    "unit": "string",
    "judge": "string",
    "corrected": "bool",
    "environment": "string",
    "seconds": "double",
    "scored_at": "timestamp",
}
_FINDING_COLUMNS = {
    "finding_id": "string",
    "severity": "string",
    "model_name": "string",
    "ancestor_name": "string",
    "value": "double",
    "ci_low": "double",
    "ci_high": "double",
    "q_value": "double",
    "status": "string",
    "evidence_id": "string",
    "detail": "string",
}

_NEW_SCORES = """
CREATE OR REPLACE TEMP TABLE new_scores AS
SELECT n.id AS model, r.id AS revision, s.* EXCLUDE (name, sha), s.name, s.sha
FROM scores_in s JOIN nodes n ON n.name = s.name
LEFT JOIN internal.revisions r ON r.model = n.id AND r.sha = s.sha
"""

# A probe that did not run says nothing against what one that ran found in the same weights.
_DROP_VAIN = """
DELETE FROM new_scores n WHERE n.status IN ('error', 'unsupported') AND EXISTS (
    SELECT 1 FROM internal.scores s
    WHERE n.revision = s.revision AND n.probe = s.probe AND n.probe_version = s.probe_version
        AND n.prompt_set = s.prompt_set AND n.judge = s.judge AND s.status = 'ok')
"""

_DROP_SCORES = """
DELETE FROM internal.scores s WHERE EXISTS (
    SELECT 1 FROM new_scores n
    WHERE n.revision = s.revision AND n.probe = s.probe AND n.probe_version = s.probe_version
        AND n.prompt_set = s.prompt_set AND n.judge = s.judge)
"""

_NEW_FINDINGS = """
CREATE OR REPLACE TEMP TABLE new_findings AS
SELECT f.finding_id, $kind AS kind, f.severity, m.id AS model, a.id AS ancestor, f.value, f.ci_low,
    f.ci_high, f.q_value,
    CASE WHEN f.status = 'ignored' OR o.status = 'ignored' THEN 'ignored'
        WHEN o.finding_id IS NULL OR (o.first_scan = $scan AND o.status <> 'fixed') THEN 'new'
        ELSE 'open' END AS status,
    f.evidence_id, f.detail::JSON AS detail, coalesce(o.first_scan, $scan) AS first_scan,
    $scan AS last_scan, o.status AS old_status
FROM findings_in f
JOIN nodes m ON m.name = f.model_name
LEFT JOIN nodes a ON a.name = f.ancestor_name
LEFT JOIN internal.findings o ON o.finding_id = f.finding_id
"""

_FIXED = """
CREATE OR REPLACE TEMP TABLE fixed AS
SELECT o.finding_id, o.status, o.evidence_id FROM internal.findings o
WHERE o.kind = $kind AND o.status IN ('new', 'open')
    AND o.finding_id NOT IN (SELECT finding_id FROM new_findings) AND {condition}
"""

_CHANGES = """
INSERT INTO internal.changes
SELECT $scan, x.kind, x.finding_id, x.before, x.after, $now FROM (
    SELECT 'finding_new' AS kind, finding_id, old_status AS before, status AS after
    FROM new_findings WHERE old_status IS NULL OR old_status = 'fixed'
    UNION ALL
    SELECT 'finding_fixed', finding_id, status, 'fixed' FROM fixed
) x ORDER BY x.kind, x.finding_id
"""


_FLAGGED = """
DELETE FROM internal.flagged;
INSERT INTO internal.flagged BY NAME
SELECT f.* EXCLUDE (kind, detail, ancestor), d.name, a.name AS ancestor
FROM internal.findings f
JOIN internal.models d ON d.id = f.model
LEFT JOIN internal.models a ON a.id = f.ancestor
WHERE f.kind = 'stripped_safety' AND f.status IN ('new', 'open')
ORDER BY f.model, f.finding_id
"""


def refresh_flagged(connection: duckdb.DuckDBPyConnection) -> None:
    """Write the open losses of safety training anew under the names of today."""
    connection.execute(_FLAGGED)


def add_scores(
    connection: duckdb.DuckDBPyConnection, scores: Sequence[Score], *, scan: int
) -> None:
    """Store probe results; the same probe, version, prompt set and judge on a sha are replaced.

    An answer is not replaced by a failure to ask again (`error`, `unsupported`).

    Raises
    ------
    NotInRegistry : a score is about a model or a sha that the store does not hold.
    """
    find_nodes(connection, {score.model for score in scores})
    rows = {
        (s.model, s.sha, s.probe, s.probe_version, s.prompt_set, s.judge): _score_row(s)
        for s in scores
    }
    with staged(connection, "scores_in", _SCORE_COLUMNS, rows.values()):
        connection.execute(_NEW_SCORES)
    missing = connection.execute(
        "SELECT name, sha FROM new_scores WHERE revision IS NULL ORDER BY name"
    ).fetchall()
    if missing:
        name, sha = missing[0]
        raise NotInRegistry(f"{name} has no revision {sha}", name=name)
    connection.execute(_DROP_VAIN)
    connection.execute(_DROP_SCORES)
    connection.execute(
        "INSERT INTO internal.scores BY NAME "
        "SELECT * EXCLUDE (name, sha), $scan AS scan FROM new_scores",
        {"scan": scan},
    )


def replace_findings(
    connection: duckdb.DuckDBPyConnection,
    findings: Sequence[Finding],
    *,
    kind: str,
    scope: Collection[str] | None,
    code_version: str | None,
    scan: int,
    now: datetime,
) -> None:
    """Make these the findings of one kind; what is no longer found becomes `fixed`.

    Parameters
    ----------
    scope : only findings on these models can become fixed; None for all.

    Raises
    ------
    NotInRegistry : a finding names a model that the store does not hold.
    """
    findings = list({finding.finding_id: finding for finding in findings}.values())
    ancestors = {finding.ancestor for finding in findings if finding.ancestor is not None}
    find_nodes(connection, {*(f.model for f in findings), *ancestors, *(scope or ())})
    rows = [_finding_row(finding) for finding in findings]
    with staged(connection, "findings_in", _FINDING_COLUMNS, rows):
        connection.execute(_NEW_FINDINGS, {"kind": kind, "scan": scan})
    _find_fixed(connection, kind=kind, scope=scope)
    connection.execute(_CHANGES, {"scan": scan, "now": utc(now)})
    add_finding_events(connection, scan=scan, now=now)
    connection.execute(
        "UPDATE internal.findings SET status = 'fixed' "
        "WHERE finding_id IN (SELECT finding_id FROM fixed)"
    )
    connection.execute(
        "DELETE FROM internal.findings WHERE finding_id IN (SELECT finding_id FROM new_findings)"
    )
    connection.execute(
        "INSERT INTO internal.findings BY NAME "
        "SELECT * EXCLUDE (old_status) FROM new_findings ORDER BY finding_id"
    )
    refresh_flagged(connection)
    groups = [(_evidence_id(finding), finding.clues) for finding in findings]
    add_evidence(connection, groups, code_version=code_version, inputs_digest=None)


def add_prompt_set(
    connection: duckdb.DuckDBPyConnection, prompt_set: PromptSet, *, now: datetime
) -> None:
    """Store a prompt set; a digest that is known already is left as it is."""
    connection.execute(
        "INSERT INTO internal.prompt_sets SELECT $digest, $name, $license, $origin, $harmful, "
        "$harmless, $now WHERE $digest NOT IN (SELECT digest FROM internal.prompt_sets)",
        {
            "digest": prompt_set.digest,
            "name": prompt_set.name,
            "license": prompt_set.license,
            "origin": prompt_set.origin,
            "harmful": prompt_set.n_harmful,
            "harmless": prompt_set.n_harmless,
            "now": utc(now),
        },
    )


def add_probe(connection: duckdb.DuckDBPyConnection, probe: ProbeDefinition) -> None:
    """Store the definition of a probe version, over an older text of the same version."""
    connection.execute(
        "DELETE FROM internal.probes WHERE probe = ? AND probe_version = ?",
        [probe.probe, probe.probe_version],
    )
    connection.execute(
        "INSERT INTO internal.probes VALUES (?, ?, ?, ?, ?)",
        [probe.probe, probe.probe_version, probe.tier, probe.unit, probe.description],
    )


def _find_fixed(
    connection: duckdb.DuckDBPyConnection, *, kind: str, scope: Collection[str] | None
) -> None:
    rows = [(name,) for name in scope or ()]
    with staged(connection, "scope_in", {"name": "string"}, rows):
        condition = (
            "true"
            if scope is None
            else "o.model IN (SELECT n.id FROM nodes n SEMI JOIN scope_in s ON s.name = n.name)"
        )
        connection.execute(_FIXED.format(condition=condition), {"kind": kind})


def _score_row(score: Score) -> tuple[object, ...]:
    return (
        score.model,
        score.sha,
        score.probe,
        score.probe_version,
        score.prompt_set,
        whole(score.n),
        score.status,
        score.value,
        score.ci_low,
        score.ci_high,
        score.unit,
        score.judge,
        score.corrected,
        json_text(score.environment),
        score.seconds,
        utc(score.scored_at),
    )


def _finding_row(finding: Finding) -> tuple[object, ...]:
    return (
        finding.finding_id,
        finding.severity,
        finding.model,
        finding.ancestor,
        finding.value,
        finding.ci_low,
        finding.ci_high,
        finding.q_value,
        finding.status,
        _evidence_id(finding),
        json_text(finding.detail) if finding.detail else None,
    )


def _evidence_id(finding: Finding) -> str:
    return group_id("finding", finding.finding_id)
