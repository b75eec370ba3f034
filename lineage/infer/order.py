"""Which member of a family can have come first: dates where they are known, drift where not.

A parent's weights exist before its child's. Without dates the family's minimum spanning tree is
rooted where the drift of its edges agrees best: fresh training steps are nearly orthogonal to the
weights they start from, so a true child has <C - P, P> / |C - P|^2 near 0 and its norm grows,
while the same edge read backwards gives a value near -1.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from ..dtypes import round_to
from .delta import compare, delta_shape
from .geometry import Geometry
from .specimen import Specimen, comparable, is_narrowed

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

DRIFT_SLOPE = 6.0
DRIFT_BOUND = 3.0
PROJECTION = 8.0
# Standard deviations: weights that only moved meet one of two copies as often as the other.
SIGN_TEST = 4.0


def later_copies(
    group: Sequence[Specimen], geometry: Geometry, *, in_order: bool = False
) -> set[int]:
    """Members that are copies, up to a cast, of another member that is likelier the original.

    The earlier of two dated copies is the original. Without dates: derivatives share untouched
    weights with the file they were made from, up to a cast to their own type, so the original is
    the copy that more of the family agrees with in that way; where it agrees with both alike, the
    one that a cast took less from. `in_order`: the first of two in the group is it.
    """
    squares = geometry.square_distances()
    later: set[int] = set()
    for a, b in np.argwhere(np.triu(squares <= _cast_bound(geometry), 1)):
        if a in later or b in later:
            continue
        step = compare(group[a], group[b])
        if not (step.exact and step.same_elsewhere):
            continue
        later.add(int(b) if in_order else _later_of(group, int(a), int(b)))
    return later


def _later_of(group: Sequence[Specimen], a: int, b: int) -> int:
    first, second = group[a].created, group[b].created
    if first is not None and second is not None and first != second:
        return a if first > second else b
    if bool(group[a].packing) != bool(group[b].packing):
        # A file made for a runtime is converted from what was trained, and not the other way.
        return a if group[a].packing else b
    rest = [one for at, one in enumerate(group) if at not in (a, b)]
    mine, theirs = _followers(group[a], group[b], rest)
    if abs(mine - theirs) > SIGN_TEST * math.sqrt(mine + theirs):
        return a if theirs > mine else b
    for one, other in ((a, b), (b, a)):
        if is_narrowed(group[one], group[other]):
            return one
    return a if _is_widened(group[a], group[b]) else b


def _is_widened(one: Specimen, other: Specimen) -> bool:
    """Whether `one` holds the other's type in a type of its own: its cast, and not its source.

    A cast cannot add what its source did not have: a file of float16 in which every weight is a
    bfloat16 comes from bfloat16.
    """
    names = [name for name in one.matrices() if name in other.blocks]
    pairs = [(one.blocks[name], other.blocks[name]) for name in names]
    widened = (a.dtype != b.dtype and a.grain == b.grain == b.dtype for a, b in pairs)
    return bool(pairs) and all(widened)


def _cast_bound(geometry: Geometry) -> Float64:
    """Squared distance beyond which no cast can have moved two members apart."""
    bound: Float64 = 6.0 * (geometry.floor[:, None] + geometry.floor[None, :])
    return bound


def _followers(one: Specimen, other: Specimen, rest: Sequence[Specimen]) -> tuple[int, int]:
    """Weights of the rest of a family that are one model's and not the other's, and the reverse.

    Both are cast to the type that each of the rest was published in. What a model was made from it
    holds wherever it was left alone; a cast of that, or a copy cast from more than that, misses
    some. Weights that moved meet either alike.
    """
    mine = theirs = 0
    parting: dict[tuple[str, str], tuple[Ints, Float32, Float32]] = {}
    for member in rest:
        for name, block in member.blocks.items():
            a, b = one.blocks.get(name), other.blocks.get(name)
            if a is None or b is None or not (comparable(a, block) and comparable(b, block)):
                continue
            key = name, block.dtype
            if key not in parting:
                parting[key] = _parting(a.values, b.values, block.dtype)
            at, first, second = parting[key]
            held = block.values[at]
            mine += int(np.count_nonzero(first == held))
            theirs += int(np.count_nonzero(second == held))
    return mine, theirs


def _parting(a: Float32, b: Float32, dtype: str) -> tuple[Ints, Float32, Float32]:
    """Where two rows of weights differ once cast to a type, and what they hold there."""
    if dtype in ("BF16", "F16"):
        a, b = round_to(a, dtype), round_to(b, dtype)
    at = np.flatnonzero(a != b)
    return at, a[at], b[at]


def drift_llr(child: int, parent: int, geometry: Geometry) -> float:
    """Log-likelihood ratio of "child came from parent" against the reverse, from norm drift.

    Bounded by +-`DRIFT_BOUND`: weight decay can undo what orthogonal steps add.
    """
    square = geometry.square_distance(child, parent)
    growth = geometry.norms[child] ** 2 - geometry.norms[parent] ** 2
    return drift(growth, square)


def drift(growth: float, square: float) -> float:
    """The ratio of `drift_llr` from the growth of the squared norm and the squared distance."""
    if square <= 0:
        return 0.0
    along = (growth - square) / (2 * square)  # <C - P, P> / |C - P|^2
    return float(np.clip(DRIFT_SLOPE * (along + 0.5), -DRIFT_BOUND, DRIFT_BOUND))


def arrow_llr(group: Sequence[Specimen], child: int, parent: int, *, geometry: Geometry) -> float:
    """Direction of one edge: drift, or for a closed-form edit the projection it made.

    Removing a direction from W leaves D = -r r'W, so <D, W> = -|D|^2 holds with the parent's
    weights and the edited model's norm is the smaller one.
    """
    step = compare(group[child], group[parent])
    writers_only = bool(step.changed) and all(b.writer for b in step.changed)
    # A single matrix changed by rank one is an insertion: it grows as any fresh step does.
    projected = writers_only and len(step.changed) > 1
    if projected and delta_shape(group[child], group[parent], step).is_edit:
        shrinks = geometry.norms[child] < geometry.norms[parent]
        return PROJECTION if shrinks else -PROJECTION
    return drift_llr(child, parent, geometry)


def family_order(
    group: Sequence[Specimen], geometry: Geometry, *, last: Collection[int]
) -> list[int]:
    """All members, ancestors before descendants.

    Parameters
    ----------
    last : members that are leaves by their own weights (gridded, pruned, exact merges); without
        dates they come after the rest.

    Returns
    -------
    Indices. With dates throughout: by date, members of one date in the undated order. Without:
    outward from the root of the spanning tree. Mixed: the undated order with the dated members put
    in date order among their places.
    """
    dated = [i for i, one in enumerate(group) if one.created is not None]
    if len(dated) == len(group) == len({one.created for one in group}):
        return sorted(dated, key=lambda i: _stamp(group[i].created))
    order = _outward(group, geometry, last=set(last))
    return by_dates(order, [one.created for one in group])


def by_dates(order: Sequence[int], created: Sequence[datetime | None]) -> list[int]:
    """The same order with the dated members put in date order among their places."""
    places = [at for at, i in enumerate(order) if created[i] is not None]
    dated = sorted((order[at] for at in places), key=lambda i: _stamp(created[i]))
    settled = list(order)
    for at, i in zip(places, dated, strict=True):
        settled[at] = i
    return settled


def _stamp(created: datetime | None) -> float:
    return created.timestamp() if created is not None else 0.0


def _outward(group: Sequence[Specimen], geometry: Geometry, *, last: set[int]) -> list[int]:
    n = len(group)
    body = [i for i in range(n) if i not in last] or list(range(n))
    squares = geometry.square_distances()
    edges = spanning_tree(body, squares)
    root = root_of(body, edges, lambda c, p: arrow_llr(group, c, p, geometry=geometry))
    order = walk_outward(root, edges, lambda a, b: float(squares[a, b]))
    rest = [i for i in range(n) if i not in set(order)]
    return order + sorted(rest, key=lambda i: float(min(squares[i, j] for j in body)))


def spanning_tree(members: Sequence[int], squares: Float64) -> list[tuple[int, int]]:
    """Prim's minimum spanning tree; the same tree for distances and squared distances."""
    if len(members) < 2:
        return []
    index = np.array(members)
    inside = np.zeros(index.size, dtype=bool)
    nearest = np.zeros(index.size, dtype=int)
    cost = squares[index[0], index].copy()
    inside[0] = True
    edges = []
    for _ in range(index.size - 1):
        at = int(np.argmin(np.where(inside, np.inf, cost)))
        edges.append((int(index[nearest[at]]), int(index[at])))
        inside[at] = True
        closer = squares[index[at], index] < cost
        cost = np.where(closer, squares[index[at], index], cost)
        nearest = np.where(closer, at, nearest)
    return edges


