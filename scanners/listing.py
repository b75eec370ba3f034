"""Listing at the pace of the source: pages fetched ahead, and committed in groups.

One thread asks for pages, another parses them and writes. Pages are committed together with the
cursor after them; those that are fetched and not committed yet lie in the source's spool, so that
a killed run asks for at most the page in flight once more.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ..lineage.errors import BudgetExceeded
from ..lineage.records import DeclaredParent, ModelInfo
from ..store.facts import Sweep
from ..store.ledger import Ledger
from .cycles import cycles_sought_seldom
from .declared import declared_parents
from .limits import Meter
from .progress import Progress, Silence
from .sources.base import ListingFilter, ListingPage, Source
from .sources.spool import PageSpool

AHEAD = 24
GROUP = 24
OVERLAP = timedelta(hours=1)
"""A sweep goes on until everything is older than the last one began, by this much."""

_MARKS = ("base_model", "merge")
_BASES = ("_name_or_path", "base_model", "base_model_name_or_path", "peft")


@dataclass(slots=True, kw_only=True)
class Lister:
    """Runs the sweeps of one scan.

    Parameters
    ----------
    now : UTC time.
    spool : where the source keeps pages until they are committed, if it does.
    full_every : how old the last full sweep may be; zero makes every scan a full one.
    """

    ledger: Ledger
    source: Source
    now: Callable[[], datetime]
    meter: Meter = field(default_factory=Meter)
    progress: Progress = field(default_factory=Silence)
    narrow: ListingFilter = field(default_factory=ListingFilter)
    spool: PageSpool | None = None
    full_every: timedelta = timedelta(days=7)

    def run(self, scan: int) -> list[Sweep]:
        """Run the sweeps that are not done yet; the scan's listing is done when all are.

        Raises
        ------
        BudgetExceeded : a limit is met; the same scan goes on from the stored cursors.
        TransientError, AccessDenied, MalformedFile, UnsafeRequest : the source does not list.
        """
        self.progress.stage("list", None)
        known = {sweep.kind: sweep for sweep in self.ledger.sweeps(scan)}
        if not known:
            if self.spool is not None:
                self.spool.clear()
            known = {kind: self._begin(scan, kind) for kind in self._kinds(scan)}
        for kind in sorted(known):
            if not known[kind].done and not self.meter.stopped:
                known[kind] = self._sweep(known[kind])
        if all(sweep.done for sweep in known.values()):
            self.ledger.end_listing(scan)
        return list(known.values())

    def _kinds(self, scan: int) -> tuple[str, ...]:
        last, marks = self.ledger.last_full(scan), self.ledger.watermarks(scan)
        if last is None or set(marks) != {"created", "modified"}:
            return ("full",)
        # A clock that was set back makes the age negative: then everything is listed again.
        recent = timedelta(0) <= self.now() - last < self.full_every
        return ("created", "modified") if recent else ("full",)

    def _begin(self, scan: int, kind: str) -> Sweep:
        sweep = Sweep(scan=scan, kind=kind)
        self.ledger.add_pages([], sweep=sweep, claims_of=listed_claims, now=self.now())
        return sweep

    def _sweep(self, sweep: Sweep) -> Sweep:
        until = self.ledger.watermarks(sweep.scan).get(sweep.kind)
        order: Any = "modified" if sweep.kind == "modified" else "created"
        pages = self.source.pages(
            cursor=sweep.cursor,
            narrow=replace(self.narrow, order=order),
            traffic=self.meter.traffic,
        )
        # A sweep that ends before the listing does has no use for pages beyond its end.
        with (
            cycles_sought_seldom(),
            _Ahead(pages, limit=AHEAD if sweep.kind == "full" else 1) as ahead,
        ):
            while not sweep.done:
                group = ahead.take(GROUP)
                sweep = self._commit(sweep, group, until=until)
                if not sweep.done:
                    self.meter.check()
                    if self.meter.stopped:
                        break
        return sweep

    def _commit(
        self, sweep: Sweep, group: Sequence[ListingPage], *, until: datetime | None
    ) -> Sweep:
        """Store a group of pages; the sweep ends where a page brings nothing but the known."""
        asked = [sweep.cursor, *(page.next_cursor for page in group[:-1])]
        for page in group:
            sweep = _advance(sweep, page, until=until)
            if sweep.done:
                break
        models = list({info.source_id: info for page in group for info in page.models}.values())
        known = self.ledger.add_pages(models, sweep=sweep, claims_of=listed_claims, now=self.now())
        if self.spool is not None:
            self.spool.forget(url for url in asked if url is not None)
        self.progress.listed(len(models))
        return replace(sweep, known=sweep.known + known)


def _advance(sweep: Sweep, page: ListingPage, *, until: datetime | None) -> Sweep:
    """The sweep after one more page."""
    dates = [date for info in page.models if (date := _date(info, sweep.kind)) is not None]
    first, last = (max(dates), min(dates)) if dates else (None, None)
    reached = until is not None and last is not None and last < until - OVERLAP
    done = page.next_cursor is None or (sweep.kind != "full" and reached)
    mixed = first is not None and sweep.oldest is not None and first > sweep.oldest
    return replace(
        sweep,
        cursor=page.next_cursor,
        done=done,
        pages=sweep.pages + 1,
        listed=sweep.listed + len(page.models),
        disordered=sweep.disordered + mixed,
        short_pages=sweep.short_pages + (page.next_cursor is not None and not page.models),
        newest=first if sweep.pages == 0 else sweep.newest,
        oldest=last or sweep.oldest,
    )


def _date(info: ModelInfo, kind: str) -> datetime | None:
    found = info.last_modified if kind == "modified" else info.created_at
    return None if found is None else found.astimezone(UTC)


def listed_claims(info: ModelInfo) -> tuple[DeclaredParent, ...]:
    """What the listing alone shows of a model's claims; most models show none."""
    if _claims_nothing(info.card, info.tags, info.config):
        return ()
    return declared_parents(
        model=info.name,
        card=info.card,
        tags=info.tags,
        config=info.config,
        files=tuple(file.path for file in info.files),
    )


