"""Merges by masks: DARE, TIES and their kin, decided weight by weight.

A weight of such a merge is one of few values, up to rounding, and every weight is. Each parent has
to be needed for that: of the weights that the others do not explain, nearly all are explained
with it, and far fewer when its deltas are moved to other places.

Derived: whether a weight is explained (a bound from rounding), what chance explains (the same
deltas moved within their blocks) and from both the likelihood ratio of a parent, by counting.
Set by hand: `EXPLAINED` and `NEEDED`, the shares to be explained, where rounding alone would ask
for all; `LOG_ODDS`, what that ratio has to reach; `PROMISING`, `TRIED`, `FINALISTS` and `REFINED`,
what is worth a full look; `ELECTED` and `BY_SIZE`, which name the recipe once the merge is
certain; `COLLINEAR`, from where another member is tried in a parent's place.

References
----------
Yu et al. (2024), arXiv 2311.03099 (DARE). Yadav et al. (2023), arXiv 2306.01708 (TIES).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from .blend_record import Blend, heaviest_first
from .blend_search import VOTERS, IsBase, Proposal, Sample, pool_of, proposals, take_sample
from .blend_values import CLEAR, ValueSet, Weights, refine, weights_of
from .geometry import Geometry
from .specimen import Specimen

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

TRIED = 16
FINALISTS = 3
REFINED = 16_384
EXPLAINED = 0.99
NEEDED = 0.97
PROMISING = 0.95
LOG_ODDS = 30.0
BY_SIZE = 0.75
ELECTED = 0.1
COLLINEAR = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """A value set on all weights: what it explains of those that it could fail on."""

    values: ValueSet
    explained: float
    chance: float
    needless: int | None

    @property
    def holds(self) -> bool:
        return self.explained >= EXPLAINED and self.needless is None


def find_masked(
    child: int,
    candidates: Sequence[int],
    members: Sequence[Specimen],
    geometry: Geometry,
    *,
    is_base: IsBase | None = None,
) -> Blend | None:
    """A merge of two or three parents by masks over a base, or None.

    Parameters
    ----------
    is_base : whether a member may be the base of some parents; None for any. The same values can
        be written as deltas from another member, so what is known of descent has to decide.

    Notes
    -----
    Proposals are voted for on 768 weights and refined on 4,096; what explains nearly all of them
    is judged on all sampled weights.
    """
    pool = pool_of(child, candidates, geometry)
    if len(pool) < 3:
        return None
    sample = take_sample(child, pool, members, geometry.blocks)
    if sample.copied or sample.by_two(EXPLAINED):
        return None
    tried: set[tuple[int, frozenset[int], bool]] = set()
    found = proposals(child, pool, sample, geometry, is_base=is_base)
    for one in _promising(found, sample):
        blend = _judge(child, one, pool, members, geometry, tried)
        if blend is not None:
            return blend
    return None


def _promising(found: Sequence[Proposal], sample: Sample) -> Iterator[Proposal]:
    """The proposals that explain the sample once refined, best first; on few weights first."""
    for first, kept in ((VOTERS, FINALISTS), (None, FINALISTS)):
        refined = []
        for one in found[:TRIED]:
            weights = sample.weights(one.base, one.parents, first=first)
            values, share = _tightest(one.values, weights)
            if share >= PROMISING:
                refined.append((share, replace(one, values=values)))
        # A merge over one base is one over any other, with that base as one more parent.
        refined.sort(key=lambda pair: (pair[0] < EXPLAINED, len(pair[1].parents), -pair[0]))
        found = [one for _, one in refined[:kept]]
    return iter(found)


def _tightest(values: ValueSet, weights: Weights) -> tuple[ValueSet, float]:
    """Refined, with the child's rounding alone where that suffices, else with everyone's."""
    found = (values, 0.0)
    for strict in (True, False):
        fitted = refine(replace(values, strict=strict), weights)
        if not np.isfinite(fitted.factors).all() or (fitted.factors <= 0).any():
            continue
        share = _explained(fitted, weights)
        found = (fitted, share)
        if share >= EXPLAINED:
            break
    return found


def _explained(values: ValueSet, weights: Weights) -> float:
    """Share explained of the weights that some delta moves beyond rounding."""
    telling = (values.reach(weights) > CLEAR).any(axis=0)
    if not telling.any():
        return 0.0
    within = values.misfit(weights).min(axis=0) <= 1
    return float(within[telling].mean())


def _judge(
    child: int,
    one: Proposal,
    pool: Sequence[int],
    members: Sequence[Specimen],
    geometry: Geometry,
    tried: set[tuple[int, frozenset[int], bool]],
) -> Blend | None:
    """The verdict on all weights; a parent that is not needed is left out and the rest retried."""
    parents, values = list(one.parents), one.values
    while len(parents) >= 2:
        key = (one.base, frozenset(parents), values.mean)
        if key in tried:
            return None
        tried.add(key)
        group = [members[p] for p in parents]
        weights = weights_of(members[child], members[one.base], group, geometry.blocks)
        verdict = _weigh(values, weights)
        if verdict.holds:
            found = replace(one, parents=tuple(parents), values=verdict.values)
            alike = _stand_ins(child, found, pool, members, geometry)
            return _describe(found, verdict, weights, alike)
        if verdict.needless is None or verdict.needless >= len(parents):
            return None
        del parents[verdict.needless]
        factors = np.delete(verdict.values.factors, verdict.needless)
        values = replace(verdict.values, factors=factors).normalized()
    return None


def _weigh(values: ValueSet, weights: Weights) -> _Verdict:
    thin = np.arange(0, weights.target.size, max(1, weights.target.size // REFINED))
    values, _ = _tightest(values, weights.at(thin))
    explained = _explained(values, weights)
    parents = range(values.factors.size)
    if explained < EXPLAINED:
        return _Verdict(values=values, explained=explained, chance=1.0, needless=None)
    moved = weights
    for i in parents:
        moved = moved.moved(i)
    chance = _explained(values, moved)
    needless = next((i for i in parents if not _needed(i, values, weights)), None)
    if needless is None and not _sparse(values, weights):
        needless = values.factors.size  # nothing was dropped: one affine combination
    return _Verdict(values=values, explained=explained, chance=chance, needless=needless)


def _needed(parent: int, values: ValueSet, weights: Weights) -> bool:
    """Whether what the other parents leave unexplained is this one's, and by more than chance."""
    kept = values.kept()[:, parent]
    without, with_it = np.flatnonzero(~kept), np.flatnonzero(kept)
    open_ = (values.misfit(weights, without.tolist()) > 1).all(axis=0)
    open_ &= values.reach(weights)[parent] > CLEAR
    if not open_.any():
        return False
    within = _share(values, weights.at(open_), with_it)
    null = _share(values, weights.moved(parent).at(open_), with_it)
    return within >= NEEDED and _log_odds(NEEDED, null, int(open_.sum())) > LOG_ODDS


