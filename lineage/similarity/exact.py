"""Distances that are right to the last digits: difference first, then square.

A Gram matrix of weights that lie close together subtracts two large numbers; in float32 nothing is
left below a relative distance of 1e-3. The difference of two float32 weights within a factor of
two of each other is exact (Sterbenz 1974), so here it is taken before anything is squared.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .tiles import Ints, Rows, take

Float64 = NDArray[np.float64]

CPU_CACHE = 4 << 20


def square_distances(
    queries: Tensor, corpus: Rows, index: Ints, *, budget: int, device: str
) -> Float64:
    """Squared distance of each query to the rows named beside it.

    Parameters
    ----------
    queries : (q, d) float32 on the device, not centred.
    index : (q, s) rows of the corpus; -1 for none.
    budget : bytes that the gathered rows and their differences may take.

    Returns
    -------
    (q, s) float64, infinite where there is no row.
    """
    out = np.full(index.shape, np.inf)
    width = max(1, index.shape[1]) * queries.shape[1] * 4
    step = max(1, _at_once(budget, device) // (3 * width))
    for start in range(0, len(index), step):
        part = index[start : start + step]
        named, place = np.unique(part, return_inverse=True)
        held = take(corpus, np.maximum(named, 0), device=device)
        picked = held[torch.from_numpy(place.reshape(-1)).to(device)]
        rows = picked.reshape(*part.shape, -1)
        rows -= queries[start : start + step, None, :]
        found = _squares(rows).cpu().numpy()
        out[start : start + step] = np.where(part >= 0, found, np.inf)
    return out


def pair_squares(left: Tensor, right: Tensor, pairs: Tensor, *, budget: int) -> Tensor:
    """(p,) float64 squared distances of the (p, 2) named rows of two float32 matrices."""
    step = max(1, _at_once(budget, left.device.type) // (12 * left.shape[1]))
    parts = [
        _squares(left[some[:, 0]] - right[some[:, 1]])
        for some in (pairs[at : at + step] for at in range(0, len(pairs), step))
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device=left.device)


def _at_once(budget: int, device: str) -> int:
    """Bytes worked on at a time: on a CPU what stays in its caches."""
    return min(budget, CPU_CACHE) if device == "cpu" else budget


def _squares(differences: Tensor) -> Tensor:
    """Squared norms in float64, summed in float32 lanes: right to some 1e-6."""
    norms: Tensor = torch.linalg.vector_norm(differences, dim=-1)
    return norms.double().square()
