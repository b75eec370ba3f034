"""Bootstrap support: how often a place on a path is chosen again from other weights.

The sampled weights are what chance chose; drawing among them anew shows how far the decision hangs
on that choice. It says nothing of what all weights have in common, such as shared training data:
a place can have full support and be wrong, and `confidence` is what is calibrated.

References
----------
Felsenstein (1985), Evolution 39:783 (support of a branch by resampled characters).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .path import Sample

REPLICATES = 16
DRAWN = 4_096


def resampled(sample: Sample, *, replicate: int) -> Sample:
    """`DRAWN` of the sampled weights drawn with replacement, in the order of their blocks.

    The draw depends on the number of the replicate alone, never on the models.
    """
    width = sample.rows.shape[1]
    draw = np.random.default_rng([replicate, width])
    return with_columns(sample, np.sort(draw.integers(width, size=min(DRAWN, width))))


def with_columns(sample: Sample, columns: NDArray[np.int64]) -> Sample:
    """The sampled weights at some places, in rising order; blocks without any are left out."""
    block = np.searchsorted(np.array(sample.starts), columns, side="right")
    starts = np.flatnonzero(np.diff(block, prepend=0))
    return Sample(rows=sample.rows[:, columns], starts=tuple(int(s) for s in starts))


def support_of(
    decide: Callable[[Sample], int], sample: Sample, *, replicates: int = REPLICATES
) -> float:
    """Share, in [0, 1], of resampled decisions that equal the one from the whole sample.

    Parameters
    ----------
    decide : the decision from a sample; the same for the same sample.
    """
    whole = decide(sample)
    again = (decide(resampled(sample, replicate=b)) for b in range(replicates))
    return sum(one == whole for one in again) / replicates
