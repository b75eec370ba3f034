"""The nearest rows of each query: proposed by products, decided by differences, and proven.

1. Products over few coordinates propose more rows than are wanted; the exact squared
   difference ranks them, and the last one wanted bounds how far a neighbour can be.
2. Products over more coordinates (on a GPU over all, in bfloat16) leave the rows that can be
   within that bound.
3. Few of these are measured exactly. Many are searched in float32 around the mean of the queries
   that lie together, where little is lost to rounding, and ranked by exact difference again.
4. Where even that error could hide a nearer row, every row that may be one is measured exactly.

A step whose error is known to hide nothing is the last. So narrow numbers cost time where rows
lie close together, never an answer; thinned coordinates are trusted to four standard deviations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compute import Compute
from ..errors import NotComparable
from .exact import pair_squares, square_distances
from .grouping import group_queries
from .memory import CPU_ROWS, DEFAULT_BYTES, GROUP, MOST_ROWS, Blocking, blocking_for
from .proposals import (
    EXTRA,
    Best,
    Side,
    centred,
    error_share,
    least_score,
    safe_square,
    scores,
)
from .tiles import Ints, Rows, Some, as_tensor, is_on, take, tiles

Float64 = NDArray[np.float64]

SURVIVORS = 4
THIN_SURVIVORS = 2
LEAST_WIDTH = 128
OPEN_AT_ONCE = 256
SETTLED_ROWS = 4096
CPU_PAIRS = 64
GPU_PAIRS = 4096
"""Rows a query that are measured at once; more are searched as a group."""
_DEVIATIONS = 4.0
_SLACK = 1 + 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nearest rows of each query, nearest first.

    `index` (q, k) int64 row numbers, -1 where there are fewer than k; `square` (q, k) float64
    squared distances, infinite there; `settled` queries for which the proposals were no proof.
    """

    index: Ints
    square: Float64
    settled: int

    def relative(self, norms: Float64) -> Float64:
        """(q, k) distances relative to the norms of the queries."""
        found: Float64 = np.sqrt(self.square) / np.maximum(norms, 1e-30)[:, None]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """Which coordinates are multiplied: every `propose`-th in step 1, every `sift`-th in step 2.

    `narrow`: in bfloat16, otherwise in float32.
    """

    propose: int
    sift: int
    narrow: bool

    @classmethod
    def on(cls, device: str, width: int) -> Coarse:
        """What is fast on a device: tensor cores there, fewer coordinates on a CPU."""
        if device != "cpu":
            return cls(propose=8 if width >= 8 * LEAST_WIDTH else 1, sift=1, narrow=True)
        if width < 16 * LEAST_WIDTH:
            return FINE
        return cls(propose=16, sift=4, narrow=False)


FINE = Coarse(propose=1, sift=1, narrow=False)
"""Every coordinate in float32: the last step before exact differences."""


def nearest(
    queries: Rows,
    corpus: Rows,
    *,
    count: int,
    compute: Compute,
    itself: Ints | None = None,
    coarse: Coarse | None = None,
    budget: int = DEFAULT_BYTES,
) -> Neighbours:
    """The `count` nearest rows of the corpus for each query, by Euclidean distance.

    Parameters
    ----------
    queries, corpus : (q, d) and (n, d) finite floats: arrays, memory maps or torch tensors; a
        corpus that lies on the device already is not copied.
    itself : (q,) row of the corpus that each query is, and that is not its own neighbour.
    budget : bytes of device memory for blocks and tiles, beside what was there already.

    Raises
    ------
    NotComparable : queries and corpus differ in width.
    LimitExceeded : not even one query and 64 rows fit in the memory.

    Notes
    -----
    O(q n d) products, a third of them on a CPU where rows lie in families; O(budget) memory. A
    block that the device refuses (`torch.OutOfMemoryError`) is halved and tried again. Nothing
    is narrowed before it is centred on the mean of the queries.
    """
    device = compute.resolve()
    width = int(corpus.shape[1])
    if int(queries.shape[1]) != width:
        raise NotComparable(f"queries of {queries.shape[1]:,} coordinates, rows of {width:,}")
    how = coarse or Coarse.on(device, width)
    search = _Search(corpus=corpus, count=count, device=device, coarse=how, budget=budget)
    blocks = search.blocking(int(queries.shape[0]))
    index = np.full((queries.shape[0], count), -1, dtype=np.int64)
    square = np.full((queries.shape[0], count), np.inf)
    at = 0
    while at < len(index) and corpus.shape[0]:
        part = slice(at, min(at + blocks.queries, len(index)))
        own = None if itself is None else itself[part]
        try:
            some = as_tensor(queries[part], stride=1).to(device).float()
            index[part], square[part] = search.block(some, own, rows=blocks.rows)
        except torch.OutOfMemoryError:
            blocks = blocks.halved()
            if device != "cpu":
                torch.cuda.empty_cache()
            continue
        at = part.stop
    return Neighbours(index=index, square=square, settled=search.settled)


