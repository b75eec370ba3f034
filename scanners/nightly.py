"""One night: list, visit, infer, probe, judge, snapshot, publish, tell.

Every stage is idempotent and commits as it goes; a night that was killed, interrupted or ran out
of time is gone on with by the next run, which repeats at most what was in flight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ..lineage.compute import Compute
from ..lineage.errors import (
    BudgetExceeded,
    Interrupted,
    NotInRegistry,
    TransientError,
)
from ..lineage.sketch.plan import PLAN_VERSION, kindred_shapes
from ..store.facts import Publication, Queue, ScanState, Sweep
from ..store.ledger import Ledger
from ..store.registry import Registry
from .bytes import Traffic
from .claims import judge_claims
from .departures import Departures
from .digest import write_digest
from .engines.base import Engine
from .hints import follow_hints
from .inference import infer_store
from .limits import Meter
from .listing import Lister
from .night_report import NightReport, night_events
from .night_visits import VisitRounds
from .nightly_config import NightConfig
from .probes.prompt_sets import PromptSet
from .probing import Prober
from .progress import Progress, Silence
from .publishing import judge_snapshot
from .sources.base import ListingFilter, Source
from .sources.spool import PageSpool

logger = logging.getLogger(__name__)

KIND = "nightly"
CHUNK = 2_000
"""Models whose shapes are inferred in one go."""
STALE_LISTING = timedelta(hours=20)


@dataclass(slots=True, kw_only=True)
class Night:
    """One run into one registry whose scan lock is held.

    Parameters
    ----------
    source : asked for listings and single models; the engine opens its own.
    publish : moves `current` to the snapshot of this name; called only for what the gate lets
        pass.
    tell : keeps the report for people and puts its events on their way; repeated when the night
        is killed before its end.
    accept : a person's reason to publish in spite of the gate.
    """

    registry: Registry
    source: Source
    engine: Engine
    config: NightConfig
    now: Callable[[], datetime]
    publish: Callable[[str], None]
    tell: Callable[[NightReport], None]
    meter: Meter
    compute: Compute = field(default_factory=Compute)
    progress: Progress = field(default_factory=Silence)
    spool: PageSpool | None = None
    prompts: PromptSet | None = None
    accept: str | None = None

    def run(self) -> NightReport:
        """Go on with the last night if it did not end, else begin one.

        Raises
        ------
        RegistryError : the store could not be written; what was committed stays.
        AccessDenied, MalformedFile, UnsafeRequest : the source does not list for this client.
        """
        self.meter.start()
        state = self._unpublished()
        if state is not None:
            return self._publish(state.scan)
        scan = self._begin()
        try:
            self._list(scan)
            follow_hints(self.registry, self.source, scan=scan, meter=self.meter, now=self.now())
            self._visit(scan)
            self._infer(scan)
            self._probe(scan)
        except (Interrupted, BudgetExceeded) as error:
            return self._left(scan, "interrupted", str(error) or None)
        except TransientError as error:
            if self.meter.stopped:
                return self._left(scan, "interrupted", None)
            self._tell_failure(scan, error)
            return self._left(scan, "unlisted", str(error))
        except BaseException:
            self.registry.finish_scan(scan, status="interrupted", now=self.now())
            raise
        return self._end(scan)

    @property
    def _ledger(self) -> Ledger:
        return self.registry.ledger()

    @property
    def _departures(self) -> Departures:
        return Departures(
            ledger=self._ledger,
            source=self.source,
            meter=self.meter,
            now=self.now,
            shrink=self.config.gate.shrink,
        )

    def _parameters(self) -> dict[str, Any]:
        config, narrow = self.config, self.config.narrow
        # The kind is among them so that `scan --resume` does not take a night for its own.
        origin = {"kind": KIND, "source": config.source, "endpoint": config.endpoint}
        return {**origin, "author": narrow.author, "search": narrow.search, "tags": [*narrow.tags]}

    def _last(self) -> ScanState | None:
        """The last night of this source with these parameters."""
        wanted = self._parameters()
        nights = (s for s in self.registry.scans() if s.kind == KIND)
        return next((s for s in nights if dict(s.parameters) == wanted), None)

    def _unpublished(self) -> ScanState | None:
        """A night that was killed between its end and the gate's word."""
        last = self._last()
        judged = {publication.scan for publication in self._ledger.publications()}
        done = last is not None and last.status == "done" and last.scan not in judged
        return last if done else None

    def _begin(self) -> int:
        last = self._last()
        if last is not None and last.status in ("running", "interrupted"):
            fresh = timedelta(0) <= self.now() - last.started_at < STALE_LISTING
            if fresh or not last.listing_done:
                return last.scan
            # Its listing is old and its visits are in the queue: a new night does both.
            self.registry.finish_scan(last.scan, status="done", now=self.now())
        return self.registry.start_scan(
            kind=KIND,
            source=self.source.kind,
            parameters=self._parameters(),
            now=self.now(),
        )

    def _check(self) -> None:
        self.meter.go_on()

    def _list(self, scan: int) -> None:
        lister = Lister(
            ledger=self._ledger,
            source=self.source,
            now=self.now,
            meter=self.meter,
            progress=self.progress,
            narrow=self.config.narrow,
            spool=self.spool,
            # A folder has no order by change.
            full_every=self.config.full_every if self.source.kind == "hub" else timedelta(0),
        )
        sweeps = lister.run(scan)
        self._check()
        if self._is_whole(sweeps):
            self._departures.look(scan, trusted=self.accept is not None)

    def _is_whole(self, sweeps: Sequence[Sweep]) -> bool:
        """Whether everything was listed: a narrowed listing says nothing of what it leaves out."""
        everything = self.config.narrow == ListingFilter()
        return everything and any(sweep.kind == "full" for sweep in sweeps)

    def _visit(self, scan: int) -> None:
        rounds = VisitRounds(
            registry=self.registry,
            engine=self.engine,
            source=self.source.kind,
            meter=self.meter,
            now=self.now,
            watched=self.config.watch,
            most=self.config.most_visits,
            progress=self.progress,
        )
        rounds.run(scan)
        self._check()

    def _infer(self, scan: int) -> None:
        """Infer anew in the shapes that changed, together with the shapes kindred to them."""
        shapes = self._ledger.shapes()
        stale = self._ledger.stale_shapes()
        last: set[str] = set()
        for chunk in _chunks(stale, shapes):
            self._check()
            self._ledger.mark_inferred(last)
            last = chunk
            infer_store(
                self.registry,
                scan=scan,
                now=self.now(),
                compute=self.compute,
                shapes=chunk,
                progress=self.progress,
            )
        if stale:
            judge_claims(self.registry, scan=scan, now=self.now())
            # Marked last: a night that is killed before its claims are judged judges them again.
            self._ledger.mark_inferred(last)
        self._check()

    def _probe(self, scan: int) -> None:
        if self.prompts is None:
            return
        prober = Prober(
            registry=self.registry,
            source=self.source,
            prompts=self.prompts,
            now=self.now,
            device=self.config.device,
            max_bytes=self.config.max_model_bytes,
            progress=self.progress,
            meter=self.meter,
        )
        known = {row.model for row in self.registry.sketched()}
        for release in self.config.watch:
            try:
                kin = [*self.registry.ancestors(release), *self.registry.descendants(release)]
            except NotInRegistry:
                continue
            near = sorted(kin, key=lambda k: (k.distance, k.model))
            prober.run(scan, [m for m in (release, *(k.model for k in near)) if m in known])
            self._check()

    def _end(self, scan: int) -> NightReport:
        self._ledger.add_change_events(scan, now=self.now())
        self.registry.finish_scan(scan, status="done", now=self.now())
        return self._publish(scan)

    def _publish(self, scan: int) -> NightReport:
        """Snapshot, gate, events, digest. The gate's word is stored last: it ends the night.

        A night that is killed before that does all of it again, and changes nothing by it.
        """
        self.progress.stage("publish", None)
        publication = self._judge(scan)
        manifest = self.registry.write_snapshot(now=self.now())
        if publication.status == "published":
            self.publish(manifest.name)
        report = self._report(scan, "done", publication=publication)
        self._add_events(report, publication)
        self.tell(report)
        self._ledger.record_publication(publication)
        return report

    def _judge(self, scan: int) -> Publication:
        publication = judge_snapshot(
            self.registry,
            scan=scan,
            limits=self.config.gate,
            now=self.now(),
            accept=self.accept,
        )
        doubt = None
        if self._is_whole(self._ledger.sweeps(scan)):
            doubt = self._departures.doubt(scan)
        if doubt is None:
            return publication
        status = "blocked" if self.accept is None else "published"
        reasons = (*publication.reasons, doubt)
        return replace(publication, status=status, reasons=reasons, accepted=self.accept)

    def _add_events(self, report: NightReport, publication: Publication) -> None:
        """Events about the night itself, the digest among them."""
        told = self._ledger.events(since=report.scan, until=report.scan)
        rows = night_events(report, publication, told=told)
        self._ledger.add_events(rows, scan=report.scan, now=self.now())

    def _tell_failure(self, scan: int, error: Exception) -> None:
        body = {"reason": type(error).__name__}
        self._ledger.add_events(
            [("scan.failed", f"scan {scan}", "high", body)], scan=scan, now=self.now()
        )

    def _left(self, scan: int, status: str, reason: str | None) -> NightReport:
        self.registry.finish_scan(scan, status="interrupted", now=self.now())
        return self._report(scan, status, reason=reason)

    def _queue(self) -> Queue:
        return self._ledger.queue(source=self.source.kind, plan=PLAN_VERSION, now=self.now())

    def _report(
        self,
        scan: int,
        status: str,
        *,
        publication: Publication | None = None,
        reason: str | None = None,
    ) -> NightReport:
        outcomes, queue = self.registry.outcomes(scan), self._queue()
        listed = sum(sweep.listed for sweep in self._ledger.sweeps(scan))
        digest = None
        if publication is not None:
            events = self._ledger.events(since=scan, until=scan)
            digest = write_digest(
                scan=scan,
                events=events,
                outcomes={outcome.value: n for outcome, n in outcomes.items()},
                listed=listed,
                publication=publication,
                queue=queue,
                now=self.now(),
            )
        traffic: Traffic = self.meter.traffic
        return NightReport(
            scan=scan,
            status=status,
            listed=listed,
            outcomes=outcomes,
            queue=queue,
            publication=publication,
            digest=digest,
            requests=traffic.requests,
            bytes=traffic.bytes,
            reason=reason,
        )


def _chunks(stale: Sequence[str], shapes: Mapping[str, int]) -> Iterator[set[str]]:
    """Sets of shapes closed under kinship, of about `CHUNK` models each."""
    left = dict.fromkeys(stale)
    chunk: set[str] = set()
    while left:
        key = next(iter(left))
        chunk |= {key, *(other for other in shapes if kindred_shapes(key, other))}
        for known in chunk & left.keys():
            del left[known]
        if sum(shapes.get(one, 0) for one in chunk) >= CHUNK:
            yield chunk
            chunk = set()
    if chunk:
        yield chunk
