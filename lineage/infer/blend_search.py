"""Which base, which parents and which factors a merge by masks may have: proposals, cheaply.

The regression of the child's delta on the family's gives DARE's weights without bias, for masks
are drawn apart from the deltas, and names the parents of TIES. What it cannot give is the scale:
for that each weight votes for the scales at which it would lie on one of the values, and votes of
the wrong sign are the null.

Nothing here decides: all constants are set by hand, for breadth and resolution of the search
(`POOL`, `PICKED`, `MAX_PARENTS`, `BASES`; `SAMPLE`, `VOTERS`, `BLOCK_WEIGHTS`; bins of votes:
`LOG_STEP`, `BINS`, `LEAST_LOG_SCALE`, `SHARE_STEP`, `SHARE_BINS`, `AROUND`; what is proposed:
`LEAST_SHARE`, `SAME_SCALE`, `FAR`, `MOST_SPREAD`). A merge outside them is missed, not misnamed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .blend_values import CLEAR, LEAST_HALF, LOOSE, ValueSet, Weights
from .geometry import Geometry
from .specimen import Specimen
from .traits import RELATIVE_HALF_ULP

Float64 = NDArray[np.float64]
Index = NDArray[np.intp]

IsBase = Callable[[int, Sequence[int]], bool]

POOL = 16
PICKED = 3
MAX_PARENTS = 3
BLOCK_WEIGHTS = 2048
SAMPLE = 4096
VOTERS = 768
LOG_STEP = 0.01
BINS = 600
LEAST_LOG_SCALE = math.log(0.05)
SHARE_STEP, SHARE_BINS = 0.005, 200
AROUND = 30
BASES = 4
LEAST_SHARE = 0.02
SAME_SCALE = 0.06
FAR = 4.0
MOST_SPREAD = 32.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A base, parents and a value set; `score` the share of weights it explains."""

    base: int
    parents: tuple[int, ...]
    values: ValueSet
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Weights in which the family is spread most, measured by rounding; rows by member index."""

    child: int
    rows: dict[int, Float64]
    half: dict[int, Float64]
    cast: float

    @property
    def copied(self) -> bool:
        """Whether some member holds all the sampled weights of the child, up to a cast."""
        mine, slack = self.rows[self.child], self.half[self.child]
        return any(
            bool((np.abs(mine - row) <= slack + self.half[i]).all())
            for i, row in self.rows.items()
            if i != self.child
        )

    def by_two(self, enough: float) -> bool:
        """Whether nearly each weight is one of two members', so that nothing tells of a third.

        Such a child is those two, kept weight by weight, around any base far from both.
        """
        mine, slack = self.rows[self.child], self.half[self.child]
        others = [i for i in self.rows if i != self.child]
        held = {i: np.abs(mine - self.rows[i]) <= slack + self.half[i] for i in others}
        for a, b in combinations(others, 2):
            either = held[a] | held[b]
            if either.mean() < enough:
                continue
            apart = np.abs(self.rows[a] - self.rows[b]) > CLEAR * (self.half[a] + self.half[b])
            if apart.any() and either[apart].mean() >= enough:
                return True
        return False

    def weights(self, base: int, parents: Sequence[int], *, first: int | None = None) -> Weights:
        """The sampled weights of a base and its parents."""
        at = slice(0, first)
        origin = self.rows[base][at]
        group = (self.child, base, *parents)
        return Weights(
            target=self.rows[self.child][at] - origin,
            deltas=np.stack([self.rows[p][at] - origin for p in parents]),
            half=np.stack([self.half[i][at] for i in group]),
            starts=(0,),
            cast=self.cast,
        )


def take_sample(
    child: int, pool: Sequence[int], members: Sequence[Specimen], blocks: Sequence[str]
) -> Sample:
    """Up to 4,096 weights, chosen by the spread of the pool and never by the child."""
    group = (child, *pool)
    places = {name: _spaced(members[child].blocks[name].values.size) for name in blocks}
    rows = np.stack(
        [
            np.concatenate([members[i].blocks[n].values[at] for n, at in places.items()])
            for i in group
        ]
    ).astype(np.float64)
    half = np.stack(
        [
            np.concatenate([members[i].blocks[n].half_ulp_at(at) for n, at in places.items()])
            for i in group
        ]
    ).astype(np.float64)
    half = np.maximum(half, LEAST_HALF)
    middle = np.median(rows[1:], axis=0)
    spread = np.minimum(np.abs(rows[1:] - middle) / half[0], MOST_SPREAD).mean(axis=0)
    order = np.argsort(-spread, kind="stable")[:SAMPLE]
    order = np.random.default_rng(0).permutation(order)
    dtypes = {members[child].blocks[name].dtype for name in blocks}
    return Sample(
        child=child,
        rows={i: rows[at][order] for at, i in enumerate(group)},
        half={i: half[at][order] for at, i in enumerate(group)},
        cast=max(RELATIVE_HALF_ULP.get(d, 0.0) for d in dtypes),
    )


def _spaced(size: int) -> Index:
    return np.arange(0, size, max(1, size // BLOCK_WEIGHTS))


def proposals(
    child: int,
    pool: Sequence[int],
    sample: Sample,
    geometry: Geometry,
    *,
    is_base: IsBase | None = None,
) -> list[Proposal]:
    """The likeliest bases with their likeliest parents and factors, most weights explained first.

    Parameters
    ----------
    is_base : whether a member may be the base of some parents; asked of one parent and of
        several. None for any.

    Notes
    -----
    O(p^2 n) votes for p members in the pool and n sampled weights, then some hundred value sets.
    """
    heirs = {b: [i for i in pool if i != b and (not is_base or is_base(b, (i,)))] for b in pool}
    single = {b: _single_votes(b, heirs[b], sample) for b in pool if len(heirs[b]) > 1}
    found = []
    for base in _bases(single, sample):
        votes = single[base]
        strong = sorted(votes, key=lambda i: -votes[i].excess)[:PICKED]
        parents = [
            *strong,
            *(i for i in _picked(child, base, heirs[base], geometry) if i not in strong),
        ]
        for k in range(2, MAX_PARENTS + 1):
            for chosen in combinations(parents[: PICKED + 2], k):
                if is_base is not None and not is_base(base, chosen):
                    continue
                weights = sample.weights(base, chosen, first=VOTERS)
                shares = _regress(child, base, chosen, geometry)
                for values in _families(shares, [votes[i].scale for i in chosen], weights):
                    score = _score(values, weights)
                    found.append(Proposal(base=base, parents=chosen, values=values, score=score))
    return sorted(found, key=lambda one: -one.score)


def _bases(single: Mapping[int, Mapping[int, Vote]], sample: Sample) -> list[int]:
    """Bases around which two parents get most votes, and those that the child most often equals."""
    votes = {b: sum(sorted(v.excess for v in single[b].values())[-2:]) for b in single}
    mine, near = sample.rows[sample.child], sample.half[sample.child]
    equal = {b: float((np.abs(mine - sample.rows[b]) <= near / 4).mean()) for b in single}
    loud = sorted(single, key=lambda b: -votes[b])[:BASES]
    return list(dict.fromkeys([*loud, *sorted(single, key=lambda b: -equal[b])[:BASES]]))


def _score(values: ValueSet, weights: Weights) -> float:
    """Share of weights explained, with an allowance for factors that are only voted for."""
    misfit = replace(values, loose=LOOSE).misfit(weights)
    return float((misfit.min(axis=0) <= 1).mean())


def pool_of(child: int, candidates: Sequence[int], geometry: Geometry) -> list[int]:
    """The nearest candidates, and those that a regression around the nearest one picks."""
    near = list(candidates[:POOL])
    picked = _picked(child, near[0], candidates, geometry) if near else []
    return [*near, *(i for i in picked if i not in near)]


def _relative(base: int, others: Sequence[int], geometry: Geometry) -> Float64:
    g = geometry.gram[np.ix_(others, others)]
    to = geometry.gram[base, others]
    relative: Float64 = g - to[:, None] - to[None, :] + geometry.gram[base, base]
    return relative


def _picked(child: int, base: int, pool: Sequence[int], geometry: Geometry) -> list[int]:
    """Forward selection on the deltas from `base`: what lowers the residual most, step by step."""
    others = [i for i in pool if i != base]
    if not others:
        return []
    k: Float64 = _relative(base, [*others, child], geometry)
    size = np.diag(k).copy()
    picked: list[int] = []
    for _ in range(min(PICKED, len(others))):
        own = np.diag(k)[:-1]
        usable = own > 1e-9 * np.maximum(size[:-1], 1e-300)
        usable &= k[-1, :-1] > 0
        gain = np.where(usable, k[-1, :-1] ** 2 / np.where(usable, own, 1.0), 0.0)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        picked.append(others[best])
        k = _projected(k, best)
    return picked


def _projected(k: Float64, at: int) -> Float64:
    """Inner products of what is left of each vector without its part along one of them."""
    return np.asarray(k - np.outer(k[:, at], k[at]) / k[at, at], dtype=np.float64)


def _regress(child: int, base: int, parents: Sequence[int], geometry: Geometry) -> Float64:
    k = _relative(base, [*parents, child], geometry)
    solved = np.linalg.lstsq(k[:-1, :-1], k[:-1, -1], rcond=1e-10)[0]
    return np.asarray(solved, dtype=np.float64)


def _families(shares: Float64, scales: Sequence[float], weights: Weights) -> Iterator[ValueSet]:
    """Value sets to start from: regression scaled by vote, single votes, and a common scale."""
    if (shares > LEAST_SHARE * shares.sum()).all():
        kept = ValueSet(factors=shares, mean=False)
        scale = _vote(kept.coefficients()[1:] @ weights.deltas, weights).scale
        yield ValueSet(factors=shares * scale, mean=False)
    alone = np.array(scales)
    yield ValueSet(factors=alone, mean=False)
    if np.ptp(np.log(alone)) < SAME_SCALE:
        scale = float(np.median(alone))
        yield ValueSet(factors=_proportions(scale, weights), mean=True, scale=scale)


def _proportions(scale: float, weights: Weights) -> Float64:
    """Factors of a mean, read off the weights at which two deltas were averaged.

    There target / scale = r d_0 + (1 - r) d_j, and each weight votes for an interval of r.
    """
    apart = scale * np.vstack([np.zeros_like(weights.target), weights.deltas])
    slack = weights.half[0] + weights.half[1]
    open_ = (np.abs(weights.target - apart) > slack + LOOSE * np.abs(apart)).all(axis=0)
    factors = [1.0]
    for j in range(1, weights.deltas.shape[0]):
        d0, dj = scale * weights.deltas[0, open_], scale * weights.deltas[j, open_]
        span = d0 - dj
        wide = np.abs(span) > FAR * slack[open_]
        r = (weights.target[open_] - dj)[wide] / span[wide]
        half = slack[open_][wide] / np.abs(span[wide])
        votes = _histogram(r - half, r + half, start=0.0, step=SHARE_STEP, bins=SHARE_BINS)
        share = (_plateau(_contrast(votes)) + 0.5) * SHARE_STEP
        factors.append((1 - share) / share)
    out = np.array(factors)
    return np.asarray(out / out.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The scale that most weights agree with, and their share beyond that of the scales near it."""

    scale: float
    excess: float


