"""Every ancestor of every model: the transitive closure of edges, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

# The longest chain seen is 28; a crafted chain of claims must not cost its length squared.
MAX_DEPTH = 64


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


def turned(pairs: Closure) -> Closure:
    """The closure from one that was computed over edges turned round (descendant, ancestor)."""
    order = np.lexsort((pairs.ancestor, pairs.descendant))
    return Closure(
        pairs.descendant[order], pairs.ancestor[order], pairs.distance[order],
        pairs.confidence[order],
    )  # fmt: skip


def turned_rows(closure: Closure) -> dict[str, NDArray[np.generic]]:
    """The columns of a closure, sorted by descendant."""
    order = np.lexsort((closure.ancestor, closure.descendant))
    return {name: column[order] for name, column in closure._asdict().items()}


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
