"""What an explorer asks of a public copy: one hop, search, listings by page, series for plots."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
from numpy.typing import NDArray

from .database import Database, Parameters
from .names import find_id
from .queries import mapping
from .reader import RegistryReader
from .staging import aware, text, utc

MEMORY_LIMIT = "1GB"
"""What DuckDB may use in the process that serves; one transaction of a page takes a few MB."""

SHORT = 8
"""Rows of an answer that is kept, and how many answers are."""
MOST_KEPT = 20_000

Record = dict[str, Any]

_KIN = """
    n.name AS model, l.relation, l.detail, l.confidence, l.share, l.declared, l.inferred, n.hidden,
    n.source, n.created_at, n.downloads, n.license, n.direct, n.total, n.lost, n.lost_below,
    n.refusal, n.refusal_low, n.refusal_high
"""

_FILTER = """
    ($relations IS NULL OR list_contains($relations::VARCHAR[], l.relation))
    AND l.confidence >= $min_confidence
    AND ($since IS NULL OR n.created_at >= $since) AND ($until IS NULL OR n.created_at < $until)
    AND ($min_downloads IS NULL OR n.downloads >= $min_downloads)
    AND (NOT $lost OR n.lost OR n.lost_below > 0)
"""

_CHILDREN = f"""
SELECT {_KIN}, count(*) OVER () AS matched
FROM explorer.children n
WHERE n.parent = $model AND {_FILTER}
ORDER BY n.total DESC, n.name LIMIT $limit OFFSET $offset
""".replace("l.", "n.")

_PARENTS = f"""
SELECT {_KIN}, count(*) OVER () AS matched
FROM explorer.links l JOIN explorer.nodes n ON n.id = l.parent
WHERE l.child = $model AND {_FILTER}
ORDER BY l.confidence DESC, n.name LIMIT $limit OFFSET $offset
"""

_SEARCH = """
SELECT n.name AS model, n.source, n.hidden, n.created_at, n.downloads, n.license, n.direct,
    n.total, n.lost, n.lost_below, n.refusal, n.tombstone_reason, count(*) OVER () AS matched
FROM explorer.nodes n
WHERE ($words IS NULL OR contains(lower(n.name), lower($words)))
ORDER BY lower(n.name) = lower(coalesce($words, '')) DESC, n.total DESC,
    n.downloads DESC NULLS LAST, n.name
LIMIT $limit OFFSET $offset
"""

_CLOSURE = """
SELECT k.{far} AS id, n.name AS model, k.distance, k.confidence, n.hidden, n.lost
FROM internal.{table} k JOIN explorer.nodes n ON n.id = k.{far}
WHERE k.{near} = $model AND k.{far} > $after AND k.confidence >= $min_confidence
    AND ($max_depth IS NULL OR k.distance <= $max_depth)
ORDER BY k.{far} LIMIT $limit
"""

_FINDINGS = """
SELECT f.*, count(*) OVER () AS matched FROM v1.findings f
WHERE ($kind IS NULL OR f.kind = $kind) AND ($severity IS NULL OR f.severity = $severity)
    AND ($status IS NULL OR f.status = $status
        OR ($status = 'live' AND f.status IN ('new', 'open')))
    AND ($words IS NULL OR contains(lower(f.model), lower($words))
        OR contains(lower(f.ancestor), lower($words)))
ORDER BY f.last_scan DESC, f.first_scan DESC,
    CASE f.severity WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END,
    f.value DESC NULLS LAST, f.model, f.finding_id
LIMIT $limit OFFSET $offset
"""

_COVERAGE = """
SELECT v.*, count(*) OVER () AS matched FROM v1.coverage v
WHERE ($scan IS NULL OR v.scan = $scan) AND ($outcome IS NULL OR v.outcome = $outcome)
    AND ($words IS NULL OR contains(lower(v.model), lower($words)))
