"""Signs of an edit in whole matrices: a scar that needs no parent, and the spectrum of a change.

A projection takes one direction out of everything that is written to the residual stream. What is
left of the matrices writes nothing along it, and no trained model leaves a direction so empty.

References
----------
Arditi et al. (2024), arXiv:2406.11717 (the edit). Baik, Ben Arous and Peche (2005), Annals of
Probability 33:1643 (when a spike can be told from noise). Halko, Martinsson and Tropp (2011), SIAM
Review 53:217, algorithm 4.4 (leading singular vectors by subspace iteration).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MAX_DIRECTIONS = 8
INNER = 64
RANK = 20
_Z = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Scar:
    """The emptiest directions of a window of layers.

    `value` is the largest gap log10(lambda[k + 1] / lambda[k]) among the `k` smallest eigenvalues
    of what the window's matrices write, at most `MAX_DIRECTIONS`; `low` and `high` are 95 % limits
    by the jackknife over matrices. `inner` is the largest gap further inside of the same spectrum:
    what gaps of this model look like where no edit reaches. `first` and `last` are the layers.
    """

    value: float
    low: float
    high: float
    inner: float
    k: int
    first: int
    last: int
    matrices: int


class ScarScan:
    """Looks for a scar in windows that slide over the layers, in one pass.

    Parameters
    ----------
    layers : of the model. Windows are a quarter of them, two at least, and overlap by half.
    """

    def __init__(self, layers: int) -> None:
        self._width = min(layers, max(2, round(layers / 4)))
        self._stride = max(1, self._width // 2)
        self._layers = layers
        self._held: deque[tuple[int, list[Float32]]] = deque(maxlen=self._width)

    def add(self, layer: int, matrices: Sequence[Float32]) -> Scar | None:
        """The next layer's writing matrices, each [residual, inputs]; a scar where a window ends.

        Notes
        -----
        O(d^2 m) a matrix and O(d^3) a window; d^2 numbers are held for each matrix of a window.
        """
        self._held.append((layer, [_written(matrix) for matrix in matrices]))
        full = len(self._held) == self._width
        ends = (layer + 1 - self._width) % self._stride == 0 or layer == self._layers - 1
        return self._look() if full and ends else None

    def _look(self) -> Scar | None:
        parts = [part for _, found in self._held for part in found]
        total = np.sum(parts, axis=0, dtype=np.float64)
        if not parts or total.shape[0] < 4 * MAX_DIRECTIONS:
            return None
        values, vectors = np.linalg.eigh(total)
        logs = np.log10(np.maximum(values, 1e-30 * max(values[-1], 1e-300)))
        gaps = np.diff(logs[: INNER + 1])
        k = int(np.argmax(gaps[:MAX_DIRECTIONS]))
        value = float(gaps[k])
        inner = gaps[MAX_DIRECTIONS:]
        half = _jackknife(parts, vectors[:, k], vectors[:, k + 1])
        return Scar(
            value=value,
            low=value - half,
            high=value + half,
            inner=float(inner.max()) if inner.size else math.nan,
            k=k + 1,
            first=self._held[0][0],
            last=self._held[-1][0],
            matrices=len(parts),
        )


def _written(matrix: Float32) -> Float32:
    """W W^T over its trace: what a matrix writes, in every direction."""
    square = matrix @ matrix.T
    trace = float(np.trace(square, dtype=np.float64))
    scaled: Float32 = square / np.float32(trace) if trace > 0 else square
    return scaled


def _jackknife(parts: Sequence[Float32], low: Float64, high: Float64) -> float:
    """Half-width of the gap over matrices, with the two directions held fixed."""
    count = len(parts)
    if count < 3:
        return math.inf
    energies = np.array([[v @ part @ v for v in (low, high)] for part in parts], dtype=np.float64)
    left = np.maximum(energies.sum(axis=0) - energies, 1e-300)
    gaps = np.log10(left[:, 1] / left[:, 0])
    return _Z * math.sqrt((count - 1) * float(np.var(gaps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedMatrix:
    """The leading left singular vector of one matrix's change, and how much of it that is.

    `share` of the energy lies along the first, `share_20` along the first twenty. `size` is the
    norm of the change over that of the ancestor's matrix.
    """

    leading: Float64
    share: float
    share_20: float
    size: float


def change_of(child: Float32, parent: Float32, *, seed: int = 0) -> ChangedMatrix | None:
    """The spectrum of what changed in a matrix [residual, inputs]; None where nothing did.

    Notes
    -----
    Each row is put in units of the parent's row and loses its part along it, as in the sketch
    probes: a quantizer errs along and in proportion to what it rounds.
    """
    before = parent.astype(np.float32, copy=False)
    delta = child - before
    norms = np.sqrt(np.einsum("ij,ij->i", before, before))
    size = float(np.linalg.norm(delta) / max(float(np.linalg.norm(before)), 1e-30))
    if size == 0.0:
        return None
    units = before / np.where(norms > 0, norms, 1.0)[:, None]
    white = (delta / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float64)
    white -= np.einsum("ij,ij->i", white, units)[:, None] * units
    total = float((white * white).sum())
    if total <= 0.0:
        return None
    basis = np.random.default_rng(seed).standard_normal((white.shape[0], RANK + 4))
    for _ in range(6):
        basis, _ = np.linalg.qr(white @ (white.T @ basis))
    left, sizes, _ = np.linalg.svd(basis.T @ white, full_matrices=False)
    energy = sizes**2 / total
    return ChangedMatrix(
        leading=basis @ left[:, 0],
        share=float(energy[0]),
        share_20=float(energy[:RANK].sum()),
        size=size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDirection:
    """Agreement of the changes' leading directions over whole matrices.

    `value` in [1 / M, 1]: largest eigenvalue of the mean projector; `null` is its edge for
    independent directions of the residual stream, (1 + sqrt(M / d))^2 / M. `low` and `high` are
    95 % limits by the jackknife over matrices. `share` and `share_20` are medians over them.
    """

    value: float
    low: float
    high: float
    null: float
    share: float
    share_20: float
    matrices: int


def shared_direction(changes: Sequence[ChangedMatrix]) -> SharedDirection | None:
    """Whether whole matrices changed along one direction; None with fewer than three."""
    count = len(changes)
    if count < 3:
        return None
    stack = np.stack([change.leading for change in changes])
    value = _agreement(stack)
    left = [_agreement(np.delete(stack, at, axis=0)) for at in range(count)]
    half = _Z * math.sqrt((count - 1) * float(np.var(left)))
    return SharedDirection(
        value=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        null=min(1.0, (1 + math.sqrt(count / stack.shape[1])) ** 2 / count),
        share=float(np.median([change.share for change in changes])),
        share_20=float(np.median([change.share_20 for change in changes])),
        matrices=count,
    )


def _agreement(stack: Float64) -> float:
    return float(np.linalg.eigvalsh(stack @ stack.T)[-1] / stack.shape[0])
