"""Runs of Inspect as scores: replies graded like any others, or the metrics that it made itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from ..lineage.records import Score
from ..lineage.safety.protocol import Tier
from ..store.facts import ProbeDefinition
from ..store.registry import Registry
from .judges import announce_judges, family_judges
from .probes.inspect_logs import InspectLog, Metric
from .probes.judging import Judge
from .probes.prompt_sets import PromptSet
from .probes.refusal_scores import probe_refusal
from .probing import announce_prompts
from .report import ProbeReport, announce
from .verdicts import judge_store

_Z: Final = 1.959964


@dataclass(slots=True, kw_only=True)
class InspectImporter:
    """Puts logs of Inspect into one registry."""

    registry: Registry
    prompts: PromptSet
    now: Callable[[], datetime]
    judge: Judge | None = None

    def run(self, scan: int, model: str, log: InspectLog) -> ProbeReport:
        """Store what a log says of a model.

        A log of a task that `write_task` made of this prompt set is graded and judged; of any
        other the metrics are taken over as they are, under `inspect:<task>:<scorer>:<metric>`.
        """
        if log.prompt_set == self.prompts.digest:
            return self._graded(scan, model, log)
        self.registry.add_scores(scan, [self._metric(model, log, one) for one in log.metrics])
        failed = {} if log.metrics else {model: "the log has neither our prompts nor a metric"}
        return ProbeReport(probed=int(bool(log.metrics)), unchanged=0, failed=failed)

    def _graded(self, scan: int, model: str, log: InspectLog) -> ProbeReport:
        announce_prompts(self.registry, self.prompts, now=self.now())
        announce_judges(self.registry, self.judge, now=self.now())
        announce(self.registry, Tier.GENERATION)
        line = [model, *(kin.model for kin in self.registry.ancestors(model))]
        given = () if self.judge is None else (self.judge,)
        judges = family_judges(self.registry, line, prompts=self.prompts, given=given)
        scores = probe_refusal(
            backend=log,
            model=model,
            sha=str(self.registry.describe(model)["sha"]),
            prompts=self.prompts,
            now=self.now(),
            environment=log.environment(),
            judges=replace(judges, learns=False),
        )
        self.registry.add_scores(scan, scores)
        bad = next((score for score in scores if score.status != "ok"), None)
        findings = judge_store(
            self.registry, scan=scan, prompt_set=self.prompts.digest, now=self.now()
        )
        failed = {} if bad is None else {model: str(bad.environment.get("reason", bad.status))}
        return ProbeReport(
            probed=1 - len(failed), unchanged=0, failed=failed, findings=tuple(findings)
        )

    def _metric(self, model: str, log: InspectLog, metric: Metric) -> Score:
        probe = f"inspect:{log.task}:{metric.scorer}:{metric.name}"
        self.registry.add_probe(
            ProbeDefinition(
                probe=probe,
                probe_version=log.version,
                tier=Tier.GENERATION,
                unit="metric",
                description="a metric of a task of Inspect, as its log states it",
            )
        )
        half = None if metric.se is None else _Z * metric.se
        return Score(
            model=model,
            sha=str(self.registry.describe(model)["sha"]),
            probe=probe,
            probe_version=log.version,
            prompt_set=f"inspect:{log.task}@{log.version}",
            n=log.samples,
            status="ok",
            value=metric.value,
            ci_low=None if half is None else metric.value - half,
            ci_high=None if half is None else metric.value + half,
            unit="metric",
            judge=f"inspect-{metric.scorer}",
            corrected=False,
            environment={**log.environment(), "correction": "uncorrected"},
            seconds=0.0,
            scored_at=self.now(),
        )
