"""The main job: everything that descends from a release, placed and probed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..lineage.compute import Compute
from ..lineage.records import ModelInfo
from ..lineage.sketch.plan import kindred_shapes
from ..store.registry import Registry
from .claims import judge_claims
from .formats.adapters import FORMATS as ADAPTER_FORMATS
from .inference import InferenceReport, infer_store
from .limits import Meter
from .probes.prompt_sets import PromptSet
from .probes.sketches import SketchProber
from .probing import MAX_MODEL_BYTES, Prober
from .progress import Progress, Silence
from .report import ProbeReport
from .scan import Scanner, ScanPlan, ScanReport
from .sources.base import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class MapReport:
    """What a map did: the release's name now, its scan, the inference and the probes.

    `inference` is None when a signal ended the map before it, `probes` also when a budget did.
    """

    release: str
    scan: ScanReport
    inference: InferenceReport | None
    probes: ProbeReport | None


@dataclass(slots=True, kw_only=True)
class Mapper:
    """Maps releases of one source into one registry.

    `prompts` None leaves the probes out. `max_model_bytes` bounds the download of each probed
    model. `parameters` (plain JSON) are stored with the scan; only a scan with the same ones is
    resumed.
    """

    registry: Registry
    source: Source
    now: Callable[[], datetime]
    compute: Compute = field(default_factory=Compute)
    meter: Meter = field(default_factory=Meter)
    progress: Progress = field(default_factory=Silence)
    prompts: PromptSet | None = None
    max_model_bytes: int = MAX_MODEL_BYTES
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def map_release(self, release: str, *, resume: bool = False) -> MapReport:
        """Find, sketch, place and probe whatever may descend from a release.

        Raises
        ------
        ModelNotFound, AccessDenied : the source does not hand out the release.
        NotComparable : the release has no weights that can be read.
        """
        info = self.source.info(release, traffic=self.meter.traffic)
        scanner = self._scanner()
        scan = asyncio.run(scanner.run(self._plan(info), resume=resume))
        if scan.status == "interrupted":
            return MapReport(release=info.name, scan=scan, inference=None, probes=None)
        own = [row.shape_key for row in self.registry.sketched(names=[info.name])]
        shapes = {
            row.shape_key
            for row in self.registry.sketched()
            if row.shape_key is not None
            and any(key is not None and kindred_shapes(row.shape_key, key) for key in own)
        }
        inference = infer_store(
            self.registry,
            scan=scan.scan,
            now=self.now(),
            compute=self.compute,
            shapes=shapes,
            progress=self.progress,
            original=info.name,
        )
        judge_claims(self.registry, scan=scan.scan, now=self.now())
        probes = None
        if self.prompts is not None and scan.status == "done":
            probes = self._probe(scan.scan, info.name, self.prompts)
        scanner.finish(scan)
        return MapReport(release=info.name, scan=scan, inference=inference, probes=probes)

    def _scanner(self) -> Scanner:
        return Scanner(
            registry=self.registry,
            source=self.source,
            now=self.now,
            meter=self.meter,
            progress=self.progress,
        )

    def _plan(self, info: ModelInfo) -> ScanPlan:
        return ScanPlan(
            kind="map",
            target=info.name,
            skip=lambda other: unlike(info, other),
            parameters={"release": info.name, **self.parameters},
            goes_on=True,
        )

    def _probe(self, scan: int, release: str, prompts: PromptSet) -> ProbeReport:
        prober = Prober(
            registry=self.registry,
            source=self.source,
            prompts=prompts,
            now=self.now,
            device=self.compute.device,
            max_bytes=self.max_model_bytes,
            progress=self.progress,
            meter=self.meter,
        )
        kin = [k for k in self.registry.descendants(release) if not k.hidden]
        kin += [k for k in self.registry.ancestors(release) if not k.hidden]
        known = {
            row.model
            for row in self.registry.sketched()
            if row.shape_key is not None or row.format in ADAPTER_FORMATS
        }
        models = [release, *(k.model for k in kin if k.model in known)]
        # Nothing is fetched for it, and it says who was edited before anything is run.
        SketchProber(registry=self.registry, now=self.now, meter=self.meter).run(scan, models)
        return prober.run(scan, models)


def unlike(release: ModelInfo, other: ModelInfo) -> str | None:
    """Why a listed model cannot have the release's shape, from the listing alone; None if it may.

    A model without a stated architecture is always looked at: leaving it out of a listing would
    be too easy a way to hide.
    """
    mine, theirs = _architectures(release.config), _architectures(other.config)
    if mine and theirs and not mine & theirs:
        return f"another architecture: {', '.join(sorted(theirs))}"
    return None


def _architectures(config: Mapping[str, Any]) -> set[str]:
    named = config.get("architectures")
    return {str(name) for name in named} if isinstance(named, list) else set()
