"""From the scores in a store to verdicts and findings on lost safety training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

    The newest scores of each model's current revision count. Findings are left as they are where
    the model, or the ancestor that it was held against, has no scores on this set as it is now.
    """
    graded = graded_models(registry, prompt_set)
    lineage = lineage_of(registry, graded)
    findings = stripped_findings(graded, lineage, edits=edit_evidence(registry, graded))
    scope = set(graded).difference(_left(registry, graded, lineage))
    registry.replace_findings(scan, FINDING, findings, scope=scope, now=now)
    return findings


def _left(registry: Registry, graded: Mapping[str, Graded], lineage: Lineage) -> Iterator[str]:
    """Models with a lasting finding against an ancestor without scores: a new commit, perhaps."""
    for found in registry.findings(kind=FINDING):
        line = lineage.ancestors.get(found.model, ())
        lasting = found.status in ("new", "open")
        if lasting and found.ancestor not in graded and found.ancestor in line:
            yield found.model


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
    ancestors = _ancestors(registry, graded)
    # A way from a model to an ancestor leads over others between them.
    between = {one for line in ancestors.values() for one in line if one in parents}
    ancestors |= _ancestors(registry, between - set(graded))
    return Lineage(
        ancestors=ancestors,
        parents=parents,
        copies={name: _first(name, same) for name in graded},
        sure=sure,
    )


def _ancestors(registry: Registry, names: Iterable[str]) -> dict[str, list[str]]:
    """The ancestors of each model, nearest first."""
    return {name: [kin.model for kin in registry.ancestors(name)] for name in names}


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