def _share(values: ValueSet, weights: Weights, states: NDArray[np.intp]) -> float:
    return float((values.misfit(weights, states.tolist()) <= 1).any(axis=0).mean())


def _log_odds(share: float, null: float, count: int) -> float:
    """Log of the likelihood ratio of `count` draws with this share, against the null's."""
    null = min(max(null, 1.0 / (count + 2)), 1 - 1e-9)
    if share <= null:
        return 0.0
    return count * (
        share * math.log(share / null) + (1 - share) * math.log((1 - share) / (1 - null))
    )


def _sparse(values: ValueSet, weights: Weights) -> bool:
    """Whether something was dropped: keeping every delta must leave weights unexplained."""
    telling = (values.reach(weights) > CLEAR).any(axis=0)
    last = 2**values.factors.size - 1
    off = values.misfit(weights, [last])[0] > 1
    return float(off[telling].mean()) > 1 - EXPLAINED


def _stand_ins(
    child: int,
    found: Proposal,
    pool: Sequence[int],
    members: Sequence[Specimen],
    geometry: Geometry,
) -> tuple[int, ...]:
    """Members nearly collinear with a parent that explain the child in its place as well."""
    out = []
    for other in pool:
        if other == found.base or other in found.parents:
            continue
        for at, parent in enumerate(found.parents):
            if _cosine(found.base, parent, other, geometry) < COLLINEAR:
                continue
            swapped = [*found.parents[:at], other, *found.parents[at + 1 :]]
            group = [members[p] for p in swapped]
            weights = weights_of(members[child], members[found.base], group, geometry.blocks)
            if _tightest(found.values, weights)[1] >= EXPLAINED:
                out.append(other)
                break
    return tuple(out)


