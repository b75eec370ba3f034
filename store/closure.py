"""Every ancestor of every model: the transitive closure of edges, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Rows = NDArray[np.int64] | NDArray[np.bool_] | slice

# The longest chain seen is 28; a crafted chain of claims must not cost its length squared.
MAX_DEPTH = 64


# Each costs a millisecond whatever it holds; the deepest real family has some forty.
MAX_GENERATIONS = 256


class Closure(NamedTuple):
    """Pairs (k,) sorted by ancestor, then descendant.

    `distance` counts the edges of the shortest way; `confidence` is the weakest edge of the surest
    way, the largest threshold at which the descendant is still reached.
    """

    ancestor: Ids
    descendant: Ids
    distance: Ids
    confidence: NDArray[np.float64]

    def take(self, rows: Rows) -> Closure:
        """Some of the pairs, by position, slice or mask."""
        return Closure(
            self.ancestor[rows], self.descendant[rows], self.distance[rows], self.confidence[rows]
        )


def compute_closure(
    parent: Ids,
    child: Ids,
    confidence: NDArray[np.float64],
    *,
    of: Ids | None = None,
    max_depth: int = MAX_DEPTH,
) -> Closure:
    """All (ancestor, descendant) pairs of a directed graph; cycles are allowed.

    Parameters
    ----------
    parent, child : (m,) int64 in [0, 2^31)
        Edges; repeated ones count once, at their highest confidence; self-edges are dropped.
    confidence : (m,) float64
    of : (k,) only the ancestors of these; None for all.
    max_depth : ways longer than this many edges are not followed.

    Returns
    -------
    Closure without pairs of a node with itself.

    Notes
    -----
    Generation by generation: the ancestors of a node are its parents and theirs, all of them known
    when its turn comes, so that a pair is written once for each parent it comes through.
    O(pairs · log) for the final sort. What lies on a cycle, or below one or a chain of hundreds,
    has no turn; its pairs are found breadth first.
    """
    keep = parent != child
    edges = _Edges(parent[keep], child[keep], confidence[keep])
    if of is not None:
        edges = edges.within(_upwards(edges, of, max_depth=max_depth))
    ordered, generation = _generations(edges)
    found = [_descend(ordered, generation, max_depth=max_depth)]
    stuck = _apart(edges.child, ordered.child)
    if len(stuck):
        around = edges.within(_upwards(edges, stuck, max_depth=max_depth))
        found.append(_of(_breadth_first(around, max_depth=max_depth), stuck))
    closure = _joined(found)
    closure = closure if of is None else _of(closure, of)
    return closure.take(_order(closure.ancestor, closure.descendant))


def turned_rows(closure: Closure) -> dict[str, NDArray[np.generic]]:
    """The columns of a closure, sorted by descendant."""
    order = _order(closure.descendant, closure.ancestor)
    return {name: column[order] for name, column in closure._asdict().items()}


def _order(major: Ids, minor: Ids) -> Ids:
    """What sorts rows by two ids: as one key, several times faster than `np.lexsort`."""
    return np.argsort((major << 32) | minor)


class _Edges(NamedTuple):
    parent: Ids
    child: Ids
    confidence: NDArray[np.float64]

    def take(self, rows: Rows) -> _Edges:
        return _Edges(self.parent[rows], self.child[rows], self.confidence[rows])

    def within(self, children: Ids) -> _Edges:
        return self.take(np.isin(self.child, children))


def _joined(parts: Sequence[Closure]) -> Closure:
    if len(parts) == 1:
        return parts[0]
    return Closure(
        np.concatenate([part.ancestor for part in parts]),
        np.concatenate([part.descendant for part in parts]),
        np.concatenate([part.distance for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def _of(closure: Closure, descendants: Ids) -> Closure:
    return closure.take(np.isin(closure.descendant, descendants))


def _upwards(edges: _Edges, nodes: Ids, *, max_depth: int) -> Ids:
    """The nodes and their ancestors of so many steps."""
    order = np.argsort(edges.child, kind="stable")
    children, parents = edges.child[order], edges.parent[order]
    size = _size(nodes, edges.parent, edges.child)
    known = _marked(nodes, size=size)
    frontier = np.flatnonzero(known)
    for _ in range(max_depth):
        at, _ = _spans(children, frontier)
        frontier = np.flatnonzero(_marked(parents[at], size=size) & ~known)
        if not len(frontier):
            break
        known[frontier] = True
    return np.flatnonzero(known)


def _size(*ids: Ids) -> int:
    return 1 + int(max(some.max(initial=0) for some in ids))


def _marked(ids: Ids, *, size: int) -> NDArray[np.bool_]:
    """(size,) which numbers are among the ids.

    Sets of nodes are such marks, because `np.unique` and `np.setdiff1d` hash: two million ids take
    them seconds.
    """
    marks = np.zeros(size, dtype=np.bool_)
    marks[ids] = True
    return marks


def _apart(some: Ids, others: Ids) -> Ids:
    """The distinct ids that are not among the others, in order."""
    size = _size(some, others)
    return np.flatnonzero(_marked(some, size=size) & ~_marked(others, size=size))


def _spans(keys: Ids, wanted: Ids) -> tuple[Ids, Ids]:
    """Positions in sorted `keys` of each wanted key, and how many there are of each."""
    first = np.searchsorted(keys, wanted, side="left")
    fan = np.searchsorted(keys, wanted, side="right") - first
    return _ranges(first, fan), fan


def _ranges(first: Ids, count: Ids) -> Ids:
    """first[0], first[0] + 1, ... for each of the counts, one after another."""
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + within


def _generations(edges: _Edges) -> tuple[_Edges, Ids]:
    """Edges whose child can be given a generation (its longest way from a root), and that."""
    size = _size(edges.parent, edges.child)
    waiting = np.bincount(edges.child, minlength=size)
    order = np.argsort(edges.parent, kind="stable")
    parents, children = edges.parent[order], edges.child[order]
    generation = np.full(size, -1, dtype=np.int64)
    frontier = _apart(edges.parent, edges.child)
    depth = 0
    while len(frontier) and depth <= MAX_GENERATIONS:
        generation[frontier] = depth
        at, _ = _spans(parents, frontier)
        reached, ways = np.unique(children[at], return_counts=True)
        waiting[reached] -= ways
        frontier = reached[waiting[reached] == 0]
        depth += 1
    placed = generation[edges.child] >= 0
    ordered = edges.take(placed)
    return ordered, generation[ordered.child]


def _descend(edges: _Edges, generation: Ids, *, max_depth: int) -> Closure:
    """All pairs of a graph without cycles, one generation of children after another."""
    size = _size(edges.parent, edges.child)
    first, count = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    pool = _empty(0)
    filled = 0
    order = np.lexsort((edges.child, generation))
    edges = edges.take(order)
    ends = np.searchsorted(generation[order], np.arange(1, int(generation.max(initial=0)) + 2))
    for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        one = edges.take(slice(begin, end))
        rows = _inherit(one, pool, first=first, count=count, max_depth=max_depth)
        added = len(rows.ancestor)
        if filled + added > len(pool.ancestor):
            pool = _grown(pool, filled, at_least=filled + added)
        for column, new in zip(pool, rows, strict=True):
            column[filled : filled + added] = new
        nodes, starts, counts = np.unique(rows.descendant, return_index=True, return_counts=True)
        first[nodes], count[nodes] = filled + starts, counts
        filled += added
    return pool.take(slice(0, filled))


def _inherit(edges: _Edges, pool: Closure, *, first: Ids, count: Ids, max_depth: int) -> Closure:
    """Ancestors of the children of one generation, by child: the parents and those of the parents.

    Edges are sorted by child; `first` and `count` say where the rows of a node stand in `pool`.
    """
    many = count[edges.parent]
    at = _ranges(first[edges.parent], many)
    ancestor = np.concatenate([edges.parent, pool.ancestor[at]])
    descendant = np.concatenate([edges.child, np.repeat(edges.child, many)])
    distance = np.concatenate([np.ones(len(edges.child), np.int64), pool.distance[at] + 1])
    through = np.repeat(edges.confidence, many)
    sure = np.concatenate([edges.confidence, np.minimum(through, pool.confidence[at])])
    near = distance <= max_depth
    order = _order(descendant, ancestor)
    order = order[near[order]]
    ancestor, descendant = ancestor[order], descendant[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (ancestor[1:] != ancestor[:-1]) | (descendant[1:] != descendant[:-1])
    starts = np.flatnonzero(new)
    if not len(starts):
        return Closure(ancestor, descendant, distance[order], sure[order])
    return Closure(
        ancestor[starts],
        descendant[starts],
        np.minimum.reduceat(distance[order], starts),
        np.maximum.reduceat(sure[order], starts),
    )


def _empty(size: int) -> Closure:
    ids = [np.empty(size, dtype=np.int64) for _ in range(3)]
    return Closure(ids[0], ids[1], ids[2], np.empty(size, dtype=np.float64))


def _grown(pool: Closure, filled: int, *, at_least: int) -> Closure:
    grown = _empty(max(at_least, 2 * len(pool.ancestor)))
    for column, old in zip(grown, pool, strict=True):
        column[:filled] = old[:filled]
    return grown


def _breadth_first(edges: _Edges, *, max_depth: int) -> Closure:
    """All pairs of any graph, breadth first from all nodes at once.

    The frontier holds the pairs that are new or have become surer, so that each pair is extended
    once a level at most, and a cycle ends when nothing improves. Pairs are one integer key; they
    are sorted and compared with their neighbours, because `np.unique` hashes and is an order of
    magnitude slower on such keys.
    """
    parent, child, confidence = edges
    width = np.int64(max(parent.max(initial=0), child.max(initial=0)) + 1)
    order = np.argsort(parent, kind="stable")
    starts = (parent[order], child[order], confidence[order])
    keys, sure = _surest(parent * width + child, confidence)
    distance = np.ones(len(keys), dtype=np.int64)
    frontier, frontier_sure = keys, sure
    for depth in range(2, max_depth + 1):
        found, found_sure = _extend(frontier, frontier_sure, edges=starts, width=width)
        if not len(found):
            break
        frontier, frontier_sure = _better(found, found_sure, keys=keys, sure=sure)
        keys, sure, distance = _merge(
            (keys, sure, distance), (frontier, frontier_sure), depth=depth
        )
    apart = keys // width != keys % width
    keys, sure, distance = keys[apart], sure[apart], distance[apart]
    return Closure(keys // width, keys % width, distance, sure)


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
