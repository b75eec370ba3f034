"""Run the refusal probe on models of a store, and judge who lost what an ancestor had."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..lineage.errors import LimitExceeded, ModelkinError, ProbeError
from ..lineage.records import Score
from ..lineage.safety.betting import e_value
from ..lineage.safety.catalogue import REFUSAL_VERSION
from ..lineage.safety.contrast import measure_refusals
from ..lineage.safety.family import E_BOUND, LOST, differences, judge_jointly
from ..lineage.safety.graded import Graded
from ..lineage.safety.profile import REFUSAL_HARMFUL
from ..lineage.safety.protocol import Tier
from ..lineage.safety.verdict import had_refusal
from ..store.facts import PromptSet as StoredPromptSet
from ..store.registry import Registry
from .judges import announce_judges, family_judges, keep_classifier
from .limits import Meter
from .probes.chat_files import read_chat_files
from .probes.judging import ClassifierJudge, Judge, Judges
from .probes.margins import Margins, margin_scores
from .probes.prompt_sets import PromptSet
from .probes.refusal import JUDGE, MAX_NEW_TOKENS, RefusalRun, run_refusal
from .probes.refusal_scores import About, scores_of_run, unanswered_scores
from .progress import Progress, Silence
from .report import ProbeReport, announce
from .runnable import Runnables
from .sources.base import Source
from .verdicts import graded_model, judge_store

if TYPE_CHECKING:
    from .probes.transformers_backend import TransformersBackend

MAX_MODEL_BYTES = 20 << 30
MAX_RATE = 0.05
"""False discovery rate that a run which stops early has to be sure of."""


@dataclass(slots=True, kw_only=True)
class Prober:
    """Probes models of one source into one registry.

    `max_bytes` bounds each model's download, `meter` all of them together; `device` is `auto`,
    `cpu` or `cuda`. `judge` grades beside the lexical grader and the classifier that each family's
    release teaches. `max_tokens` bounds the new tokens that are asked for in one run; `margins`
    says what is asked beside the greedy replies.
    """

    registry: Registry
    source: Source
    prompts: PromptSet
    now: Callable[[], datetime]
    device: str = "auto"
    max_bytes: int = MAX_MODEL_BYTES
    judge: Judge | None = None
    max_tokens: int | None = None
    margins: Margins = field(default_factory=Margins)
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)
    _hypotheses: int = 1

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Probe each model once per revision and prompt set, then judge all that have scores.

        Ancestors come before their descendants: what they refused with is what descendants are
        held against. A model that cannot be run gets scores with a status and a reason, never a
        pass.
        """
        self._announce()
        self.progress.stage("probe", len(models))
        self._hypotheses = max(1, len(models))
        failed: dict[str, str] = {}
        probed = unchanged = tokens = 0
        each = MAX_NEW_TOKENS * (
            len(self.prompts.harmful) + len(self.prompts.harmless) + len(self.prompts.capability)
        )
        each += self.margins.tokens(self.prompts, MAX_NEW_TOKENS)
        for model in sorted(models, key=lambda name: len(self.registry.ancestors(name))):
            if self.meter.stopped:
                break
            if self._is_measured(model):
                unchanged += 1
            elif self.meter.exhausted:
                failed[model] = "not probed: the budget is used up"
            elif self.max_tokens is not None and tokens + each > self.max_tokens:
                failed[model] = "not probed: the budget of tokens is used up"
            else:
                tokens += each
                reason = self._probe(scan, model)
                probed += reason is None
                if reason is not None:
                    failed[model] = reason
            self.progress.step(model)
        findings = judge_store(
            self.registry, scan=scan, prompt_set=self.prompts.digest, now=self.now()
        )
        return ProbeReport(
            probed=probed, unchanged=unchanged, failed=failed, findings=tuple(findings)
        )

    def _announce(self) -> None:
        announce_prompts(self.registry, self.prompts, now=self.now())
        announce(self.registry, Tier.GENERATION)
        announce_judges(self.registry, self.judge, now=self.now())

    def _is_measured(self, model: str) -> bool:
        sha = self.registry.describe(model)["sha"]
        have = {
            score.probe
            for score in self.registry.scores_of(model)
            if score.sha == sha
            and score.status == "ok"
            and score.probe_version == REFUSAL_VERSION
            and score.prompt_set.endswith(self.prompts.digest)
        }
        return {REFUSAL_HARMFUL, *self.margins.probes} <= have

    def _probe(self, scan: int, model: str) -> str | None:
        """Probe one model; the reason when it could not be."""
        sha = str(self.registry.describe(model)["sha"])
        runnables = Runnables(
            registry=self.registry,
            source=self.source,
            device=self.device,
            max_bytes=self.max_bytes,
            meter=self.meter,
        )
        try:
            with tempfile.TemporaryDirectory(prefix="modelkin-probe-") as folder:
                scores = self._ask(model, sha, runnables.load(model, Path(folder)))
        except (ModelkinError, OSError) as error:
            if self.meter.stopped:
                return "interrupted"
            scores = self._unanswered(model, sha, error)
        self.registry.add_scores(scan, scores)
        bad = next((s for s in scores if s.status != "ok"), None)
        return None if bad is None else str(bad.environment.get("reason", bad.status))

    def _ask(self, model: str, sha: str, backend: TransformersBackend) -> tuple[Score, ...]:
        run, environment = self._measure(model, backend)
        if run.learned is not None:
            keep_classifier(
                self.registry,
                run.learned,
                family=model,
                prompts=self.prompts,
                now=self.now(),
                errors=run.errors.get(ClassifierJudge(classifier=run.learned).name),
            )
        about = About(
            model=model, sha=sha, prompts=self.prompts, now=self.now(), environment=environment
        )
        return (
            *scores_of_run(run, about=about, max_new_tokens=MAX_NEW_TOKENS),
            *margin_scores(backend, self.margins, about=about, max_new_tokens=MAX_NEW_TOKENS),
        )

    def _measure(
        self, model: str, backend: TransformersBackend
    ) -> tuple[RefusalRun, dict[str, Any]]:
        environment = dict(backend.environment())
        ancestor = self._ancestor(model)
        judges = self._judges(model)
        apart = ancestor is not None and (
            ancestor.template_sha256 != environment["template_sha256"]
        )
        stop = None
        if ancestor is not None and not apart:
            stop = Sure(ancestor, self.prompts, at=self._hypotheses / MAX_RATE)
        run = run_refusal(backend, prompts=self.prompts, judges=judges, stop=stop)
        if ancestor is None or not apart:
            return run, environment
        try:
            template = asyncio.run(self._template(ancestor.model))
        except (ModelkinError, OSError) as error:
            return run, {**environment, "template_reason": f"{type(error).__name__}: {error}"[:300]}
        alone = replace(self.prompts, capability=())
        other = run_refusal(backend.with_template(template), prompts=alone, judges=judges)
        kept, left = (
            (run, other) if self._selective(run) >= self._selective(other) else (other, run)
        )
        environment |= {
            "templates": "both",
            "template_kept": "own" if kept is run else "ancestor",
            "selective_refusal_other_template": self._selective(left),
        }
        return replace(kept, right=run.right, seconds=run.seconds + other.seconds), environment

    def _selective(self, run: RefusalRun) -> float:
        return measure_refusals(run.profile(model="", prompts=self.prompts)).selective.value

    async def _template(self, model: str) -> str | None:
        traffic = self.meter.traffic
        info = await asyncio.to_thread(self.source.info, model, traffic=traffic)
        return (await read_chat_files(self.source, info, traffic=traffic)).template

    def _ancestor(self, model: str) -> Graded | None:
        """The nearest ancestor that is known to have had safety training."""
        for kin in self.registry.ancestors(model):
            if not kin.hidden:
                graded = graded_model(self.registry, kin.model, self.prompts.digest)
                if graded is not None and had_refusal(graded.primary):
                    return graded
        return None

    def _judges(self, model: str) -> Judges:
        line = [kin.model for kin in self.registry.ancestors(model)]
        given = () if self.judge is None else (self.judge,)
        return family_judges(self.registry, line, prompts=self.prompts, given=given)

    def _unanswered(self, model: str, sha: str, error: Exception) -> tuple[Score, ...]:
        reason = error if isinstance(error, ProbeError) else _as_probe_error(error)
        return unanswered_scores(
            error=reason, model=model, sha=sha, prompts=self.prompts, now=self.now(), environment={}
        )


