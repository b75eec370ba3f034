"""One run of probes of one tier over models of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from ..lineage.compute import Device
from ..lineage.safety.protocol import Tier
from ..store.registry import Registry
from .inspect_import import InspectImporter
from .judges import announce_judges, family_judges
from .limits import Meter
from .probes.contexts import Context
from .probes.deployments import DeploymentProber
from .probes.endpoint_backend import EndpointBackend
from .probes.inspect_logs import InspectLog
from .probes.judging import Judge
from .probes.margins import Margins
from .probes.metadata import MetadataProber
from .probes.prompt_sets import PromptSet
from .probes.server_odds import ServerOdds
from .probes.sketches import SketchProber
from .probing import MAX_MODEL_BYTES, Prober, announce_prompts
from .progress import Progress, Silence
from .report import ProbeReport
from .sources.base import Source
from .verdicts import judge_store


class TierProber(Protocol):
    """Probes models at one tier."""

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Probe the models and store their scores."""
        ...


@dataclass(slots=True, kw_only=True)
class ProbeRun:
    """What every tier is given; a tier takes of it what it needs.

    `max_bytes` bounds each model's download, `meter` all of them together.
    """

    registry: Registry
    source: Source
    prompts: PromptSet
    now: Callable[[], datetime]
    device: Device = "auto"
    max_bytes: int = MAX_MODEL_BYTES
    judge: Judge | None = None
    max_tokens: int | None = None
    margins: Margins = field(default_factory=Margins)
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)

    def run(self, scan: int, tier: Tier, models: Sequence[str]) -> ProbeReport:
        """Probe the models at one tier and store their scores.

        Raises
        ------
        ValueError : a tier that needs more than models of a store (`deployment`).
        """
        prober = self._prober(tier)
        return prober.run(scan, models)

    def take_over(self, scan: int, model: str, log: InspectLog) -> ProbeReport:
        """Store what a log of Inspect says of a model, and judge what has scores."""
        importer = InspectImporter(
            registry=self.registry, prompts=self.prompts, now=self.now, judge=self.judge
        )
        return importer.run(scan, model, log)

    def serve(
        self,
        scan: int,
        checkpoint: str,
        backend: EndpointBackend,
        contexts: Sequence[Context],
        *,
        odds: bool = False,
    ) -> ProbeReport:
        """Probe a checkpoint behind a server, once a context, and judge what has scores.

        Parameters
        ----------
        odds : also ask how likely the first tokens of each reply are.
        """
        announce_prompts(self.registry, self.prompts, now=self.now())
        announce_judges(self.registry, self.judge, now=self.now())
        line = [checkpoint, *(kin.model for kin in self.registry.ancestors(checkpoint))]
        given = () if self.judge is None else (self.judge,)
        judges = family_judges(self.registry, line, prompts=self.prompts, given=given)
        prober = DeploymentProber(
            registry=self.registry,
            backend=backend,
            prompts=self.prompts,
            now=self.now,
            judges=replace(judges, learns=False),
            odds=ServerOdds(prompts=self.prompts) if odds else None,
            progress=self.progress,
        )
        report = prober.run(scan, checkpoint, contexts)
        findings = judge_store(
            self.registry, scan=scan, prompt_set=self.prompts.digest, now=self.now()
        )
        return replace(report, findings=tuple(findings))

    def _prober(self, tier: Tier) -> TierProber:
        match tier:
            case Tier.METADATA:
                return MetadataProber(
                    registry=self.registry,
                    source=self.source,
                    now=self.now,
                    progress=self.progress,
                    meter=self.meter,
                )
            case Tier.SKETCH:
                return SketchProber(
                    registry=self.registry, now=self.now, progress=self.progress, meter=self.meter
                )
            case Tier.WEIGHTS:
                from .probes.weights import WeightsProber

                return WeightsProber(
                    registry=self.registry,
                    source=self.source,
                    now=self.now,
                    max_bytes=self.max_bytes,
                    progress=self.progress,
                    meter=self.meter,
                )
            case Tier.ACTIVATIONS:
                from .probes.activations import ActivationsProber

                return ActivationsProber(
                    registry=self.registry,
                    source=self.source,
                    prompts=self.prompts,
                    now=self.now,
                    device=self.device,
                    max_bytes=self.max_bytes,
                    progress=self.progress,
                    meter=self.meter,
                )
            case Tier.GENERATION:
                return Prober(
                    registry=self.registry,
                    source=self.source,
                    prompts=self.prompts,
                    now=self.now,
                    device=self.device,
                    max_bytes=self.max_bytes,
                    judge=self.judge,
                    max_tokens=self.max_tokens,
                    margins=self.margins,
                    progress=self.progress,
                    meter=self.meter,
                )
        raise ValueError(f"{tier} is not a tier of models in a store")
