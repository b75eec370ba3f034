"""Counts, proportions and many tests at once: exact and score intervals, exact tests, q-values.

Scalars in, scalars out, in double precision; no dependency beyond the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

_TINY = 1e-300
_EPSILON = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point estimate and the limits of its confidence interval."""

    value: float
    low: float
    high: float


def normal_quantile(level: float) -> float:
    """Half-width, in standard errors, of a central normal interval.

    Parameters
    ----------
    level : confidence level in (0, 1), e.g. 0.95 for 1.96.

    Raises
    ------
    ValueError : level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"confidence level {level} is not in (0, 1)")
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def regularized_beta(x: float, *, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), the CDF of Beta(a, b) at x.

    Raises
    ------
    ValueError : a or b not positive, or x outside [0, 1].

    References
    ----------
    NIST Digital Library of Mathematical Functions, 8.17.22 (continued fraction) and 8.17.4.
    """
    if not (a > 0.0 and b > 0.0 and 0.0 <= x <= 1.0):
        raise ValueError(f"I_x(a, b) is not defined for x={x}, a={a}, b={b}")
    if x in (0.0, 1.0):
        return x
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast only on this side of the mean; the other side is mirrored.
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(1.0 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """DLMF 8.17.22 by the modified Lentz method."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    total = d
    for m in range(1, 20_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = c if abs(c) > _TINY else _TINY
            total *= c * d
        if abs(c * d - 1.0) < _EPSILON:
            break
    return total


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Exact ("guaranteed coverage") interval of a binomial proportion.

    Raises
    ------
    ValueError : no trials, or successes outside [0, trials].

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26:404.
    """
    _check_counts(successes, trials)
    tail = (1.0 - level) / 2.0
    low = high = 0.0
    if successes > 0:
        low = _beta_quantile(tail, successes, trials - successes + 1)
    if successes < trials:
        high = _beta_quantile(1.0 - tail, successes + 1, trials - successes)
    else:
        high = 1.0
    return Interval(value=successes / trials, low=low, high=high)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if regularized_beta(middle, a=a, b=b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def wilson(successes: float, trials: float, *, level: float = 0.95) -> Interval:
    """Score interval of a binomial proportion; never outside [0, 1], not empty at 0 or 1.

    Counts need not be whole: a sample of prompts that are alike is worth fewer than it has.

    Raises
    ------
    ValueError : no trials, or successes outside [0, trials].

    References
    ----------
    Wilson (1927), JASA 22:209; method 3 of Newcombe (1998), Statistics in Medicine 17:857.
    """
    _check_counts(successes, trials)
    z2 = normal_quantile(level) ** 2
    p = successes / trials
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return Interval(
        value=p,
        low=0.0 if successes == 0 else max(0.0, centre - half),
        high=1.0 if successes == trials else min(1.0, centre + half),
    )


def mcnemar_mid_p(only_first: int, only_second: int) -> float:
    """One-sided mid-p value that the first of two paired outcomes is the more frequent.

    Parameters
    ----------
    only_first, only_second : pairs in which the first, or the second, alone had the outcome.

    Returns
    -------
    float in (0, 1]; 1 when no pair is discordant, for then the pairs say nothing.

    References
    ----------
    Fagerland, Lydersen and Laake (2013), BMC Medical Research Methodology 13:91.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError("counts of pairs cannot be negative")
    n = only_first + only_second
    if n == 0:
        return 1.0
    logs = [_log_choose(n, k) - n * math.log(2.0) for k in range(only_first, n + 1)]
    return min(1.0, math.fsum(map(math.exp, logs[1:])) + 0.5 * math.exp(logs[0]))


def fisher_exact_greater(first: tuple[int, int], second: tuple[int, int]) -> float:
    """One-sided exact p value that the first of two independent proportions is the larger.

    Parameters
    ----------
    first, second : (successes, trials) of each sample.

    Raises
    ------
    ValueError : no trials, or successes outside [0, trials].

    References
    ----------
    Fisher (1935), JRSS 98:39.
    """
    (k1, n1), (k2, n2) = first, second
    _check_counts(k1, n1)
    _check_counts(k2, n2)
    total = k1 + k2
    base = _log_choose(n1 + n2, total)
    tail = (
        math.exp(_log_choose(n1, k) + _log_choose(n2, total - k) - base)
        for k in range(k1, min(n1, total) + 1)
    )
    return min(1.0, math.fsum(tail))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """q-values: the smallest false discovery rate at which each test would be rejected.

    Valid for independent tests and under positive regression dependence.

    Returns
    -------
    list of float in [0, 1], in the order given; empty for no tests.

    Raises
    ------
    ValueError : a p value that is not in [0, 1].

    References
    ----------
    Benjamini and Hochberg (1995), JRSS B 57:289.
    """
    if not all(0.0 <= p <= 1.0 for p in p_values):
        raise ValueError("p values must lie in [0, 1]")
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i], reverse=True)
    q_values, smallest = [1.0] * count, 1.0
    for position, index in enumerate(order):
        smallest = min(smallest, p_values[index] * (count / (count - position)))
        q_values[index] = smallest
    return q_values


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check_counts(successes: float, trials: float) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is not a proportion")
