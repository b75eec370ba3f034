"""Evidence of a closed-form edit in a few sampled rows, and how strong the edit was.

Blind statistics need the parent's rows and nothing else; with the refusal direction of an
ancestor in hand the strength itself is estimated. None of this says that behaviour changed: half
an edit is glaring in the weights and changes nothing, and a merge removes refusal without a trace.

References
----------
Arditi et al. (2024), arXiv:2406.11717 (the edit). Baik, Ben Arous and Peche (2005), Annals of
Probability 33:1643 (when a spike can be told from noise).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bands import Band, common_rows, whitened

Float64 = NDArray[np.float64]

_ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Coherence:
    """Whether the matrices were changed along one direction of the residual stream.

    `value` in [1 / rows, 1]: largest eigenvalue of the mean projector onto the leading left
    factors of the whitened differences; `null` is its expectation for independent factors.
    `energy` is the median share of a difference's energy along its leading factor.
    `low` and `high` are 95 % limits by the jackknife over matrices, 0 and 1 with less than three.
    """

    value: float
    low: float
    high: float
    null: float
    energy: float
    rows: int
    matrices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How much of a direction was taken out: 0 nothing, 1 all, 2 mirrored.

    `value` pools the matrices by their precision; `per_matrix` holds each one's own estimate.
    `consistency` in [-1, 1] is the mean cosine between what was taken from the direction in each
    matrix and what that matrix writes there: 1 where the change is a projection and nothing else,
    near 0 where the two have nothing to do with each other, as in training. `spread` is 1.96
    standard errors of that mean over the matrices.
    """

    value: float
    se: float
    consistency: float
    spread: float
    per_matrix: Mapping[str, float]

    def limits(self, z: float = 1.959964) -> tuple[float, float]:
        """Normal limits, 95 % by default."""
        return self.value - z * self.se, self.value + z * self.se


def coherence(bands: Sequence[Band]) -> Coherence | None:
    """Agreement of the leading left factors; None with fewer than two changed matrices.

    Notes
    -----
    O(rows^2 m) a matrix. The null is the edge of a random matrix, (1 + sqrt(rows / M))^2 / rows.
    """
    rows, used = common_rows([band for band in bands if band.changed])
    factors, energies = [], []
    for band in used:
        white = whitened(band)[:rows]
        values, vectors = np.linalg.eigh(white @ white.T)
        if values[-1] > 0:
            factors.append(vectors[:, -1])
            energies.append(values[-1] / values.sum())
    if len(factors) < 2:
        return None
    stack = np.stack(factors)  # (M, rows)
    value = _agreement(stack)
    low, high = _jackknife(stack, value)
    null = min(1.0, (1 + math.sqrt(rows / len(factors))) ** 2 / rows)
    return Coherence(
        value=value,
        low=low,
        high=high,
        null=null,
        energy=float(np.median(energies)),
        rows=rows,
        matrices=len(factors),
    )


def _agreement(stack: Float64) -> float:
    """Largest eigenvalue of the mean projector, through the smaller Gram matrix."""
    return float(np.linalg.eigvalsh(stack @ stack.T)[-1] / stack.shape[0])


