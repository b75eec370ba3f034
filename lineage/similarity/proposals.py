"""Candidates from one matrix product over centred rows; no matrix of scores is ever held.

The score of a row y for a query x is x.y - |y|^2 / 2, largest where |x - y| is least. The norm goes
into the product as further coordinates of y, split into pieces of the narrow type, against ones in
x; so a tile of scores comes out of the product finished, the best are taken from it, and the next
tile is written over it.

Which are the best is told by groups: the s best rows of a tile lie in the s groups with the best
maxima, so that one sweep over the scores and two short selections do instead of a long one.

References
----------
Higham and Mary (2019), "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
Comput. 41(5): the bound on an inner product that grows with the root of its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .memory import GROUP

EXTRA = 8
"""Coordinates that hold the norm; eight keep rows aligned for tensor cores."""
_PIECES = 3
_BF16_ROUNDING = 2.0**-9 * 1.01
_DEVIATIONS = 2.0
_UNIT = 2.0**-24


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Centred rows as they are multiplied, and what their narrowing can have cost.

    `rows` (n, w + EXTRA); `norm` (n,) float32; `share` of its norm that narrowing can have moved a
    row by.
    """

    rows: Tensor
    norm: Tensor
    share: float


def centred(part: Tensor, centre: Tensor, *, out: Tensor, query: bool) -> Side:
    """Subtract in float32, narrow to the type of `out`, and write the further coordinates.

    Parameters
    ----------
    part : (n, w) floats; centre : (w,) float32; out : (>= n, w + EXTRA) bfloat16 or float32.
    """
    rows, width = out[: len(part)], part.shape[1]
    torch.sub(part, centre, out=rows[:, :width])
    norm = torch.linalg.vector_norm(rows[:, :width], dim=1, dtype=torch.float32)
    rows[:, width:] = 0
    if query:
        rows[:, width : width + _PIECES] = 1
    else:
        left = norm.square() / -2
        for at in range(_PIECES):
            rows[:, width + at] = left
            left = left - rows[:, width + at].float()
    share = _BF16_ROUNDING if out.dtype == torch.bfloat16 else 0.0
    return Side(rows=rows, norm=norm, share=share)


def scores(queries: Side, tile: Side, *, out: Tensor) -> Tensor:
    """(q, t) float32 scores, written over the last tile's."""
    q, t = len(queries.rows), len(tile.rows)
    held = out[: q * t].view(q, t)
    if queries.rows.dtype == torch.float32:
        return torch.mm(queries.rows, tile.rows.T, out=held)
    if queries.rows.is_cuda:
        return torch.mm(queries.rows, tile.rows.T, out_dtype=torch.float32, out=held)
    held.copy_(queries.rows.float() @ tile.rows.float().T)
    return held


@dataclass(slots=True, kw_only=True)
class Best:
    """The best rows of each query so far: (q, s) scores, falling, and row numbers, -1 for none."""

    score: Tensor
    index: Tensor

    @classmethod
    def none(cls, queries: int, count: int, *, device: str) -> Best:
        """Nothing found yet."""
        return cls(
            score=torch.full((queries, count), -torch.inf, device=device),
            index=torch.full((queries, count), -1, dtype=torch.int64, device=device),
        )

    def add(self, found: Tensor, start: int) -> None:
        """Take in a tile of scores, (q, t), t a multiple of `GROUP`; `start` its first row."""
        q, t = found.shape
        groups = t // GROUP
        grouped = found.view(q, GROUP, groups)
        some = min(self.score.shape[1], groups)
        group = grouped.amax(1).topk(some, dim=1, sorted=False).indices
        members = grouped.gather(2, group[:, None, :].expand(q, GROUP, some)).reshape(q, -1)
        value, place = members.topk(min(self.score.shape[1], members.shape[1]), dim=1)
        row = (place // some) * groups + group.gather(1, place % some) + start
        score = torch.cat([self.score, value], dim=1)
        index = torch.cat([self.index, row], dim=1)
        self.score, order = score.topk(self.score.shape[1], dim=1)
        self.index = index.gather(1, order).masked_fill(self.score == -torch.inf, -1)


def error_share(width: int) -> float:
    """c with which a float32 score errs by at most c (|x| |y| + |y|^2 / 2)."""
    return _DEVIATIONS * math.sqrt(width) * _UNIT


def safe_square(away: Tensor, queries: Side, *, width: int) -> Tensor:
    """(q,) float64: no row whose computed square is at least `away` can lie nearer than this.

    Notes
    -----
    A row y at distance D of x has |y| <= |x| + D. So the error of its square, by `error_share`, is
    at most 6 c (|x|^2 + D^2); and narrowing moved the two by r |x| + r (|x| + D), which the
    triangle inequality takes off. Both hang on the norm of the query alone: centre near it.
    """
    c, norm = error_share(width), queries.norm.double()
    square = (away.double() - 6 * c * norm.square()).clamp_min(0) / (1 + 6 * c)
    near = square.sqrt() - 2 * queries.share * norm
    return (near.clamp_min(0) / (1 + queries.share)).square()


def least_score(bound: Tensor, queries: Side, *, width: int) -> Tensor:
    """(q,) float32: a row with a smaller score lies further than `bound`, a square (q,) float64.

    The reverse of `safe_square`.
    """
    c, norm = error_share(width), queries.norm.double()
    near = bound.sqrt() * (1 + queries.share) + 2 * queries.share * norm
    square = near.square() * (1 + 6 * c) + 6 * c * norm.square()
    return ((norm.square() - square) / 2).float()
