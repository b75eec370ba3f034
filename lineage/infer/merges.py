"""Exact merges: a child that is an affine combination of its family, up to rounding.

Every member is a candidate; none is named by the user. Parents are added greedily, those that
are not needed dropped, and the verdict is the rounding-floor ratio: the residual against what
rounding of the child and of its weighted parents must leave. The expected ratio of a true parent
set is 1; incomplete or wrong sets measure in the hundreds. No threshold is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import Geometry

Float64 = NDArray[np.float64]

MAX_PARENTS = 6
MAX_CANDIDATES = 256
FLOOR_RATIO = 3.0
MIN_SHARE = 0.02
MAX_WEIGHT = 1.2
MAX_EXTRAPOLATION = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """An affine combination: member -> weight, weights summing to 1, and its floor ratio."""

    weights: dict[int, float]
    ratio: float

    @property
    def exact(self) -> bool:
        """Whether the residual is rounding and nothing else."""
        return self.ratio < FLOOR_RATIO

    @property
    def averages(self) -> bool:
        """Whether no member is magnified: a merge averages its parents.

        An exact relation among k models can be solved for each of them; solved for a parent,
        the merge itself enters with a weight above 1.
        """
        negative = sum(w < -MIN_SHARE for w in self.weights.values())
        return max(self.weights.values()) <= MAX_WEIGHT and negative <= 1

    @property
    def extrapolates(self) -> bool:
        """Whether it is one member moved on, away from another."""
        return len(self.weights) == 2 and max(self.weights.values()) <= MAX_EXTRAPOLATION


def find_mixture(
    child: int, candidates: Sequence[int], geometry: Geometry, *, ordered: bool = False
) -> Mixture | None:
    """The sparsest exact mixture of candidates, or None.

    Parameters
    ----------
    child, candidates : indices into `geometry`; the nearest candidate should come first.
    ordered : whether dates say that all candidates came before the child. Then a member may be
        magnified too: the relation cannot be one of a parent to its merge.

    Returns
    -------
    Mixture of two or more members, or None when no set of up to six reaches the floor.

    Notes
    -----
    Forward selection on the Gram matrix, O(n) a step, then backward elimination.
    """
    members = list(candidates[:MAX_CANDIDATES])
    if len(members) < 2:
        return None
    for chosen in _forward(child, members, geometry):
        mixture = _fit(child, chosen, geometry)
        if mixture.exact:
            mixture = _drop_needless(child, mixture, geometry)
            usable = len(mixture.weights) > 1 and (
                mixture.averages or (ordered and mixture.extrapolates)
            )
            return mixture if usable else None
    return None


def _forward(child: int, members: Sequence[int], geometry: Geometry) -> Iterator[list[int]]:
    """Growing sets: the nearest member, then whichever takes most off the residual."""
    origin, rest = members[0], np.array(members[1:])
    g = geometry.gram
    inner = (
        g[np.ix_(rest, rest)]
        - g[rest, origin][:, None]
        - g[rest, origin][None, :]
        + g[origin, origin]
    )
    target = g[rest, child] - g[rest, origin] - g[child, origin] + g[origin, origin]
    picked: list[int] = []
    while len(picked) < min(MAX_PARENTS - 1, rest.size):
        picked.append(_most_useful(inner, target, picked))
        yield [origin, *(int(i) for i in rest[picked])]


def _most_useful(inner: Float64, target: Float64, picked: list[int]) -> int:
    """The index whose addition lowers the residual of least squares most."""
    residual, own = target.copy(), np.diag(inner).copy()
    if picked:
        block = inner[:, picked]
        solve = np.linalg.pinv(inner[np.ix_(picked, picked)], rcond=1e-13, hermitian=True)
        along = block @ solve
        residual = target - along @ target[picked]
        own = own - (along * block).sum(axis=1)
    # A member nearly inside the span of those picked has no direction of its own left.
    usable = own > 1e-9 * np.diag(inner)
    usable[picked] = False
    gain = np.where(usable, residual**2 / np.where(usable, own, 1.0), -1.0)
    return int(gain.argmax())


def _drop_needless(child: int, mixture: Mixture, geometry: Geometry) -> Mixture:
    """Backward elimination: leave out any member without which the floor is still reached."""
    for member in sorted(mixture.weights, key=lambda m: abs(mixture.weights[m])):
        rest = [m for m in mixture.weights if m != member]
        if not rest:
            break
        smaller = _fit(child, rest, geometry)
        if smaller.exact:
            mixture = smaller
    return mixture


def _fit(child: int, members: Sequence[int], geometry: Geometry) -> Mixture:
    """Least squares with weights summing to 1, solved around the first member."""
    origin, rest = members[0], list(members[1:])
    weights = dict.fromkeys(members, 0.0)
    weights[origin] = 1.0
    square = geometry.square_distance(child, origin)
    if rest:
        gram = np.array([[geometry.inner(a, b, origin=origin) for b in rest] for a in rest])
        target = np.array([geometry.inner(child, a, origin=origin) for a in rest])
        solved, *_ = np.linalg.lstsq(gram, target, rcond=1e-12)
        weights.update({m: float(w) for m, w in zip(rest, solved, strict=True)})
        weights[origin] = 1.0 - float(solved.sum())
        square = max(square - float(2 * solved @ target - solved @ gram @ solved), 0.0)
    floor = geometry.floor[child] + sum(w * w * geometry.floor[m] for m, w in weights.items())
    return Mixture(weights=weights, ratio=square / max(floor, 1e-300))
