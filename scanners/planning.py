"""What a run of probes would do, before it does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..lineage.safety.catalogue import probes_of
from ..lineage.safety.profile import CAPABILITY, REFUSAL_HARMFUL, REFUSAL_HARMLESS
from ..lineage.safety.protocol import Need, ProbeSpec, Tier
from ..store.facts import SketchRow
from ..store.registry import Registry
from .probes.prompt_sets import PromptSet


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedProbe:
    """One probe on one model: whether it would run, why, and what it costs at most.

    `bytes_read` counts what is fetched for the whole tier on the first probe of it and 0 on the
    others; `tokens` are new tokens of generation.
    """

    model: str
    tier: Tier
    probe: str
    runs: bool
    why: str
    requests: int
    bytes_read: int
    tokens: int


def plan_probes(
    registry: Registry, tier: Tier, models: Mapping[str, str], *, prompts: PromptSet
) -> list[PlannedProbe]:
    """What probing `models` at a tier would do.

    Parameters
    ----------
    models : names with the reason each was chosen.
    """
    rows = {row.model: row for row in registry.sketched()}
    found: list[PlannedProbe] = []
    for model, why in models.items():
        have = {
            score.probe
            for score in registry.scores_of(model)
            if score.status == "ok" and _same_prompts(score.prompt_set, tier, prompts)
        }
        lacks = _lacks(registry, tier, model, rows)
        found += _of_model(model, tier, why=why, have=have, lacks=lacks, prompts=prompts, rows=rows)
    return found


def _same_prompts(stored: str, tier: Tier, prompts: PromptSet) -> bool:
    asked = tier in (Tier.GENERATION, Tier.DEPLOYMENT)
    return not asked or stored.endswith(prompts.digest)


def _lacks(
    registry: Registry, tier: Tier, model: str, rows: Mapping[str, SketchRow]
) -> Mapping[Need, str]:
    """Needs that the store cannot meet, with the reason."""
    lacking = {}
    if model not in rows:
        lacking[Need.SKETCH] = "it was not sketched"
    if tier in (Tier.METADATA, Tier.SKETCH, Tier.WEIGHTS):
        ancestors = registry.ancestors(model)
        if not ancestors:
            lacking[Need.ANCESTOR] = "it has no ancestor in the store"
        if not any(kin.model in rows for kin in ancestors):
            lacking[Need.ANCESTOR_SKETCH] = "none of its ancestors was sketched"
    return lacking


def _of_model(
    model: str,
    tier: Tier,
    *,
    why: str,
    have: set[str],
    lacks: Mapping[Need, str],
    prompts: PromptSet,
    rows: Mapping[str, SketchRow],
) -> Iterator[PlannedProbe]:
    specs = [
        spec
        for spec in probes_of(tier)
        if not spec.optional and (spec.probe != CAPABILITY or prompts.capability)
    ]
    # Cheap tiers are measured anew each time; what ran a model is kept.
    done = tier in (Tier.GENERATION, Tier.DEPLOYMENT) and all(s.probe in have for s in specs)
    for at, spec in enumerate(specs):
        missing = next((lacks[need] for need in spec.needs if need in lacks), None)
        reason = missing or ("measured before" if done else why)
        runs = missing is None and not done
        first = at == 0 and runs
        yield PlannedProbe(
            model=model,
            tier=tier,
            probe=spec.probe,
            runs=runs,
            why=reason,
            requests=spec.cost.requests if first else 0,
            bytes_read=_bytes(spec, rows.get(model)) if first else 0,
            tokens=spec.cost.tokens * _sizes(spec, prompts) if runs else 0,
        )


def _sizes(spec: ProbeSpec, prompts: PromptSet) -> int:
    """Prompts that a probe asks itself; 0 for one that counts the replies of others."""
    if not spec.cost.prompts:
        return 1
    sizes = {
        REFUSAL_HARMFUL: len(prompts.harmful),
        REFUSAL_HARMLESS: len(prompts.harmless),
        CAPABILITY: len(prompts.capability),
    }
    return sizes.get(spec.probe, 0)


def _bytes(spec: ProbeSpec, row: SketchRow | None) -> int:
    if Need.MODEL in spec.needs or Need.WEIGHTS in spec.needs:
        width = 4 if row is not None and (row.dtype or "").startswith("F32") else 2
        return width * (row.n_params or 0) if row is not None else 0
    return spec.cost.bytes_read


def total(planned: Sequence[PlannedProbe]) -> tuple[int, int, int, int]:
    """Models, requests, bytes and new tokens of all that would run."""
    runs = [one for one in planned if one.runs]
    return (
        len({one.model for one in runs}),
        sum(one.requests for one in runs),
        sum(one.bytes_read for one in runs),
        sum(one.tokens for one in runs),
    )
