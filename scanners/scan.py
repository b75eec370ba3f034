"""Fill a store from a source: list page by page, then visit what has no sketch yet.

Every page is committed with its cursor and every batch of visits in one transaction, so a scan
that is killed at any point goes on with `resume` and ends in the same store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ..lineage.errors import BudgetExceeded, NotComparable, RegistryError, TransientError
from ..lineage.records import Coverage, ModelInfo, Outcome
from ..lineage.sketch.plan import PLAN_VERSION
from ..store.facts import RevisionFacts, Visit
from ..store.registry import Registry
from .bytes import Traffic
from .fetching import ended
from .formats.sharded import choose_weight_files
from .limits import Gate, Meter
from .listing import listed_claims
from .progress import Progress, Silence
from .sketching import MAX_BYTES, MAX_REQUESTS
from .sources.base import ListingFilter, Source
from .unsafe import UNSAFE_FILE
from .visiting import Visitor

logger = logging.getLogger(__name__)

BATCH = 64
ROUND = 20_000
CONCURRENT = 16
PATIENCE = 5.0
SEEN = frozenset({Outcome.OK, Outcome.UNCHANGED})

Filter = Callable[[ModelInfo], str | None]


def keep_all(info: ModelInfo) -> str | None:
    """The filter that skips nothing."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPlan:
    """What to scan: the listing's narrowing, a filter of the listed, shapes worth a sketch.

    `skip` gives the reason why a listed model is not visited, or None. `target` names the
    release of a map: it is visited before anything is listed, only models of its shape, or of one
    kindred to it, are sketched, and together with the source and `parameters` (plain JSON) it
    identifies a scan that can be resumed.
    """

    kind: str = "scan"
    target: str | None = None
    narrow: ListingFilter = field(default_factory=ListingFilter)
    skip: Filter = keep_all
    parameters: Mapping[str, Any] = field(default_factory=dict)
    goes_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """How a scan ended: `done`, `interrupted` (a signal) or `exhausted` (a budget)."""

    scan: int
    status: str
    outcomes: Mapping[Outcome, int]
    requests: int
    bytes: int
    left: int = 0
    reason: str | None = None

    @property
    def coverage(self) -> float:
        """Share of the models the scan was asked for that could be read; 1 when there were none.

        What failed, was refused, has no weights or is not decodable counts in the denominator.
        """
        wanted = self.left + sum(n for o, n in self.outcomes.items() if o is not Outcome.SKIPPED)
        return sum(self.outcomes.get(o, 0) for o in SEEN) / wanted if wanted else 1.0


