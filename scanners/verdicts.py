"""From the scores in a store to verdicts and findings on lost safety training."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ..lineage.records import Finding
from ..lineage.safety.family import Lineage
from ..lineage.safety.findings import stripped_findings
from ..lineage.safety.graded import Graded, graded_from_scores
from ..lineage.safety.sketch_probes import CONSISTENCY
from ..store.registry import Registry

FINDING = "stripped_safety"


def judge_store(registry: Registry, *, scan: int, prompt_set: str, now: datetime) -> list[Finding]:
    """Judge every model with scores on a prompt set against its measured ancestors, and store it.

    The newest scores of each model's current revision count. Findings on models that were not
    measured on this set are left as they are.
    """
    graded = graded_models(registry, prompt_set)
    findings = stripped_findings(
        graded, lineage_of(registry, graded), edits=edit_evidence(registry, graded)
    )
    registry.replace_findings(scan, FINDING, findings, scope=set(graded), now=now)
    return findings


def graded_models(registry: Registry, prompt_set: str) -> dict[str, Graded]:
    """Every model whose current revision was graded on the prompt set of this digest."""
    found = {}
    for name in registry.scored(prompt_set):
        graded = graded_model(registry, name, prompt_set)
        if graded is not None:
            found[name] = graded
    return found


def graded_model(registry: Registry, name: str, prompt_set: str) -> Graded | None:
    """One model as it was graded at its current revision."""
    sha = registry.describe(name)["sha"]
    return graded_from_scores(
        score
        for score in registry.scores_of(name)
        if score.sha == sha and score.prompt_set.endswith(prompt_set)
    )


def lineage_of(registry: Registry, graded: Mapping[str, Graded]) -> Lineage:
    """Ancestors, parents and copies of the graded models."""
    parents: dict[str, list[str]] = {}
    same: dict[str, str] = {}
    sure: dict[tuple[str, str], float] = {}
    for edge in registry.believed_edges():
        sure[edge.parent, edge.child] = edge.confidence
        parents.setdefault(edge.child, []).append(edge.parent)
        if edge.relation == "copy":
            same[edge.child] = edge.parent
    digests: dict[str, str] = {}
    for row in registry.sketched():
        if row.weights_digest is not None:
            first = digests.setdefault(row.weights_digest, row.model)
            if first != row.model:
                same.setdefault(row.model, first)
    asked = {*graded, *(parent for line in parents.values() for parent in line)}
    ancestors = {
        name: [kin.model for kin in registry.ancestors(name)]
        for name in asked
        if name in graded or name in parents
    }
    return Lineage(
        ancestors=ancestors,
        parents=parents,
        copies={name: _first(name, same) for name in graded},
        sure=sure,
    )


def _first(name: str, same: Mapping[str, str]) -> str:
    seen = {name}
    while name in same and same[name] not in seen:
        name = same[name]
        seen.add(name)
    return name


def edit_evidence(registry: Registry, graded: Mapping[str, Graded]) -> dict[str, str]:
    """What the sketch probes say of each model: `edit`, `none` or `unobservable`."""
    found = {}
    for name in graded:
        scores = registry.scores_of(name, probe=CONSISTENCY)
        if scores:
            found[name] = str(scores[0].environment.get("signature", "unobservable"))
    return found