def _single_votes(base: int, others: Sequence[int], sample: Sample) -> dict[int, Vote]:
    """For each other member: the scale at which its delta alone explains weights."""
    weights = sample.weights(base, others, first=VOTERS)
    return {i: _vote(weights.deltas[at : at + 1], weights) for at, i in enumerate(others)}


def _vote(reach: Float64, weights: Weights) -> Vote:
    """Each weight votes for all the scales at which one of `reach` (states, n) explains it.

    Hough (1962), US patent 3,069,654. Votes of the wrong sign are taken off.
    """
    slack = weights.half[0] + weights.half[1]
    size = np.abs(weights.target)
    far = size > FAR * slack
    reach, size, slack = reach[:, far], size[far], slack[far]
    agree = np.sign(reach) == np.sign(weights.target[far])
    with np.errstate(divide="ignore"):
        length = np.log(np.abs(reach))
    low, high = np.log(size - slack) - length, np.log(size + slack) - length
    start = LEAST_LOG_SCALE
    votes = _histogram(low[agree], high[agree], start=start, step=LOG_STEP, bins=BINS)
    votes -= _histogram(low[~agree], high[~agree], start=start, step=LOG_STEP, bins=BINS)
    contrast = _contrast(votes)
    best = _plateau(contrast)
    scale = float(np.exp(LEAST_LOG_SCALE + LOG_STEP * (best + 0.5)))
    return Vote(scale=scale, excess=float(contrast.max()) / max(weights.target.size, 1))


