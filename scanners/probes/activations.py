"""Tier 3: one forward pass a prompt. What is recognised, and what would be said first.

States and directions live as long as the run: no direction along which a model refuses is stored
or exported.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ...lineage.errors import ModelkinError, ProbeError
from ...lineage.records import Score
from ...lineage.safety.activations import (
    opening_tokens,
    refusal_log_odds,
    relative_gap,
    separation,
)
from ...lineage.safety.catalogue import GAP, LOG_ODDS, PROBES, SEPARATION, probes_of
from ...lineage.safety.protocol import Measurement, Status, Subject, Tier, as_score, declined
from ...lineage.statistics import Interval
from ...store.registry import Registry
from ..limits import Meter
from ..probing import MAX_MODEL_BYTES, announce_prompts
from ..progress import Progress, Silence
from ..report import ProbeReport, announce
from ..runnable import Runnables
from ..sources.base import Source
from .backend import UnsupportedModel
from .prompt_sets import PromptSet
from .transformers_backend import FirstPass, TransformersBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A model of this run: its passes over harmful and harmless prompts, and how it refuses."""

    harmful: FirstPass
    harmless: FirstPass
    openings: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class ActivationsProber:
    """Puts the forward-pass probes to models of one source, ancestors first."""

    registry: Registry
    source: Source
    prompts: PromptSet
    now: Callable[[], datetime]
    device: str = "auto"
    max_bytes: int = MAX_MODEL_BYTES
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Probe each model; an ancestor has to be in the same run to be compared with."""
        announce_prompts(self.registry, self.prompts, now=self.now())
        announce(self.registry, Tier.ACTIVATIONS)
        self.progress.stage("probe activations", len(models))
        failed: dict[str, str] = {}
        probed = 0
        for model in sorted(models, key=lambda name: len(self.registry.ancestors(name))):
            if self.meter.stopped:
                break
            if self.meter.exhausted:
                failed[model] = "not probed: the budget is used up"
                continue
            scores, reason = self._probe(model)
            self.registry.add_scores(scan, scores)
            probed += reason is None
            if reason is not None:
                failed[model] = reason
            self.progress.step(model)
        return ProbeReport(probed=probed, unchanged=0, failed=failed)

    def _probe(self, model: str) -> tuple[list[Score], str | None]:
        began = time.monotonic()
        sha = str(self.registry.describe(model)["sha"])
        subject = Subject(model=model, sha=sha, now=self.now())
        reason = None
        runnables = Runnables(
            registry=self.registry,
            source=self.source,
            device=self.device,
            max_bytes=self.max_bytes,
            meter=self.meter,
        )
        try:
            with tempfile.TemporaryDirectory(prefix="modelkin-probe-") as folder:
                mine = self._look(runnables.load(model, Path(folder)))
            self._seen[model] = mine
            found = list(self._measure(model, mine))
        except (ModelkinError, OSError) as error:
            reason = (
                str(error) if isinstance(error, ProbeError) else f"{type(error).__name__}: {error}"
            )
            status = Status.UNSUPPORTED if isinstance(error, UnsupportedModel) else Status.ERROR
            found = [declined(spec.probe, status, reason) for spec in probes_of(Tier.ACTIVATIONS)]
        seconds = (time.monotonic() - began) / len(found)
        scores = [
            as_score(
                one,
                PROBES[one.probe],
                subject=subject,
                seconds=seconds,
                prompt_set=self.prompts.identity,
            )
            for one in found
        ]
        return scores, reason

    def _look(self, backend: TransformersBackend) -> _Seen:
        harmful = backend.first_pass(self.prompts.harmful)
        harmless = backend.first_pass(self.prompts.harmless)
        firsts = [
            [max(prompt, key=lambda token: prompt[token]) for prompt in one.tokens]
            for one in (harmful, harmless)
        ]
        return _Seen(harmful=harmful, harmless=harmless, openings=opening_tokens(*firsts))

    def _measure(self, model: str, mine: _Seen) -> Iterator[Measurement]:
        yield self._separation(mine)
        line = [kin.model for kin in self.registry.ancestors(model)]
        ancestor = next((name for name in line if self._refuses(name)), None)
        base = mine if ancestor is None and mine.openings else self._seen.get(ancestor or "")
        if base is None:
            reason = "no model of its line that opens refusals alike was in this run"
            yield declined(LOG_ODDS, Status.UNALIGNABLE, reason)
            yield declined(GAP, Status.UNALIGNABLE, reason)
            return
        odds = refusal_log_odds(mine.harmful.tokens, mine.harmless.tokens, base.openings)
        n = len(self.prompts.harmful) + len(self.prompts.harmless)
        yield _measured(LOG_ODDS, odds, n=n, ancestor=ancestor, openings=len(base.openings))
        if ancestor is None:
            yield declined(GAP, Status.UNALIGNABLE, "it is the first of its line that refuses")
        else:
            yield self._gap(mine, base, ancestor)

    def _refuses(self, name: str) -> bool:
        return name in self._seen and bool(self._seen[name].openings)

    def _separation(self, mine: _Seen) -> Measurement:
        depths = sorted(mine.harmful.states)
        # A depth chosen by its result would be chosen for its noise: the middle of the later half.
        depth = depths[(len(depths) * 5) // 8]
        try:
            found = separation(mine.harmful.states[depth], mine.harmless.states[depth], layer=depth)
        except ValueError as error:
            return declined(SEPARATION, Status.INCONCLUSIVE, str(error))
        return _measured(SEPARATION, found.value, n=found.n, layer=depth)

    def _gap(self, mine: _Seen, base: _Seen, ancestor: str) -> Measurement:
        depths = sorted(base.harmful.states)
        depth = depths[(len(depths) * 5) // 8]
        sides = [one.states.get(depth) for one in (mine.harmful, mine.harmless)]
        theirs = (base.harmful.states[depth], base.harmless.states[depth])
        if sides[0] is None or sides[1] is None or sides[0].shape[1] != theirs[0].shape[1]:
            reason = "its hidden states have another depth or width than the ancestor's"
            return declined(GAP, Status.UNALIGNABLE, reason, ancestor=ancestor)
        found = relative_gap((sides[0], sides[1]), theirs)
        if found is None:
            reason = "the ancestor's own direction does not tell the classes apart"
            return declined(GAP, Status.INCONCLUSIVE, reason, ancestor=ancestor)
        return _measured(
            GAP, found, n=len(theirs[0]) + len(theirs[1]), ancestor=ancestor, layer=depth
        )


def _measured(probe: str, found: Interval, *, n: int, **detail: object) -> Measurement:
    return Measurement(
        probe=probe,
        status=Status.OK,
        n=n,
        value=found.value,
        ci_low=found.low,
        ci_high=found.high,
        detail=detail,
    )
