"""Prompts that are alike are not independent: how many a sample of them is worth.

A set asks the same few things in many forms, and a model that refuses one form mostly refuses the
next. An interval that takes each prompt as a draw of its own is then too narrow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

Kin = tuple[tuple[int, ...], ...]
"""Of each prompt the clusters it is in, as numbers without a meaning."""

COMMON: Final = 0.2
"""A word in more than this share of the prompts belongs to the form of asking."""
_WORD = re.compile(r"[^\W_]+")


def kin_of(prompts: Sequence[str], categories: Sequence[str] = ()) -> Kin:
    """Clusters of prompts: those of one category, and those that share a word.

    Parameters
    ----------
    categories : one a prompt, or none.

    Returns
    -------
    Numbers by prompt, in no order that says which word it was; words of one prompt alone and of
    more than a fifth of them make no cluster.
    """
    words = [{("word", word) for word in _WORD.findall(text.casefold())} for text in prompts]
    named = [{("category", name)} for name in categories] or [set() for _ in prompts]
    marks = [a | b for a, b in zip(words, named, strict=True)]
    counts = Counter(mark for found in marks for mark in found)
    limit = COMMON * len(prompts)
    shared = sorted(m for m, n in counts.items() if n > 1 and (m[0] == "category" or n <= limit))
    number = {mark: at for at, mark in enumerate(shared)}
    return tuple(tuple(sorted(number[m] for m in found if m in number)) for found in marks)


def design_effect(values: Sequence[float], kin: Kin) -> float:
    """By how much sharing clusters inflates the variance of a mean; 1 without clusters.

    Parameters
    ----------
    values : one a prompt.
    kin : clusters of the same prompts; empty where they are unknown.

    Returns
    -------
    float in [1, n]; 1 where all values are equal, for then the data say nothing of it.

    Notes
    -----
    Two prompts may be correlated where they share any cluster (multi-way clustering), so that the
    variance is sum_ij K_ij e_i e_j / n^2 with residuals e. Both it and the variance without
    correlation are divided by what they are for independent values, which for disjoint clusters of
    one size is the usual G / (G - 1).

    References
    ----------
    Cameron, Gelbach and Miller (2011), JBES 29:238. Kish (1965), Survey Sampling (design effect).
    """
    n = len(values)
    if not kin or n < 2 or min(values) == max(values):
        return 1.0
    members = np.zeros((n, 1 + max((c for found in kin for c in found), default=0)))
    for at, found in enumerate(kin):
        members[at, list(found)] = 1.0
    alike = (members @ members.T > 0).astype(float)
    np.fill_diagonal(alike, 1.0)
    apart = np.asarray(values, dtype=float) - float(np.mean(values))
    expected = n - alike.sum() / n
    if expected <= 1.0:
        return float(n)
    inflated = float(apart @ alike @ apart) / expected
    return float(min(n, max(1.0, inflated / (float(apart @ apart) / (n - 1)))))
