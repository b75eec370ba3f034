"""How a night ended, and the events that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..lineage.records import Outcome
from ..store.facts import Event, Publication, Queue
from .digest import digest_body


@dataclass(frozen=True, slots=True, kw_only=True)
class NightReport:
    """How a night ended: `done`, `interrupted` (a signal or the deadline) or `unlisted`."""

    scan: int
    status: str
    listed: int
    outcomes: Mapping[Outcome, int]
    queue: Queue
    publication: Publication | None
    digest: str | None
    requests: int
    bytes: int
    reason: str | None = None


def night_events(
    report: NightReport, publication: Publication, *, told: Sequence[Event]
) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """Events about a night itself: (kind, subject, severity, body), the digest among them.

    Parameters
    ----------
    told : the events of the night so far, which the digest sums up.
    """
    subject = f"scan {report.scan}"
    news = [event for event in told if event.kind != "digest.daily"]
    digest = digest_body(scan=report.scan, events=news, publication=publication, queue=report.queue)
    rows: list[tuple[str, str, str, Mapping[str, Any]]] = [
        ("scan.completed", subject, "info", {"listed": report.listed}),
        ("digest.daily", subject, "info", digest),
    ]
    if publication.status == "blocked":
        rows.append(("publish.blocked", subject, "high", {"reasons": list(publication.reasons)}))
    if any("visits timed out" in reason for reason in publication.reasons):
        rows.append(("coverage.dropped", subject, "medium", {}))
    return rows
