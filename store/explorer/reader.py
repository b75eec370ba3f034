"""The reading half of a registry over a public copy."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from ..reader import RegistryReader
from . import drawings, kin, listings
from .drawings import MapNodes
from .kin import ClosurePage, KinFilter
from .paging import Page, Record
from .unchanging import Unchanging

MEMORY_LIMIT = "1GB"
"""What DuckDB may use in the process that serves; one transaction of a page takes a few MB."""


class PublicReader(RegistryReader):
    """Questions to a public copy. Threads may share it."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the folder of a copy that `write_public_copy` made.

        Raises
        ------
        RegistryError : there is no copy there.
        """
        database = Unchanging.open(folder, read_only=True, create=False)
        with database.cursor() as cursor:
            cursor.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            # Many small queries at once: they are the threads.
            cursor.execute("SET threads = 1")
        return cls(database, path=folder)

    def search(self, words: str | None, *, limit: int, offset: int = 0) -> Page:
        """Models whose name holds the words, those with most descendants first."""
        return listings.search(self._database, words, limit=limit, offset=offset)

    def children(
        self, model: str, *, keep: KinFilter, limit: int, offset: int = 0, up: bool = False
    ) -> Page:
        """One hop down from a model (up with `up`), each with counts of the whole store."""
        return kin.children(self._database, model, keep=keep, limit=limit, offset=offset, up=up)

    def node(self, model: str) -> Record:
        """Counts and loss of one model."""
        return kin.node(self._database, model)

    def children_by_relation(self, model: str) -> list[Record]:
        """How many children a model has by relation."""
        return kin.children_by_relation(self._database, model)

    def closure(
        self,
        model: str,
        *,
        up: bool,
        limit: int,
        after: int = -1,
        max_depth: int | None = None,
        min_confidence: float = 0.0,
    ) -> ClosurePage:
        """All descendants (ancestors with `up`) by page."""
        return kin.closure(
            self._database,
            model,
            up=up,
            limit=limit,
            after=after,
            max_depth=max_depth,
            min_confidence=min_confidence,
        )

    def revisions(self, model: str, *, limit: int = 20) -> list[Record]:
        """Commits of a model that scans have seen, newest first."""
        return listings.revisions(self._database, model, limit=limit)

    def list_findings(
        self,
        *,
        kind: str | None = None,
        severity: str | None = None,
        status: str | None = None,
        words: str | None = None,
        limit: int,
        offset: int = 0,
    ) -> Page:
        """Findings, latest first; status `live` is new or open."""
        return listings.list_findings(
            self._database,
            kind=kind,
            severity=severity,
            status=status,
            words=words,
            limit=limit,
            offset=offset,
        )

    def findings_on(self, model: str) -> list[Record]:
        """Findings on one model, live ones first."""
        return listings.findings_on(self._database, model)

    def finding_kinds(self) -> list[str]:
        """Kinds of finding that the store holds."""
        return listings.finding_kinds(self._database)

    def coverage(
        self,
        *,
        scan: int | None,
        outcome: str | None = None,
        words: str | None = None,
        limit: int,
        offset: int = 0,
    ) -> Page:
        """What became of each model in a scan, or in all of them."""
        return listings.coverage(
            self._database, scan=scan, outcome=outcome, words=words, limit=limit, offset=offset
        )

    def outcomes_by_reason(self, scan: int | None) -> list[Record]:
        """Models of a scan by outcome, stage and reason, the most frequent first."""
        return listings.outcomes_by_reason(self._database, scan)

    def scan_totals(self) -> list[Record]:
        """The rows of `v1.scans`, newest first."""
        return listings.scan_totals(self._database)

    def survival_points(self, model: str, probe: str, *, distance: str) -> list[Record]:
        """The macro `survival` with the size of each model's step; `distance` names that clue."""
        return drawings.survival_points(self._database, model, probe, distance=distance)

    def growth(self, model: str) -> list[Record]:
        """Descendants by the month they were published in."""
        return drawings.growth(self._database, model)

    def probes(self) -> list[str]:
        """Probes with a usable score."""
        return listings.probes(self._database)

    def map_nodes(self, model: str, *, limit: int) -> MapNodes:
        """All descendants of a model as arrays, nearest first, at most `limit` with the root."""
        return drawings.map_nodes(self._database, model, limit=limit)

    def largest(self, limit: int) -> list[str]:
        """Models with most descendants."""
        return listings.largest(self._database, limit)

    def schema(self) -> dict[str, list[Record]]:
        """Views of schema v1 with their columns, types and comments."""
        return listings.schema(self._database)
