"""What pictures are drawn of: all descendants as arrays, points and series of plots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..database import Database
from ..names import find_id, name_of
from .paging import Record, records

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


def survival_points(database: Database, model: str, probe: str, *, distance: str) -> list[Record]:
    """The macro `survival` with the size of each model's step; `distance` names that clue."""
    known = name_of(database, find_id(database, model))
    return records(database, _SURVIVAL, {"model": known, "probe": probe, "distance": distance})


def growth(database: Database, model: str) -> list[Record]:
    """Descendants by the month they were published in."""
    return records(database, _GROWTH, {"model": find_id(database, model)})


def map_nodes(database: Database, model: str, *, limit: int) -> MapNodes:
    """All descendants of a model as arrays, nearest first, at most `limit` with the root."""
    with database.cursor() as cursor:
        values = {"model": find_id(database, model), "limit": limit}
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
