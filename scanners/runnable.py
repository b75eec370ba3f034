"""A model of a store, fetched and loaded so that it answers; an adapter on top of its base."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..lineage.errors import ProbeError
from ..lineage.records import ModelInfo
from ..store.registry import Registry
from .download import fetch_adapter, fetch_model
from .formats.sharded import choose_weight_files
from .limits import Meter
from .probes.backend import UnsupportedModel
from .sources.base import Source

if TYPE_CHECKING:
    from .probes.transformers_backend import TransformersBackend


@dataclass(slots=True, kw_only=True)
class Runnables:
    """Fetches and loads models of one source at the revision that a store knows.

    `max_bytes` bounds each model's download, `meter` all of them together.
    """

    registry: Registry
    source: Source
    device: str
    max_bytes: int
    meter: Meter = field(default_factory=Meter)

    def load(self, model: str, folder: Path) -> TransformersBackend:
        """The model ready to answer; an adapter with its surest parent under it.

        Parameters
        ----------
        folder : an empty one, for as long as the model is used.

        Raises
        ------
        ProbeError : the source has another revision now, or it does not run.
        ModelkinError, OSError : it could not be fetched.
        """
        try:
            return self._load(model, folder)
        except ProbeError as error:
            # The words are stored and counted: where it lay for a run is in none of them.
            words = str(error).replace(f"{folder}: ", "").replace(f"{folder}/", "")
            raise type(error)(words.replace(str(folder), "its folder")) from error

    def _load(self, model: str, folder: Path) -> TransformersBackend:
        from .probes.transformers_backend import TransformersBackend

        info = self._info(model)
        if not _is_adapter(info):
            asyncio.run(self._fetch(info, folder))
            return TransformersBackend.load(folder, device=self.device)
        base = self._info(self._base_of(model))
        if _is_adapter(base):
            raise UnsupportedModel(f"an adapter on {base.name}, which is an adapter itself")
        on_top = folder / "adapter"
        on_top.mkdir()
        asyncio.run(self._fetch(base, folder))
        asyncio.run(fetch_adapter(self.source, info, on_top, traffic=self.meter.traffic))
        found = TransformersBackend.load(folder, device=self.device, adapter=on_top)
        found.notes = {"base": base.name, "base_sha": base.sha, **found.notes}
        return found

    def _info(self, model: str) -> ModelInfo:
        known = str(self.registry.describe(model)["sha"])
        info = self.source.info(model, traffic=self.meter.traffic)
        if info.sha != known:
            raise ProbeError(f"not probed: it has changed since it was scanned, to {info.sha}")
        return info

    def _base_of(self, model: str) -> str:
        bases = [edge.parent for edge in self.registry.believed_edges(child=model)]
        known = [base for base in bases if not base.startswith("hidden:")]
        if not known:
            raise UnsupportedModel("an adapter whose base is not in the store")
        return known[0]

    async def _fetch(self, info: ModelInfo, folder: Path) -> None:
        await fetch_model(
            self.source,
            info,
            folder,
            max_bytes=self.max_bytes,
            traffic=self.meter.traffic,
            stopped=self.meter.interrupted,
        )


def _is_adapter(info: ModelInfo) -> bool:
    return choose_weight_files([file.path for file in info.files]).kind == "adapter"
