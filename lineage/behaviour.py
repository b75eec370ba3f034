"""Whether two models see the same prompts alike: linear CKA from stored fingerprints.

The fingerprint of a model is, at eight relative depths, the centred Gram matrix of its hidden
states over a fixed prompt set, at unit norm. Linear CKA of two models is then one inner product,
that of all pairs one matrix product, whatever their widths. The biased estimate grows with width
over prompts, for unrelated models too; the debiased one does not, and is what is judged.

References
----------
Kornblith, Norouzi, Lee and Hinton (2019), arXiv:1905.00414. Song, Smola, Gretton, Bedo and
Borgwardt (2012), JMLR 13:1393: the unbiased HSIC. Szekely and Rizzo (2014), Ann. Statist. 42:2382:
U-centring, under which it is an inner product. Nguyen, Raghu and Kornblith (2021),
arXiv:2010.15327: debiased CKA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compute import Compute
from .statistics import benjamini_hochberg

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

POSITIONS = 8
LEAST_PROMPTS = 8
LEAST_NULL = 40
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviouralKin:
    """Two models that see prompts alike.

    `debiased` and `biased` are mean linear CKA over the depths; `p_value` the share of pairs of
    unrelated models that are at least as alike, `null` how many such pairs there were, and
    `q_value` p after false-discovery control over the pairs; both None below `LEAST_NULL` pairs.
    """

    first: int
    second: int
    debiased: float
    biased: float
    null: int
    p_value: float | None
    q_value: float | None


def fingerprint(states: Mapping[int, Float64]) -> Float32:
    """Centred unit-norm Gram vectors at `POSITIONS` relative depths.

    Parameters
    ----------
    states : (n, d) hidden states of the same n prompts by depth, the last layer among them.

    Returns
    -------
    (POSITIONS, n (n + 1) / 2) float32: the upper triangle of the Gram matrix with entries off the
    diagonal times sqrt 2, so that an inner product of vectors is that of matrices. All zeros at a
    depth where every prompt gives the same state.

    Raises
    ------
    ValueError : no depth, or fewer than `LEAST_PROMPTS` prompts.
    """
    if not states or len(next(iter(states.values()))) < LEAST_PROMPTS:
        raise ValueError(f"a fingerprint needs {LEAST_PROMPTS} prompts and one depth")
    last = max(states)
    wanted = [last * at / POSITIONS for at in range(1, POSITIONS + 1)]
    depths = [min(states, key=lambda depth: (abs(depth - place), -depth)) for place in wanted]
    vectors = {depth: _gram_vector(states[depth]) for depth in set(depths)}
    return np.stack([vectors[depth] for depth in depths]).astype(np.float32)


def _gram_vector(states: Float64) -> Float64:
    away = states - states.mean(axis=0)
    # Scaled first: the square of a float16 state can be beyond what float32 holds.
    away = away / max(float(np.abs(away).max()), _TINY)
    return _unit(_packed(away @ away.T))


def _packed(matrix: Float64) -> Float64:
    rows, columns = np.triu_indices(len(matrix))
    vector: Float64 = matrix[rows, columns] * np.where(rows == columns, 1.0, 2.0**0.5)
    return vector


def _unpacked(vector: Float64) -> Float64:
    n = prompts_of(vector.size)
    rows, columns = np.triu_indices(n)
    matrix = np.zeros((n, n))
    matrix[rows, columns] = vector / np.where(rows == columns, 1.0, 2.0**0.5)
    whole: Float64 = matrix + np.triu(matrix, 1).T
    return whole


def _unit(vector: Float64) -> Float64:
    norm = float(np.linalg.norm(vector))
    unit: Float64 = vector / norm if norm > _TINY else np.zeros_like(vector)
    return unit


def prompts_of(size: int) -> int:
    """n of a vector of n (n + 1) / 2 entries."""
    return int((math.isqrt(8 * size + 1) - 1) // 2)


def debiased(vectors: Float32) -> Float32:
    """The same Gram vectors U-centred, at unit norm: their inner product is debiased CKA.

    Notes
    -----
    A~_ij = a_ij - r_i / (n-2) - r_j / (n-2) + s / ((n-1)(n-2)) off the diagonal, whose entries are
    0; r are row sums and s the sum without the diagonal. Centring before does not change it.
    """
    return np.stack([_u_centred(row.astype(np.float64)) for row in vectors]).astype(np.float32)


def _u_centred(vector: Float64) -> Float64:
    matrix = _unpacked(vector)
    np.fill_diagonal(matrix, 0.0)
    n = len(matrix)
    sums = matrix.sum(axis=0)
    matrix -= (sums[:, None] + sums[None, :]) / (n - 2)
    matrix += sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(matrix, 0.0)
    return _unit(_packed(matrix))


def all_pairs(fingerprints: Sequence[Float32], *, compute: Compute) -> Float64:
    """(m, m) mean CKA over the depths, for m fingerprints of the same prompts: one product."""
    rows = np.stack([one.reshape(-1) for one in fingerprints])
    return compute.gram(rows) / len(fingerprints[0])


def behavioural_kin(
    fingerprints: Sequence[Float32], families: Sequence[int], *, compute: Compute, nearest: int = 8
) -> list[BehaviouralKin]:
    """The pairs that are most alike, each judged against pairs of unrelated models.

    Parameters
    ----------
    families : (m,) models of different numbers are unrelated by their weights.
    nearest : others that are reported of each model.

    Notes
    -----
    The null of a pair leaves out all pairs that one of its own two models is in: a model that is
    like everybody does not vouch for itself, and one pair is not its own null. False discoveries
    are controlled over all pairs, for the nearest were chosen among them. O(m^2 (v + log m)).
    """
    biased = all_pairs(fingerprints, compute=compute)
    values = all_pairs([debiased(one) for one in fingerprints], compute=compute)
    names = np.asarray(families)
    counts, p_values = _against_strangers(values, names[:, None] != names[None, :])
    upper = np.triu_indices(len(values), 1)
    tested = counts[upper] >= LEAST_NULL
    q_values = np.full(values.shape, np.nan)
    chosen = upper[0][tested], upper[1][tested]
    q_values[chosen] = benjamini_hochberg(p_values[chosen].tolist())
    return [
        BehaviouralKin(
            first=i,
            second=j,
            debiased=float(values[i, j]),
            biased=float(biased[i, j]),
            null=int(counts[i, j]),
            p_value=float(p_values[i, j]) if counts[i, j] >= LEAST_NULL else None,
            q_value=float(q_values[i, j]) if counts[i, j] >= LEAST_NULL else None,
        )
        for i, j in sorted(_nearest_pairs(values, nearest))
    ]


def _against_strangers(
    values: Float64, apart: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Float64]:
    """For each pair, how many pairs of strangers are its null, and the share at least as alike."""
    everyone = np.sort(values[np.triu(apart, 1)])
    own = [np.sort(row[strange]) for row, strange in zip(values, apart, strict=True)]
    sizes = np.array([row.size for row in own])
    above = np.stack(
        [row.size - np.searchsorted(row, at) for row, at in zip(own, values, strict=True)]
    )
    # Who is in the pair is counted out, the pair itself, if strangers, not twice.
    counts = everyone.size - sizes[:, None] - sizes[None, :] + apart
    reached = everyone.size - np.searchsorted(everyone, values) - above - above.T + apart
    p_values: Float64 = (1 + reached) / (1 + counts)
    return counts, p_values


def _nearest_pairs(values: Float64, nearest: int) -> set[tuple[int, int]]:
    pairs = set()
    for i, row in enumerate(values):
        order = [int(j) for j in np.argsort(-row, kind="stable") if j != i][:nearest]
        pairs |= {(min(i, j), max(i, j)) for j in order}
    return pairs
