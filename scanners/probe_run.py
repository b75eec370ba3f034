"""One run of probes of one tier over models of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..lineage.safety.protocol import Tier
from ..store.registry import Registry
from .limits import Meter
from .probes.metadata import MetadataProber
from .probes.prompt_sets import PromptSet
from .probes.sketches import SketchProber
from .probing import MAX_MODEL_BYTES, Prober
from .progress import Progress, Silence
from .report import ProbeReport
from .sources.base import Source


@dataclass(slots=True, kw_only=True)
class ProbeRun:
    """What every tier is given; a tier takes of it what it needs.

    `max_bytes` bounds each model's download, `meter` all of them together.
    """

    registry: Registry
    source: Source
    prompts: PromptSet
    now: Callable[[], datetime]
    device: str = "auto"
    max_bytes: int = MAX_MODEL_BYTES
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

    def _prober(self, tier: Tier) -> MetadataProber | SketchProber | Prober:
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
            case Tier.GENERATION:
                return Prober(
                    registry=self.registry,
                    source=self.source,
                    prompts=self.prompts,
                    now=self.now,
                    device=self.device,
                    max_bytes=self.max_bytes,
                    progress=self.progress,
                    meter=self.meter,
                )
        raise ValueError(f"{tier} is not a tier of models in a store")