@dataclass(slots=True, kw_only=True)
class _Proposed:
    """What a pass over the corpus proposes.

    `safe` (q,): below this square it can have missed nothing; `slack` (q,): how many times too
    large a square of step 2 may be.
    """

    index: Ints
    square: Float64
    safe: Float64
    slack: Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sifted:
    """Rows that may be near, for each group of queries; `pairs` those that are, measured.

    `pairs` are (query, row, square) in parts; None where there were too many to measure.
    """

    rows: list[Ints]
    pairs: list[tuple[Ints, Ints, Float64]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Some of the queries, (q, d) float32, and which rows of the corpus they are."""

    rows: Tensor
    itself: Ints | None


def _picked(queries: Tensor, itself: Ints | None, at: Ints) -> _Asked:
    rows = queries[torch.from_numpy(at).to(queries.device)]
    return _Asked(rows=rows, itself=None if itself is None else itself[at])


@dataclass(slots=True, kw_only=True)
class _Search:
    """One search: the corpus, how it is gone through, and how often proposals were no proof."""

    corpus: Rows
    count: int
    device: str
    coarse: Coarse
    budget: int
    settled: int = 0

    def blocking(self, queries: int) -> Blocking:
        """Blocks that fit in half of the budget; the other half is for exact differences."""
        n, d = self.corpus.shape
        width = -(-d // self.coarse.sift) + EXTRA
        there = self.device == "cpu" or is_on(self.corpus, self.device)
        return blocking_for(
            queries,
            n,
            width,
            budget=self.budget // 2,
            item=2 if self.coarse.narrow else 4,
            query=4 * d,
            carried=0 if there else 4 * d,
            most=CPU_ROWS if self.device == "cpu" else MOST_ROWS,
        )

    def block(self, queries: Tensor, itself: Ints | None, *, rows: int) -> tuple[Ints, Float64]:
        """Row numbers and squared distances, (q, count) each."""
        found = self._propose(queries, itself, rows=rows)
        index, square = _first(found.index, found.square, self.count)
        open_ = np.flatnonzero(~(square[:, -1] <= found.safe))
        limit = square[:, -1] * _SLACK
        if self.coarse == FINE:
            self.settled += open_.size
            for start in range(0, open_.size, OPEN_AT_ONCE):
                at = open_[start : start + OPEN_AT_ONCE]
                index[at], square[at] = self._settle(
                    _picked(queries, itself, at), limit[at], rows=min(rows, SETTLED_ROWS)
                )
        elif open_.size:
            thin = _picked(queries, None, open_).rows[:, :: self.coarse.propose]
            groups = [open_[some] for some in group_queries(thin)]
            order = np.concatenate(groups)
            asked = _picked(queries, itself, order)
            sifted = self._sift(asked, limit[order], found.slack[order], groups, rows=rows)
            if sifted.pairs is not None:
                index[order], square[order] = _gathered(sifted.pairs, order.size, self.count)
                return index, square
            for at, some in zip(groups, sifted.rows, strict=True):
                index[at], square[at] = self._among(some, _picked(queries, itself, at), rows=rows)
        return index, square

    def _among(self, near: Ints, asked: _Asked, *, rows: int) -> tuple[Ints, Float64]:
        """The same question to some rows of the corpus only, in float32."""
        inner = _Search(
            corpus=Some(self.corpus, near),
            count=self.count,
            device=self.device,
            coarse=FINE,
            budget=self.budget,
        )
        own = None if asked.itself is None else _places(near, asked.itself)
        # As many bytes as the tiles so far: twice as wide, or every coordinate instead of some.
        fewer = rows // (2 if self.coarse.narrow else self.coarse.sift)
        rows = max(GROUP, min(fewer, near.size + GROUP) // GROUP * GROUP)
        index, square = inner.block(asked.rows, own, rows=rows)
        self.settled += inner.settled
        return np.where(index >= 0, near[np.maximum(index, 0)], -1), square

    def _propose(self, queries: Tensor, itself: Ints | None, *, rows: int) -> _Proposed:
        stride = self.coarse.propose
        mine, tiled = self._sides(queries, self.coarse.narrow, stride=stride, rows=rows)
        room = torch.empty(len(queries) * rows, device=self.device)
        times = SURVIVORS if stride == 1 else THIN_SURVIVORS
        survivors = min(times * self.count, self.corpus.shape[0])
        best = Best.none(len(queries), survivors, device=self.device)
        for start, side in tiled:
            found = scores(mine, side, out=room)
            _leave_out(found, itself, start)
            best.add(found, start)
        index = best.index.cpu().numpy()
        square = square_distances(
            queries, self.corpus, index, budget=self.budget // 2, device=self.device
        )
        away = mine.norm.square()[:, None] - 2 * best.score
        safe = safe_square(away[:, -1], mine, width=mine.rows.shape[1]).cpu().numpy()
        slack = np.ones(len(index))
        if stride > 1:
            spread = _spread(stride * away.cpu().numpy(), square, mine, stride)
            safe = stride * safe / (1 + _DEVIATIONS * spread)
            # A spread falls with the root of the coordinates; nothing is thinned at a stride of 1.
            share = (self.coarse.sift / stride) ** 0.5 if self.coarse.sift > 1 else 0.0
            slack = 1 + _DEVIATIONS * share * spread
        return _Proposed(index=index, square=square, safe=safe, slack=slack)

    def _sift(
        self,
        asked: _Asked,
        limit: Float64,
        slack: Float64,
        groups: Sequence[Ints],
        *,
        rows: int,
    ) -> _Sifted:
        """The rows that may lie within the limit of a query; queries in the order of the groups.

        Where there are few of them they are measured at once, tile by tile.
        """
        stride = self.coarse.sift
        mine, tiled = self._sides(asked.rows, self.coarse.narrow, stride=stride, rows=rows)
        room = torch.empty(len(asked.rows) * rows, device=self.device)
        bound = torch.from_numpy(limit * slack / stride).to(self.device)
        least = least_score(bound, mine, width=mine.rows.shape[1])[:, None]
        ends = np.cumsum([one.size for one in groups]).tolist()
        union = torch.zeros(len(groups), self.corpus.shape[0], dtype=torch.bool, device=self.device)
        pairs: list[tuple[Ints, Ints, Float64]] | None = []
        left = len(asked.rows) * (GPU_PAIRS if self.device == "cuda" else CPU_PAIRS)
        for start, side in tiled:
            near = scores(mine, side, out=room)
            _leave_out(near, asked.itself, start)
            inside = (near >= least) & (near > -torch.inf)
            held = slice(start, min(start + inside.shape[1], union.shape[1]))
            for at, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
                union[at, held] = inside[begin:end, : held.stop - start].any(0)
            if pairs is not None:
                left -= int(inside.sum())
                pairs = (
                    None
                    if left < 0
                    else [*pairs, self._measured(asked, inside.nonzero(), start, limit)]
                )
        held_rows = [one.nonzero()[:, 0].cpu().numpy() for one in union]
        return _Sifted(rows=held_rows, pairs=pairs)

    def _measured(
        self, asked: _Asked, pairs: Tensor, start: int, limit: Float64
    ) -> tuple[Ints, Ints, Float64]:
        """Of some pairs (query, row of the tile), those within the limit, by exact difference."""
        exact = self._squares(asked.rows, pairs, start)
        named = pairs.cpu().numpy()
        keep = exact <= limit[named[:, 0]]
        return named[keep, 0], named[keep, 1] + start, exact[keep]

    def _settle(self, asked: _Asked, limit: Float64, *, rows: int) -> tuple[Ints, Float64]:
        """Every row that may lie within `limit`, by exact difference."""
        queries = asked.rows
        mine, tiled = self._sides(queries, False, stride=1, rows=rows)
        room = torch.empty(len(queries) * rows, device=self.device)
        bound = torch.from_numpy(limit).to(self.device)
        least = least_score(bound, mine, width=mine.rows.shape[1])
        parts: list[tuple[Ints, Ints, Float64]] = []
        for start, side in tiled:
            found = scores(mine, side, out=room)
            _leave_out(found, asked.itself, start)
            pairs = ((found >= least[:, None]) & (found > -torch.inf)).nonzero()
            parts.append(self._measured(asked, pairs, start, limit))
        return _gathered(parts, len(queries), self.count)

    def _squares(self, queries: Tensor, pairs: Tensor, start: int) -> Float64:
        named, place = torch.unique(pairs[:, 1], return_inverse=True)
        held = take(self.corpus, named.cpu().numpy() + start, device=self.device)
        both = torch.stack([pairs[:, 0], place], dim=1)
        return pair_squares(queries, held, both, budget=self.budget // 2).cpu().numpy()

    def _sides(
        self, queries: Tensor, narrow: bool, *, stride: int, rows: int
    ) -> tuple[Side, Iterator[tuple[int, Side]]]:
        """The queries, and every tile of the corpus with its first row, around one centre."""
        dtype = torch.bfloat16 if narrow else torch.float32
        middle = queries[:, ::stride].mean(0)
        width = len(middle) + EXTRA
        room = torch.empty(len(queries), width, dtype=dtype, device=self.device)
        mine = centred(queries[:, ::stride], middle, out=room, query=True)
        return mine, self._tiles(middle, dtype, stride=stride, rows=rows)

    def _tiles(
        self, middle: Tensor, dtype: torch.dtype, *, stride: int, rows: int
    ) -> Iterator[tuple[int, Side]]:
        """Centred tiles, padded to whole groups with rows that nothing is near to."""
        out = torch.empty(rows, len(middle) + EXTRA, dtype=dtype, device=self.device)
        for start, part in tiles(self.corpus, size=rows, stride=stride, device=self.device):
            side = centred(part, middle, out=out, query=False)
            padded = -(-len(part) // GROUP) * GROUP
            out[len(part) : padded] = 0
            out[len(part) : padded, len(middle)] = -torch.inf
            yield start, Side(rows=out[:padded], norm=side.norm, share=side.share)


def _leave_out(found: Tensor, itself: Ints | None, start: int) -> None:
    """A row is not its own neighbour."""
    if itself is None:
        return
    inside = np.flatnonzero((itself >= start) & (itself < start + found.shape[1]))
    rows, columns = (torch.from_numpy(one).to(found.device) for one in (inside, itself[inside]))
    found[rows, columns - start] = -torch.inf


def _places(near: Ints, itself: Ints) -> Ints:
    """Where rows stand among some of them; -1 for those that do not."""
    at = np.minimum(np.searchsorted(near, itself), max(0, near.size - 1))
    held = near[at] == itself if near.size else np.zeros(itself.size, dtype=bool)
    return np.where(held, at, -1)


def _spread(away: Float64, square: Float64, queries: Side, stride: int) -> Float64:
    """(q,) standard deviation of thinned squares relative to whole ones.

    Parameters
    ----------
    away, square : (q, s) thinned squares, scaled up, of what was proposed, and the whole ones.

    Notes
    -----
    At least what independent coordinates would have. Squares that are lost in rounding say
    nothing, and where all are nothing is known.
    """
    width = queries.rows.shape[1]
    lost = 600 * stride * error_share(width) * queries.norm.double().square().cpu().numpy()
    known = np.isfinite(square) & (square > lost[:, None])
    ratio = np.where(known, away / np.where(known, square, 1.0), 1.0)
    measured = np.sqrt(((ratio - 1) ** 2).sum(1) / np.maximum(known.sum(1), 1))
    least: Float64 = np.maximum(np.where(known.any(1), measured, 0.0), (2 / width) ** 0.5)
    return least


def _first(index: Ints, square: Float64, count: int) -> tuple[Ints, Float64]:
    """The nearest `count` of each row; equal distances by number."""
    order = np.lexsort((index, square), axis=1)[:, :count]
    kept = np.take_along_axis(index, order, axis=1), np.take_along_axis(square, order, axis=1)
    short = count - kept[0].shape[1]
    if short <= 0:
        return kept
    pad = ((0, 0), (0, short))
    return (
        np.pad(kept[0], pad, constant_values=-1),
        np.pad(kept[1], pad, constant_values=np.inf),
    )


def _gathered(
    parts: list[tuple[Ints, Ints, Float64]], queries: int, count: int
) -> tuple[Ints, Float64]:
    owner, row, square = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((row, square, owner))
    owner, row, square = owner[order], row[order], square[order]
    rank = np.arange(owner.size) - np.searchsorted(owner, owner)
    index = np.full((queries, count), -1, dtype=np.int64)
    out = np.full((queries, count), np.inf)
    near = rank < count
    index[owner[near], rank[near]] = row[near]
    out[owner[near], rank[near]] = square[near]
    return index, out