ORDER BY v.scan DESC, v.model, v.visited_at LIMIT $limit OFFSET $offset
"""

_OUTCOMES = """
SELECT v.outcome, v.stage, v.reason, count(*) AS models FROM internal.coverage v
WHERE ($scan IS NULL OR v.scan = $scan)
GROUP BY ALL ORDER BY models DESC, v.outcome, v.stage, v.reason LIMIT 200
"""

_SURVIVAL = """
SELECT s.model, s.distance, s.relation, s.detail, s.dtype, s.format, s.n, s.value, s.ci_low,
    s.ci_high, s.ancestor_value, s.retained, s.judge, s.prompt_set,
    (SELECT min(x.value) FROM internal.edges e JOIN internal.evidence x
        ON x.evidence_id = e.evidence_id JOIN explorer.nodes c ON c.id = e.child
        WHERE c.name = s.model AND e.inferred AND x.kind = 'distance'
            AND x.statistic = $distance) AS delta_size
FROM v1.survival($model, $probe) s
"""

_GROWTH = """
SELECT date_trunc('month', n.created_at)::TIMESTAMP AS month, count(*) AS models,
    count(*) FILTER (WHERE n.lost) AS lost
FROM internal.closure k JOIN explorer.nodes n ON n.id = k.descendant
WHERE k.ancestor = $model AND n.created_at IS NOT NULL GROUP BY month ORDER BY month
"""

# Each node hangs under its surest parent one step nearer to the root, as in the printed tree.
_MAP = """
WITH members AS (
    SELECT k.descendant AS id, k.distance FROM internal.closure k WHERE k.ancestor = $model
    UNION ALL SELECT $model, 0
), hung AS (
    SELECT l.child AS id, arg_max(l.parent, l.confidence) AS under
    FROM explorer.links l JOIN members m ON m.id = l.child JOIN members p ON p.id = l.parent
    WHERE p.distance = m.distance - 1 GROUP BY l.child
)
SELECT m.id::BIGINT AS id, coalesce(h.under, $model)::BIGINT AS under, m.distance::INTEGER
    AS distance, n.name, n.hidden, n.lost, coalesce(n.refusal, 'nan'::DOUBLE) AS refusal,
    n.total::BIGINT AS total
