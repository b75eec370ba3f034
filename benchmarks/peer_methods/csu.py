"""The constrained independence test of Zhu et al.: related or not, and nothing else.

Re-implemented from the description of Zhu, Ahmed, Kuditipudi and Liang (2025), "Independence Tests
for Language Models", ICML (statistic CSU). Nothing of their code is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi2, spearmanr

from .loading import Bucket, Float32, load
from .protocol import Dates, PeerResult

UP = r"up_proj|dense_h_to_4h|intermediate\.dense"
LEVEL = 1e-3
SMALLEST = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Csu:
    """Hidden units matched by cosine; is the matching the identity more than chance allows?

    A pair is related at `LEVEL` after Bonferroni's correction over all pairs of its bucket. The
    test has no parent to name: no edges are claimed.
    """

    @property
    def label(self) -> str:
        """Name in tables."""
        return "CSU (own)"

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Related pairs only; see `protocol.Peer`."""
        began = time.perf_counter()
        loaded = load(models)
        related: set[frozenset[str]] = set()
        for bucket in loaded.buckets:
            names = bucket.names
            pairs = [(a, b) for a in range(len(names)) for b in range(a)]
            for a, b in pairs:
                if pair_p_value(bucket, a, b) * len(pairs) < LEVEL:
                    related.add(frozenset((names[a], names[b])))
        return PeerResult(
            claims=(),
            related=frozenset(related),
            bytes_read=loaded.bytes_read,
            seconds=time.perf_counter() - began,
            unread=loaded.unread,
        )


def pair_p_value(bucket: Bucket, a: int, b: int) -> float:
    """One-sided p value that two models are independent: Spearman a layer, Fisher over layers."""
    tensors = bucket.named(UP)
    logs = []
    for name in tensors:
        left, right = (_unit(bucket.matrices[name][at]) for at in (a, b))
        rows, columns = linear_sum_assignment(left @ right.T, maximize=True)
        found = spearmanr(rows, columns, alternative="greater")
        logs.append(np.log(max(float(found.pvalue), SMALLEST)))
    return float(chi2.sf(-2 * np.sum(logs), 2 * len(logs))) if logs else 1.0


def _unit(matrix: Float32) -> Float32:
    norm = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Float32 = matrix / np.maximum(norm, np.float32(1e-30))
    return unit
