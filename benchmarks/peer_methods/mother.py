"""MoTHer: a minimum arborescence over weight distances with a kurtosis prior.

Re-implemented from the description of Horwitz, Shul and Hoshen (2025), "Unsupervised Model Tree
Heritage Recovery", ICLR, arXiv 2405.18432. The authors' code is licensed for research only;
nothing of it is used here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import networkx as nx
import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import kurtosis
from zoo_scoring import Claim

from .loading import Bucket, Float64, load, square_distances
from .protocol import Dates, Families, PeerResult, may_be_parent

PRIOR = 0.3
Distance = Literal["l2", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mother:
    """One setting of the method, which leaves to its user what this comparison is generous with.

    `families` tells the true number of families of every bucket of one shape. `falling` is the
    default belief that a child has less kurtosis than its parent. `distance` is `l2`, the paper's,
    or `max`: the largest difference of any tensor, divided by the family-wide range of that tensor.
    With dates, time replaces the prior: no model is put below a later one.
    """

    families: Families
    falling: bool = True
    distance: Distance = "l2"

    @property
    def label(self) -> str:
        """Name in tables, with the setting."""
        return f"MoTHer ({self.distance}, kurtosis {'falls' if self.falling else 'rises'})"

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Name parents; see `protocol.Peer`."""
        began = time.perf_counter()
        loaded = load(models)
        claims: list[Claim] = []
        related: set[frozenset[str]] = set()
        for bucket in loaded.buckets:
            far = _largest(bucket) if self.distance == "max" else square_distances(bucket) ** 0.5
            kurt = _kurtosis(bucket)
            for group in _clusters(far, self.families(bucket.names)):
                names = [bucket.names[at] for at in group]
                related |= {frozenset((a, b)) for a in names for b in names if a < b}
                part = far[np.ix_(group, group)]
                claims += self._arborescence(names, part, kurt[group], dates)
        return PeerResult(
            claims=tuple(claims),
            related=frozenset(related),
            bytes_read=loaded.bytes_read,
            seconds=time.perf_counter() - began,
            unread=loaded.unread,
        )

    def _arborescence(
        self, names: Sequence[str], far: Float64, kurt: Float64, dates: Dates
    ) -> Iterator[Claim]:
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(names)))
        penalty = PRIOR * far.mean()
        for parent in range(len(names)):
            for child in range(len(names)):
                if not may_be_parent(names[parent], names[child], dates):
                    continue
                rises = kurt[child] > kurt[parent]
                against = dates is None and rises == self.falling
                graph.add_edge(parent, child, weight=far[parent, child] + penalty * against)
        if len(names) > 1:
            for parent, child in nx.minimum_spanning_arborescence(graph).edges:
                yield Claim(child=names[child], parent=names[parent])


def _largest(bucket: Bucket) -> Float64:
    """(n, n) largest entry of |W_i - W_j| / (max W - min W), over tensors."""
    n = len(bucket.names)
    far = np.zeros((n, n))
    for stack in bucket.matrices.values():
        spread = float(stack.max() - stack.min()) or 1.0
        flat = stack.reshape(n, -1)
        for at in range(n):
            far[at] = np.maximum(far[at], np.abs(flat - flat[at]).max(axis=1) / spread)
    return far


def _kurtosis(bucket: Bucket) -> Float64:
    """(n,) sum over square matrices of the excess kurtosis of their entries."""
    n = len(bucket.names)
    square = [s for s in bucket.matrices.values() if s.shape[1] == s.shape[2]]
    rows = [kurtosis(s.reshape(n, -1).astype(np.float64), axis=1) for s in square]
    return np.sum(rows, axis=0) if rows else np.zeros(n)


def _clusters(far: Float64, count: int) -> list[list[int]]:
    """Ward's clusters, `count` of them."""
    if far.shape[0] < 2:
        return [[at] for at in range(far.shape[0])]
    labels = fcluster(linkage(squareform(far, checks=False), "ward"), count, "maxclust")
    return [np.nonzero(labels == label)[0].tolist() for label in np.unique(labels)]
