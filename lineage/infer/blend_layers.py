"""Merges made tensor by tensor: gradients over the layers, slerp, and stacks of copied layers.

Each sampled block is fitted on its own, as sum of c_i P_i. Where the coefficients add up to one in
every block it is a linear merge whose weights differ between layers; slerp leaves them free, so
the zero tensor takes part in the fit as if it were one more member. The verdict is, in every
block, the residual against what rounding of the child and of its weighted parents must leave.

Derived: the floor of rounding (sum of ulp^2 / 12), standard errors of the coefficients from it,
and what a sphere asks the coefficients to add up to. Set by hand: `FLOOR_RATIO`, how many floors
a residual may be, with `MAX_WEIGHT` and `MIN_SHARE` (all in `merges`); `SCREEN_WEIGHTS`, `STARTS`
and `MAX_MEMBERS`, the breadth of the search; `SURE`, the standard error above which a block does
not count towards the weights; `STANDARD_ERRORS` and `SAMPLED_ANGLE`, the share of its excess by
which a slerp may miss; `LEAST_SUM`, under which coefficients are no average; `SAME_T`, the spread
over layers that is not reported; `ALIKE` and `TINY`, which guard arithmetic alone. Where parents
are nearly collinear, coefficients carry the parents' rounding as a bias beyond that error.

References
----------
Shoemake (1985), SIGGRAPH 19(3):245, spherical linear interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blend_record import Blend, by_layer, heaviest_first
from .merges import FLOOR_RATIO, MAX_WEIGHT, MIN_SHARE
from .specimen import Block, Specimen

Float64 = NDArray[np.float64]

SCREEN_WEIGHTS = 512
STARTS = 6
MAX_MEMBERS = 4
SURE = 0.05
STANDARD_ERRORS = 4.0
SAMPLED_ANGLE = 1 / 3
SAME_T = 0.01
LEAST_SUM = 0.5
ALIKE = 1e-12
TINY = 1e-150  # under the square of any float32 but zero


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """One block as a combination of members: `weights` and their `errors`, in members' order.

    `ratio` is the residual against the floor of rounding; `free` says that the weights need not
    add up to one.
    """

    weights: Float64
    errors: Float64
    ratio: float
    free: bool

    @property
    def exact(self) -> bool:
        return self.ratio < FLOOR_RATIO

    @property
    def sure(self) -> bool:
        """Whether the block tells the members apart: a layer that all froze does not."""
        return bool((self.errors < SURE).all())


def find_layered(
    child: int, candidates: Sequence[int], members: Sequence[Specimen], blocks: Sequence[str]
) -> Blend | None:
    """A slerp, or a linear merge with weights of its own in every layer.

    Notes
    -----
    Pairs are searched exhaustively on 512 weights of each block, larger sets by adding the most
    useful member to the best of them: O(m^3) a block for m candidates. Only what is exact on the
    sample is fitted on all sampled weights.
    """
    for chosen in _screened_sets(child, candidates, members, blocks):
        fits = _fit_all(child, chosen, members, blocks)
        if fits is None:
            continue
        chosen = _drop_needless(child, chosen, members, blocks)
        fits = _fit_all(child, chosen, members, blocks)
        if fits is not None and len(chosen) > 1 and _averages(fits):
            return _describe(child, chosen, fits, members)
    return None


def _screened_sets(
    child: int, candidates: Sequence[int], members: Sequence[Specimen], blocks: Sequence[str]
) -> Iterator[list[int]]:
    """Sets that are exact in every block of a subsample, the smallest first."""
    if len(candidates) < 2:
        return
    grams = [_screen_gram(name, child, candidates, members) for name in blocks]
    enough = math.log(FLOOR_RATIO)
    count = len(candidates)
    sets: list[tuple[int, ...]] = [(a,) for a in range(count)]
    for _ in range(MAX_MEMBERS - 1):
        scored: dict[tuple[int, ...], float] = {}
        for chosen in sets:
            total = np.sum([_log_ratio(gram, floor, chosen) for gram, floor in grams], axis=0)
            for j in np.argsort(total)[:STARTS]:
                grown = tuple(sorted((*chosen, int(j))))
                if int(j) not in chosen:
                    scored[grown] = float(total[j])
        sets = sorted(scored, key=lambda s: scored[s])[:STARTS]
        for found in sets:
            if scored[found] < enough * len(blocks):
                yield [candidates[i] for i in found]


def _screen_gram(
    name: str, child: int, candidates: Sequence[int], members: Sequence[Specimen]
) -> tuple[Float64, Float64]:
    """Inner products of (candidates..., zero, child) on part of a block, and rounding floors.

    Centred on the first candidate. Returns ((m + 2, m + 2), (m + 1,) of candidates and child).
    """
    size = members[child].blocks[name].values.size
    at = np.arange(0, size, max(1, size // SCREEN_WEIGHTS))
    group = [members[i].blocks[name] for i in (*candidates, child)]
    rows = np.stack([b.values[at] for b in group]).astype(np.float64)
    half = np.stack([b.half_ulp_at(at).astype(np.float64) for b in group])
    centre = rows[0].copy()
    rows = np.vstack([rows[:-1], np.zeros_like(centre), rows[-1:]]) - centre
    return rows @ rows.T, (half**2).sum(axis=1) / 3


def _log_ratio(gram: Float64, floor: Float64, chosen: Sequence[int]) -> Float64:
    """(m,) log of residual over floor when each candidate is added to those chosen; at least 0."""
    count = floor.size - 1
    origin = gram[chosen[0]]
    k = gram - origin[:, None] - origin[None, :] + gram[chosen[0], chosen[0]]
    size = np.diag(k).copy()
    for i in (count, *chosen[1:]):
        if k[i, i] > ALIKE * size[i]:
            k = k - np.outer(k[:, i], k[i]) / k[i, i]
    own = np.diag(k)[:count]
    usable = own > ALIKE * np.maximum(size[:count], TINY)
    usable[list(chosen)] = False
    gain = np.where(usable, k[-1, :count] ** 2 / np.where(usable, own, 1.0), 0.0)
    left = np.maximum(k[-1, -1] - gain, 0)
    floors = floor[-1] + (floor[:count] + floor[list(chosen)].sum()) / (1 + len(chosen))
    ratio: Float64 = np.log(np.maximum(left / np.maximum(floors, TINY), 1.0))
    return ratio


def _fit_all(
    child: int, chosen: Sequence[int], members: Sequence[Specimen], blocks: Sequence[str]
) -> dict[str, _Fit] | None:
    """The fit of every block; None as soon as one is not exact."""
    fits = {}
    for name in blocks:
        parts = [members[i].blocks[name] for i in chosen]
        fit = _fit_block(members[child].blocks[name], parts, free=False)
        if not fit.exact:
            fit = _fit_block(members[child].blocks[name], parts, free=True)
        if not fit.exact:
            return None
        fits[name] = fit
    return fits


def _fit_block(child: Block, parts: Sequence[Block], *, free: bool) -> _Fit:
    """Least squares around the first part, in float64 on exact differences."""
    origin = parts[0].values.astype(np.float64)
    columns = [p.values - origin for p in parts[1:]] + ([-origin] if free else [])
    y = child.values - origin
    half = [b.half_ulp.astype(np.float64) for b in (child, *parts)]
    floors = np.array([float((h**2).sum()) / 3 for h in half])
    if columns:
        x = np.stack(columns)
        length = np.linalg.norm(x, axis=1)
        length[length == 0] = 1.0
        x /= length[:, None]
        inverse, full = _inverse(x @ x.T)
        solved = inverse @ (x @ y)
        y = y - solved @ x
        noise = float(floors.sum()) / max(y.size, 1)
        errors = np.sqrt(np.maximum(np.diag(inverse), 0) * noise) / length
        errors = errors if full else np.full_like(errors, np.inf)
        solved = solved / length
    else:
        solved = errors = np.zeros(0)
    others, spread = solved[: len(parts) - 1], errors[: len(parts) - 1]
    weights = np.concatenate([[1.0 - solved.sum()], others])
    # A huge weight of nearly equal members must not buy a huge allowance for rounding.
    floor = floors[0] + float(np.minimum(weights**2, MAX_WEIGHT**2) @ floors[1:])
    return _Fit(
        weights=weights,
        errors=np.concatenate([[float(np.sqrt((errors**2).sum()))], spread]),
        ratio=float(y @ y) / max(floor, TINY),
        free=free,
    )


def _inverse(gram: Float64) -> tuple[Float64, bool]:
    """Pseudo-inverse, and whether it is the inverse: members alike in a block leave it open."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > ALIKE * max(float(values[-1]), TINY)
    inverse: Float64 = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return inverse, bool(kept.all())