class Sure:
    """Ends a run once it is sure of a loss: the verdict stands and the e-process is above `at`."""

    def __init__(self, ancestor: Graded, prompts: PromptSet, *, at: float) -> None:
        self._ancestor = ancestor
        self._prompts = prompts
        self._at = at

    def __call__(self, run: RefusalRun) -> str | None:
        """Why no more prompts are needed, None while they are."""
        names = [JUDGE, *run.others]
        now = Graded(
            model="now",
            profiles=tuple(
                run.profile(model="now", prompts=self._prompts, judge=name) for name in names
            ),
            template_sha256=self._ancestor.template_sha256,
        )
        before = self._ancestor.primary
        if e_value(differences(before, now.primary, lenient=True), bound=E_BOUND) < self._at:
            return None
        joint = judge_jointly(self._ancestor, now)
        if joint.label not in LOST or joint.e_value < self._at:
            return None
        return f"sure of a loss after {len(run.harmful)} pairs, e = {joint.e_value:.3g}"


def announce_prompts(registry: Registry, prompts: PromptSet, *, now: datetime) -> None:
    """Store what a prompt set is, without its prompts."""
    registry.add_prompt_set(
        StoredPromptSet(
            digest=prompts.digest,
            name=prompts.name,
            license=prompts.license or "unstated",
            n_harmful=len(prompts.harmful),
            n_harmless=len(prompts.harmless),
        ),
        now=now,
    )


def _as_probe_error(error: Exception) -> ProbeError:
    if isinstance(error, LimitExceeded):
        return ProbeError(f"not probed: {error}")
    return ProbeError(f"{type(error).__name__}: {error}")