@dataclass(slots=True, kw_only=True)
class Scanner:
    """One scan of one source into one registry.

    Collaborators are passed in; `now` gives UTC time stamps. `patience` is how many seconds the
    visits in flight, `concurrent` at most, get to end after a signal; what takes longer is left to
    the next run.
    """

    registry: Registry
    source: Source
    now: Callable[[], datetime]
    meter: Meter = field(default_factory=Meter)
    progress: Progress = field(default_factory=Silence)
    patience: float = PATIENCE
    concurrent: int = CONCURRENT

    async def run(self, plan: ScanPlan, *, resume: bool = False) -> ScanReport:
        """List and visit.

        Parameters
        ----------
        resume : go on with the last unfinished scan of the same source and target; without one,
            a new scan begins.

        Raises
        ------
        RegistryError : the store could not be written (what was committed stays), or the scan to
            resume was begun with other parameters.
        NotComparable : the target has no weights that can be read.
        ModelNotFound, AccessDenied, TransientError, FormatError : the source does not describe
            the target, or does not list.
        """
        self.meter.start()
        scan, cursor, listing = self._begin(plan, resume=resume)
        status, reason = "done", None
        try:
            visitor = self._visitor()
            if plan.target is not None:
                visitor.shapes = await self._shape_of(scan, plan.target, visitor)
            if listing:
                self._list(scan, plan, cursor)
            if not self.meter.stopped:
                await self._visit_all(scan, visitor)
            status = "interrupted" if self.meter.stopped else "done"
        except BudgetExceeded as error:
            status, reason = "exhausted", str(error)
        except RegistryError:
            raise
        except NotComparable:
            self.registry.finish_scan(scan, status="failed", now=self.now())
            raise
        except BaseException as error:
            self.registry.finish_scan(scan, status="interrupted", now=self.now())
            if not (isinstance(error, TransientError) and self.meter.stopped):
                raise
            return self._report(scan, "interrupted", None)
        report = self._report(scan, status, reason)
        if status != "done" or not plan.goes_on:
            self.finish(report)
        return report

    def finish(self, report: ScanReport) -> None:
        """End the scan in the store; one that a signal or a budget cut short can be resumed."""
        cut = report.status != "done" or self.meter.stopped
        status = "interrupted" if cut else "done"
        self.registry.finish_scan(report.scan, status=status, now=self.now())

    def _begin(self, plan: ScanPlan, *, resume: bool) -> tuple[int, str | None, bool]:
        kind, target = self.source.kind, plan.target
        state = self.registry.resume_scan(source=kind, target=target) if resume else None
        if state is not None:
            if state.parameters != dict(plan.parameters):
                raise RegistryError(
                    f"scan {state.scan} was begun with other options ({_shown(state.parameters)}): "
                    "repeat them to resume it, or leave out --resume to begin a new scan"
                )
            return state.scan, state.cursor, not state.listing_done
        if resume:
            logger.warning("nothing unfinished to resume: a new scan begins")
        scan = self.registry.start_scan(
            kind=plan.kind, source=kind, target=target, parameters=plan.parameters, now=self.now()
        )
        return scan, None, True

    def _visitor(self) -> Visitor:
        known = {
            row.weights_digest: RevisionFacts(
                format=row.format,
                dtype=row.dtype,
                architecture=row.architecture,
                shape_key=row.shape_key,
                n_params=row.n_params,
                sketch_plan=row.sketch_plan,
                sketch_digest=row.sketch_digest,
                sketch_path=row.sketch_path,
                weights_digest=row.weights_digest,
            )
            for row in self.registry.sketched()
            if row.weights_digest is not None and row.sketch_plan == PLAN_VERSION
        }
        return Visitor(source=self.source, sketches=self.registry.sketches, known=known)

    async def _shape_of(self, scan: int, target: str, visitor: Visitor) -> frozenset[str]:
        """The shape key of the target, visited if it has no sketch yet."""
        info = await asyncio.to_thread(self.source.info, target, traffic=self.meter.traffic)
        if self.registry.needs_visit(info, plan=PLAN_VERSION):
            visit = await visitor.visit(info)
            self._count(visit)
            if self.meter.stopped and visit.coverage.outcome is Outcome.TIMEOUT:
                raise TransientError(f"{target}: {visit.coverage.reason}")
            self._record(scan, [visit])
            if visit.facts is None or visit.facts.sketch_path is None:
                raise NotComparable(f"{target} cannot be mapped: {visit.coverage.reason}")
        else:
            # The description is stored all the same: the model may have a new name.
            unread = _unread(info, Outcome.UNCHANGED, stage="list", reason=None)
            self._record(scan, [replace(unread, info=info)])
        rows = self.registry.sketched(names=[info.name])
        if not rows:
            raise NotComparable(f"{target} cannot be mapped: it has no readable weights")
        return frozenset(row.shape_key for row in rows if row.shape_key is not None)

    def _list(self, scan: int, plan: ScanPlan, cursor: str | None) -> None:
        self.progress.stage("list", None)
        pages = self.source.pages(cursor=cursor, narrow=plan.narrow, traffic=self.meter.traffic)
        for page in pages:
            # A visit of the same commit has read more claims than a listing shows.
            before = self.registry.last_outcomes(page.models)
            unknown = [i for i, last in zip(page.models, before, strict=True) if last is None]
            self.registry.add_page(
                scan,
                page.models,
                next_cursor=page.next_cursor,
                declared={info.name: listed_claims(info) for info in unknown},
                now=self.now(),
            )
            self._skip(scan, page.models, plan)
            self.progress.listed(len(page.models))
            if page.next_cursor is not None:
                self.meter.check()
            if self.meter.stopped:
                return

    def _skip(self, scan: int, models: Sequence[ModelInfo], plan: ScanPlan) -> None:
        reasons = [(info, plan.skip(info)) for info in models]
        visits = [
            _unread(info, Outcome.SKIPPED, stage="list", reason=reason)
            for info, reason in reasons
            if reason is not None
        ]
        self._record(scan, visits)

    async def _visit_all(self, scan: int, visitor: Visitor) -> None:
        waiting = self.registry.unvisited(scan, limit=ROUND)
        self.progress.stage("read", len(waiting) if len(waiting) < ROUND else None)
        while waiting:
            for at in range(0, len(waiting), BATCH):
                await self._visit_batch(scan, waiting[at : at + BATCH], visitor)
                if self.meter.stopped:
                    return
            # A model whose name leads to another repository by now stays in the list for good.
            tried = {info.source_id for info in waiting}
            left = self.registry.unvisited(scan, limit=ROUND)
            waiting = [info for info in left if info.source_id not in tried]

    async def _visit_batch(self, scan: int, infos: Sequence[ModelInfo], visitor: Visitor) -> None:
        needed = self.registry.needs_visits(infos, plan=PLAN_VERSION)
        before = self.registry.last_outcomes(infos)
        worst = Traffic(MAX_REQUESTS, MAX_BYTES)
        gate = Gate(self.meter, at_once=self.concurrent, worst=worst)

        async def one(info: ModelInfo, wanted: bool, last: Outcome | None) -> Visit | None:
            if not wanted or _is_settled(info, last):
                return _not_again(info, last)
            async with gate.enter() as begun:
                if not begun:
                    return None
                visit = await visitor.visit(info)
                self._count(visit)
            self.progress.visited(visit.coverage)
            return visit

        each = zip(infos, needed, before, strict=True)
        visits = await ended(
            [asyncio.ensure_future(one(*args)) for args in each],
            stopped=self.meter.interrupted,
            patience=self.patience,
        )
        self._record(scan, visits)
        if len(visits) < len(infos) and not self.meter.stopped:
            self.meter.check()

    def _count(self, visit: Visit) -> None:
        self.meter.traffic.add(requests=visit.coverage.requests, size=visit.coverage.bytes_read)

    def _record(self, scan: int, visits: Sequence[Visit]) -> None:
        self.registry.record_visits(scan, visits, now=self.now())
        looked = [visit for visit in visits if visit.info is not None]
        if looked:
            self.registry.replace_findings(
                scan,
                UNSAFE_FILE,
                [finding for visit in looked for finding in visit.findings],
                scope={visit.coverage.model for visit in looked},
                now=self.now(),
            )

    def _report(self, scan: int, status: str, reason: str | None) -> ScanReport:
        return ScanReport(
            scan=scan,
            status=status,
            outcomes=self.registry.outcomes(scan),
            requests=self.meter.traffic.requests,
            bytes=self.meter.traffic.bytes,
            left=0 if status == "done" else len(self.registry.unvisited(scan)),
            reason=reason,
        )


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items() if value)


def _unread(info: ModelInfo, outcome: Outcome, *, stage: str, reason: str | None) -> Visit:
    coverage = Coverage(model=info.name, outcome=outcome, stage=stage, reason=reason)
    return Visit(coverage=coverage, plan=PLAN_VERSION)


def _is_settled(info: ModelInfo, last: Outcome | None) -> bool:
    """Whether a skipped model would be skipped again: an adapter, whatever shape is looked for."""
    if last is not Outcome.SKIPPED:
        return False
    return choose_weight_files([file.path for file in info.files]).kind == "adapter"


def _not_again(info: ModelInfo, last: Outcome | None) -> Visit:
    """A model that a visit cannot change: what failed for good stays failed, not unchanged."""
    if last is None or last in SEEN:
        return _unread(info, Outcome.UNCHANGED, stage="list", reason=None)
    return _unread(info, last, stage="list", reason="as at the last visit of this revision")
