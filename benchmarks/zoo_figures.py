"""Intervals and finer figures of a zoo run: margins, classes, details, hidden models, reliability.

Works on what `zoo_scoring` counts; nothing here looks at weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from zoo_scoring import Claim, Edge, Ratio, Score, Truth, f1_of, resolve

from modelkin.lineage.statistics import Interval

RESAMPLES = 4000
BINS = 10


def f1_interval(one: Score, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap interval of F1 over children.

    Children of one family are not independent, so the interval is, if anything, too narrow.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, 13.3 (percentile interval).
    """
    values = f1_of(_resampled(one.tally, seed))
    return _percentiles(one.f1, values, level)


def f1_margin(first: Score, second: Score, *, level: float = 0.95, seed: int = 0) -> Interval:
    """F1 of the first minus that of the second, with a paired bootstrap interval over children.

    Raises
    ------
    ValueError : the two were not scored on the same children.
    """
    if first.children != second.children:
        raise ValueError("a paired margin needs the same children on both sides")
    values = f1_of(_resampled(first.tally, seed)) - f1_of(_resampled(second.tally, seed))
    return _percentiles(first.f1 - second.f1, values, level)


def _resampled(tally: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(RESAMPLES, 3) sums over children drawn with replacement; the same seed draws the same."""
    count = tally.shape[0]
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    sums: NDArray[np.int64] = weights @ tally
    return sums


def _percentiles(value: float, values: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value=value, low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """One class of children: `recall` of its true edges, `precision` of the edges claimed."""

    kind: str
    recall: Ratio
    precision: Ratio


def by_class(claims: Iterable[Claim], truth: Truth) -> list[ClassFigures]:
    """Figures by class of the child, in alphabetical order; roots are a class as any other."""
    got = set(resolve(claims, truth.shown))
    figures = []
    for kind in sorted({truth.models[name].kind for name in truth.shown}):
        claimed = {edge for edge in got if truth.models[edge[0]].kind == kind}
        true = {edge for edge in truth.edges if truth.models[edge[0]].kind == kind}
        right = len(claimed & true)
        figures.append(
            ClassFigures(
                kind=kind,
                recall=Ratio(right=right, of=len(true)),
                precision=Ratio(right=right, of=len(claimed)),
            )
        )
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is said about right edges, and about models nobody published.

    `ranks` merged low-rank adapters whose rank is told within a factor of two; `bits` quantized
    children whose bits are told exactly; `shares` right merge edges whose share is told, and
    `share_error` their mean absolute error (None of nothing); `hidden` unpublished models with at
    least two published children found with exactly those children; `false_hidden` made-up nodes
    that stand for none.
    """

    ranks: Ratio
    bits: Ratio
    shares: Ratio
    share_error: float | None
    hidden: Ratio
    false_hidden: int


def details(claims: Sequence[Claim], truth: Truth) -> Details:
    """The finer figures of one zoo."""
    right = {e: c for e, c in resolve(claims, truth.shown).items() if e in truth.edges}
    true_shares = {
        (child, parent): share
        for child in truth.shown
        for parent, share in truth.models[child].shares.items()
        if share is not None and len(truth.models[child].parents) > 1 and (child, parent) in right
    }
    errors = [
        abs(told - true)
        for edge, true in true_shares.items()
        if (told := right[edge].share) is not None
    ]
    groups = _told_groups(claims, truth)
    found = {group for group in groups if group in truth.hidden_groups}
    return Details(
        ranks=_told(right, truth, "rank", lambda told, true: true / 2 <= told <= true * 2),
        bits=_told(right, truth, "bits", lambda told, true: told == true),
        shares=Ratio(right=len(errors), of=len(true_shares)),
        share_error=sum(errors) / len(errors) if errors else None,
        hidden=Ratio(right=len(found), of=len(truth.hidden_groups)),
        false_hidden=len(groups) - len(found),
    )


def _told(
    right: Mapping[Edge, Claim], truth: Truth, key: str, agrees: Callable[[float, float], bool]
) -> Ratio:
    """Of the right edges whose child's truth row has a number `key`, those told in agreement."""
    asked = [
        (right[edge].detail.get(key), float(truth.models[edge[0]].detail[key]))
        for edge in right
        if isinstance(truth.models[edge[0]].detail.get(key), (int, float))
        and truth.models[edge[0]].relation != "adapter"
    ]
    good = [t is not None and agrees(float(t), true) for t, true in asked]
    return Ratio(right=sum(good), of=len(asked))


def _told_groups(claims: Iterable[Claim], truth: Truth) -> list[frozenset[str]]:
    """Published children of every made-up node."""
    groups: dict[str, set[str]] = {}
    for claim in claims:
        if claim.parent not in truth.shown and claim.child in truth.shown:
            groups.setdefault(claim.parent, set()).add(claim.child)
    return [frozenset(group) for group in groups.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Statements with a probability in one tenth: mean probability, and how many were right."""

    low: float
    high: float
    mean: float
    right: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Stated probabilities against what came true; `error` the expected calibration error."""

    bins: tuple[Bin, ...]
    error: float


def reliability(said: Sequence[tuple[float, bool]]) -> Reliability:
    """Bin statements of (probability, came true) by tenths; empty bins are left out.

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), AAAI (expected calibration error).
    """
    filled: dict[int, list[tuple[float, bool]]] = {}
    for probability, true in said:
        filled.setdefault(min(BINS - 1, int(probability * BINS)), []).append((probability, true))
    bins = tuple(
        Bin(
            low=at / BINS,
            high=(at + 1) / BINS,
            mean=sum(p for p, _ in one) / len(one),
            right=Ratio(right=sum(true for _, true in one), of=len(one)),
        )
        for at, one in sorted(filled.items())
    )
    off = sum(one.right.of * abs(one.mean - one.right.value) for one in bins)
    return Reliability(bins=bins, error=off / len(said) if said else 0.0)


def edge_statements(claims: Iterable[Claim], truth: Truth) -> list[tuple[float, bool]]:
    """(confidence, edge is true) of every edge with a confidence."""
    return [
        (claim.confidence, edge in truth.edges)
        for edge, claim in resolve(claims, truth.shown).items()
        if claim.confidence is not None
    ]


def direction_statements(claims: Iterable[Claim], truth: Truth) -> list[tuple[float, bool]]:
    """(direction confidence, direction is true) of the edges whose pair is right."""
    return [
        (claim.direction_confidence, (child, parent) in truth.edges)
        for (child, parent), claim in resolve(claims, truth.shown).items()
        if claim.direction_confidence is not None
        and ((child, parent) in truth.edges or (parent, child) in truth.edges)
    ]


def kin_figures(related: Iterable[frozenset[str]], truth: Truth) -> tuple[Ratio, Ratio]:
    """(same-family pairs called related, pairs of two families called related)."""
    told = set(related)
    shown = sorted(truth.shown)
    kin: list[bool] = []
    strangers: list[bool] = []
    for at, one in enumerate(shown):
        for other in shown[:at]:
            same = truth.family(one) == truth.family(other)
            (kin if same else strangers).append(frozenset((one, other)) in told)
    return (
        Ratio(right=sum(kin), of=len(kin)),
        Ratio(right=sum(strangers), of=len(strangers)),
    )


def components(claims: Iterable[Claim], truth: Truth) -> set[frozenset[str]]:
    """Pairs of published models that some chain of claims connects."""
    group: dict[str, set[str]] = {}
    for claim in claims:
        joined = group.get(claim.child, {claim.child}) | group.get(claim.parent, {claim.parent})
        for name in joined:
            group[name] = joined
    return {
        frozenset((one, other))
        for members in {id(one): one for one in group.values()}.values()
        for one in members & truth.shown
        for other in members & truth.shown
        if one < other
    }
