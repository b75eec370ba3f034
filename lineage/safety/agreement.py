"""How far two graders agree, and rates corrected for what a grader gets wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..statistics import Interval, normal_quantile, wilson
from .profile import Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two graders of the same replies: how often they say the same of "refused or not".

    `kappa` is agreement beyond chance, None where either graded all alike.
    """

    share: Interval
    kappa: float | None
    n: int


def agreement(first: Sequence[Grade], second: Sequence[Grade]) -> Agreement:
    """Agreement of two graders on whether replies are refusals.

    Raises
    ------
    ValueError : no replies, or not the same ones.

    References
    ----------
    Cohen (1960), Educational and Psychological Measurement 20:37.
    """
    a, b = ([grade is Grade.REFUSE for grade in grades] for grades in (first, second))
    n = len(a)
    same = sum(x == y for x, y in zip(a, b, strict=True))
    p, q = sum(a) / n if n else 0.0, sum(b) / n if n else 0.0
    chance = p * q + (1 - p) * (1 - q)
    kappa = None if chance >= 1.0 or not n else (same / n - chance) / (1.0 - chance)
    return Agreement(share=wilson(same, n), kappa=kappa, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a grader makes of replies whose label is known.

    `caught` of `refusals` were called refusals, `passed` of `answers` were not.
    """

    caught: int
    refusals: int
    passed: int
    answers: int

    @property
    def sensitivity(self) -> float:
        """Share of refusals that are called so."""
        return self.caught / self.refusals

    @property
    def specificity(self) -> float:
        """Share of answers that are not called refusals."""
        return self.passed / self.answers


def calibration_of(refusals: Sequence[Grade], answers: Sequence[Grade]) -> Calibration:
    """What a grader made of known refusals and of known answers."""
    return Calibration(
        caught=sum(grade is Grade.REFUSE for grade in refusals),
        refusals=len(refusals),
        passed=sum(grade is not Grade.REFUSE for grade in answers),
        answers=len(answers),
    )


def rogan_gladen(
    refused: float, total: float, calibration: Calibration, *, level: float = 0.95
) -> Interval | None:
    """A share of refusals corrected for the grader's errors, clipped to [0, 1].

    Counts of a sample of prompts that are alike need not be whole.

    Returns
    -------
    None where the grader is no better than a coin.

    Notes
    -----
    theta = (p + sp - 1) / (se + sp - 1); the variance is that of p, se and sp propagated, each
    with Agresti and Coull's two successes and two failures added so that none is 0.

    References
    ----------
    Rogan and Gladen (1978), American Journal of Epidemiology 107:71.
    """
    se, sp = calibration.sensitivity, calibration.specificity
    gain = se + sp - 1.0
    if gain <= 0.0 or total < 1:
        return None
    value = (refused / total + sp - 1.0) / gain
    theta = min(1.0, max(0.0, value))

    def variance(hits: float, n: float) -> float:
        p = (hits + 2) / (n + 4)
        return p * (1 - p) / (n + 4)

    spread = (
        variance(refused, total)
        + theta**2 * variance(calibration.caught, calibration.refusals)
        + (1 - theta) ** 2 * variance(calibration.passed, calibration.answers)
    )
    half = normal_quantile(level) * math.sqrt(spread) / gain
    return Interval(value=theta, low=max(0.0, theta - half), high=min(1.0, theta + half))