def _cosine(base: int, a: int, b: int, geometry: Geometry) -> float:
    lengths = geometry.square_distance(a, base) * geometry.square_distance(b, base)
    return geometry.inner(a, b, origin=base) / math.sqrt(lengths) if lengths > 0 else 0.0


def _describe(
    found: Proposal, verdict: _Verdict, weights: Weights, alike: tuple[int, ...]
) -> Blend | None:
    """The recipe, read off the weights whose masks are beyond doubt; None where there are none."""
    values = verdict.values
    reach = values.reach(weights)
    clear = (reach > CLEAR).all(axis=0)
    misfit = values.misfit(weights)
    clear &= (misfit <= 1).sum(axis=0) == 1
    if not clear.any():
        return None
    kept = values.kept()[misfit[:, clear].argmin(axis=0)].T
    signs = np.sign(weights.deltas[:, clear])
    elected = _elected(kept, signs)
    by_size, cuts = _trimmed(kept, signs, weights, clear, elected=elected)
    same = (signs == signs[0]).all(axis=0)
    drawn = kept[:, same].mean(axis=1) if same.any() else kept.mean(axis=1)
    density = cuts if by_size else drawn
    method = ("ties" if by_size else "dare_ties") if elected else "dare"
    shares = values.factors * (density if method != "ties" and not values.mean else 1.0)
    detail = {"density": round(float(density.mean()), 3)}
    if values.mean:
        detail["scale"] = round(values.scale, 4)
    return Blend(
        method=method,
        weights=heaviest_first(dict(zip(found.parents, shares, strict=True))),
        base=found.base,
        explained=verdict.explained,
        chance=verdict.chance,
        detail=detail,
        collinear=alike,
    )


def _elected(kept: Bool, signs: Float64) -> bool:
    """Whether deltas of opposite sign are never kept together, where chance would keep many."""
    both = due = 0.0
    for i, j in combinations(range(kept.shape[0]), 2):
        against = signs[i] != signs[j]
        both += float((kept[i] & kept[j])[against].sum())
        due += float(against.sum()) * float(kept[i].mean()) * float(kept[j].mean())
    return both < ELECTED * due


def _trimmed(
    kept: Bool, signs: Float64, weights: Weights, clear: Bool, *, elected: bool
) -> tuple[bool, Float64]:
    """Whether large deltas were kept and small ones dropped, and the share kept of each parent."""
    ranks = _ranks(weights)[:, clear]
    target = np.sign(weights.target[clear])
    nothing = ~kept.any(axis=0)
    areas, shares = [], []
    for i in range(kept.shape[0]):
        fair = nothing | (signs[i] == target) if elected else np.ones_like(nothing)
        area, cut = _best_cut(ranks[i, fair], kept[i, fair])
        areas.append(area)
        shares.append(1 - cut)
    return float(np.mean(areas)) > BY_SIZE, np.array(shares)


def _ranks(weights: Weights) -> Float64:
    """(k, n) rank of each delta's size within its block, in [0, 1]."""
    ranks = np.empty_like(weights.deltas)
    edges = [*weights.starts, weights.target.size]
    for a, b in pairwise(edges):
        order = np.abs(weights.deltas[:, a:b]).argsort(axis=1).argsort(axis=1)
        ranks[:, a:b] = (order + 0.5) / max(b - a, 1)
    return ranks


def _best_cut(rank: Float64, kept: Bool) -> tuple[float, float]:
    """Area under the curve of `rank` telling kept from dropped, and the rank that parts them."""
    inside, outside = int(kept.sum()), int((~kept).sum())
    if not inside or not outside:
        return 0.5, 0.0
    order = rank.argsort()
    flags = kept[order]
    places = np.flatnonzero(flags) + 1.0
    area = (places.sum() - inside * (inside + 1) / 2) / (inside * outside)
    wrong = np.cumsum(flags) + outside - np.cumsum(~flags)
    return float(area), float(rank[order][int(wrong.argmin())])
