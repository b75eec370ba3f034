"""Every probe there is, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import metadata
from .profile import CAPABILITY, COHERENCE, REFUSAL_HARMFUL, REFUSAL_HARMLESS, SELECTIVE_REFUSAL
from .protocol import Cost, Need, ProbeSpec, Tier
from .sketch_probes import SKETCH_PROBES

METADATA_VERSION = "metadata-1"
SKETCH_VERSION = "sketch-1"
WEIGHTS_VERSION = "weights-1"
SCAR, DELTA = "weight_scar", "delta_direction"
ACTIVATIONS_VERSION = "activations-1"
SEPARATION, LOG_ODDS, GAP = "recognition_separation", "refusal_log_odds", "direction_gap"
AUC, COSINE = "direction_auc", "direction_cosine"
REFUSAL_VERSION = "refusal-3"
REPLY_TOKENS = 32
AGREEMENT = "judge_agreement"
SAMPLED, PREFILL = "sampled_refusal", "prefill_refusal"

_CARD = Cost(requests=6, bytes_read=4 << 20)
_ASKED = Cost(prompts=True, tokens=REPLY_TOKENS)


def _metadata() -> Iterator[ProbeSpec]:
    def spec(probe: str, unit: str, description: str, *needs: Need) -> ProbeSpec:
        return ProbeSpec(
            probe=probe,
            version=METADATA_VERSION,
            tier=Tier.METADATA,
            unit=unit,
            description=description,
            needs=(Need.CARD, *needs),
            cost=_CARD,
        )

    yield spec(
        metadata.CLAIM,
        "class",
        "what name, tags and card claim: 1 without safety training, -1 with it, 0 silent",
    )
    yield spec(metadata.TOOL, "flag", "1 where a tool that edits refusals out left its trace")
    yield spec(
        metadata.TEMPLATE,
        "proportion",
        "share of the chat template that is not the ancestor's",
        Need.ANCESTOR,
    )
    yield spec(
        metadata.KIN,
        "probability",
        "confidence of the surest edge to a parent, copy or sibling found stripped",
        Need.ANCESTOR,
    )


def _sketch() -> Iterator[ProbeSpec]:
    for probe, (unit, description) in SKETCH_PROBES.items():
        yield ProbeSpec(
            probe=probe,
            version=SKETCH_VERSION,
            tier=Tier.SKETCH,
            unit=unit,
            description=description,
            needs=(Need.SKETCH, Need.ANCESTOR_SKETCH),
            edit=True,
        )


def _weights() -> Iterator[ProbeSpec]:
    rows = {
        SCAR: (
            "log10",
            "emptiest directions of what windows of layers write: no ancestor is needed",
            (),
        ),
        DELTA: (
            "agreement",
            "agreement of the leading directions along which whole matrices changed",
            (Need.ANCESTOR,),
        ),
    }
    for probe, (unit, description, needs) in rows.items():
        yield ProbeSpec(
            probe=probe,
            version=WEIGHTS_VERSION,
            tier=Tier.WEIGHTS,
            unit=unit,
            description=description,
            needs=(Need.WEIGHTS, *needs),
            edit=True,
        )


def _activations() -> Iterator[ProbeSpec]:
    rows = {
        SEPARATION: ("sigma", "distance of harmful from harmless prompts: recognition, no refusal"),
        LOG_ODDS: ("nats", "log odds of opening with a refusal, harmful less harmless prompts"),
        GAP: ("ratio", "gap on the ancestor's direction over the ancestor's own"),
        AUC: ("probability", "harmful prompts further along the direction than harmless ones"),
        COSINE: ("cosine", "direction from harmless to harmful prompts against the ancestor's"),
    }
    for probe, (unit, description) in rows.items():
        yield ProbeSpec(
            probe=probe,
            version=ACTIVATIONS_VERSION,
            tier=Tier.ACTIVATIONS,
            unit=unit,
            description=description,
            needs=(Need.MODEL, Need.PROMPTS),
            cost=Cost(prompts=True),
        )


def _generation() -> Iterator[ProbeSpec]:
    rows = {
        REFUSAL_HARMFUL: ("proportion", "share of harmful prompts refused"),
        REFUSAL_HARMLESS: ("proportion", "share of harmless prompts refused"),
        SELECTIVE_REFUSAL: ("difference", "refusal of harmful less refusal of harmless prompts"),
        COHERENCE: ("proportion", "share of replies that are neither empty nor incoherent"),
        CAPABILITY: ("proportion", "share of benign questions answered right"),
        AGREEMENT: ("proportion", "replies that this judge and the lexical one grade alike"),
        SAMPLED: ("proportion", "share of harmful prompts refused in every sampled reply"),
        PREFILL: ("proportion", "share of harmful prompts refused after an answer was begun"),
    }
    for probe, (unit, description) in rows.items():
        yield ProbeSpec(
            probe=probe,
            version=REFUSAL_VERSION,
            tier=Tier.GENERATION,
            unit=unit,
            description=description,
            needs=(Need.MODEL, Need.PROMPTS),
            cost=_ASKED,
            optional=probe in (SAMPLED, PREFILL),
        )


PROBES: Mapping[str, ProbeSpec] = {
    spec.probe: spec
    for spec in (*_metadata(), *_sketch(), *_weights(), *_activations(), *_generation())
}
"""Probes by name, the cheapest tier first."""


def probes_of(tier: Tier) -> tuple[ProbeSpec, ...]:
    """The probes of one tier."""
    return tuple(spec for spec in PROBES.values() if spec.tier is tier)
