"""Intervals of contrasts between proportions: differences, paired or not, and ratios.

All are of the "square and add" family: limits of single proportions (Wilson) are combined so
that the result keeps their asymmetry near 0 and 1, where refusal rates live.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..statistics import Interval, wilson

__all__ = [
    "Interval",
    "PairedCounts",
    "difference_of",
    "newcombe_independent",
    "newcombe_paired",
    "ratio_of",
    "wilson",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """The same prompts put to two models: in how many both, one or neither had the outcome.

    Counts need not be whole where prompts that are alike count for less than one each.
    """

    both: float
    only_first: float
    only_second: float
    neither: float

    @property
    def total(self) -> float:
        """Number of pairs."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> float:
        """Pairs in which the first model had the outcome."""
        return self.both + self.only_first

    @property
    def second(self) -> float:
        """Pairs in which the second model had the outcome."""
        return self.both + self.only_second


def newcombe_independent(
    first: tuple[float, float], second: tuple[float, float], *, level: float = 0.95
) -> Interval:
    """Difference first - second of two independent proportions.

    Parameters
    ----------
    first, second : (successes, trials) of each sample.

    Returns
    -------
    Interval in [-1, 1].

    Raises
    ------
    ValueError : no trials, or successes outside [0, trials].

    References
    ----------
    Newcombe (1998), Statistics in Medicine 17:873, method 10.
    """
    a = wilson(*first, level=level)
    b = wilson(*second, level=level)
    return difference_of(a, b)


def newcombe_paired(counts: PairedCounts, *, level: float = 0.95) -> Interval:
    """Difference first - second of two proportions measured on the same prompts.

    Returns
    -------
    Interval in [-1, 1].

    Raises
    ------
    ValueError : no pairs, or a negative count.

    References
    ----------
    Newcombe (1998), Statistics in Medicine 17:2635, method 10: Wilson limits joined with the
    phi coefficient, whose numerator is corrected for continuity.
    """
    if min(counts.both, counts.only_first, counts.only_second, counts.neither) < 0:
        raise ValueError("counts of pairs cannot be negative")
    a = wilson(counts.first, counts.total, level=level)
    b = wilson(counts.second, counts.total, level=level)
    return difference_of(a, b, correlation=_phi(counts))


def _phi(counts: PairedCounts) -> float:
    n = counts.total
    margins = counts.first * (n - counts.first) * counts.second * (n - counts.second)
    if margins == 0:
        return 0.0
    product = counts.both * counts.neither - counts.only_first * counts.only_second
    corrected = max(product - n / 2.0, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)


def difference_of(a: Interval, b: Interval, *, correlation: float = 0.0) -> Interval:
    """Interval of a - b from the intervals of a and b (MOVER, square and add).

    Parameters
    ----------
    correlation : of the two estimates, in [-1, 1]; 0 is conservative when they agree.

    References
    ----------
    Zou and Donner (2008), Statistics in Medicine 27:1693, equation 2.
    """
    value = a.value - b.value
    low = _joined(a.value - a.low, b.high - b.value, correlation)
    high = _joined(a.high - a.value, b.value - b.low, correlation)
    return Interval(value=value, low=value - low, high=value + high)


def _joined(x: float, y: float, correlation: float) -> float:
    return math.sqrt(max(0.0, x * x + y * y - 2.0 * correlation * x * y))


def ratio_of(a: Interval, b: Interval, *, correlation: float = 0.0) -> Interval:
    """Interval of a / b from the intervals of a and b (MOVER-R).

    Parameters
    ----------
    b : its value must be positive.
    correlation : of the two estimates, in [-1, 1].

    Returns
    -------
    Interval whose limits are infinite where b cannot be told from 0.

    Raises
    ------
    ValueError : b.value is not positive.

    Notes
    -----
    The upper limit R solves a - R b + sqrt(u^2 + R^2 v^2 - 2 c R u v) = 0, with u the upper
    half-width of a, v the lower one of b and c the correlation; the lower limit mirrors it.

    References
    ----------
    Donner and Zou (2012), Statistical Methods in Medical Research 21:347, section 2.
    """
    if not b.value > 0.0:
        raise ValueError("a ratio needs a positive denominator")
    if b.low <= 0.0:
        return Interval(value=a.value / b.value, low=-math.inf, high=math.inf)
    high = _ratio_limit(a, b, half=(a.high - a.value, b.value - b.low), c=correlation, sign=1.0)
    low = _ratio_limit(a, b, half=(a.value - a.low, b.high - b.value), c=correlation, sign=-1.0)
    return Interval(value=a.value / b.value, low=low, high=high)


def _ratio_limit(
    a: Interval, b: Interval, *, half: tuple[float, float], c: float, sign: float
) -> float:
    u, v = half
    square = b.value**2 - v**2
    if square <= 0.0:
        return sign * math.inf
    linear = a.value * b.value - c * u * v
    constant = a.value**2 - u**2
    return (linear + sign * math.sqrt(max(0.0, linear**2 - square * constant))) / square
