"""Fetching a batch of models: what goes in and comes out is plain data, whatever runs it.

A batch names models and what they may cost; the result holds their visits in the same order and
the bytes of their sketches. Nothing is written, so a batch that is lost is simply fetched again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..lineage.records import ModelInfo, Outcome
from ..store.facts import RevisionFacts, Visit
from ..store.sketches import RawArray, SketchFile, pack_sketch
from .bytes import Traffic
from .cycles import cycles_sought_seldom
from .limits import Gate, Meter, ScanLimits
from .sketching import MAX_BYTES, MAX_REQUESTS
from .sources.base import Source
from .visiting import Visitor

CONCURRENT = 64
PATIENCE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Models to visit, in order, and the bounds of what they may cost together."""

    number: int
    # Out of the repr: asyncio writes one of every task that it runs.
    infos: tuple[ModelInfo, ...] = field(repr=False)
    limits: ScanLimits = field(default_factory=ScanLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a batch brought: visits in the order of the batch, sketch files by path.

    Models without a visit are left for later: a limit was met, or the run was asked to stop.
    """

    number: int
    visits: tuple[Visit, ...] = field(repr=False)
    sketches: Mapping[str, bytes] = field(repr=False)
    traffic: Traffic


class SketchBuffer:
    """Takes the place of the sketch folder where nothing may be written."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def save(
        self, key: str, arrays: Mapping[str, RawArray], *, metadata: Mapping[str, str]
    ) -> SketchFile:
        """Keep what `SketchStore.save` would write."""
        file, content = pack_sketch(key, arrays, metadata=metadata)
        self.contents[file.path] = content
        return file


async def fetch_batch(
    batch: Batch,
    *,
    source: Source,
    known: Mapping[str, RevisionFacts] | None = None,
    lease: Callable[[int], int] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    concurrent: int = CONCURRENT,
    patience: float = PATIENCE,
) -> Fetched:
    """Visit the models of a batch.

    Parameters
    ----------
    known : facts by digest of the weights: exact copies of these are not read.
    lease : gives requests of those that several workers share; then the batch's own limit of them
        is not looked at.
    stopped : asked between steps; visits in flight then get `patience` seconds to end.
    """
    buffer = SketchBuffer()
    visitor = Visitor(source=source, sketches=buffer, known=dict(known or {}))
    limits = batch.limits if lease is None else replace(batch.limits, max_requests=0)
    meter = Meter(limits=limits, interrupted=stopped, lease=lease)
    meter.start()
    gate = Gate(meter, at_once=concurrent, worst=Traffic(MAX_REQUESTS, MAX_BYTES))

    async def one(info: ModelInfo) -> Visit | None:
        async with gate.enter() as begun:
            if not begun:
                return None
            visit = await visitor.visit(info)
            cost = visit.coverage
            meter.traffic.add(requests=cost.requests, size=cost.bytes_read)
            return visit

    with cycles_sought_seldom():
        tasks = [asyncio.ensure_future(one(info)) for info in batch.infos]
        visits = await ended(tasks, stopped=stopped, patience=patience)
    kept = {v.facts.sketch_path for v in visits if v.facts is not None}
    sketches = {path: data for path, data in buffer.contents.items() if path in kept}
    return Fetched(
        number=batch.number, visits=tuple(visits), sketches=sketches, traffic=meter.traffic
    )


async def ended(
    tasks: Sequence[asyncio.Future[Visit | None]],
    *,
    stopped: Callable[[], bool],
    patience: float,
) -> list[Visit]:
    """The visits that came to an end; after a signal not those that are out of patience."""
    left: set[asyncio.Future[Visit | None]] = set(tasks)
    while left:
        _, left = await asyncio.wait(left, timeout=0.2)
        if left and stopped():
            _, left = await asyncio.wait(left, timeout=patience)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            break
    visits = [task.result() for task in tasks if not task.cancelled()]
    # A signal ends the waits between attempts: a timeout then says nothing about the model.
    cut = frozenset({Outcome.TIMEOUT}) if stopped() else frozenset()
    return [v for v in visits if v is not None and v.coverage.outcome not in cut]
