"""Every ancestor of every model: the transitive closure of the believed edges, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from .staging import registered

Ids = NDArray[np.int64]

# The longest chain seen is 28; a crafted chain of claims must not cost its length squared.
MAX_DEPTH = 64

# Above one affected model in so many, everything is computed anew, and sorted.
REBUILD_SHARE = 8

_BELIEVED = """
CREATE OR REPLACE TEMP TABLE believed_now AS
SELECT parent, child, max(confidence) AS confidence FROM internal.believed
GROUP BY parent, child ORDER BY parent, child
"""

_CHANGED = """
CREATE OR REPLACE TEMP TABLE changed AS
SELECT DISTINCT coalesce(n.child, o.child) AS child
FROM believed_now n FULL JOIN internal.closure_edges o
    ON o.child = n.child AND o.parent = n.parent
WHERE n.child IS NULL OR o.child IS NULL OR n.confidence <> o.confidence;
CREATE OR REPLACE TEMP TABLE affected AS
SELECT child AS node FROM changed
UNION
SELECT k.descendant FROM internal.closure k WHERE k.ancestor IN (SELECT child FROM changed)
"""

_SHARE = """
SELECT (SELECT count(*) FROM affected),
    (SELECT count(DISTINCT child) FROM internal.closure_edges)
"""


class Closure(NamedTuple):
    """Pairs (k,) sorted by ancestor, then descendant.

    `distance` counts the edges of the shortest way; `confidence` is the weakest edge of the surest
    way, the largest threshold at which the descendant is still reached.
    """

    ancestor: Ids
    descendant: Ids
    distance: Ids
    confidence: NDArray[np.float64]


def compute_closure(
    parent: Ids,
    child: Ids,
    confidence: NDArray[np.float64],
    *,
    within: Ids | None = None,
    max_depth: int = MAX_DEPTH,
) -> Closure:
    """All (ancestor, descendant) pairs of a directed graph; cycles are allowed.

    Parameters
    ----------
    parent, child : (m,) int64 in [0, 2^31)
        Edges; repeated ones count once, at their highest confidence; self-edges are dropped.
    confidence : (m,) float64
    within : (k,) only ancestors among these; None for all.
    max_depth : ways longer than this many edges are not followed.

    Returns
    -------
    Closure without pairs of a node with itself.

    Notes
    -----
    Breadth first from all nodes at once: the frontier holds the pairs that are new or have become
    surer, so that each pair is extended once a level at most. A cycle ends when nothing improves.
    Pairs are one integer key; they are sorted and compared with their neighbours, because
    `np.unique` hashes and is an order of magnitude slower on such keys. O(pairs · log) time.
    """
    keep = parent != child
    parent, child, confidence = parent[keep], child[keep], confidence[keep]
    width = np.int64(max(parent.max(initial=0), child.max(initial=0)) + 1)
    order = np.argsort(parent, kind="stable")
    starts = parent[order]
    edges = (starts, child[order], confidence[order])
    if within is not None:
        wanted = np.isin(parent, within)
        parent, child, confidence = parent[wanted], child[wanted], confidence[wanted]
    keys, sure = _surest(parent * width + child, confidence)
    distance = np.ones(len(keys), dtype=np.int64)
    frontier, frontier_sure = keys, sure
    for depth in range(2, max_depth + 1):
        found, found_sure = _extend(frontier, frontier_sure, edges=edges, width=width)
        if not len(found):
            break
        frontier, frontier_sure = _better(found, found_sure, keys=keys, sure=sure)
        keys, sure, distance = _merge(
            (keys, sure, distance), (frontier, frontier_sure), depth=depth
        )
    apart = keys // width != keys % width
    keys, sure, distance = keys[apart], sure[apart], distance[apart]
    return Closure(keys // width, keys % width, distance, sure)


def maintain_closure(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring the closure up to the edges believed now, inside the caller's transaction.

    Notes
    -----
    A pair can have changed only if its descendant is the child of an edge that changed, or comes
    from one by edges that did not: only the ancestors of those are computed anew. When that is a
    large share of all, everything is.
    """
    connection.execute(_BELIEVED)
    connection.execute(_CHANGED)
    ((changed, known),) = connection.execute(_SHARE).fetchall()
    if changed * REBUILD_SHARE > known:
        _rebuild(connection)
    elif changed:
        _update(connection)


def rebuild_closure(connection: duckdb.DuckDBPyConnection) -> None:
    """Write both closure tables and the name index anew, inside the caller's transaction."""
    connection.execute(_BELIEVED)
    _rebuild(connection)


