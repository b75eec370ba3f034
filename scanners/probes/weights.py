"""Tier 2: whole writing matrices, streamed layer by layer. A scar needs no parent; a delta does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ...lineage.errors import ModelkinError, ProbeError, UnsupportedFormat
from ...lineage.records import ModelInfo
from ...lineage.safety.catalogue import DELTA, PROBES, SCAR, probes_of
from ...lineage.safety.protocol import Measurement, Status, Subject, Tier, as_score, declined
from ...lineage.safety.scar import (
    ChangedMatrix,
    Scar,
    ScarScan,
    SharedDirection,
    change_of,
    shared_direction,
)
from ...store.registry import Registry
from ..limits import Meter
from ..progress import Progress, Silence
from ..report import ProbeReport, announce, probe_each
from ..sources.base import Source
from .whole_weights import WholeWeights


@dataclass(slots=True, kw_only=True)
class WeightsProber:
    """Puts the probes of whole weights to models of one source.

    `max_bytes` bounds what is read of each model, `meter` all of them together.
    """

    registry: Registry
    source: Source
    now: Callable[[], datetime]
    max_bytes: int
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Read each model's writing matrices once, and its nearest ancestor's beside them."""
        announce(self.registry, Tier.WEIGHTS)
        self.progress.stage("probe weights", len(models))
        probed, failed = probe_each(
            models,
            lambda model: self._probe(scan, model),
            meter=self.meter,
            progress=self.progress,
        )
        return ProbeReport(probed=probed, unchanged=0, failed=failed)

    def _probe(self, scan: int, model: str) -> str | None:
        began = time.monotonic()
        subject = Subject(
            model=model, sha=str(self.registry.describe(model)["sha"]), now=self.now()
        )
        reason = None
        try:
            found = asyncio.run(self._measure(model))
        except (ModelkinError, OSError) as error:
            if self.meter.stopped:
                return "interrupted"
            reason = f"{type(error).__name__}: {error}"
            status = Status.UNSUPPORTED if isinstance(error, UnsupportedFormat) else Status.ERROR
            found = [declined(spec.probe, status, reason) for spec in probes_of(Tier.WEIGHTS)]
        seconds = (time.monotonic() - began) / len(found)
        scores = [
            as_score(one, PROBES[one.probe], subject=subject, seconds=seconds) for one in found
        ]
        self.registry.add_scores(scan, scores)
        return reason

    async def _measure(self, model: str) -> list[Measurement]:
        mine = await self._opened(model)
        ancestor = self._ancestor(model)
        theirs = None if ancestor is None else await self._opened(ancestor)
        layers = mine.layers()
        scan = ScarScan(len(layers))
        scars: list[Scar] = []
        changes: list[ChangedMatrix] = []
        for at, layer in enumerate(layers):
            if self.meter.stopped:
                raise ProbeError("interrupted")
            matrices = await mine.of_layer(layer)
            scar = await asyncio.to_thread(scan.add, at, list(matrices.values()))
            scars += [] if scar is None else [scar]
            if theirs is not None:
                others = await theirs.of_layer(layer)
                for role, matrix in matrices.items():
                    other = others.get(role)
                    if other is None or other.shape != matrix.shape:
                        theirs = None
                        break
                    found = await asyncio.to_thread(change_of, matrix, other)
                    changes += [] if found is None else [found]
        return [_scar(scars), _delta(changes, ancestor=ancestor, aligned=theirs is not None)]

    async def _opened(self, model: str) -> WholeWeights:
        known = str(self.registry.describe(model)["sha"])
        info: ModelInfo = await asyncio.to_thread(
            self.source.info, model, traffic=self.meter.traffic
        )
        if info.sha != known:
            raise ProbeError(f"not probed: it has changed since it was scanned, to {info.sha}")
        weights = WholeWeights(source=self.source, info=info, traffic=self.meter.traffic)
        await weights.open()
        if weights.size() > self.max_bytes:
            raise ProbeError(
                f"not probed: its writing matrices take {weights.size():,} bytes, "
                f"above the bound of {self.max_bytes:,}"
            )
        return weights

    def _ancestor(self, model: str) -> str | None:
        """The nearest ancestor whose files were read; others are known by name alone."""
        kin = [one.model for one in self.registry.ancestors(model) if not one.hidden]
        known = {row.model for row in self.registry.sketched(names=kin)} if kin else set()
        return next((name for name in kin if name in known), None)


def _scar(scars: Sequence[Scar]) -> Measurement:
    best = max(scars, key=lambda scar: scar.value, default=None)
    if best is None:
        return declined(SCAR, Status.UNSUPPORTED, "too few layers or too narrow for a spectrum")
    return Measurement(
        probe=SCAR,
        status=Status.OK,
        n=best.matrices,
        value=best.value,
        ci_low=best.low,
        ci_high=best.high,
        detail={
            "directions": best.k,
            "layers": [best.first, best.last],
            "windows": len(scars),
            "null_inner": best.inner,
        },
    )


def _delta(changes: Sequence[ChangedMatrix], *, ancestor: str | None, aligned: bool) -> Measurement:
    if ancestor is None:
        return declined(DELTA, Status.UNALIGNABLE, "it has no ancestor in the store")
    if not aligned:
        return declined(
            DELTA, Status.UNALIGNABLE, "its matrices have other shapes", ancestor=ancestor
        )
    found = shared_direction(changes)
    if found is None:
        reason = f"{len(changes)} writing matrices changed: three are needed"
        return declined(DELTA, Status.INCONCLUSIVE, reason, ancestor=ancestor)
    return Measurement(
        probe=DELTA,
        status=Status.OK,
        n=found.matrices,
        value=found.value,
        ci_low=found.low,
        ci_high=found.high,
        detail=dict(_details(found), ancestor=ancestor),
    )


def _details(found: SharedDirection) -> Iterator[tuple[str, object]]:
    yield "null", found.null
    yield "energy_first", found.share
    yield "energy_first_20", found.share_20
