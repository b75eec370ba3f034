"""Tier 1: the stored sketch of a model against those of its ancestors. No byte is fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ...lineage.errors import MalformedFile, RegistryError
from ...lineage.infer.specimen import Specimen, specimen
from ...lineage.records import Score
from ...lineage.safety.catalogue import PROBES, probes_of
from ...lineage.safety.protocol import Measurement, Status, Subject, Tier, as_score, declined
from ...lineage.safety.sketch_probes import (
    COHERENCE,
    CONSISTENCY,
    MASK,
    SPECTRUM,
    Signature,
    probe_sketch,
    signature,
)
from ...store.facts import SketchRow
from ...store.registry import Registry
from ..limits import Meter
from ..progress import Progress, Silence
from ..report import ProbeReport, announce
from ..sketch_records import load_sketch
from ..threads import one_thread_if

MAX_ANCESTORS = 6
MIN_BANK = 20
_KEPT = 64

Measured = Mapping[str, Measurement]


@dataclass(slots=True, kw_only=True)
class SketchProber:
    """Puts the sketch probes to models of a store."""

    registry: Registry
    now: Callable[[], datetime]
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)
    _loaded: dict[str, Specimen] = field(default_factory=dict)

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Measure each model against its nearest ancestors and keep the strongest sign.

        A model is held against parents and remoter ancestors: what an edit left shows against the
        one that was edited also in the quantized copies of the edited model.
        """
        announce(self.registry, Tier.SKETCH)
        self.progress.stage("probe sketches", len(models))
        rows = {row.model: row for row in self.registry.sketched()}
        failed: dict[str, str] = {}
        scores: dict[str, list[Score]] = {}
        # The matrices are small: threads would wait for each other more than they work.
        with one_thread_if(True):
            for model in models:
                if self.meter.stopped:
                    break
                if model in rows:
                    scores[model] = self._probe(model, rows)
                else:
                    failed[model] = "no sketch in the store"
                self.progress.step(model)
        _rank_spectra(scores)
        self.registry.add_scores(scan, [score for found in scores.values() for score in found])
        return ProbeReport(probed=len(scores), unchanged=0, failed=failed)

    def _probe(self, model: str, rows: Mapping[str, SketchRow]) -> list[Score]:
        began = time.monotonic()
        row = rows[model]
        found, mark, seen = self._strongest(row, rows)
        seconds = (time.monotonic() - began) / len(found)
        subject = Subject(model=model, sha=row.sha, now=self.now())
        marks: dict[str, Any] = {"ancestors": seen}
        if mark is not None:
            marks["signature"] = {True: "edit", False: "none", None: "unobservable"}[mark.edited]
            marks["rate_bound"] = min(1.0, mark.p_bound * max(1, len(seen)))
        return [
            as_score(
                replace(one, detail={**one.detail, **marks}),
                PROBES[one.probe],
                subject=subject,
                seconds=seconds,
            )
            for one in found.values()
        ]

    def _strongest(
        self, row: SketchRow, rows: Mapping[str, SketchRow]
    ) -> tuple[Measured, Signature | None, list[str]]:
        kin = [k.model for k in self.registry.ancestors(row.model) if k.model in rows]
        try:
            mine = self._load(row)
        except (RegistryError, MalformedFile) as error:
            return _nothing(Status.ERROR, str(error)), None, []
        best: tuple[Measured, Signature] | None = None
        seen = []
        for name in kin[:MAX_ANCESTORS]:
            try:
                theirs = self._load(rows[name])
            except (RegistryError, MalformedFile):
                continue
            found = {m.probe: m for m in probe_sketch(mine, theirs, ancestor=name)}
            if found[MASK].status is Status.UNALIGNABLE:
                continue
            seen.append(name)
            mark = signature(found)
            if best is None or _weight(found, mark) > _weight(*best):
                best = found, mark
        if best is None:
            reason = f"none of {len(kin)} ancestors with a sketch compares with it"
            return _nothing(Status.UNALIGNABLE, reason), None, seen
        return *best, seen

    def _load(self, row: SketchRow) -> Specimen:
        if row.sketch_path not in self._loaded:
            if len(self._loaded) >= _KEPT:
                self._loaded.pop(next(iter(self._loaded)))
            sketch = load_sketch(self.registry.sketches, row.sketch_path)
            self._loaded[row.sketch_path] = specimen(row.model, sketch, created=None)
        return self._loaded[row.sketch_path]


def _weight(found: Measured, mark: Signature) -> tuple[bool, float, float]:
    """What makes one ancestor tell more than another; the nearest wins a tie."""
    return bool(mark.edited), found[CONSISTENCY].value or 0.0, found[COHERENCE].value or 0.0


def _nothing(status: Status, reason: str) -> dict[str, Measurement]:
    return {spec.probe: declined(spec.probe, status, reason) for spec in probes_of(Tier.SKETCH)}


def _rank_spectra(scores: Mapping[str, list[Score]]) -> None:
    """Place each adapter's spectrum among the others of the run, where there are enough."""
    bank = sorted(
        score.value
        for found in scores.values()
        for score in found
        if score.probe == SPECTRUM and score.value is not None
    )
    for found in scores.values():
        for at, score in enumerate(found):
            if score.probe == SPECTRUM and score.value is not None:
                below = sum(value <= score.value for value in bank)
                place = 100.0 * below / len(bank) if len(bank) >= MIN_BANK else None
                found[at] = replace(
                    score,
                    environment={**score.environment, "percentile": place, "bank": len(bank)},
                )
