"""Queries that lie together are searched together, around a centre of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .tiles import Ints

LEAST = 8
MOST = 64


def group_queries(queries: Tensor) -> list[Ints]:
    """Split queries so that each group lies close around its mean, as families do.

    Parameters
    ----------
    queries : (q, w) float32.

    Returns
    -------
    Row numbers of each group; what lies near nobody makes the last group.

    Notes
    -----
    Leaders: a query without a group gathers all others that are nearer to it than half of its
    distance from the mean of all. O(q w) a leader, `MOST` leaders at most.
    """
    away = queries - queries.mean(0)
    reach = torch.linalg.vector_norm(away, dim=1) / 2
    free = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
    found: list[Ints] = []
    alone: list[Ints] = []
    for leader in range(len(queries)):
        if not free[leader]:
            continue
        if len(found) + len(alone) >= MOST:
            break
        near = torch.linalg.vector_norm(away - away[leader], dim=1) <= reach[leader]
        members = (near & free).nonzero()[:, 0]
        free[members] = False
        (found if len(members) >= LEAST else alone).append(members.cpu().numpy())
    rest = free.nonzero()[:, 0].cpu().numpy()
    last = np.sort(np.concatenate([*alone, rest]))
    return [*found, last] if last.size else found