def _claims_nothing(
    card: Mapping[str, Any], tags: Sequence[str], config: Mapping[str, Any]
) -> bool:
    """Whether no place that may hold a claim is filled: cheaper than to look for one."""
    if "base_model" in card or "model_link" in card or any(key in config for key in _BASES):
        return False
    own = card.get("tags")
    words = "\n".join([*tags, *map(str, own if isinstance(own, list) else [own])]).casefold()
    return not any(mark in words for mark in _MARKS)


class _Ahead:
    """Takes pages from an iterator in a thread of its own, so many before they are used.

    A source's error is raised where the page that it stands for would have been.
    """

    def __init__(self, pages: Iterator[ListingPage], *, limit: int) -> None:
        self._pages = pages
        self._full: queue.Queue[ListingPage | BaseException | None] = queue.Queue(limit)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="listing", daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> _Ahead:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)

    def take(self, most: int) -> list[ListingPage]:
        """At least one page, and what has come since, `most` at the most."""
        if self._failure is not None:
            raise self._failure
        group: list[ListingPage] = []
        while len(group) < most and (not group or not self._full.empty()):
            got = self._full.get()
            if isinstance(got, ListingPage):
                group.append(got)
                if got.next_cursor is None:
                    break
                continue
            self._failure = got or BudgetExceeded("the listing ended early", limit=0, actual=0)
            if not group:
                raise self._failure
            break
        return group

    def _fetch(self) -> None:
        try:
            for page in self._pages:
                self._put(page)
                if self._ended.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: ListingPage | BaseException | None) -> None:
        while not self._ended.is_set():
            try:
                self._full.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _drain(self) -> None:
        while not self._full.empty():
            self._full.get_nowait()
