"""The plain ways: the nearest model is the parent, by cosine, by distance, or along a tree."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from zoo_scoring import Claim

from .loading import Bucket, Float64, load, mean_cosines, square_distances
from .protocol import Dates, PeerResult, may_be_parent

KIN = 0.5
"""Mean cosine above which two models are kin; unrelated ones lie at 0, kin well above 0.9."""

Rule = Literal["cosine", "nearest", "mst"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """A baseline without any model of what people do to weights.

    `cosine` and `nearest` (l2) take the best of the earlier models, without dates the best of all:
    they have no idea of direction, and two models may name each other. `mst` spans each connected
    group of kin by the shortest tree; its edges run from the earlier to the later model, without
    dates away from the model with most neighbours.
    """

    rule: Rule

    @property
    def label(self) -> str:
        """Name in tables."""
        return {"cosine": "mean cosine", "nearest": "nearest, l2", "mst": "shortest tree"}[
            self.rule
        ]

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Name parents; see `protocol.Peer`."""
        began = time.perf_counter()
        loaded = load(models)
        claims, related = [], set()
        for bucket in loaded.buckets:
            cosines = mean_cosines(bucket)
            related |= _kin(bucket, cosines)
            claims += list(self._bucket(bucket, cosines, dates))
        return PeerResult(
            claims=tuple(claims),
            related=frozenset(related),
            bytes_read=loaded.bytes_read,
            seconds=time.perf_counter() - began,
            unread=loaded.unread,
        )

    def _bucket(self, bucket: Bucket, cosines: Float64, dates: Dates) -> Iterator[Claim]:
        if self.rule == "cosine":
            return _best(bucket.names, 1 - cosines, cosines, dates)
        distances = square_distances(bucket)
        if self.rule == "nearest":
            return _best(bucket.names, distances, cosines, dates)
        return _tree(bucket.names, distances, cosines, dates)


def _kin(bucket: Bucket, cosines: Float64) -> set[frozenset[str]]:
    rows, columns = np.nonzero(np.triu(cosines > KIN, 1))
    return {
        frozenset((bucket.names[a], bucket.names[b])) for a, b in zip(rows, columns, strict=True)
    }


def _best(names: Sequence[str], far: Float64, cosines: Float64, dates: Dates) -> Iterator[Claim]:
    for at, child in enumerate(names):
        near = [
            (far[at, other], other)
            for other, parent in enumerate(names)
            if cosines[at, other] > KIN and may_be_parent(parent, child, dates)
        ]
        if near:
            yield Claim(child=child, parent=names[min(near)[1]])


def _tree(names: Sequence[str], far: Float64, cosines: Float64, dates: Dates) -> Iterator[Claim]:
    count, group = connected_components(cosines > KIN, directed=False)
    for label in range(count):
        members = np.nonzero(group == label)[0].tolist()
        # The sparse solver takes a zero for no edge, and exact copies are at distance zero.
        lengths = np.maximum(far[np.ix_(members, members)], np.finfo(float).tiny)
        tree = minimum_spanning_tree(lengths)
        tree = (tree + tree.T).tocsr()
        root = int(np.argmax(np.diff(tree.indptr)))
        order, before = breadth_first_order(tree, root, directed=False)
        for node in order[1:].tolist():
            parent, child = names[members[int(before[node])]], names[members[node]]
            if dates is not None and dates[child] < dates[parent]:
                parent, child = child, parent
            yield Claim(child=child, parent=parent)