def _rebuild(connection: duckdb.DuckDBPyConnection) -> None:
    parent, child, confidence = _edges(connection)
    closure = compute_closure(parent, child, confidence)
    for table in ("closure", "closure_up", "closure_edges"):
        connection.execute(f"DELETE FROM internal.{table}")
    _insert(connection, closure)
    connection.execute("INSERT INTO internal.closure_edges FROM believed_now")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE names AS SELECT DISTINCT name_key, model "
        "FROM internal.name_index"
    )
    connection.execute("DELETE FROM internal.name_index")
    connection.execute("INSERT INTO internal.name_index FROM names ORDER BY name_key, model")


def _update(connection: duckdb.DuckDBPyConnection) -> None:
    parent, child, confidence = _edges(connection)
    affected = connection.execute("SELECT node FROM affected").fetchnumpy()["node"]
    # Upwards: the edges turned round, so that what comes out is (descendant, ancestor).
    upwards = compute_closure(child, parent, confidence, within=affected)
    order = np.lexsort((upwards.ancestor, upwards.descendant))
    closure = Closure(
        upwards.descendant[order],
        upwards.ancestor[order],
        upwards.distance[order],
        upwards.confidence[order],
    )
    for table in ("closure", "closure_up"):
        connection.execute(
            f"DELETE FROM internal.{table} WHERE descendant IN (SELECT node FROM affected)"
        )
    _insert(connection, closure)
    connection.execute(
        "DELETE FROM internal.closure_edges WHERE child IN (SELECT child FROM changed)"
    )
    connection.execute(
        "INSERT INTO internal.closure_edges "
        "SELECT * FROM believed_now WHERE child IN (SELECT child FROM changed)"
    )


def _edges(connection: duckdb.DuckDBPyConnection) -> tuple[Ids, Ids, NDArray[np.float64]]:
    columns = connection.execute(
        "SELECT parent::BIGINT AS parent, child::BIGINT AS child, confidence FROM believed_now"
    ).fetchnumpy()
    return columns["parent"], columns["child"], columns["confidence"]


def _insert(connection: duckdb.DuckDBPyConnection, closure: Closure) -> None:
    # Imported here because reading verbs start without it.
    import pyarrow as pa

    up = np.lexsort((closure.ancestor, closure.descendant))
    for table, order in (("closure", slice(None)), ("closure_up", up)):
        view = {name: column[order] for name, column in zip(Closure._fields, closure, strict=True)}
        with registered(connection, "closure_in", pa.table(view)):
            connection.execute(f"INSERT INTO internal.{table} BY NAME FROM closure_in")


def _extend(
    keys: Ids,
    sure: NDArray[np.float64],
    *,
    edges: tuple[Ids, Ids, NDArray[np.float64]],
    width: np.int64,
) -> tuple[Ids, NDArray[np.float64]]:
    """Pairs one edge further than those given, each once, at its highest confidence."""
    starts, ends, confidence = edges
    tail = keys % width
    first = np.searchsorted(starts, tail, side="left")
    fan = np.searchsorted(starts, tail, side="right") - first  # (k,) edges out of each pair's end
    total = int(fan.sum())
    within = np.arange(total) - np.repeat(np.cumsum(fan) - fan, fan)
    edge = np.repeat(first, fan) + within  # (total,) positions in `edges`
    reached = np.repeat(keys - tail, fan) + ends[edge]
    return _surest(reached, np.minimum(np.repeat(sure, fan), confidence[edge]))


def _surest(keys: Ids, sure: NDArray[np.float64]) -> tuple[Ids, NDArray[np.float64]]:
    """Distinct keys in order, each with the largest of its confidences."""
    order = np.lexsort((-sure, keys))
    keys, sure = keys[order], sure[order]
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    return keys[first], sure[first]


def _better(
    found: Ids, found_sure: NDArray[np.float64], *, keys: Ids, sure: NDArray[np.float64]
) -> tuple[Ids, NDArray[np.float64]]:
    """Of the pairs found, those not known yet or known less surely."""
    at = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
    better = (keys[at] != found) | (sure[at] < found_sure)
    return found[better], found_sure[better]


def _merge(
    known: tuple[Ids, NDArray[np.float64], Ids],
    fresh: tuple[Ids, NDArray[np.float64]],
    *,
    depth: int,
) -> tuple[Ids, NDArray[np.float64], Ids]:
    """Known and fresh pairs in one sorted set: surest confidence, shortest distance."""
    keys, sure, distance = known
    added, added_sure = fresh
    at = np.minimum(np.searchsorted(keys, added), len(keys) - 1)
    again = keys[at] == added
    sure = sure.copy()
    sure[at[again]] = added_sure[again]
    new = added[~again]
    place = np.searchsorted(keys, new)
    return (
        np.insert(keys, place, new),
        np.insert(sure, place, added_sure[~again]),
        np.insert(distance, place, depth),
    )
