"""Whether a child of another shape has its nearest kin behind it, or only beside it.

Siblings that learned from the same data can be nearer to each other than to their parent. If C was
made from V, and V from O, C keeps what V did: with beta = <C - O, V - O> / |V - O|^2 over the one
per cent of weights that V moved furthest, beta is near 1. A sibling has not gone that way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .alignment import Site, layered, same_place
from .specimen import Specimen

Float64 = NDArray[np.float64]

SAME_PATH = 0.92
FAR_TAIL = 0.01


def leave_siblings(
    child: Specimen,
    candidates: Sequence[Specimen],
    sites: Mapping[Site, Site],
    *,
    parents: Mapping[str, str],
) -> int:
    """The candidate that the child has behind it, on the way up from the nearest.

    Parameters
    ----------
    candidates : related models of one shape, nearest first; all are laid under the child by
        `sites`.
    parents : parent of each of them that has one among them, by node.

    Returns
    -------
    Number of the candidate. As long as the child has not gone the way from its parent to the
    present one, the parent is taken instead. `SAME_PATH` is what separates children from siblings
    in families trained for that purpose (`benchmarks/sibling_null.py`).
    """
    vectors = _in_place(child, candidates, sites)
    number = {one.node: at for at, one in enumerate(candidates)}
    at, seen = 0, {0}
    while vectors is not None:
        origin = number.get(parents.get(candidates[at].node, ""))
        if origin is None or origin in seen:
            break
        if _kept(vectors[0], vectors[1 + at], vectors[1 + origin]) >= SAME_PATH:
            break
        at = origin
        seen.add(origin)
    return at


def _kept(child: Float64, via: Float64, origin: Float64) -> float:
    """Share of the path from `origin` to `via` that the child has, where it is longest."""
    path = via - origin
    far = np.argpartition(np.abs(path), -max(1, int(FAR_TAIL * path.size)))
    far = far[-max(1, int(FAR_TAIL * path.size)) :]
    length = float(path[far] @ path[far])
    return float((child - origin)[far] @ path[far]) / length if length > 0 else 1.0


def _in_place(
    child: Specimen, candidates: Sequence[Specimen], sites: Mapping[Site, Site]
) -> Float64 | None:
    """(1 + n, d) the child's weights and the candidates', over all that kept its shape."""
    mine = layered(child)
    theirs = [layered(one) for one in candidates]
    rows: list[list[NDArray[np.float32]]] = [[] for _ in range(1 + len(theirs))]
    for site, other in sorted(sites.items()):
        for role, block in sorted(mine[site].items()):
            found = [blocks.get(other, {}).get(role) for blocks in theirs]
            fit = [b.values for b in found if b is not None and same_place(block, b)]
            if len(fit) == len(theirs):
                for row, values in zip(rows, (block.values, *fit), strict=True):
                    row.append(values)
    if not rows[0]:
        return None
    return np.stack([np.concatenate(row) for row in rows]).astype(np.float64)
