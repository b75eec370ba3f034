"""Who is near whom among thousands: candidates from a thin sample of every sketch.

A few weights of each block place a model well enough to find its nearest relatives (128
coordinates lose one or two of 48 edges; this takes hundreds), and a thin sample of 100,000 models
fits in memory where their sketches do not. Near ones are proposed from single-precision products
of centred rows and ranked by the difference itself, so that no digit is lost where models lie
close together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from ..dtypes import ulp
from .specimen import Specimen, matrix_places, parts_of

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_SAMPLE = 128
NEAREST = 24
HUBS = 8
MOST_HUBS = 256
SURVIVORS = 4
TILE = 1024
COARSE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinSample:
    """Evenly spaced weights of each matrix block of one model.

    `places` says what must agree for two models to be compared; `weights` has up to
    `BLOCK_SAMPLE` float32 values a block, by block name; `floors` the squared norm that rounding
    to the published dtype leaves in them.
    """

    places: frozenset[tuple[object, ...]]
    weights: Mapping[str, Float32]
    floors: Mapping[str, float]


def thin_sample(one: Specimen) -> ThinSample:
    """Thin out one specimen: some 12 KB of a full sketch."""
    blocks = [one.blocks[name] for name in one.matrices()]
    kept = {str(b.key): _evenly(b.values.size) for b in blocks}
    spacing = {str(b.key): ulp(b.values[kept[str(b.key)]], b.grain) for b in blocks}
    return ThinSample(
        places=matrix_places(one),
        weights={str(b.key): b.values[kept[str(b.key)]] for b in blocks},
        floors={
            name: float((step.astype(np.float64) ** 2).sum() / 12) for name, step in spacing.items()
        },
    )


def _evenly(size: int) -> Ints:
    return np.arange(0, size, max(1, size // BLOCK_SAMPLE))[:BLOCK_SAMPLE]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinPart:
    """Models that can be compared: their numbers, (n, d) float32 rows and (n,) rounding floors."""

    numbers: tuple[int, ...]
    rows: Float32
    floors: Float64


def comparable_rows(samples: Sequence[ThinSample]) -> list[ThinPart]:
    """Split models into parts that can be compared."""
    found = []
    for part in parts_of([one.places for one in samples]):
        shared = frozenset.intersection(*(samples[i].places for i in part))
        names = sorted(str(place[0]) for place in shared)
        rows = [np.concatenate([samples[i].weights[name] for name in names]) for i in part]
        floors = [sum(samples[i].floors[name] for name in names) for i in part]
        found.append(ThinPart(numbers=tuple(part), rows=np.stack(rows), floors=np.array(floors)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """For each model the nearest others, nearest first.

    `index` (n, k) int64, -1 where there are fewer than k; `square` (n, k) squared distances of
    the thin rows, infinite there.
    """

    index: Ints
    square: Float32

    def of(self, row: int) -> list[int]:
        """The others of one model, nearest first."""
        return [int(i) for i in self.index[row] if i >= 0]


def nearest_rows(
    rows: Float32,
    *,
    compute: Compute,
    count: int = NEAREST,
    before: Ints | None = None,
    among: Ints | None = None,
    wanted: Ints | None = None,
) -> Nearest:
    """The nearest rows of each row.

    Parameters
    ----------
    rows : (n, d) float32.
    before : (n,) places in an order; only rows with a smaller place than the row's own count.
    among, wanted : numbers of the rows to look among, and of those to look for; None for all.

    Notes
    -----
    O(n m d / 4) products in tiles of 1,024 rows, then the exact squared difference of four times
    as many as are wanted. Memory: one tile of (1,024, m) float32 beside the rows.
    """
    pool = np.arange(len(rows)) if among is None else among
    asked = np.arange(len(rows)) if wanted is None else wanted
    index = np.full((len(asked), count), -1, dtype=np.int64)
    square = np.full((len(asked), count), np.inf, dtype=np.float32)
    if not pool.size:
        return Nearest(index=index, square=square)
    coarse = rows[:, ::COARSE] - rows[pool, ::COARSE].mean(axis=0)
    norms = np.einsum("ij,ij->i", coarse, coarse)
    for start in range(0, len(asked), TILE):
        at = asked[start : start + TILE]
        away = norms[at, None] + norms[None, pool] - 2 * compute.cross(coarse[at], coarse[pool])
        away[at[:, None] == pool[None, :]] = np.inf
        if before is not None:
            away[before[pool][None, :] >= before[at][:, None]] = np.inf
        for k, row in enumerate(at):
            likely = _smallest(away[k], SURVIVORS * count)
            near, exact = _ranked(rows, int(row), pool[likely], count)
            index[start + k, : near.size] = near
            square[start + k, : near.size] = exact
    return Nearest(index=index, square=square)


def _smallest(values: Float32, count: int) -> Ints:
    """Places of the smallest finite values, in no order."""
    some = np.argpartition(values, count)[:count] if count < values.size else np.arange(values.size)
    kept: Ints = some[np.isfinite(values[some])]
    return kept


def _ranked(rows: Float32, row: int, others: Ints, count: int) -> tuple[Ints, Float32]:
    difference = rows[others] - rows[row]
    exact = np.einsum("ij,ij->i", difference, difference)
    order = np.argsort(exact, kind="stable")[:count]
    return others[order], exact[order]


def hubs_of(near: Nearest, *, parents: Iterable[int] = ()) -> Ints:
    """Rows that most others have for a parent or among their nearest: what a crowd came from."""
    counts = Counter((*near.index[near.index >= 0].tolist(), *parents))
    return np.array(sorted(i for i, _ in counts.most_common(MOST_HUBS)), dtype=np.int64)


def joined(near: Sequence[int], hubs: Iterable[int]) -> list[int]:
    """Near ones and near hubs, each once."""
    return list(dict.fromkeys((*near, *hubs)))