def _jackknife(stack: Float64, value: float) -> tuple[float, float]:
    count = stack.shape[0]
    if count < 3:
        return 0.0, 1.0
    left = [_agreement(np.delete(stack, at, axis=0)) for at in range(count)]
    half = 1.959964 * math.sqrt((count - 1) * float(np.var(left)))
    return max(0.0, value - half), min(1.0, value + half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A direction of the residual stream as the bands need it.

    `rows` (d,) its coordinates, at least those that are sampled, of a unit vector; `filters`
    W^T r of each matrix by name, of the *whole* parent matrix W.
    """

    rows: Float64
    filters: Mapping[str, Float64]


def strength_along(bands: Sequence[Band], direction: Direction) -> Strength | None:
    """Strength of an edit along a known direction; None where no band has a filter.

    Notes
    -----
    Each whitened row is regressed on what the edit would do to it; a coarse quantizer's shrinkage
    along the parent's own row is a second regressor, which is why rows are projected off it.
    alpha = -sum_i a_i <D_i, f_i> / sum_i a_i^2 |f_i|^2 with a_i = r_i / |W_i| and f_i the filter
    without its part along W_i. Standard errors are White's (1980, Econometrica 48:817), which
    need no equal variances.
    """
    known = [band for band in bands if band.name in direction.filters]
    fits = [
        _regress(band, direction.rows[: band.rows], direction.filters[band.name]) for band in known
    ]
    found = [fit for fit in fits if fit is not None]
    return _pool(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindEdit:
    """The direction along which an edit explains the differences best, and its strength."""

    direction: Float64
    strength: Strength


def blind_strength(bands: Sequence[Band]) -> BlindEdit | None:
    """Strength of an edit along a direction that the differences themselves name.

    Only bands that hold every row tell how far a matrix reads along a direction; None with fewer
    than two of them.

    Notes
    -----
    Fixed point of r -> -sum_l Delta_l (W_l^T r), rows weighted by their norms, from the leading
    shared left factors; the start whose end explains most is kept.
    """
    whole = [band for band in bands if band.whole and band.changed]
    width = max((band.rows for band in whole), default=0)
    whole = [band for band in whole if band.rows == width]
    if len(whole) < 2:
        return None
    found = [_fixed_point(whole, start) for start in _starts(whole)]
    return max(found, key=lambda one: one.strength.consistency, default=None)


def _starts(bands: Sequence[Band]) -> list[Float64]:
    """Leading shared left factors, and the direction along which most of a projection was made."""
    white = [whitened(band) for band in bands]
    total = sum(w @ w.T / max((w * w).sum(), 1e-300) for w in white)
    scales = [np.sqrt((band.parent**2).sum(axis=1)) for band in bands]
    norms = np.sqrt(np.mean([n**2 for n in scales], axis=0))
    shared = np.linalg.eigh(total)[1][:, -2:]
    # -D (N^-1 W)^T is alpha (N^-1 r)(N^-1 W w)^T: it pools the columns before any direction is
    # chosen, and so reaches deeper into rounding noise than the left factors do.
    made = np.zeros((norms.size, norms.size))
    for w, band, n in zip(white, bands, scales, strict=True):
        made -= w @ (band.parent / np.where(n > 0, n, 1.0)[:, None]).T
    projected = np.linalg.eigh(made + made.T)[1][:, -2:]
    return [_unit(norms * v) for v in (*shared.T[::-1], *projected.T[::-1])]


def _fixed_point(bands: Sequence[Band], start: Float64) -> BlindEdit:
    r = start
    for _ in range(_ROUNDS):
        step, weight = np.zeros_like(r), np.zeros_like(r)
        for band in bands:
            filtered = band.parent.T @ r
            precision = 1.0 / np.maximum((band.parent**2).sum(axis=1), 1e-300)
            step -= precision * (band.delta @ filtered)
            weight += precision * (filtered @ filtered)
        r = _unit(step / weight)
    direction = Direction(rows=r, filters={band.name: band.parent.T @ r for band in bands})
    strength = strength_along(bands, direction)
    if strength is None:
        strength = Strength(value=0.0, se=math.inf, consistency=0.0, spread=1.0, per_matrix={})
    return BlindEdit(direction=r, strength=strength)


def _unit(vector: Float64) -> Float64:
    norm = float(np.linalg.norm(vector))
    unit: Float64 = vector / norm if norm > 0 else vector
    return unit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """One matrix: estimate, its precision (inverse variance) and the cosine of the two sides."""

    name: str
    alpha: float
    precision: float
    cosine: float


def _regress(band: Band, rows: Float64, filtered: Float64) -> _Fit | None:
    norms = np.sqrt((band.parent**2).sum(axis=1))
    safe = np.where(norms > 0, norms, 1.0)
    a = np.where(norms > 0, rows / safe, 0.0)  # (rows,)
    units = band.parent / safe[:, None]
    white = whitened(band)
    # What the edit does to a row, itself without its part along that row.
    signal = -a[:, None] * (filtered[None, :] - (units @ filtered)[:, None] * units)
    power = float((signal * signal).sum())
    if power <= 0:
        return None
    alpha = float((white * signal).sum()) / power
    # Rounding errs in proportion to each weight: the sandwich needs no equal variances.
    error = float((signal**2 * (white - alpha * signal) ** 2).sum())
    precision = power * power / max(error, 1e-30 * power)
    taken, meant = a @ white, a @ signal
    size = float(np.linalg.norm(taken) * np.linalg.norm(meant))
    cosine = float(taken @ meant) / size if size > 0 else 0.0
    return _Fit(name=band.name, alpha=alpha, precision=precision, cosine=cosine)


def _half_width(values: Sequence[float]) -> float:
    """1.96 standard errors of a mean; 1 where a single value has none."""
    if len(values) < 2:
        return 1.0
    return 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _pool(fits: Sequence[_Fit]) -> Strength:
    weights = np.array([fit.precision for fit in fits])
    values = np.array([fit.alpha for fit in fits])
    cosines = [fit.cosine for fit in fits]
    return Strength(
        value=float((weights * values).sum() / weights.sum()),
        se=1.0 / math.sqrt(float(weights.sum())),
        consistency=float(np.mean(cosines)),
        spread=_half_width(cosines),
        per_matrix={fit.name: fit.alpha for fit in fits},
    )
