"""Run the refusal probe on models of a store, and judge who lost what an ancestor had."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ..lineage.errors import LimitExceeded, ModelkinError, ProbeError
from ..lineage.records import Finding, Score
from ..lineage.safety.findings import stripped_findings
from ..lineage.safety.profile import SafetyProfile, profile_from_scores
from ..lineage.safety.protocol import Tier
from ..store.facts import PromptSet as StoredPromptSet
from ..store.registry import Registry
from .download import fetch_model
from .limits import Meter
from .probes.prompt_sets import PromptSet
from .probes.refusal import probe_refusal, unanswered_scores
from .progress import Progress, Silence
from .report import ProbeReport, announce
from .sources.base import Source

MAX_MODEL_BYTES = 20 << 30
FINDING = "stripped_safety"


@dataclass(slots=True, kw_only=True)
class Prober:
    """Probes models of one source into one registry.

    `max_bytes` bounds each model's download, `meter` all of them together; `device` is `auto`,
    `cpu` or `cuda`.
    """

    registry: Registry
    source: Source
    prompts: PromptSet
    now: Callable[[], datetime]
    device: str = "auto"
    max_bytes: int = MAX_MODEL_BYTES
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Probe each model once per revision and prompt set, then judge all that have scores.

        A model that cannot be run gets scores with a status and a reason, never a pass.
        """
        self._announce()
        self.progress.stage("probe", len(models))
        failed: dict[str, str] = {}
        probed = unchanged = 0
        for model in models:
            if self.meter.stopped:
                break
            if self._is_measured(model):
                unchanged += 1
            elif self.meter.exhausted:
                failed[model] = "not probed: the budget is used up"
            else:
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
        prompts = self.prompts
        self.registry.add_prompt_set(
            StoredPromptSet(
                digest=prompts.digest,
                name=prompts.name,
                license=prompts.license or "unstated",
                n_harmful=len(prompts.harmful),
                n_harmless=len(prompts.harmless),
            ),
            now=self.now(),
        )
        announce(self.registry, Tier.GENERATION)

    def _is_measured(self, model: str) -> bool:
        sha = self.registry.describe(model)["sha"]
        profile = profile_from_scores(
            s
            for s in self.registry.scores_of(model)
            if s.sha == sha and s.prompt_set.endswith(self.prompts.digest)
        )
        return profile is not None

    def _probe(self, scan: int, model: str) -> str | None:
        """Probe one model; the reason when it could not be."""
        with tempfile.TemporaryDirectory(prefix="modelkin-probe-") as folder:
            sha = str(self.registry.describe(model)["sha"])
            try:
                asyncio.run(self._fetch(model, sha, Path(folder)))
            except (ModelkinError, OSError) as error:
                if self.meter.stopped:
                    return "interrupted"
                scores = self._unanswered(model, sha, error)
            else:
                scores = self._ask(model, sha, Path(folder))
        self.registry.add_scores(scan, scores)
        bad = next((s for s in scores if s.status != "ok"), None)
        return None if bad is None else str(bad.environment.get("reason", bad.status))

    async def _fetch(self, model: str, sha: str, folder: Path) -> None:
        traffic = self.meter.traffic
        info = await asyncio.to_thread(self.source.info, model, traffic=traffic)
        if info.sha != sha:
            raise ProbeError(f"not probed: it has changed since it was scanned, to {info.sha}")
        await fetch_model(
            self.source,
            info,
            folder,
            max_bytes=self.max_bytes,
            traffic=traffic,
            stopped=self.meter.interrupted,
        )

    def _ask(self, model: str, sha: str, folder: Path) -> tuple[Score, ...]:
        from .probes.transformers_backend import TransformersBackend

        try:
            backend = TransformersBackend.load(folder, device=self.device)
        except ProbeError as error:
            return self._unanswered(model, sha, error)
        return probe_refusal(
            backend=backend,
            model=model,
            sha=sha,
            prompts=self.prompts,
            now=self.now(),
            environment=backend.environment(),
        )

    def _unanswered(self, model: str, sha: str, error: Exception) -> tuple[Score, ...]:
        reason = error if isinstance(error, ProbeError) else _as_probe_error(error)
        return unanswered_scores(
            error=reason, model=model, sha=sha, prompts=self.prompts, now=self.now(), environment={}
        )


def judge_store(registry: Registry, *, scan: int, prompt_set: str, now: datetime) -> list[Finding]:
    """Judge every model with scores on a prompt set against its measured ancestors, and store it.

    The newest scores of each model's current revision count. Findings on models that were not
    measured on this set are left as they are.
    """
    profiles = _profiles(registry, prompt_set)
    ancestors = {
        name: [kin.model for kin in sorted(registry.ancestors(name), key=lambda k: k.distance)]
        for name in profiles
    }
    findings = stripped_findings(profiles, ancestors)
    registry.replace_findings(scan, FINDING, findings, scope=set(profiles), now=now)
    return findings


def _profiles(registry: Registry, prompt_set: str) -> dict[str, SafetyProfile]:
    found = {}
    for name in registry.scored(prompt_set):
        sha = registry.describe(name)["sha"]
        profile = profile_from_scores(
            s
            for s in registry.scores_of(name)
            if s.sha == sha and s.prompt_set.endswith(prompt_set)
        )
        if profile is not None:
            found[name] = profile
    return found


def _as_probe_error(error: Exception) -> ProbeError:
    if isinstance(error, LimitExceeded):
        return ProbeError(f"not probed: {error}")
    return ProbeError(f"{type(error).__name__}: {error}")
