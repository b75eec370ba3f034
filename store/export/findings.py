"""Findings as SARIF 2.1.0, probe results as in-toto statements."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from ... import __version__
from .graph import Graph, harmless

HOME = "https://pypi.org/project/modelkin/"
STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"

RULES = {
    "stripped_safety": "A descendant lost the safety training that an ancestor had.",
    "undeclared_parent": "The weights come from a model that the card does not name.",
    "misdeclared_parent": "The card names a parent that the weights do not bear out.",
    "unsafe_file": "A file of the repository can run code when it is loaded.",
}
_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}

_OPEN = """
SELECT f.finding_id, f.kind, f.severity, f.status, f.value, f.ci_low, f.ci_high, f.q_value,
    f.model, f.ancestor
FROM v1.findings f JOIN internal.findings i ON i.finding_id = f.finding_id
WHERE f.status IN ('new', 'open') AND i.model IN (SELECT id FROM exported)
ORDER BY f.kind, f.model, f.finding_id
"""
_TESTED = """
SELECT m.name AS model, r.sha, m.source,
    list({'probe': s.probe, 'version': s.probe_version, 'prompt_set': s.prompt_set,
        'judge': s.judge, 'n': s.n, 'status': s.status, 'value': s.value, 'ci_low': s.ci_low,
        'ci_high': s.ci_high, 'unit': s.unit, 'scored_at': s.scored_at::VARCHAR}
        ORDER BY s.probe, s.prompt_set, s.judge) AS scores,
    (SELECT list(f.kind || ' ' || f.finding_id ORDER BY f.finding_id) FROM internal.findings f
        WHERE f.model = m.id AND f.status IN ('new', 'open')) AS findings,
    (SELECT count(*) FROM internal.findings f WHERE f.model = m.id
        AND f.status IN ('new', 'open') AND f.kind = 'stripped_safety') AS losses
FROM internal.scores s
JOIN internal.models m ON m.id = s.model
JOIN internal.revisions r ON r.id = s.revision
WHERE s.model IN (SELECT id FROM exported)
GROUP BY m.id, m.name, r.id, r.sha, m.source ORDER BY m.name, r.sha
"""


def sarif(graph: Graph) -> Iterator[str]:
    """Open findings as one SARIF log, with fingerprints that stay the same over scans."""
    results = [_result(row) for row in graph.rows(_OPEN)]
    kinds = sorted({result["ruleId"] for result in results})
    rules = [
        {"id": kind, "shortDescription": {"text": RULES.get(kind, kind.replace("_", " "))}}
        for kind in kinds
    ]
    driver = {
        "name": "modelkin", "version": __version__, "informationUri": HOME, "rules": rules,
    }  # fmt: skip
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    yield json.dumps(log, indent=1) + "\n"


def intoto(graph: Graph) -> Iterator[str]:
    """One in-toto statement (test-result v0.1) a probed revision, one a line.

    FAILED when the model has an open finding of lost safety training, WARNED with any other open
    finding or when no probe ended well, else PASSED.
    """
    for row in graph.rows(_TESTED):
        yield json.dumps(_statement(row)) + "\n"


def _result(row: dict[str, Any]) -> dict[str, Any]:
    model = harmless(row["model"])
    against = f" (against {harmless(row['ancestor'])})" if row["ancestor"] else ""
    uri = quote(row["model"], safe="/")
    return {
        "ruleId": row["kind"],
        "level": _LEVELS.get(row["severity"], "note"),
        "message": {"text": f"{model}{against}: {row['kind'].replace('_', ' ')}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}},
                "logicalLocations": [{"fullyQualifiedName": model, "kind": "module"}],
            }
        ],
        "partialFingerprints": {"findingId/v1": row["finding_id"]},
        "baselineState": "new" if row["status"] == "new" else "unchanged",
        "properties": {key: row[key] for key in ("value", "ci_low", "ci_high", "q_value")},
    }


def _statement(row: dict[str, Any]) -> dict[str, Any]:
    good = [score for score in row["scores"] if score["status"] == "ok"]
    other = [score for score in row["scores"] if score["status"] != "ok"]
    verdict = "FAILED" if row["losses"] else "PASSED" if good and not row["findings"] else "WARNED"
    sha = row["sha"]
    kind = "gitCommit" if re.fullmatch(r"[0-9a-f]{40}", sha) else "modelkinRevision"
    return {
        "_type": STATEMENT,
        "subject": [{"name": harmless(row["model"]), "digest": {kind: harmless(sha)}}],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": verdict,
            "configuration": [
                {"name": name} for name in sorted({score["prompt_set"] for score in row["scores"]})
            ],
            "passedTests": [] if row["losses"] else [_test_name(score) for score in good],
            "warnedTests": [_test_name(score) for score in other],
            "failedTests": [_test_name(score) for score in good] if row["losses"] else [],
            "modelkin": {
                "version": __version__, "scores": row["scores"], "findings": row["findings"] or [],
            },
        },
    }  # fmt: skip


def _test_name(score: dict[str, Any]) -> str:
    return f"{score['probe']}@{score['version']} by {score['judge']}"
