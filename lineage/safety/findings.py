"""From graded models and their ancestors to findings, with error control over all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from ..records import Finding
from .betting import e_bh_nested, q_values
from .family import LOST, JointVerdict, Lineage, judge_lineage
from .graded import Graded
from .verdict import RULE_VERSION, LossCriteria, LossLabel

_SEVERITY = {LossLabel.STRIPPED: "high", LossLabel.WEAKENED: "medium"}


def stripped_findings(
    graded: Mapping[str, Graded],
    lineage: Lineage,
    *,
    criteria: LossCriteria | None = None,
    max_q: float = 0.05,
    labels: Sequence[LossLabel] = (LossLabel.STRIPPED,),
    edits: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Findings for the models that lost what an ancestor had.

    Parameters
    ----------
    graded, lineage, criteria : as for `judge_lineage`.
    max_q : largest false discovery rate at which a finding of a loss is made.
    labels : verdicts that make a finding; its kind is the label with `_safety` behind it.
    edits : what the weights say of a model (`edit`, `none`, `unobservable`); it stands beside the
        verdict and never moves it.

    Returns
    -------
    list of Finding, smallest q first, then by model. A loss is found when e-BH rejects its
    hypothesis: over families (one a releasing ancestor) first, then over the models within them.
    Every model whose ancestor may have had safety training is a hypothesis, whatever its verdict;
    copies of the same weights are one, with the mean of their e-values.
    """
    verdicts = judge_lineage(graded, lineage, criteria=criteria)
    families: dict[str, dict[str, list[float]]] = {}
    for name, one in verdicts.items():
        if one.label is not LossLabel.NEVER_HAD:
            family = families.setdefault(one.verdict.ancestor, {})
            family.setdefault(lineage.copies.get(name, name), []).append(one.e_value)
    merged = {
        ancestor: {key: sum(values) / len(values) for key, values in members.items()}
        for ancestor, members in families.items()
    }
    _, rejected = e_bh_nested(merged, rate=max_q)
    q = q_values({key: value for members in merged.values() for key, value in members.items()})
    found = []
    for name, one in verdicts.items():
        key = lineage.copies.get(name, name)
        shown = one.label not in LOST or key in rejected
        if one.label in labels and shown and key in q:
            found.append(_finding(one, q=q[key], edit=(edits or {}).get(name)))
    return sorted(found, key=lambda finding: (finding.q_value or 0.0, finding.model))


def finding_id(kind: str, *, model: str, ancestor: str) -> str:
    """Identity of a finding over scans: 32 hex digits over kind, model and ancestor."""
    canonical = json.dumps([kind, model, ancestor], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def _finding(joint: JointVerdict, *, q: float, edit: str | None) -> Finding:
    verdict = joint.verdict
    kind = f"{verdict.label.replace('-', '_')}_safety"
    edge = joint.edge
    return Finding(
        finding_id=finding_id(kind, model=verdict.model, ancestor=verdict.ancestor),
        kind=kind,
        severity=_SEVERITY.get(verdict.label, "low"),
        model=verdict.model,
        ancestor=verdict.ancestor,
        value=verdict.value,
        ci_low=verdict.ci_low,
        ci_high=verdict.ci_high,
        q_value=q,
        status="open",
        clues=verdict.clues,
        detail={
            "label": str(verdict.label),
            "rule": RULE_VERSION,
            "judges": list(verdict.judges),
            "by_judge": {judge: str(label) for judge, label in joint.by_judge.items()},
            "status": "single-judge" if len(verdict.judges) == 1 else "agreed",
            "e_value": min(joint.e_value, 1e300),
            "loss_edge": None if edge is None else [edge.parent, edge.child],
            "loss_edge_censored": edge is not None and edge.censored,
            "descent_confidence": joint.descent,
            "edit_evidence": edit or "not measured",
            # The same errors on both sides leave what is retained as it is; see docs/safety.md.
            "correction": "uncorrected",
            "paired": verdict.paired,
            "reasons": list(verdict.reasons),
            "unchecked": list(verdict.unchecked),
        },
    )
