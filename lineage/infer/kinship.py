"""Related or not: matched hidden units against the same units shuffled.

Training is equivariant to a permutation of hidden units, so for two independently trained models
the i-th unit of one is no nearer to the i-th unit of the other than to any other unit (Zhu et al.
2025, "Independence tests for language models"). The null is measured on the very pairs under
test: the units of one model are rotated by every shift in turn, and the agreement of shifted
units, over all pairs of the bucket, gives the spread that chance produces here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from ..sketch.plan import is_writer
from ..sketch.sketch import complete_rows
from ..statistics import benjamini_hochberg
from .alignment import unit_norm
from .disjoint import DisjointSets
from .specimen import Specimen, shared_matrices

MAX_SHIFTS = 16
FDR = 1e-3
MIN_AGREEMENT = 0.02
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship:
    """Agreement of every pair of a bucket, judged.

    `agreement` (n, n) mean cosine of matched units; `null_sd` its spread under shuffled units;
    `p_value` and `q_value` (n, n), one-sided; `pairs` the number of pairs tested.
    """

    agreement: Float64
    null_sd: float
    p_value: Float64
    q_value: Float64
    pairs: int

    def related(self, a: int, b: int) -> bool:
        """Whether the pair is kin at the false-discovery rate `FDR`."""
        return bool(self.q_value[a, b] < FDR and self.agreement[a, b] > MIN_AGREEMENT)


def measure_kinship(group: Sequence[Specimen], *, compute: Compute) -> Kinship:
    """Test every pair of a shape bucket.

    Parameters
    ----------
    group : n specimens of one shape key.

    Notes
    -----
    O(n^2 d) products for each of at most 16 shifts; d is the number of sampled weights in
    matrices whose rows are hidden units.
    """
    n = len(group)
    agreement = np.zeros((n, n))
    null_squares, null_count, used = 0.0, 0, 0
    for name in shared_matrices(group):
        if is_writer(group[0].blocks[name].key):
            continue
        units = _unit_rows(group, name)
        if units.shape[1] < 2:
            continue
        agreement += _matched(units, units, compute)
        shifted = _shuffled(units, compute)
        null_squares += float((shifted**2).sum())
        null_count += shifted.size
        used += 1
    if not used:
        return _nothing(n)
    agreement /= used
    null_sd = math.sqrt(null_squares / null_count / used)
    return _judge(agreement, null_sd)


def kinship_of(
    child: Specimen, others: Sequence[Specimen], *, null_sd: float, tests: int, compute: Compute
) -> Kinship:
    """Test one model against some others, with a null measured before on their bucket.

    Parameters
    ----------
    null_sd : spread of the agreement under shuffled units, from `measure_kinship` of some members.
    tests : pairs tested in the whole bucket; p-values are multiplied by it (Bonferroni, which
        needs no other pair and is stricter than the false-discovery rate).

    Returns
    -------
    Kinship of `[*others, child]`; only pairs with the child are filled in.
    """
    group, n = [*others, child], len(others) + 1
    found = _nothing(n)
    names = [
        name
        for name in shared_matrices(group)
        if not is_writer(child.blocks[name].key) and _unit_rows(group[-1:], name).shape[1] > 1
    ]
    if not others or not names or null_sd <= 0:
        return found
    agreement = np.zeros(n - 1)
    for name in names:
        units = _unit_rows(group, name)
        agreement += _matched(units[-1:], units[:-1], compute)[0] / len(names)
    p = np.array([_upper_tail(a / null_sd) for a in agreement])
    for matrix, values in (
        (found.agreement, agreement),
        (found.p_value, p),
        (found.q_value, np.minimum(p * tests, 1.0)),
    ):
        matrix[-1, :-1] = matrix[:-1, -1] = values
    return Kinship(
        agreement=found.agreement,
        null_sd=null_sd,
        p_value=found.p_value,
        q_value=found.q_value,
        pairs=tests,
    )


def families(kinship: Kinship, size: int) -> list[list[int]]:
    """Connected components of the related pairs, singletons included."""
    sets = DisjointSets()
    for a in range(size):
        for b in range(a):
            if kinship.related(a, b):
                sets.join(a, b)
    groups: dict[int, list[int]] = {}
    for i in range(size):
        groups.setdefault(sets.find(i), []).append(i)
    return list(groups.values())


def _unit_rows(group: Sequence[Specimen], name: str) -> Float32:
    """(n, units, width) unit-norm rows of a block; a row of zeros stays zero."""
    rows = []
    for one in group:
        block = one.blocks[name]
        _, whole = complete_rows(block.values, start=block.start, columns=block.columns)
        rows.append(unit_norm(whole))
    return np.stack(rows)  # (n, units, width)


def _matched(left: Float32, right: Float32, compute: Compute) -> Float64:
    """(n, m) mean cosine between units with the same index."""
    n, units, _ = left.shape
    sums = compute.cross(left.reshape(n, -1), right.reshape(len(right), -1)).astype(np.float64)
    means: Float64 = sums / units
    return means


def _shuffled(units: Float32, compute: Compute) -> Float64:
    """Mean cosines with the units rotated, over shifts and all ordered pairs of models."""
    count = units.shape[1]
    shifts = np.unique(np.linspace(1, count - 1, min(MAX_SHIFTS, count - 1)).astype(int))
    return np.stack([_matched(units, np.roll(units, int(s), axis=1), compute) for s in shifts])


def _judge(agreement: Float64, null_sd: float) -> Kinship:
    n = agreement.shape[0]
    z = agreement / max(null_sd, 1e-12)
    p = np.vectorize(_upper_tail)(z)
    upper = np.triu_indices(n, 1)
    q = np.ones((n, n))
    if upper[0].size:
        adjusted = benjamini_hochberg(p[upper].tolist())
        q[upper] = adjusted
        q.T[upper] = adjusted
    return Kinship(
        agreement=agreement, null_sd=null_sd, p_value=p, q_value=q, pairs=int(upper[0].size)
    )


def _upper_tail(z: float) -> float:
    """Of the standard normal distribution."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def _nothing(n: int) -> Kinship:
    ones = np.ones((n, n))
    return Kinship(
        agreement=np.zeros((n, n)), null_sd=0.0, p_value=ones, q_value=ones.copy(), pairs=0
    )
