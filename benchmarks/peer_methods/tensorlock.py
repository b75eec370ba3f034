"""TensorLock: moments for the family, distances and effective rank for the edges.

Re-implemented from the description of TensorLock (2026), without its use of names and file types,
for which this comparison has stand-ins: a tensor is taken for quantized when a run of 32 weights
holds at most 16 values, and the residual of a merge is divided by the distance to the nearer
parent (the published rule is absolute, and no scale is shared with models this small). Families
are connected components of the moment graph; the published hop-distance HDBSCAN is left out.
Nothing of its code is used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.stats import kurtosis, skew, spearmanr
from zoo_scoring import Claim

from .loading import Bucket, Float64, load, square_distances
from .protocol import Dates, PeerResult, may_be_parent

SIMILAR = 0.6
RESIDUAL = 0.2
BINS = 256
RUN = 32
FEW = 16
ATTENTION = r"attn|attention"
WRITERS = r"o_proj|down_proj|dense_4h_to_h|attention\.dense|output\.dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLock:
    """The three rules. With dates, time orients the edges instead of the effective rank."""

    @property
    def label(self) -> str:
        """Name in tables."""
        return "TensorLock (own)"

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Name parents; see `protocol.Peer`."""
        began = time.perf_counter()
        loaded = load(models)
        claims: list[Claim] = []
        related: set[frozenset[str]] = set()
        for bucket in loaded.buckets:
            found = _Bucket.of(bucket, dates)
            for group in found.families():
                names = [bucket.names[at] for at in group]
                related |= {frozenset((a, b)) for a in names for b in names if a < b}
                claims += found.family_edges(group)
        return PeerResult(
            claims=tuple(claims),
            related=frozenset(related),
            bytes_read=loaded.bytes_read,
            seconds=time.perf_counter() - began,
            unread=loaded.unread,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bucket:
    """Measurements of one bucket."""

    bucket: Bucket
    dates: Dates
    far: Float64
    writers: Float64
    rank: Float64
    quantized: NDArray[np.bool_]

    @classmethod
    def of(cls, bucket: Bucket, dates: Dates) -> _Bucket:
        writers = bucket.named(WRITERS) or list(bucket.matrices)
        return cls(
            bucket=bucket,
            dates=dates,
            far=square_distances(bucket),
            writers=square_distances(bucket, writers),
            rank=_effective_rank(bucket),
            quantized=_quantized(bucket.matrices[_middle(bucket)]),
        )

    def families(self) -> list[list[int]]:
        moments = _moments(self.bucket)
        if len(moments) < 2:
            return [[at] for at in range(len(moments))]
        similar = np.array([[_rho(a, b) for b in moments] for a in moments]) > SIMILAR
        _, labels = connected_components(similar, directed=False)
        return [np.nonzero(labels == label)[0].tolist() for label in np.unique(labels)]

    def family_edges(self, group: Sequence[int]) -> Iterator[Claim]:
        names = self.bucket.names
        whole = [at for at in group if not self.quantized[at]]
        rest = []
        for at in whole:
            if parents := self._merge(at, whole):
                for parent in parents:
                    yield Claim(child=names[at], parent=names[parent], relation="merge")
            else:
                rest.append(at)
        yield from self._tree(rest)
        for at in group:
            near = [o for o in whole if may_be_parent(names[o], names[at], self.dates)]
            if self.quantized[at] and near:
                best = max(near, key=lambda other: self._information(at, other))
                yield Claim(child=names[at], parent=names[best], relation="quantized")

    def _merge(self, child: int, members: Sequence[int]) -> tuple[int, int] | None:
        """The pair whose line passes the child nearest, if it passes near and between them."""
        names = self.bucket.names
        may = [o for o in members if may_be_parent(names[o], names[child], self.dates)]
        if len(may) < 2:
            return None
        d2 = self.writers
        near = d2[child, may]
        apart = d2[np.ix_(may, may)]
        along = (apart + near[:, None] - near[None, :]) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            share = along / apart
            residual = near[:, None] - along**2 / apart
            relative = residual / np.minimum(near[:, None], near[None, :])
        relative[~((share > 0.05) & (share < 0.95) & np.isfinite(relative))] = np.inf
        a, b = np.unravel_index(int(np.argmin(relative)), relative.shape)
        return (may[a], may[b]) if relative[a, b] < RESIDUAL**2 else None

    def _tree(self, members: Sequence[int]) -> Iterator[Claim]:
        """The shortest tree, every edge from the lower effective rank (or date) to the higher."""
        names = self.bucket.names
        lengths = np.maximum(self.far[np.ix_(members, members)], np.finfo(float).tiny)
        for a, b in zip(*minimum_spanning_tree(lengths).nonzero(), strict=True):
            one, other = members[a], members[b]
            if self.dates is not None:
                first = may_be_parent(names[one], names[other], self.dates)
            else:
                first = bool(self.rank[one] <= self.rank[other])
            parent, child = (one, other) if first else (other, one)
            yield Claim(child=names[child], parent=names[parent])

    def _information(self, child: int, other: int) -> float:
        """Normalised mutual information of the middle tensor, over `BINS` bins a side."""
        stack = self.bucket.matrices[_middle(self.bucket)]
        joint, _, _ = np.histogram2d(stack[child].ravel(), stack[other].ravel(), bins=BINS)
        joint /= joint.sum()
        rows, columns = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
        return 2 * (rows + columns - _entropy(joint.ravel())) / max(rows + columns, 1e-12)


def _middle(bucket: Bucket) -> str:
    tensors = bucket.named("")
    return tensors[len(tensors) // 2]


def _moments(bucket: Bucket) -> Float64:
    """(n, features) std, skew and kurtosis of attention matrices, standardised over depth."""
    n = len(bucket.names)
    by_role: dict[str, list[str]] = {}
    for name in bucket.named(ATTENTION):
        by_role.setdefault(name.split(".", 3)[-1], []).append(name)
    columns = []
    for tensors in by_role.values():
        flat = [bucket.matrices[t].reshape(n, -1).astype(np.float64) for t in tensors]
        for moment in (np.std, skew, kurtosis):
            curve = np.stack([moment(layer, axis=1) for layer in flat], axis=1)  # (n, layers)
            spread = curve.std(axis=1, keepdims=True)
            columns.append((curve - curve.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-12))
    return np.concatenate(columns, axis=1) if columns else np.zeros((n, 1))


def _rho(a: Float64, b: Float64) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def _effective_rank(bucket: Bucket) -> Float64:
    """(n,) mean over matrices of exp(H(s / sum s)), s the singular values."""
    total = np.zeros(len(bucket.names))
    for stack in bucket.matrices.values():
        s = np.linalg.svd(stack, compute_uv=False).astype(np.float64)
        p = s / np.maximum(s.sum(axis=1, keepdims=True), 1e-30)
        total += np.exp([_entropy(row) for row in p])
    return total / len(bucket.matrices)


def _entropy(p: Float64) -> float:
    some = p[p > 0]
    return float(-(some * np.log(some)).sum())


def _quantized(stack: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) whether the median run of `RUN` weights holds at most `FEW` values."""
    n = stack.shape[0]
    flat = stack.reshape(n, -1)
    runs = np.sort(flat[:, : flat.shape[1] // RUN * RUN].reshape(n, -1, RUN), axis=2)
    distinct = 1 + (np.diff(runs, axis=2) != 0).sum(axis=2)
    few: NDArray[np.bool_] = np.median(distinct, axis=1) <= FEW
    return few
