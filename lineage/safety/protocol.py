"""What every safety probe has in common: tier, needs, cost, and the one form of its answer.

Tiers are ordered by cost, and a cheap tier decides where a dear one runs. Two kinds of evidence
are never mixed: metadata, sketch and weights speak of an *edit*, generation and deployment of a
*loss* of behaviour; activations say what is recognised and what would be said first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from ..records import Score

NO_PROMPTS = "none"
"""Prompt set of the scores of probes that ask nothing."""


class Tier(StrEnum):
    """What a probe reads, from the cheapest to the dearest."""

    METADATA = "metadata"
    SKETCH = "sketch"
    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    GENERATION = "generation"
    DEPLOYMENT = "deployment"


class Status(StrEnum):
    """What became of one probe on one model; nothing but `ok` carries a judgement.

    `inconclusive`: it ran and the data do not decide. `unalignable`: there is nothing to compare
    with, coordinate by coordinate. `unsupported`: this model cannot be put to it here. `error`:
    it should have run and failed.
    """

    OK = "ok"
    INCONCLUSIVE = "inconclusive"
    UNALIGNABLE = "unalignable"
    UNSUPPORTED = "unsupported"
    ERROR = "error"


class Need(StrEnum):
    """What a probe must be given."""

    CARD = "card and small files"
    ANCESTOR = "an ancestor in the store"
    SKETCH = "its sketch"
    ANCESTOR_SKETCH = "the ancestor's sketch"
    WEIGHTS = "all weights of its writing matrices"
    MODEL = "a model that runs"
    SERVER = "a server that answers"
    PROMPTS = "a prompt set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one probe of one model takes at most, beside what its tier reads anyway.

    `requests` and `bytes_read` are traffic; `prompts` says whether each prompt of the set is
    asked, and `tokens` how many new ones a prompt may take (0: one forward pass).
    """

    requests: int = 0
    bytes_read: int = 0
    prompts: bool = False
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """A probe: what it measures, in which unit, what it needs and what it costs.

    `edit` marks evidence of an edit; the others are evidence of behaviour. `optional` ones run only
    where they are asked for.
    """

    probe: str
    version: str
    tier: Tier
    unit: str
    description: str
    needs: tuple[Need, ...]
    cost: Cost = field(default_factory=Cost)
    edit: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The answer of a probe: an estimate with its interval, or a status with its reason.

    `n` counts what was measured (prompts, matrices, places looked at). `ci_low` and `ci_high`
    are 95 % limits, equal to `value` where the value is a plain fact of the files. `p_value`
    belongs to a measured null, None where the probe has none.
    """

    probe: str
    status: Status
    n: int = 0
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status is Status.OK and (self.value is None or not math.isfinite(self.value)):
            raise ValueError(f"{self.probe}: an answer needs a finite value")
        if self.status is not Status.OK and not self.reason:
            raise ValueError(f"{self.probe}: a probe without an answer needs a reason")


def fact(probe: str, value: float, *, n: int, detail: Mapping[str, Any]) -> Measurement:
    """A value that the files state and that has no error."""
    return Measurement(
        probe=probe,
        status=Status.OK,
        n=n,
        value=value,
        ci_low=value,
        ci_high=value,
        detail=detail,
    )


def declined(probe: str, status: Status, reason: str, **detail: Any) -> Measurement:
    """A probe without an answer, and why."""
    return Measurement(probe=probe, status=status, reason=reason, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What scores are about: a model at one revision, measured at one time."""

    model: str
    sha: str
    now: datetime


def as_score(
    found: Measurement,
    spec: ProbeSpec,
    *,
    subject: Subject,
    seconds: float = 0.0,
    prompt_set: str = NO_PROMPTS,
) -> Score:
    """A measurement without a judge in the form in which it is stored."""
    environment = dict(found.detail)
    if found.p_value is not None:
        environment["p_value"] = found.p_value
    if found.reason is not None:
        environment["reason"] = found.reason[:500]
    return Score(
        model=subject.model,
        sha=subject.sha,
        probe=found.probe,
        probe_version=spec.version,
        prompt_set=prompt_set,
        n=found.n,
        status=found.status,
        value=found.value,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        unit=spec.unit,
        judge="none",
        corrected=False,
        environment=environment,
        seconds=seconds,
        scored_at=subject.now,
    )
