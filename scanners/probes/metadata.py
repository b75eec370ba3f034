"""Tier 0: what a model says of itself, what tools left in it, and what its kin are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ...lineage.errors import FormatError, ModelkinError, ProbeError
from ...lineage.records import ModelInfo, Score
from ...lineage.safety import metadata as tier0
from ...lineage.safety.catalogue import PROBES, probes_of
from ...lineage.safety.metadata import ChatFiles, KinRecord, ModelText
from ...lineage.safety.profile import REFUSAL_HARMFUL
from ...lineage.safety.protocol import Measurement, Status, Subject, Tier, as_score, declined
from ...store.registry import Registry
from ..cards import Card, parse_card
from ..limits import Meter
from ..progress import Progress, Silence
from ..report import ProbeReport, announce, probe_each
from ..sources.base import Source
from .chat_files import read_chat_files

CARD_LIMIT = 1 << 20
MAX_SIBLINGS = 200
_KEPT = 512


@dataclass(slots=True, kw_only=True)
class MetadataProber:
    """Puts the metadata probes to models of one source; at most 10 small requests each."""

    registry: Registry
    source: Source
    now: Callable[[], datetime]
    progress: Progress = field(default_factory=Silence)
    meter: Meter = field(default_factory=Meter)
    _chat: dict[str, ChatFiles] = field(default_factory=dict)

    def run(self, scan: int, models: Sequence[str]) -> ProbeReport:
        """Probe each model anew; what it said yesterday may be gone today."""
        announce(self.registry, Tier.METADATA)
        self.progress.stage("probe metadata", len(models))
        stripped = {
            found.model
            for found in self.registry.findings(kind="stripped_safety")
            if found.status in ("new", "open")
        }
        measured = self.registry.measured(REFUSAL_HARMFUL)

        def probe(model: str) -> str | None:
            kin = list(self._kin(model, stripped=stripped, measured=measured))
            scores, reason = self._probe(model, kin)
            self.registry.add_scores(scan, scores)
            return reason

        probed, failed = probe_each(models, probe, meter=self.meter, progress=self.progress)
        return ProbeReport(probed=probed, unchanged=0, failed=failed)

    def _probe(self, model: str, kin: Sequence[KinRecord]) -> tuple[list[Score], str | None]:
        sha = str(self.registry.describe(model)["sha"])
        subject = Subject(model=model, sha=sha, now=self.now())
        reason = None
        try:
            found = asyncio.run(self._read(model, sha))
        except (ModelkinError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            found = [
                declined(spec.probe, Status.ERROR, reason)
                for spec in probes_of(Tier.METADATA)
                if spec.probe != tier0.KIN
            ]
        found.append(tier0.kin_stripped(kin))
        return [as_score(one, PROBES[one.probe], subject=subject) for one in found], reason

    async def _read(self, model: str, sha: str) -> list[Measurement]:
        traffic = self.meter.traffic
        info = await asyncio.to_thread(self.source.info, model, traffic=traffic)
        if info.sha != sha:
            raise ProbeError(f"it has changed since it was scanned, to {info.sha}")
        card = await self._card(info)
        text = ModelText(
            name=model,
            tags=info.tags,
            front_matter=card.front_matter or info.card,
            body=card.body,
            files=tuple(file.path for file in info.files),
        )
        return [
            tier0.claim_class(text),
            tier0.tool_traces(text),
            await self._template(info),
        ]

    async def _card(self, info: ModelInfo) -> Card:
        if not any(file.path == "README.md" for file in info.files):
            return Card(front_matter={}, body="")
        try:
            data = await self.source.read(
                info, "README.md", limit=CARD_LIMIT, traffic=self.meter.traffic
            )
            return parse_card(data)
        except FormatError:
            return Card(front_matter={}, body="")

    async def _template(self, info: ModelInfo) -> Measurement:
        mine = await self._chat_files(info.name, info)
        for ancestor in self.registry.ancestors(info.name):
            if ancestor.hidden:
                continue
            try:
                theirs = await self._chat_files(ancestor.model, None)
            except (ModelkinError, OSError):
                continue
            return tier0.template_change(mine, theirs, ancestor=ancestor.model)
        return declined(tier0.TEMPLATE, Status.UNALIGNABLE, "no ancestor that can be read")

    async def _chat_files(self, model: str, info: ModelInfo | None) -> ChatFiles:
        if model not in self._chat:
            traffic = self.meter.traffic
            if info is None:
                info = await asyncio.to_thread(self.source.info, model, traffic=traffic)
            if len(self._chat) >= _KEPT:
                self._chat.clear()
            self._chat[model] = await read_chat_files(self.source, info, traffic=traffic)
        return self._chat[model]

    def _kin(self, model: str, *, stripped: set[str], measured: set[str]) -> Iterator[KinRecord]:
        seen = {model}
        parents = self.registry.ancestors(model, max_depth=1)
        near = [*parents, *self.registry.descendants(model, max_depth=1)[:MAX_SIBLINGS]]
        for one in near:
            if one.model not in seen:
                seen.add(one.model)
                known = one.model in stripped if one.model in measured else None
                yield KinRecord(model=one.model, confidence=one.confidence, stripped=known)
