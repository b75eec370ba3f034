"""Which transformations leave selective refusal in place: groups, doses, and the form of decline.

Models of one line share their history, and one uploader may fill a class: intervals come from
resampling whole lines and never single models.

References
----------
Barlow et al. (1972), Statistical Inference under Order Restrictions (isotonic regression). Davies
(1987), Biometrika 74:33 (a threshold that exists under one hypothesis only, hence the bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..statistics import Interval

Float64 = NDArray[np.float64]

MIN_POINTS = 4
_ROUNDS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A measured descendant.

    `retained` is its selective refusal over the release's; `line` names the child of the release
    that it comes through. `dose` is the measured size of its last step relative to the weights,
    `bits` the precision a quantizer left, `share` the weight of the parent in a merge.
    """

    model: str
    line: str
    relation: str
    retained: float
    value: float
    n: int
    dose: float | None = None
    bits: int | None = None
    share: float | None = None
    declared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSurvival:
    """What a group retained on average, over `lines` lines of `models` models.

    The interval is a 95 % percentile bootstrap over lines, None with fewer than two of them.
    """

    group: str
    retained: float
    interval: Interval | None
    models: int
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """The form of a decline with dose.

    `monotone_p`: chance of departing this far from an order-restricted fit if decline never turns
    (small: it turns). `threshold_p`: chance of favouring one step over a straight line this much
    if decline is gradual (small: a threshold). `step` is the dose of the best step. All over
    `points` doses; None with fewer than four different ones.
    """

    monotone_p: float
    threshold_p: float
    step: float
    points: int


def survival_by(
    survivors: Sequence[Survivor], key: Callable[[Survivor], str | None], *, seed: int = 0
) -> list[GroupSurvival]:
    """Mean retention of each group that `key` makes, None leaving a model out; by name."""
    groups: dict[str, list[Survivor]] = {}
    for one in survivors:
        name = key(one)
        if name is not None:
            groups.setdefault(name, []).append(one)
    rng = np.random.default_rng(seed)
    return [_group(name, members, rng) for name, members in sorted(groups.items())]


def _group(name: str, members: Sequence[Survivor], rng: np.random.Generator) -> GroupSurvival:
    lines: dict[str, list[float]] = {}
    for one in members:
        lines.setdefault(one.line, []).append(one.retained)
    values = list(lines.values())
    mean = float(np.mean([v for line in values for v in line]))
    interval = None
    if len(values) >= 2:
        drawn = [_mean_of(values, rng.integers(len(values), size=len(values))) for _ in range(1000)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        interval = Interval(value=mean, low=float(low), high=float(high))
    return GroupSurvival(
        group=name, retained=mean, interval=interval, models=len(members), lines=len(values)
    )


def _mean_of(lines: Sequence[Sequence[float]], chosen: Iterable[int]) -> float:
    return float(np.mean([value for at in chosen for value in lines[at]]))


def decline(survivors: Iterable[Survivor], *, seed: int = 0) -> Decline | None:
    """Whether retention falls monotonely with dose, and whether in one step.

    Notes
    -----
    Retentions are weighted by their prompts. Both tests are parametric bootstraps: data are drawn
    from the fit of the null (isotonic, then a falling straight line) with binomial noise of the
    refusals observed, and the statistic is recomputed on each draw.
    """
    points = sorted((s.dose, s.value, s.n) for s in survivors if s.dose is not None)
    doses = np.array([p[0] for p in points], dtype=np.float64)
    if len(set(doses.tolist())) < MIN_POINTS:
        return None
    values = np.clip(np.array([p[1] for p in points], dtype=np.float64), 0.0, 1.0)
    weights = np.array([p[2] for p in points], dtype=np.float64)
    rng = np.random.default_rng(seed)
    falling, line = isotonic(values, weights), _line(doses, values, weights)
    return Decline(
        monotone_p=_p_value(
            lambda v: _loss(v, isotonic(v, weights), weights), values, falling, weights, rng
        ),
        threshold_p=_p_value(
            lambda v: _step_gain(doses, v, weights)[0], values, line, weights, rng
        ),
        step=_step_gain(doses, values, weights)[1],
        points=len(doses),
    )


def isotonic(values: Float64, weights: Float64) -> Float64:
    """The closest sequence that never rises, by pooling adjacent violators."""
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append([value, weight, 1.0])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            mean, total, length = blocks.pop()
            before = blocks[-1]
            joined = before[1] + total
            before[0] = (before[0] * before[1] + mean * total) / joined
            before[1], before[2] = joined, before[2] + length
    return np.concatenate([np.full(int(length), mean) for mean, _, length in blocks])


def _line(doses: Float64, values: Float64, weights: Float64) -> Float64:
    """Weighted straight line that does not rise, within [0, 1]."""
    centre = np.average(doses, weights=weights)
    spread = float((weights * (doses - centre) ** 2).sum())
    mean = np.average(values, weights=weights)
    slope = min(0.0, float((weights * (doses - centre) * (values - mean)).sum()) / spread)
    fitted: Float64 = np.clip(mean + slope * (doses - centre), 0.0, 1.0)
    return fitted


def _step_gain(doses: Float64, values: Float64, weights: Float64) -> tuple[float, float]:
    """How much closer the best single fall comes than the straight line, and where it lies."""
    best, where = np.inf, float(doses[0])
    for at in range(1, len(doses)):
        if doses[at] == doses[at - 1]:
            continue
        fitted = np.empty_like(values)
        for part in (slice(0, at), slice(at, None)):
            fitted[part] = np.average(values[part], weights=weights[part])
        loss = _loss(values, fitted, weights)
        if fitted[0] >= fitted[-1] and loss < best:
            best, where = loss, float((doses[at - 1] + doses[at]) / 2)
    return _loss(values, _line(doses, values, weights), weights) - float(best), where


def _loss(values: Float64, fitted: Float64, weights: Float64) -> float:
    return float((weights * (values - fitted) ** 2).sum())


def _p_value(
    statistic: Callable[[Float64], float],
    values: Float64,
    null: Float64,
    weights: Float64,
    rng: np.random.Generator,
) -> float:
    seen = statistic(values)
    trials = np.maximum(weights, 1).astype(int)
    drawn = [statistic(rng.binomial(trials, np.clip(null, 0, 1)) / trials) for _ in range(_ROUNDS)]
    return (1 + sum(value >= seen - 1e-12 for value in drawn)) / (_ROUNDS + 1)


def dose_groups(edges: Sequence[float]) -> Callable[[Survivor], str | None]:
    """A key that puts a model between two of the doses `edges`, ascending."""

    def key(one: Survivor) -> str | None:
        if one.dose is None:
            return None
        at = int(np.searchsorted(edges, one.dose))
        low = "0" if at == 0 else f"{edges[at - 1]:g}"
        return f"{low} to {edges[at]:g}" if at < len(edges) else f"above {edges[-1]:g}"

    return key


def lines_of(
    release: str, models: Iterable[str], parents: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The child of a release that each model comes through, by its surest parents."""
    found = {}
    for model in models:
        at, seen = model, {model}
        while release not in parents.get(at, ()):
            above = [parent for parent in parents.get(at, ()) if parent not in seen]
            if not above:
                break
            at = above[0]
            seen.add(at)
        found[model] = at
    return found
