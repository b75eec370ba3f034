"""Evidence that a mean lies above a bound, valid at any time it is looked at, and over many models.

References
----------
Waudby-Smith and Ramdas (2024), JRSS B 86:1 (betting). Wang and Ramdas (2022), JRSS B 84:822
(e-BH). Vovk and Wang (2021), Annals of Statistics 49:1736 (merging e-values).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key")

BETS = 12
_LOG_CEILING = 690.0


def e_process(differences: Sequence[float], *, bound: float) -> list[float]:
    """Wealth after each difference of a gambler against "the mean is at most `bound`".

    Parameters
    ----------
    differences : each in [-1, 1], in the order in which they were drawn.
    bound : in (-1, 1).

    Returns
    -------
    e-values, as many as differences; with probability 1 - 1/c none ever reaches c while the null
    is true, so that sampling may stop at any of them.

    Raises
    ------
    ValueError : a difference or the bound outside its range.

    Notes
    -----
    An equal mixture of `BETS` constant bets lambda in (0, 1 / (1 + bound)): each stakes so little
    that a difference of -1 leaves it something, and a mixture of martingales is one.
    """
    if not -1.0 < bound < 1.0 or any(not -1.0 <= d <= 1.0 for d in differences):
        raise ValueError("differences lie in [-1, 1] and the bound between them")
    stakes = [(k + 1) / (BETS + 1) / (1.0 + bound) for k in range(BETS)]
    logs = [0.0] * BETS
    wealth = []
    for d in differences:
        logs = [
            log + math.log1p(stake * (d - bound)) for log, stake in zip(logs, stakes, strict=True)
        ]
        wealth.append(math.fsum(math.exp(min(log, _LOG_CEILING)) for log in logs) / BETS)
    return wealth


def e_value(differences: Sequence[float], *, bound: float) -> float:
    """Wealth at the end of all differences; 1 without any."""
    wealth = e_process(differences, bound=bound)
    return wealth[-1] if wealth else 1.0


def e_bh(values: Mapping[Key, float], *, rate: float) -> set[Key]:
    """Hypotheses rejected at a false discovery rate, under any dependence.

    Parameters
    ----------
    values : an e-value of each hypothesis tested, those that will not be rejected too.
    rate : in (0, 1).

    Notes
    -----
    The k largest are rejected, for the largest k whose k-th e-value is at least N / (rate k).
    """
    order = sorted(values, key=lambda key: -values[key])
    kept = 0
    for k, key in enumerate(order, start=1):
        if values[key] >= len(order) / (rate * k):
            kept = k
    return set(order[:kept])


def e_bh_nested(
    families: Mapping[Key, Mapping[str, float]], *, rate: float
) -> tuple[set[Key], set[str]]:
    """Families first, then hypotheses within those found.

    Returns
    -------
    Families and hypotheses rejected. A family's e-value is the mean of its members'; within the
    families found, members are tested at the rate times the share of families found.

    References
    ----------
    Benjamini and Bogomolov (2014), JRSS B 76:297 (selected families).
    """
    means = {key: math.fsum(m.values()) / len(m) for key, m in families.items() if m}
    found = e_bh(means, rate=rate)
    within = rate * len(found) / len(means) if means else rate
    members: set[str] = set()
    for key in found:
        members |= e_bh(families[key], rate=within)
    return found, members


def q_values(values: Mapping[Key, float]) -> dict[Key, float]:
    """The smallest rate at which `e_bh` rejects each hypothesis, at most 1."""
    order = sorted(values, key=lambda key: -values[key])
    found: dict[Key, float] = {}
    smallest = 1.0
    for k in range(len(order), 0, -1):
        value = values[order[k - 1]]
        smallest = min(smallest, len(order) / (k * value) if value > 0 else 1.0)
        found[order[k - 1]] = smallest
    return found