def _contrast(votes: Float64) -> Float64:
    """Votes beyond the mean of the bins around: a value is a sharp peak, kinship a broad one."""
    padded = np.concatenate([[0.0], np.cumsum(votes)])
    at = np.arange(votes.size)
    low, high = np.maximum(at - AROUND, 0), np.minimum(at + AROUND + 1, votes.size)
    contrast: Float64 = votes - (padded[high] - padded[low]) / (high - low)
    return contrast


def _plateau(votes: Float64) -> float:
    """The middle of the bins that are as good as the best one."""
    best = int(votes.argmax())
    top = np.flatnonzero(votes >= 0.97 * votes[best])
    return float(top[np.abs(top - best) <= AROUND // 3].mean())


def _histogram(low: Float64, high: Float64, *, start: float, step: float, bins: int) -> Float64:
    """How many of the intervals hold each bin."""
    inside = (high > start) & (low < start + bins * step) & np.isfinite(high)
    first = np.clip((low[inside] - start) / step, 0, bins).astype(np.intp)
    last = np.clip((high[inside] - start) / step + 1, 0, bins).astype(np.intp)
    opened = np.bincount(first, minlength=bins + 1)
    closed = np.bincount(last, minlength=bins + 1)
    return np.cumsum(opened - closed)[:bins].astype(np.float64)
