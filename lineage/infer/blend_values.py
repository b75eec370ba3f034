"""The values that a merge by masks can give a weight, and how many weights take one of them.

Each parent's delta is kept or dropped weight by weight, so that k parents leave 2^k values: the
base plus the kept deltas, scaled (DARE), or plus their weighted mean, scaled (TIES). Which deltas
were kept is a *state*. Rounding bounds how far a published weight may lie from its value.

Derived: that bound, from the half units in the last place of child, base and parents, and two
more roundings of each delta for a tool that computes in the child's dtype. Set by hand, and only
for how factors are found: `ROUNDS`, `COARSE_ROUNDS`, `COARSE` and `FINE` (bounds within which a
weight is assigned), `LOOSE` (first guess of the factors' relative error), `STEP`, `SETTLED`.
`CLEAR`, the bounds that a delta has to move a weight by before the weight is counted, is set too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .specimen import Specimen
from .traits import RELATIVE_HALF_ULP

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

ROUNDS = 12
COARSE_ROUNDS = 6
COARSE = 3.0
FINE = 1.5
CLEAR = 2.0
LOOSE = 0.01
STEP = 1e-6
SETTLED = 1e-9
LEAST_HALF = 1e-38  # half the spacing of float32 at zero is no float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Some weights of a child, a base and k parents.

    `target` (n,) child - base; `deltas` (k, n) parents - base; `half` (k + 2, n) half units in
    the last place of child, base and parents; `starts` first column of each block; `cast` the
    relative half unit of the child's dtype.
    """

    target: Float64
    deltas: Float64
    half: Float64
    starts: tuple[int, ...]
    cast: float

    def at(self, columns: Index | Bool) -> Weights:
        """Part of the weights, taken for one block."""
        return replace(
            self,
            target=self.target[columns],
            deltas=self.deltas[:, columns],
            half=self.half[:, columns],
            starts=(0,),
        )

    def moved(self, parent: int) -> Weights:
        """The same with one parent's deltas shifted by half of each block: the null.

        Their sizes stay, and so does what else explains a weight; only their places are lost.
        """
        order = self._shifted()
        deltas, half = self.deltas.copy(), self.half.copy()
        deltas[parent] = deltas[parent, order]
        half[2 + parent] = half[2 + parent, order]
        return replace(self, deltas=deltas, half=half)

    def _shifted(self) -> Index:
        edges = [*self.starts, self.target.size]
        parts = [np.arange(a, b) for a, b in pairwise(edges)]
        # An odd shift, so that no row or group of a power of two falls on itself.
        return np.concatenate([np.roll(p, p.size // 2 | 1) for p in parts])


def weights_of(
    child: Specimen, base: Specimen, parents: Sequence[Specimen], blocks: Sequence[str]
) -> Weights:
    """All sampled weights of the named blocks, end to end."""
    group = [child, base, *parents]
    rows = np.stack([_joined([one.blocks[b].values for b in blocks]) for one in group])
    half = np.stack([_joined([one.blocks[b].half_ulp for b in blocks]) for one in group])
    sizes = [child.blocks[b].values.size for b in blocks]
    casts = [RELATIVE_HALF_ULP.get(child.blocks[b].dtype, 0.0) for b in blocks]
    return Weights(
        target=rows[0] - rows[1],
        deltas=rows[2:] - rows[1],
        half=np.maximum(half, LEAST_HALF),
        starts=tuple(int(s) for s in np.cumsum([0, *sizes[:-1]])),
        cast=max(casts, default=0.0),
    )


def _joined(parts: Sequence[NDArray[np.float32]]) -> Float64:
    return np.concatenate(parts).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSet:
    """The 2^k values as coefficients of the deltas.

    Additive (`mean` False): the coefficient of a kept delta is its factor. Mean: it is
    scale * factor / (sum of the factors of all that were kept). `factors` (k,); `strict` allows
    for the rounding of the child alone (a merge of the published weights), else for that of base
    and parents as well (a merge of what they were before they were rounded). `loose` allows for
    factors that are not yet known any better than that, relative to each delta.
    """

    factors: Float64
    mean: bool
    scale: float = 1.0
    strict: bool = False
    loose: float = 0.0

    def kept(self) -> Bool:
        """(2^k, k) which deltas each state keeps; state 0 keeps none, the last one all."""
        k = self.factors.size
        return (np.arange(2**k)[:, None] >> np.arange(k) & 1).astype(bool)

    def coefficients(self) -> Float64:
        """(2^k, k) coefficient of each delta in each state."""
        kept = self.kept() * self.factors
        if not self.mean:
            return kept
        total = kept.sum(axis=1, keepdims=True)
        scaled: Float64 = self.scale * kept / np.where(total == 0, 1.0, total)
        return scaled

    def misfit(self, weights: Weights, states: Sequence[int] | None = None) -> Float64:
        """(states, n) distance of each weight from each value, over its rounding bound."""
        c = self.coefficients()
        c = c if states is None else c[list(states)]
        off = np.abs(weights.target - c @ weights.deltas)
        return off / self.bounds(weights, c)

    def bounds(self, weights: Weights, c: Float64) -> Float64:
        """(states, n) the most that rounding can have moved a weight from its value."""
        # A tool that computes in the child's dtype rounds each scaled delta once more.
        arithmetic = (2 * weights.cast + self.loose) * (np.abs(c) @ np.abs(weights.deltas))
        own = weights.half[0] * (1 + 1e-6) + arithmetic
        if self.strict:
            return np.asarray(own)
        of_base = np.abs(1 - c.sum(axis=1))[:, None] * weights.half[1]
        bound: Float64 = own + of_base + np.abs(c) @ weights.half[2:]
        return bound

    def reach(self, weights: Weights) -> Float64:
        """(k, n) how far each delta alone moves a weight, over the largest bound."""
        c = self.coefficients()
        bound = self.bounds(weights, c[-1:])[0]
        alone: Float64 = np.abs(c).max(axis=0)[:, None] * np.abs(weights.deltas) / bound
        return alone

    def parameters(self) -> Float64:
        """Free parameters: the factors, or the scale and all factors but the first."""
        return np.concatenate([[self.scale], self.factors[1:]]) if self.mean else self.factors

    def with_parameters(self, p: Float64) -> ValueSet:
        """The value set that `parameters` describes, factors of a mean adding up to one."""
        if not self.mean:
            return replace(self, factors=p)
        factors = np.concatenate([self.factors[:1], p[1:]])
        return replace(self, scale=float(p[0]), factors=factors)

    def normalized(self) -> ValueSet:
        """Factors of a mean adding up to one; additive ones as they are."""
        total = float(self.factors.sum())
        if not self.mean or not 0 < total < np.inf:
            return self
        return replace(self, factors=self.factors / total)


def refine(values: ValueSet, weights: Weights) -> ValueSet:
    """Assign each weight to its nearest value, fit the factors to that, and again.

    Notes
    -----
    Gauss-Newton on the weights near a value, weighted by their bounds; O(rounds 2^k n).
    """
    for at in range(ROUNDS):
        loose = LOOSE * 10.0**-at if at < COARSE_ROUNDS else 0.0
        misfit = replace(values, loose=loose).misfit(weights)
        state = misfit.argmin(axis=0)
        within = misfit < (COARSE if at < COARSE_ROUNDS else FINE)
        # A weight near several values would pull the factors towards the wrong ones.
        near = (within.sum(axis=0) == 1) & (state > 0)
        if np.count_nonzero(near) < 4 * values.factors.size:
            near = within.any(axis=0) & (state > 0)
        if np.count_nonzero(near) < 4 * values.factors.size:
            break
        last, values = values.parameters(), _step(values, weights.at(near), state[near])
        if not np.isfinite(values.factors).all() or (values.factors <= 0).any():
            break
        if at >= COARSE_ROUNDS and np.abs(values.parameters() - last).max() < SETTLED:
            break
    return values


def _step(values: ValueSet, weights: Weights, state: Index) -> ValueSet:
    c, p = values.coefficients(), values.parameters()
    slopes = []
    for i in range(p.size):
        q = p.copy()
        q[i] += STEP
        slopes.append((values.with_parameters(q).coefficients() - c) / STEP)
    jacobian = np.stack([np.einsum("nk,kn->n", s[state], weights.deltas) for s in slopes])
    off = weights.target - np.einsum("nk,kn->n", c[state], weights.deltas)
    trust = 1 / weights.half[0]
    jacobian, off = jacobian * trust, off * trust
    change = np.linalg.lstsq(jacobian @ jacobian.T, jacobian @ off, rcond=1e-10)[0]
    return values.with_parameters(p + change).normalized()