FROM members m JOIN explorer.nodes n ON n.id = m.id LEFT JOIN hung h ON h.id = m.id
ORDER BY m.distance, m.id LIMIT $limit
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KinFilter:
    """Which kin to list: by relation, confidence of the edge, date, downloads, loss of safety.

    `lost` keeps models that lost safety training and those with such a model below them.
    """

    relations: tuple[str, ...] = ()
    min_confidence: float = 0.0
    since: datetime | None = None
    until: datetime | None = None
    min_downloads: int | None = None
    lost: bool = False

    def values(self) -> Record:
        """The parameters of the query."""
        return {
            "relations": list(self.relations) or None,
            "min_confidence": self.min_confidence,
            "since": utc(self.since),
            "until": utc(self.until),
            "min_downloads": self.min_downloads,
            "lost": self.lost,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows of a listing, and how many there are in all."""

    rows: tuple[Mapping[str, Any], ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNodes:
    """All descendants of a root, the root first, parents before children.

    `under` (n,) int64 is the position of the parent in the same arrays, 0 for the root itself;
    `distance` (n,) int32 edges from the root; `refusal` (n,) float64, NaN where not measured;
    `total` (n,) int64 descendants.
    """

    names: tuple[str, ...]
    under: NDArray[np.int64]
    distance: NDArray[np.int32]
    hidden: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    refusal: NDArray[np.float64]
    total: NDArray[np.int64]


class _Unchanging(Database):
    """A database that nobody writes: short answers to the same question are kept.

    One page resolves the same name many times, at a few milliseconds each.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, path: Path, read_only: bool
    ) -> None:
        super().__init__(connection, path=path, read_only=read_only)
        self._kept: OrderedDict[tuple[str, str], list[tuple[Any, ...]]] = OrderedDict()
        self._turn = threading.Lock()

    def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, perhaps those of an earlier time."""
        key = (query, repr(parameters))
        with self._turn:
            if key in self._kept:
                return self._kept[key]
        found = super().rows(query, parameters)
        if len(found) <= SHORT:
            with self._turn:
                self._kept[key] = found
                if len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        return found


class PublicReader(RegistryReader):
    """The reading half of a registry over a public copy. Threads may share it."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the folder of a copy that `write_public_copy` made.

        Raises
        ------
        RegistryError : there is no copy there.
        """
        database = _Unchanging.open(folder, read_only=True, create=False)
        with database.cursor() as cursor:
            cursor.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            # Many small queries at once: they are the threads.
            cursor.execute("SET threads = 1")
        return cls(database, path=folder)

    def describe(self, model: str) -> Record:
        """The row of `v1.models` of a model."""
        # By value and not by a join, so that the views read one row and not all.
        source, source_id, name = self._database.rows(
            "SELECT m.source, m.source_id, m.name FROM internal.models m WHERE m.id = ?",
            [find_id(self._database, model)],
        )[0]
        found = self._database.records(
            "SELECT * FROM v1.models WHERE model = ? AND source = ? AND source_id = ?",
            [name, source, source_id],
        )
        return _tidy(found[0])

    def search(self, words: str | None, *, limit: int, offset: int = 0) -> Page:
        """Models whose name holds the words, those with most descendants first."""
        values = {"words": text(words) or None, "limit": limit, "offset": offset}
        return self._page(_SEARCH, values)

    def children(
        self, model: str, *, keep: KinFilter, limit: int, offset: int = 0, up: bool = False
    ) -> Page:
        """One hop down from a model (up with `up`), each with counts of the whole store."""
        values = {
            **keep.values(),
            "model": find_id(self._database, model),
            "limit": limit,
            "offset": offset,
        }
        return self._page(_PARENTS if up else _CHILDREN, values)

    def node(self, model: str) -> Record:
        """Counts and loss of one model."""
        found = self._database.records(
            "SELECT n.* EXCLUDE (id, name), n.name AS model FROM explorer.nodes n WHERE n.id = ?",
            [find_id(self._database, model)],
        )
        return _tidy(found[0])

    def children_by_relation(self, model: str) -> list[Record]:
        """How many children a model has by relation."""
        return self._database.records(
            "SELECT l.relation, count(*) AS models, count(*) FILTER (WHERE n.lost) AS lost "
            "FROM explorer.links l JOIN explorer.nodes n ON n.id = l.child "
            "WHERE l.parent = ? GROUP BY ALL ORDER BY models DESC, l.relation",
            [find_id(self._database, model)],
        )

    def revisions(self, model: str, *, limit: int = 20) -> list[Record]:
        """Commits of a model that scans have seen, newest first."""
        found = self._database.records(
            "SELECT r.sha, r.seen_at, r.format, r.dtype, r.n_params, r.outcome, r.weights_digest "
            "FROM internal.revisions r WHERE r.model = ? ORDER BY r.id DESC LIMIT ?",
            [find_id(self._database, model), limit],
        )
        return [_tidy(record) for record in found]

    def closure(
        self,
        model: str,
        *,
        up: bool,
        limit: int,
        after: int = -1,
        max_depth: int | None = None,
        min_confidence: float = 0.0,
    ) -> tuple[list[tuple[Any, ...]], int | None]:
        """All descendants (ancestors with `up`) in a fixed order, from a position on.

        Returns
        -------
        Rows (model, distance, confidence, hidden, lost), and the position after them; None when
        they were the last.
        """
        near, far, table = ("ancestor", "descendant", "closure")
        if up:
            near, far, table = far, near, "closure_up"
        rows = self._database.rows(
            _CLOSURE.format(near=near, far=far, table=table),
            {
                "model": find_id(self._database, model),
                "after": after,
                "limit": limit + 1,
                "max_depth": max_depth,
                "min_confidence": min_confidence,
            },
        )
        more = len(rows) > limit
        rows = rows[:limit]
        return [row[1:] for row in rows], int(rows[-1][0]) if more else None

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
        values = {"kind": kind, "severity": severity, "status": status, "words": text(words)}
        return self._page(_FINDINGS, {**values, "limit": limit, "offset": offset})

    def findings_on(self, model: str) -> list[Record]:
        """Findings on one model, live ones first."""
        found = self._database.records(
            "SELECT f.* FROM v1.findings f WHERE f.model = ? "
            "ORDER BY f.status IN ('new', 'open') DESC, f.kind, f.finding_id",
            [self.resolve_name(model)],
        )
        return [_tidy(record) for record in found]

    def finding_kinds(self) -> list[str]:
        """Kinds of finding that the store holds."""
        found = self._database.rows("SELECT DISTINCT kind FROM internal.findings ORDER BY kind")
        return [kind for (kind,) in found]

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
        values = {"scan": scan, "outcome": outcome, "words": text(words)}
        return self._page(_COVERAGE, {**values, "limit": limit, "offset": offset})

    def outcomes_by_reason(self, scan: int | None) -> list[Record]:
        """Models of a scan by outcome, stage and reason, the most frequent first."""
        return self._database.records(_OUTCOMES, {"scan": scan})

    def scan_totals(self) -> list[Record]:
        """The rows of `v1.scans`, newest first."""
        found = self._database.records(
            "SELECT s.* EXCLUDE (parameters) FROM v1.scans s ORDER BY s.scan DESC"
        )
        return [_tidy(record) for record in found]

    def survival_points(self, model: str, probe: str, *, distance: str) -> list[Record]:
        """The macro `survival` with the size of each model's step; `distance` names that clue."""
        values = {"model": self.resolve_name(model), "probe": probe, "distance": distance}
        return [_tidy(record) for record in self._database.records(_SURVIVAL, values)]

    def growth(self, model: str) -> list[Record]:
        """Descendants by the month they were published in."""
        found = self._database.records(_GROWTH, {"model": find_id(self._database, model)})
        return [_tidy(record) for record in found]

    def probes(self) -> list[str]:
        """Probes with a usable score."""
        found = self._database.rows(
            "SELECT DISTINCT probe FROM internal.scores WHERE status = 'ok' ORDER BY probe"
        )
        return [probe for (probe,) in found]

    def map_nodes(self, model: str, *, limit: int) -> MapNodes:
        """All descendants of a model as arrays, nearest first, at most `limit` with the root."""
        with self._database.cursor() as cursor:
            values = {"model": find_id(self._database, model), "limit": limit}
            columns = cursor.execute(_MAP, values).fetchnumpy()
        ids = np.asarray(columns["id"])
        order = np.argsort(ids, kind="stable")
        place = np.searchsorted(ids, np.asarray(columns["under"]), sorter=order)
        return MapNodes(
            names=tuple(str(name) for name in columns["name"]),
            under=order[np.minimum(place, len(ids) - 1)].astype(np.int64),
            distance=np.asarray(columns["distance"], dtype=np.int32),
            hidden=np.asarray(columns["hidden"], dtype=np.bool_),
            lost=np.asarray(columns["lost"], dtype=np.bool_),
            refusal=np.ma.filled(np.ma.asarray(columns["refusal"], dtype=np.float64), np.nan),
            total=np.asarray(columns["total"], dtype=np.int64),
        )

    def largest(self, limit: int) -> list[str]:
        """Models with most descendants."""
        found = self._database.rows(
            "SELECT name FROM explorer.nodes WHERE total > 0 ORDER BY total DESC, id LIMIT ?",
            [limit],
        )
        return [name for (name,) in found]

    def schema(self) -> dict[str, list[Record]]:
        """Views of schema v1 with their columns, types and comments."""
        found = self._database.records(
            "SELECT c.table_name, c.column_name, c.data_type, c.comment FROM duckdb_columns() c "
            "WHERE c.schema_name = 'v1' ORDER BY c.table_name, c.column_index"
        )
        tables: dict[str, list[Record]] = {}
        for record in found:
            tables.setdefault(record.pop("table_name"), []).append(record)
        return tables

    def _page(self, query: str, values: Mapping[str, Any]) -> Page:
        rows = self._database.records(query, values)
        total = rows[0]["matched"] if rows else 0
        for row in rows:
            del row["matched"]
        return Page(rows=tuple(_tidy(row) for row in rows), total=total)


def _tidy(record: Record) -> Record:
    """Times with their zone, JSON columns as mappings."""
    for name, value in record.items():
        if isinstance(value, datetime):
            record[name] = aware(value)
    if "detail" in record:
        record["detail"] = mapping(record["detail"])
    return record
