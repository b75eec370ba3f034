"""modelkin itself, through the functions that `modelkin scan` and `modelkin infer` call."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zoo_scoring import Claim

from modelkin.lineage.compute import Compute, Device
from modelkin.scanners.inference import infer_store
from modelkin.scanners.scan import Scanner, ScanPlan, ScanReport
from modelkin.scanners.sources.base import Source
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.loopback import LoopbackHub
from modelkin.store import Registry

from .protocol import Dates, PeerResult

EDGES = """
SELECT child, parent, relation, share, confidence, direction_confidence, detail
FROM v1.edges WHERE inferred
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelkin:
    """A scan of all models into a fresh store, and inference over it.

    With dates the models are served as a Hub on a loopback port and read over HTTP; without, the
    folder is read. `store` keeps the store of the last run; by default it is thrown away.
    """

    device: Device = "cpu"
    store: Path | None = None

    @property
    def label(self) -> str:
        """Name in tables."""
        return "modelkin"

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Name parents; see `protocol.Peer`.

        Raises
        ------
        ValueError : the folders do not lie below one root under their names.
        """
        root = common_root(models)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            store = self.store or Path(scratch) / "store"
            served = nullcontext() if dates is None else LoopbackHub(root, created=dates)
            with served as hub, Registry.open(store, create=True) as registry:
                source = FolderSource(root) if hub is None else HubSource(endpoint=hub.url)
                report = asyncio.run(_scan(registry, source))
                now = datetime.now(UTC)
                compute = Compute(device=self.device)
                infer_store(registry, scan=report.scan, now=now, compute=compute)
                claims = _claims(registry)
                read = {row.model for row in registry.sketched()}
        return PeerResult(
            claims=claims,
            related=None,
            bytes_read=report.bytes,
            seconds=time.perf_counter() - began,
            unread=tuple(name for name in models if name not in read),
        )


def common_root(models: Mapping[str, Path]) -> Path:
    """The folder that all models lie in under their names.

    Raises
    ------
    ValueError : there is none.
    """
    roots = {path.parents[name.count("/")] for name, path in models.items()}
    fits = all(path == next(iter(roots)) / name for name, path in models.items())
    if len(roots) != 1 or not fits:
        raise ValueError("the models do not lie below one root under their names")
    return roots.pop()


async def _scan(registry: Registry, source: Source) -> ScanReport:
    scanner = Scanner(registry=registry, source=source, now=lambda: datetime.now(UTC))
    try:
        report = await scanner.run(ScanPlan())
    finally:
        await source.close()
    return report


def _claims(registry: Registry) -> tuple[Claim, ...]:
    return tuple(
        Claim(
            child=child,
            parent=parent,
            relation=relation,
            share=share,
            confidence=sure,
            direction_confidence=way,
            detail=json.loads(detail) if detail else {},
        )
        for child, parent, relation, share, sure, way, detail in registry.sql(EDGES).fetchall()
    )