def _drop_needless(
    child: int, chosen: Sequence[int], members: Sequence[Specimen], blocks: Sequence[str]
) -> list[int]:
    kept = list(chosen)
    for member in chosen:
        rest = [i for i in kept if i != member]
        if rest and _fit_all(child, rest, members, blocks) is not None:
            kept = rest
    return kept


def _averages(fits: Mapping[str, _Fit]) -> bool:
    """Whether no member is magnified: a relation solved for a parent magnifies the merge."""
    known = [fit.weights for fit in fits.values() if fit.sure]
    return bool(known) and all(
        w.max() <= MAX_WEIGHT and (w < -MIN_SHARE).sum() <= 1 and w.sum() >= LEAST_SUM
        for w in known
    )


def _describe(
    child: int, chosen: Sequence[int], fits: Mapping[str, _Fit], members: Sequence[Specimen]
) -> Blend:
    one = members[child]
    known = {name: fit for name, fit in fits.items() if fit.sure}
    sizes = np.array([one.blocks[name].values.size for name in known], dtype=np.float64)
    shares = np.stack([fit.weights / fit.weights.sum() for fit in known.values()])
    mean = sizes @ shares / sizes.sum()
    weights = heaviest_first(dict(zip(chosen, map(float, mean), strict=True)))
    angles = {name: _angle([members[i].blocks[name] for i in chosen]) for name in known}
    slerp = len(chosen) == 2 and min(angles.values()) > 0 and _is_slerp(known, angles)
    order = [list(chosen).index(member) for member in weights]
    steps = {
        name: [round(float(s), 4) for s in row[order]]
        for name, row in zip(known, shares, strict=True)
    }
    detail: dict[str, Any] = {"by_layer": by_layer(steps, one)}
    if slerp:
        last = order[-1]
        times = {name: _time(fit, angles[name], last) for name, fit in known.items()}
        spread = max(times.values()) - min(times.values())
        slack = STANDARD_ERRORS * max(float(fit.errors[last]) for fit in known.values())
        detail = {"t": round(float(np.mean(list(times.values()))), 4)}
        if spread > max(2 * slack, SAME_T):
            detail["by_layer"] = by_layer({n: round(t, 4) for n, t in times.items()}, one)
    return Blend(
        method="slerp" if slerp else "linear",
        weights=weights,
        base=None,
        explained=1.0,
        chance=0.0,
        detail=detail,
    )


