"""Tier 3: one forward pass a prompt. What is recognised, and what would be said first.

States and directions live as long as the run: no direction along which a model refuses is stored
or exported. What stays beside the scores is a fingerprint: how alike the model sees the prompts,
which holds no coordinate of its states.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...lineage.behaviour import LEAST_PROMPTS
from ...lineage.compute import Compute, Device
from ...lineage.errors import ModelkinError, ProbeError
from ...lineage.safety.activations import (
    direction_cosine,
    direction_of,
    held_out_auc,
    opening_tokens,
    refusal_log_odds,
    relative_gap,
    separation,
)
from ...lineage.safety.catalogue import (
    AUC,
    COSINE,
    GAP,
    LOG_ODDS,
    PROBES,
    SEPARATION,
    probes_of,
)
from ...lineage.safety.protocol import Measurement, Status, Subject, Tier, as_score, declined
from ...lineage.statistics import Interval
from ...store.registry import Registry
from ..behaviour import compare_behaviour, keep_fingerprint
from ..limits import Meter
from ..probing import MAX_MODEL_BYTES, announce_prompts
from ..progress import Progress, Silence
from ..report import ProbeReport, announce, probe_each
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
    device: Device = "auto"
    max_bytes: int = MAX_MODEL_BYTES
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _lines: dict[str, list[str]] = field(default_factory=dict)

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Probe each model; an ancestor has to be in the same run to be compared with.

        All fingerprints on these prompts, those of earlier runs among them, are compared after.
        """
        announce_prompts(self.registry, self.prompts, now=self.now())
        announce(self.registry, Tier.ACTIVATIONS)
        self.progress.stage("probe activations", len(models))
        self._lines = {
            name: [kin.model for kin in self.registry.ancestors(name)] for name in models
        }
        # States of a large model take tens of MB: they are kept of those alone that others need.
        needed = {above for line in self._lines.values() for above in line}
        probed, failed = probe_each(
            sorted(models, key=lambda name: len(self._lines[name])),
            lambda model: self._probe(scan, model, keep=model in needed),
            meter=self.meter,
            progress=self.progress,
        )
        unreadable = compare_behaviour(
            self.registry,
            scan,
            prompt_set=self.prompts.identity,
            compute=Compute(device=self.device),
        )
        failed |= {name: f"fingerprint: {reason}" for name, reason in unreadable.items()}
        return ProbeReport(probed=probed, unchanged=0, failed=failed)

    def _probe(self, scan: int, model: str, *, keep: bool) -> str | None:
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
            if keep:
                self._seen[model] = mine
            self._keep(scan, (model, sha), mine)
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
        self.registry.add_scores(scan, scores)
        return reason

    def _keep(self, scan: int, revision: tuple[str, str], mine: _Seen) -> None:
        if len(self.prompts.harmful) + len(self.prompts.harmless) >= LEAST_PROMPTS:
            keep_fingerprint(
                self.registry,
                scan,
                revision=revision,
                prompt_set=self.prompts.identity,
                passes=(mine.harmful, mine.harmless),
            )

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
        yield self._auc(mine)
        ancestor = next((name for name in self._lines[model] if self._refuses(name)), None)
        base = mine if ancestor is None and mine.openings else self._seen.get(ancestor or "")
        if base is None:
            reason = "no model of its line that opens refusals alike was in this run"
            yield declined(LOG_ODDS, Status.UNALIGNABLE, reason)
            yield declined(GAP, Status.UNALIGNABLE, reason)
            yield declined(COSINE, Status.UNALIGNABLE, reason)
            return
        odds = refusal_log_odds(mine.harmful.tokens, mine.harmless.tokens, base.openings)
        n = len(self.prompts.harmful) + len(self.prompts.harmless)
        yield _measured(LOG_ODDS, odds, n=n, ancestor=ancestor, openings=len(base.openings))
        if ancestor is None:
            reason = "it is the first of its line that refuses"
            yield declined(GAP, Status.UNALIGNABLE, reason)
            yield declined(COSINE, Status.UNALIGNABLE, reason)
        else:
            yield self._gap(mine, base, ancestor)
            yield self._cosine(mine, base, ancestor)

    def _refuses(self, name: str) -> bool:
        return name in self._seen and bool(self._seen[name].openings)

    def _separation(self, mine: _Seen) -> Measurement:
        depth = _fixed_depth(mine)
        try:
            found = separation(mine.harmful.states[depth], mine.harmless.states[depth], layer=depth)
        except ValueError as error:
            return declined(SEPARATION, Status.INCONCLUSIVE, str(error))
        return _measured(SEPARATION, found.value, n=found.n, layer=depth)

    def _auc(self, mine: _Seen) -> Measurement:
        depth = _fixed_depth(mine)
        try:
            layers = {
                at: held_out_auc(states, mine.harmless.states[at], layer=at).value
                for at, states in sorted(mine.harmful.states.items())
            }
        except ValueError as error:
            return declined(AUC, Status.INCONCLUSIVE, str(error))
        by_layer = {str(at): round(one.value, 4) for at, one in layers.items()}
        n = len(mine.harmful.tokens) + len(mine.harmless.tokens)
        return _measured(AUC, layers[depth], n=n, layer=depth, layers=by_layer)

    def _gap(self, mine: _Seen, base: _Seen, ancestor: str) -> Measurement:
        depth = _fixed_depth(base)
        sides = _states_at(mine, base, depth)
        if sides is None:
            return declined(GAP, Status.UNALIGNABLE, _OTHER_SHAPE, ancestor=ancestor)
        found = relative_gap(*sides)
        if found is None:
            reason = "the ancestor's own direction does not tell the classes apart"
            return declined(GAP, Status.INCONCLUSIVE, reason, ancestor=ancestor)
        n = sum(map(len, sides[1]))
        return _measured(GAP, found, n=n, ancestor=ancestor, layer=depth)

    def _cosine(self, mine: _Seen, base: _Seen, ancestor: str) -> Measurement:
        depth = _fixed_depth(base)
        sides = {
            at: both
            for at in sorted(base.harmful.states)
            if (both := _states_at(mine, base, at)) is not None
        }
        if depth not in sides:
            return declined(COSINE, Status.UNALIGNABLE, _OTHER_SHAPE, ancestor=ancestor)
        by_layer = {
            str(at): round(float(direction_of(*both[0]) @ direction_of(*both[1])), 4)
            for at, both in sides.items()
        }
        found = direction_cosine(*sides[depth])
        n = sum(map(len, sides[depth][1]))
        return _measured(COSINE, found, n=n, ancestor=ancestor, layer=depth, layers=by_layer)


_OTHER_SHAPE = "its hidden states have another depth or width than the ancestor's"
_States = tuple[NDArray[np.float64], NDArray[np.float64]]


def _fixed_depth(one: _Seen) -> int:
    """The middle of the later half: one chosen by its result would be chosen for its noise."""
    depths = sorted(one.harmful.states)
    return depths[(len(depths) * 5) // 8]


def _states_at(mine: _Seen, base: _Seen, depth: int) -> tuple[_States, _States] | None:
    """States of harmful and harmless prompts, of a model and its ancestor; None: not alike."""
    if depth not in mine.harmful.states:
        return None
    first, second = (
        (one.harmful.states[depth], one.harmless.states[depth]) for one in (mine, base)
    )
    return (first, second) if first[0].shape == second[0].shape else None


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
