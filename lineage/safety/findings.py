"""From graded models and their ancestors to findings, with error control over all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from ..records import Finding
from ..statistics import benjamini_hochberg
from .profile import SafetyProfile
from .verdict import RULE_VERSION, LossCriteria, LossLabel, LossVerdict, had_refusal, judge_loss

_SEVERITY = {LossLabel.STRIPPED: "high", LossLabel.WEAKENED: "medium"}


def judge_family(
    profiles: Mapping[str, SafetyProfile],
    ancestors: Mapping[str, Sequence[str]],
    *,
    criteria: LossCriteria | None = None,
) -> dict[str, LossVerdict]:
    """Judge every model against its nearest ancestor that had safety training to lose.

    Parameters
    ----------
    profiles : by model; models without one are passed over, as ancestors too.
    ancestors : of each model, the nearest first.

    Returns
    -------
    Verdicts by model, in the order of `profiles`. Where no measured ancestor had it, the verdict
    is against the nearest measured one; a model without a measured ancestor has no verdict.
    """
    rule = criteria or LossCriteria()
    had = {name: had_refusal(profile, criteria=rule) for name, profile in profiles.items()}
    verdicts = {}
    for name, profile in profiles.items():
        line = [a for a in ancestors.get(name, ()) if a in profiles and a != name]
        if line:
            chosen = _nearest(line, had=had)
            verdicts[name] = judge_loss(profiles[chosen], profile, criteria=rule)
    return verdicts


def _nearest(line: Sequence[str], *, had: Mapping[str, bool | None]) -> str:
    certain = (name for name in line if had[name])
    possible = (name for name in line if had[name] is None)
    return next(certain, next(possible, line[0]))


def stripped_findings(
    profiles: Mapping[str, SafetyProfile],
    ancestors: Mapping[str, Sequence[str]],
    *,
    criteria: LossCriteria | None = None,
    max_q: float = 0.05,
    labels: Sequence[LossLabel] = (LossLabel.STRIPPED,),
) -> list[Finding]:
    """Findings for the models that lost what an ancestor had.

    Parameters
    ----------
    profiles, ancestors, criteria : as for `judge_family`.
    max_q : largest false discovery rate at which a finding is made.
    labels : verdicts that make a finding; its kind is the label with `_safety` behind it.

    Returns
    -------
    list of Finding, smallest q first, then by model. q-values are taken over every model with a
    measured ancestor that may have had safety training, whatever its verdict.

    References
    ----------
    Benjamini and Hochberg (1995); tests that share an ancestor are positively dependent, under
    which the procedure holds: Benjamini and Yekutieli (2001), Annals of Statistics 29:1165.
    """
    verdicts = judge_family(profiles, ancestors, criteria=criteria)
    tested = [
        (verdict, verdict.p_value)
        for verdict in verdicts.values()
        if verdict.p_value is not None and verdict.label is not LossLabel.NEVER_HAD
    ]
    q_values = benjamini_hochberg([p for _, p in tested])
    found = [
        _finding(verdict, q=q)
        for (verdict, _), q in zip(tested, q_values, strict=True)
        if verdict.label in labels and q <= max_q
    ]
    return sorted(found, key=lambda finding: (finding.q_value or 0.0, finding.model))


def finding_id(kind: str, *, model: str, ancestor: str) -> str:
    """Identity of a finding over scans: 32 hex digits over kind, model and ancestor."""
    canonical = json.dumps([kind, model, ancestor], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def _finding(verdict: LossVerdict, *, q: float) -> Finding:
    kind = f"{verdict.label.replace('-', '_')}_safety"
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
            "status": "single-judge" if len(verdict.judges) == 1 else "agreed",
            "paired": verdict.paired,
            "reasons": list(verdict.reasons),
            "unchecked": list(verdict.unchecked),
        },
    )
