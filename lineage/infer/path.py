"""Does a model keep the path from an origin to another model? The clues that tell child from kin.

Let S come from P. A child C of S is S plus a step of its own; a sibling comes from P by another
step, which may share S's direction where the two learned from the same data; two children of an
unpublished model share the whole way to it. Distances alone do not tell these apart. What does:
whether *every* part of the network keeps S's move (a child does, shared data act unevenly),
whether the part that only S learned is kept, what one run of training leaves and the difference of
two does not, and which of the two the child equals bit for bit where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sketch.plan import is_matrix
from .specimen import Specimen, comparable

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

SAMPLE = 32_768
FAR_TAIL = 0.01
LOW = 0.1
MAX_OTHERS = 12
PSEUDO_COUNT = 3.0
LOG3 = float(np.log(3.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Evenly spaced weights of every member, for statistics that need weights and not only sums.

    `rows` (n, d) float32; `starts` the first column of each block.
    """

    rows: Float32
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathClues:
    """How much of the path from an origin P to a model S is found in a model C.

    `beta` is <C-P, S-P>/|S-P|^2 over all weights, `low` its lowest decile over the blocks and
    `spread` its deviation over them; `back` is beta with C and S exchanged. `along` is the cosine
    of C's own step with the path and `step` the log of |C-S|^2/|S-P|^2. `tails` is the log of the
    kurtosis of C's own step over that of its whole way from P: the difference of two runs of
    training is distributed otherwise than one run. `own` is beta along what only S learned, the
    other members' deltas projected out; where that part is largest, `own_left` is the log of
    |C-S|^2/|C-P|^2 and `own_low` the lowest decile of the share kept of single weights. `shared`
    is the cosine of the path with the mean of the other members' deltas: how much of it any
    sibling would keep. `edge_bits` is the log ratio of norm and embedding weights that C shares
    bit for bit with S to those it shares with P, where S and P differ.
    """

    beta: float
    low: float
    spread: float
    back: float
    along: float
    step: float
    tails: float
    own: float
    own_left: float
    own_low: float
    shared: float
    edge_bits: float


def take_sample(group: Sequence[Specimen], blocks: Sequence[str], *, limit: int = SAMPLE) -> Sample:
    """Evenly spaced weights of the blocks that all members hold, about `limit` a member.

    Parameters
    ----------
    group : n specimens that all hold `blocks`, of which there is at least one.
    limit : weights a member; every block starts anew and may add one to them.

    Notes
    -----
    O(n * limit) memory: 0.13 MB a member at the default limit.
    """
    first = group[0].blocks
    total = sum(first[name].values.size for name in blocks)
    stride = max(1, -(-total // limit))
    places = [np.arange(0, first[name].values.size, stride) for name in blocks]
    sizes = [p.size for p in places]
    rows = np.empty((len(group), sum(sizes)), dtype=np.float32)
    for at, one in enumerate(group):
        kept = zip(blocks, places, strict=True)
        rows[at] = np.concatenate([one.blocks[name].values[p] for name, p in kept])
    return Sample(rows=rows, starts=tuple(int(s) for s in np.cumsum([0, *sizes[:-1]])))


def path_clues(
    members: Sequence[Specimen],
    sample: Sample,
    *,
    child: int,
    via: int,
    origin: int,
    others: Sequence[int] = (),
) -> PathClues:
    """Measure how much of the path from `origin` to `via` the child keeps.

    Parameters
    ----------
    others : members from the same origin, neither `via` nor its kin: what they have in common
        with `via` is what shared data teach.

    Notes
    -----
    A few passes over the sample: about a millisecond.
    """
    start = sample.rows[origin]
    path = (sample.rows[via] - start).astype(np.float64)
    mine = (sample.rows[child] - start).astype(np.float64)
    rest = mine - path
    length, reach, left = _square(path), _square(mine), _square(rest)
    shared = float(path @ mine)
    betas = _block_betas(path, mine, sample.starts)
    deltas = (sample.rows[list(others[:MAX_OTHERS])] - start).astype(np.float64)  # (others, d)
    own, mine_own = _own(path, deltas), _own(mine, deltas)
    own_far = _furthest(own, FAR_TAIL)
    base = np.where(own[own_far] == 0, 1.0, own[own_far])
    own_kept = mine_own[own_far] / base
    return PathClues(
        beta=shared / length,
        low=float(np.quantile(betas, LOW)),
        spread=float(betas.std()),
        back=shared / reach,
        along=float(rest @ path) / float(np.sqrt(left * length)),
        step=float(np.log(left / length)),
        tails=_log_kurtosis(rest) - _log_kurtosis(mine),
        own=float(own @ mine) / _square(own),
        own_left=float(np.log(_square(rest[own_far]) / _square(mine[own_far]))),
        own_low=float(np.quantile(own_kept, LOW)),
        shared=_shared(path, deltas),
        edge_bits=_edge_bits(members[child], members[via], members[origin]),
    )


def _square(values: Float64) -> float:
    """Squared norm, never zero: every clue is a ratio of two of them."""
    return max(float(values @ values), 1e-30)


def _furthest(path: Float64, share: float) -> NDArray[np.intp]:
    size = np.abs(path)
    count = max(1, int(size.size * share))
    return np.argpartition(size, size.size - count)[-count:]


def _block_betas(path: Float64, mine: Float64, starts: Sequence[int]) -> Float64:
    """Beta of each block in which the path moved at all."""
    lengths = np.add.reduceat(path * path, starts)
    shared = np.add.reduceat(path * mine, starts)
    moved = lengths > 0
    betas: Float64 = shared[moved] / lengths[moved]
    return betas if betas.size else np.zeros(1)


def _own(path: Float64, deltas: Float64) -> Float64:
    """The part of a path that is no combination of the other members' deltas."""
    if not len(deltas):
        return path
    weights = np.linalg.lstsq(deltas @ deltas.T, deltas @ path, rcond=1e-8)[0]
    own: Float64 = path - weights @ deltas
    return own


def _shared(path: Float64, deltas: Float64) -> float:
    """Cosine of a path with the mean of the other members' deltas; 0 where there are none."""
    if not len(deltas):
        return 0.0
    mean = deltas.mean(axis=0)
    return float(path @ mean) / float(np.sqrt(_square(path) * _square(mean)))


def _log_kurtosis(values: Float64) -> float:
    """Log of the fourth moment over the squared second; that of no move at all is a Gaussian's."""
    squares = values * values
    second = float(squares.mean())
    return float(np.log((squares @ squares) / squares.size / second**2)) if second > 1e-30 else LOG3


def _log_ratio(kept: Bool, lost: Bool) -> float:
    return float(np.log((kept.sum() + PSEUDO_COUNT) / (lost.sum() + PSEUDO_COUNT)))


def _edge_bits(child: Specimen, via: Specimen, origin: Specimen) -> float:
    """Bit agreement outside the matrices: rows of unseen tokens keep the parent's weights."""
    kept, lost = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=bool)]
    for name, block in child.blocks.items():
        there, here = via.blocks.get(name), origin.blocks.get(name)
        if there is None or here is None or is_matrix(block.key):
            continue
        if not (comparable(block, there) and comparable(block, here)):
            continue
        differ = there.values != here.values
        slack = 0.0 if block.dtype == there.dtype == here.dtype else block.half_ulp[differ]
        mine = block.values[differ]
        kept.append(np.abs(mine - there.values[differ]) <= slack)
        lost.append(np.abs(mine - here.values[differ]) <= slack)
    return _log_ratio(np.concatenate(kept), np.concatenate(lost))
