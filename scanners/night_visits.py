"""The visits of a night: the queue in batches, and what they bring into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ..lineage.errors import TransientError
from ..lineage.records import Outcome
from ..lineage.sketch.plan import PLAN_VERSION
from ..store.facts import Visit
from ..store.registry import Registry
from .engines.base import Engine
from .fetching import Batch, Fetched
from .limits import Meter, ScanLimits
from .progress import Progress, Silence

BATCH = 128
PULLED = 4096
VISIT_SHARE = 0.8
"""Share of the deadline after which no further visit begins: inference and snapshot need time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitRounds:
    """Visits what waits, the most wanted first, until nothing waits or a budget is used up.

    Parameters
    ----------
    source : kind of the models that are visited.
    watched : releases whose kin comes first.
    most : visits in all; None is unbounded.
    """

    registry: Registry
    engine: Engine
    source: str
    meter: Meter
    now: Callable[[], datetime]
    watched: Sequence[str] = ()
    most: int | None = None
    progress: Progress = field(default_factory=Silence)

    def run(self, scan: int) -> None:
        """Visit and store, batch by batch.

        Raises
        ------
        TransientError : nothing in a batch was answered.
        AccessDenied : the token is refused.
        """
        queued = (
            self.registry.ledger()
            .queue(source=self.source, plan=PLAN_VERSION, now=self.now())
            .waiting
        )
        self.progress.stage("read", queued if self.most is None else min(queued, self.most))
        for fetched in self.engine.run(self._batches()):
            self._record(scan, fetched)

    def _batches(self) -> Iterator[Batch]:
        """Batches of the queue, until it is empty or a budget is used up."""
        tried: set[str] = set()
        most = self.most
        number = 0
        while True:
            left = PULLED if most is None else min(PULLED, most - len(tried))
            pulled = self.registry.ledger().waiting(
                source=self.source,
                plan=PLAN_VERSION,
                watched=self.watched,
                now=self.now(),
                limit=left + len(tried) if left > 0 else 0,
            )
            fresh = [info for info in pulled if info.source_id not in tried][: max(0, left)]
            if not fresh:
                return
            for at in range(0, len(fresh), BATCH):
                limits = self._limits()
                if limits is None:
                    return
                infos = fresh[at : at + BATCH]
                tried.update(info.source_id for info in infos)
                yield Batch(number=number, infos=tuple(infos), limits=limits)
                number += 1

    def _limits(self) -> ScanLimits | None:
        """What is left of the budget for one batch, None when that is nothing."""
        if self.meter.stopped or self.meter.exhausted:
            return None
        limits, traffic = self.meter.limits, self.meter.traffic
        spent = self.meter.clock() - self.meter.started
        deadline = None if limits.deadline is None else VISIT_SHARE * limits.deadline - spent
        if deadline is not None and deadline <= 0:
            return None
        return ScanLimits(
            max_bytes=None if limits.max_bytes is None else limits.max_bytes - traffic.bytes,
            max_requests=None
            if limits.max_requests is None
            else limits.max_requests - traffic.requests,
            deadline=deadline,
        )

    def _record(self, scan: int, fetched: Fetched) -> None:
        """Store a batch: sketches first, then all its visits in one transaction.

        Raises
        ------
        TransientError : nothing in it was answered: the source is down, and says nothing about
            any model.
        """
        self.meter.traffic.add(requests=fetched.traffic.requests, size=fetched.traffic.bytes)
        visits = fetched.visits
        ends = {visit.coverage.outcome for visit in visits}
        if len(visits) >= 8 and ends == {Outcome.TIMEOUT}:
            raise TransientError(f"{len(visits)} models in a row timed out: the source is down")
        visits = self._without_copies(visits)
        kept = {v.facts.sketch_path for v in visits if v.facts is not None}
        for path, content in fetched.sketches.items():
            if path in kept:
                self.registry.sketches.put(path, content)
        self.registry.record_visits(scan, visits, now=self.now())
        for visit in visits:
            self.progress.visited(visit.coverage)

    def _without_copies(self, visits: Sequence[Visit]) -> tuple[Visit, ...]:
        """Exact copies share the sketch that came first, whichever engine read them."""
        digests = [v.facts.weights_digest for v in visits if v.facts and v.facts.weights_digest]
        known = self.registry.ledger().known_weights(digests, plan=PLAN_VERSION) if digests else {}
        shared = []
        for visit in visits:
            facts = visit.facts
            first = known.get(facts.weights_digest or "") if facts is not None else None
            if facts is not None and first is not None:
                visit = replace(visit, facts=replace(first, config=facts.config))
            shared.append(visit)
        return tuple(shared)