def _neighbours(edges: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    near: dict[int, list[int]] = {}
    for a, b in edges:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    return near


def root_of(
    members: Sequence[int], edges: Sequence[tuple[int, int]], arrow: Callable[[int, int], float]
) -> int:
    """The member for which the drift of all edges, read away from it, is most likely."""
    near = _neighbours(edges)
    first = members[0]
    score = {first: 0.0}
    stack = [first]
    while stack:
        at = stack.pop()
        for other in near.get(at, ()):
            if other not in score:
                # Moving the root across one edge turns the reading of that edge alone.
                score[other] = score[at] + arrow(at, other) - arrow(other, at)
                stack.append(other)
    return max(members, key=lambda i: score[i] + 0.5 * np.log1p(len(near.get(i, ()))))


def walk_outward(
    root: int, edges: Sequence[tuple[int, int]], length_of: Callable[[int, int], float]
) -> list[int]:
    """Members by length of their path from the root, so that a parent precedes its child."""
    near = _neighbours(edges)
    heap = [(0.0, root)]
    seen: list[int] = []
    done: set[int] = set()
    while heap:
        length, at = heapq.heappop(heap)
        if at in done:
            continue
        done.add(at)
        seen.append(at)
        for other in near.get(at, ()):
            if other not in done:
                heapq.heappush(heap, (length + length_of(at, other) + 1e-12, other))
    return seen
