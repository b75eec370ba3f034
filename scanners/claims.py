"""Findings about what cards claim: parents left out, parents that the weights do not bear out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from ..lineage.records import Clue, Finding
from ..lineage.safety.findings import finding_id
from ..store.gaps import ClaimGap
from ..store.registry import Registry

UNDECLARED = "undeclared_parent"
MISDECLARED = "misdeclared_parent"
MIN_CONFIDENCE = 0.5


def judge_claims(registry: Registry, *, scan: int, now: datetime) -> list[Finding]:
    """Compare every inferred parent with the claims of its child, and store the findings.

    A claim is contradicted only by weights that were compared: one that names a model which was
    not read, or has another shape, is left alone.
    """
    shapes = {row.model: row.shape_key for row in registry.sketched()}
    gaps = registry.claim_gaps(min_confidence=MIN_CONFIDENCE)
    findings = [_finding(gap) for gap in gaps if _is_compared(gap, shapes)]
    for kind in (UNDECLARED, MISDECLARED):
        found = [f for f in findings if f.kind == kind]
        registry.replace_findings(scan, kind, found, now=now)
    return findings


def _is_compared(gap: ClaimGap, shapes: Mapping[str, str | None]) -> bool:
    mine = shapes.get(gap.model)
    return all(claim in shapes and shapes[claim] == mine for claim in gap.claimed)


def _finding(gap: ClaimGap) -> Finding:
    kind = MISDECLARED if gap.claimed else UNDECLARED
    return Finding(
        finding_id=finding_id(kind, model=gap.model, ancestor=gap.parent),
        kind=kind,
        severity="medium" if gap.claimed else "low",
        model=gap.model,
        ancestor=gap.parent,
        value=gap.confidence,
        ci_low=None,
        ci_high=None,
        q_value=None,
        status="new",
        clues=tuple(_clues(gap)),
        detail={"relation": gap.relation, "claimed": list(gap.claimed)},
    )


def _clues(gap: ClaimGap) -> Iterable[Clue]:
    yield Clue(kind="family", statistic="confidence of the inferred parent", value=gap.confidence)
