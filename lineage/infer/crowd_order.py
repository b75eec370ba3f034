"""Which model of a crowd can have come first: by date, else outward along the shortest edges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from .disjoint import DisjointSets
from .family import after_their_parts, settle_mixtures
from .geometry import Geometry
from .merges import Mixture, find_mixture
from .neighbours import Nearest, ThinPart, nearest_rows
from .order import by_dates, drift, root_of, walk_outward

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Edges = list[tuple[int, int]]


def crowd_order(
    part: ThinPart,
    *,
    created: Sequence[datetime | None],
    lossy: Collection[int],
    compute: Compute,
) -> list[int]:
    """All members of a part, ancestors before descendants.

    Parameters
    ----------
    created : date of each member; where all differ they are the order.
    lossy : members on a grid or pruned. Like exact merges they come after what is near them.

    Notes
    -----
    Without dates: the spanning forest of near members, each tree rooted where the drift of its
    edges agrees best. O(n^2 t) products for t thin weights, and O(n) mixture fits.
    """
    if None not in created and len(set(created)) == len(created):
        return by_dates(range(len(created)), created)
    near = nearest_rows(part.rows, compute=compute)
    mixtures = near_mixtures(part, near, leaves=lossy)
    leaves = {*lossy, *mixtures}
    body = np.array([i for i in range(len(created)) if i not in leaves], dtype=np.int64)
    inner = nearest_rows(part.rows, compute=compute, among=body, wanted=body)
    order = _outward(part.rows, body, spanning_forest(body, inner))
    order += sorted(leaves, key=lambda i: float(near.square[i, 0]))
    settled = after_their_parts(order, {i: set(m.weights) for i, m in mixtures.items()})
    return by_dates(settled, created)


def near_mixtures(part: ThinPart, near: Nearest, *, leaves: Collection[int]) -> dict[int, Mixture]:
    """Members whose thin weights are an exact affine mixture of near ones'."""

    def search(child: int, without: Collection[int]) -> Mixture | None:
        others = [i for i in near.of(child) if i not in leaves and i not in without]
        group = [child, *others]
        mixture = find_mixture(0, range(1, len(group)), _geometry(part, group))
        if mixture is None:
            return None
        weights = {group[i]: weight for i, weight in mixture.weights.items()}
        return Mixture(weights=weights, ratio=mixture.ratio)

    return settle_mixtures([i for i in range(len(part.rows)) if i not in leaves], search)


def _geometry(part: ThinPart, group: Sequence[int]) -> Geometry:
    """Of a few members' thin rows, centred on the second of them."""
    rows = part.rows[list(group)]
    centred = (rows - rows[min(1, len(group) - 1)]).astype(np.float64)
    return Geometry(
        gram=centred @ centred.T,
        norms=np.linalg.norm(rows.astype(np.float64), axis=1),
        floor=part.floors[list(group)],
        blocks=("thin",),
    )


def spanning_forest(members: Ints, near: Nearest) -> Edges:
    """The shortest edges between near members that close no circle (Kruskal).

    Parameters
    ----------
    members : the member that each row of `near` is about.

    Notes
    -----
    O(n k log(n k)); members in no common neighbourhood stay apart.
    """
    count = near.index.shape[1]
    left, right = np.repeat(members, count), near.index.ravel()
    sets = DisjointSets()
    edges = []
    for at in np.argsort(near.square.ravel(), kind="stable"):
        if right[at] < 0:
            break
        a, b = int(left[at]), int(right[at])
        if sets.join(a, b):
            edges.append((a, b))
    return edges


def _outward(rows: Float32, members: Ints, edges: Edges) -> list[int]:
    """Members of each tree from its root on, the largest tree first."""
    norms = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)

    def length(a: int, b: int) -> float:
        difference = (rows[a] - rows[b]).astype(np.float64)
        return float(difference @ difference)

    def arrow(child: int, parent: int) -> float:
        return drift(float(norms[child] - norms[parent]), length(child, parent))

    order: list[int] = []
    for tree, within in _trees(members.tolist(), edges):
        order += walk_outward(root_of(tree, within, arrow), within, length)
    return order


def _trees(members: Sequence[int], edges: Edges) -> list[tuple[list[int], Edges]]:
    """Members and edges of each tree of a forest, the largest first."""
    sets = DisjointSets()
    for a, b in edges:
        sets.join(a, b)
    trees: dict[int, tuple[list[int], Edges]] = {}
    for i in members:
        trees.setdefault(sets.find(i), ([], []))[0].append(i)
    for a, b in edges:
        trees[sets.find(a)][1].append((a, b))
    return sorted(trees.values(), key=lambda tree: -len(tree[0]))