def _angle(parts: Sequence[Block]) -> float:
    """Angle in radians between the first two parts, over the sampled weights."""
    a, b = (p.values.astype(np.float64) for p in parts[:2])
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if min(lengths) == 0:
        return 0.0
    chord = np.linalg.norm(a / lengths[0] - b / lengths[1])
    return 2 * math.asin(min(1.0, float(chord) / 2))


def _is_slerp(fits: Mapping[str, _Fit], angles: Mapping[str, float]) -> bool:
    """Whether the weights add up to what the sphere asks for, and not to one.

    The tool takes the angle over the whole tensor and this one over a sample of it: the excess
    over one is asked to agree within a third of itself, besides its standard error.
    """
    free = {name: fit for name, fit in fits.items() if fit.free}
    for name, fit in free.items():
        excess = float(fit.weights.sum()) - 1
        half = angles[name] / 2
        share = float(fit.weights[1] / fit.weights.sum())
        due = math.cos(half * (1 - 2 * share)) / math.cos(half) - 1
        slack = STANDARD_ERRORS * float(np.sqrt((fit.errors**2).sum()))
        if abs(excess - due) > max(due * SAMPLED_ANGLE, slack):
            return False
    return bool(free)


def _time(fit: _Fit, angle: float, last: int) -> float:
    """t of the slerp, measured from the other member towards the member at `last`."""
    t = math.asin(min(1.0, max(-1.0, float(fit.weights[last]) * math.sin(angle)))) / angle
    return min(1.0, max(0.0, t))
