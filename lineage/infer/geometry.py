"""The shape of a family in weight space: distances and projections of deltas.

With beta = <C - A, S - A> / |S - A|^2, a model C made from S (itself made from A) has beta near 1,
a sibling of S lies between 0 and the share of its path that it has in common, and a merge has
its weight. Distances are tree-like up to that noise: fresh training steps are nearly orthogonal
to earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from .specimen import Specimen, shared_matrices

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Inner products of a family's weights, centred on one of its members.

    `gram` (n, n) float64; `norms` (n,) norms of the uncentred weights; `floor` (n,) the squared
    norm that rounding to the published dtype leaves, sum of ulp^2 / 12; `blocks` the matrix
    blocks all of it was summed over.
    """

    gram: Float64
    norms: Float64
    floor: Float64
    blocks: tuple[str, ...]

    def square_distance(self, a: int, b: int) -> float:
        """Squared distance of two members, never negative."""
        g = self.gram
        return max(float(g[a, a] + g[b, b] - 2 * g[a, b]), 0.0)

    def square_distances(self) -> Float64:
        """(n, n) squared distances."""
        diagonal = np.diag(self.gram)
        squares: Float64 = np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * self.gram, 0)
        return squares

    def inner(self, a: int, b: int, *, origin: int) -> float:
        """<A - O, B - O>."""
        g = self.gram
        return float(g[a, b] - g[a, origin] - g[b, origin] + g[origin, origin])

    def beta(self, child: int, via: int, *, origin: int) -> float:
        """Share of the path from `origin` to `via` that `child` has behind it."""
        length = self.square_distance(via, origin)
        return self.inner(child, via, origin=origin) / length if length > 0 else 0.0

    def relative(self, a: int, b: int) -> float:
        """Distance of two members relative to the norm of the second."""
        return float(np.sqrt(self.square_distance(a, b)) / max(self.norms[b], 1e-30))


def measure_geometry(group: Sequence[Specimen], *, compute: Compute) -> Geometry:
    """Sum Gram matrices over the matrix blocks that the whole family shares.

    Notes
    -----
    Each block is centred in float32, which is exact for weights of nearby magnitude, and
    multiplied in float64. The centre is the member nearest the mean: around a member far from all
    others the rounding of a float32 model would be lost. O(n^2 d) time, O(n) memory in blocks.
    """
    n = len(group)
    blocks = shared_matrices(group)
    centre = _central(group, blocks)
    gram = np.zeros((n, n))
    norms = np.zeros(n)
    floor = np.zeros(n)
    for name in blocks:
        rows = np.stack([one.blocks[name].values for one in group])
        gram += compute.gram(rows - rows[centre])
        norms += (rows.astype(np.float64) ** 2).sum(axis=1)
        floor += [one.blocks[name].floor for one in group]
    return Geometry(gram=gram, norms=np.sqrt(norms), floor=floor, blocks=blocks)


def _central(group: Sequence[Specimen], blocks: Sequence[str]) -> int:
    """The member nearest the mean of all."""
    away = np.zeros(len(group))
    for name in blocks:
        rows = np.stack([one.blocks[name].values for one in group])
        off = rows - rows.mean(axis=0, keepdims=True)
        away += np.einsum("ij,ij->i", off, off)
    return int(away.argmin())
