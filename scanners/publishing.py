"""The publish gate: a snapshot that looks wrong stays private, and says why.

Counts are held against the last published snapshot, the listing against its own marks, coverage
and freshness against limits, canaries against the edges. Nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..lineage.errors import NotInRegistry
from ..store.facts import Publication, Sweep
from ..store.registry import Registry

COUNTED = ("models", "declared_edges", "inferred_edges", "sketches")
SMALL = 50
"""Counts below this move by chance: they are held to an absolute difference of as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What the gate lets pass.

    `shrink` and `growth` are shares of the last published counts; `coverage` is the least share
    of the attempted visits that came to a known end; `freshness` how old the newest model of the
    source may be. `edges` are (child, parent) pairs that have to be believed, `strangers` pairs
    that must not be.
    """

    shrink: float = 0.02
    growth: float = 0.20
    coverage: float = 0.99
    freshness: timedelta = timedelta(hours=36)
    edges: tuple[tuple[str, str], ...] = ()
    strangers: tuple[tuple[str, str], ...] = ()


def judge_snapshot(
    registry: Registry, *, scan: int, limits: GateLimits, now: datetime, accept: str | None = None
) -> Publication:
    """Judge what the store holds now, before its snapshot is published.

    Parameters
    ----------
    accept : a person's reason for publishing in spite of what the gate finds; it is stored.

    Returns
    -------
    Publication with every reason against it; `published` when there is none, or one was accepted.
    """
    ledger = registry.ledger()
    counts = ledger.counts()
    last = next(
        (p for p in ledger.publications() if p.status == "published" and p.scan < scan), None
    )
    reasons = [
        *(_moved(counts, last.counts, limits) if last is not None else ()),
        *(f"{rows:,} {what}" for what, rows in sorted(ledger.flaws().items())),
        *_listing(ledger.sweeps(scan)),
        *_coverage(registry, scan, limits),
        *_freshness(ledger.sweeps(), limits, now),
        *_canaries(registry, limits),
    ]
    status = "blocked" if reasons and accept is None else "published"
    return Publication(
        scan=scan,
        status=status,
        reasons=tuple(reasons),
        counts=counts,
        accepted=accept if reasons else None,
        judged_at=now,
    )


def _moved(now: Mapping[str, int], before: Mapping[str, int], limits: GateLimits) -> Iterator[str]:
    for what in COUNTED:
        then, today = before.get(what, 0), now.get(what, 0)
        named = what.replace("_", " ")
        if today < then - max(SMALL, limits.shrink * then):
            yield f"{named} fell from {then:,} to {today:,}"
        if today > then + max(SMALL, limits.growth * then):
            yield f"{named} rose from {then:,} to {today:,}"


def _listing(sweeps: Sequence[Sweep]) -> Iterator[str]:
    for sweep in sweeps:
        if not sweep.done:
            yield f"the {sweep.kind} sweep of the listing did not end"
        if sweep.short_pages:
            yield f"{sweep.short_pages:,} pages of the {sweep.kind} sweep were empty before its end"
        if sweep.disordered and sweep.kind != "modified":
            yield f"{sweep.disordered:,} pages of the {sweep.kind} sweep were out of order"
        if sweep.kind == "created" and sweep.listed and not sweep.known:
            yield "the listing of what is new met nothing that was known: there may be a gap"


def _coverage(registry: Registry, scan: int, limits: GateLimits) -> Iterator[str]:
    """Visits that failed for no fault of the model: time-outs and failures of this software."""
    outcomes = registry.outcomes(scan)
    tried = sum(outcomes.values())
    lost = sum(n for outcome, n in outcomes.items() if outcome in ("timeout", "failed"))
    if tried and 1 - lost / tried < limits.coverage:
        yield f"{lost:,} of {tried:,} visits timed out or failed"


def _freshness(sweeps: Sequence[Sweep], limits: GateLimits, now: datetime) -> Iterator[str]:
    newest = max((s.newest for s in sweeps if s.done and s.newest is not None), default=None)
    if newest is not None and now - newest > limits.freshness:
        hours = (now - newest).total_seconds() / 3600
        yield f"the newest model of the listing is {hours:,.0f} hours old"


def _canaries(registry: Registry, limits: GateLimits) -> Iterator[str]:
    for child, parent in limits.edges:
        if parent not in _parents(registry, child):
            yield f"canary: {child} should descend from {parent}"
    for child, parent in limits.strangers:
        if parent in _parents(registry, child):
            yield f"canary: {child} must not descend from {parent}"


def _parents(registry: Registry, child: str) -> set[str]:
    try:
        return {kin.model for kin in registry.ancestors(child)}
    except NotInRegistry:
        return set()
