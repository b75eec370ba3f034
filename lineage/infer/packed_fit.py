"""How well a packed model is explained as another model's weights, rounded.

With residual r and step s at each weight the statistic is the mean of 12 r^2 / s^2: 1 for rounding
to nearest with the true source, and larger by the squared difference for any other model.

Some quantizers first move scale between neighbouring layers (AWQ, SmoothQuant): columns of a matrix
are multiplied by what the norm or the matrix before it is divided by, and its rows are divided by
what goes into the next one. The function of the model stays; its weights are those of the source
times one number a row and one a column. Where nothing fits as it is, those numbers are fitted, and
the residual is taken over the degrees of freedom that are left.

References
----------
Lin et al. (2023), AWQ, arXiv 2306.00978, section 3.2; Xiao et al. (2022), SmoothQuant, 2211.10438.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..sketch.sketch import complete_rows
from ..statistics import benjamini_hochberg
from .alignment import unit_norm
from .kinship import FDR, MIN_AGREEMENT
from .specimen import Block, Specimen, comparable, same_up_to_cast

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SHIFTS = 4
ROUNDS = 10
# A step this small against the weights is rounding of a float type: the weight is then exact.
LEAST_STEP = 1e-12
# Of a block whose scales take up more of its weights than this too little is left to test.
MOST_FITTED = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One candidate source held against a packed model.

    Attributes
    ----------
    ratio : mean of 12 r^2 / step^2 over the decoded matrix weights, `n` of them less what was
        fitted.
    kept : share of unpacked weights that are the candidate's up to a cast (1 without any).
    folded : whether a scale for each row and column was fitted.
    predicted : the candidate's weights as the packed model would hold them, before rounding.
    """

    parent: Specimen
    ratio: float
    n: int
    kept: float
    agreement: float
    p_value: float
    predicted: Mapping[str, Float64]
    folded: bool = False


def fit_sources(child: Specimen, candidates: Sequence[Specimen], *, rounding: float) -> list[Fit]:
    """Every candidate that is related to the child, best first.

    Related is decided as everywhere: cosines of matched rows against the same rows shifted, with
    false-discovery control over the candidates.

    Parameters
    ----------
    rounding : the ratio above which a residual is not rounding alone. Where no candidate is below
        and one is with scales fitted, all are fitted so.
    """
    fits = _related(child, candidates)
    if fits and min(fit.ratio for fit in fits) > rounding:
        folded = [fold(child, fit) for fit in fits]
        if min(fit.ratio for fit in folded) <= rounding:
            fits = folded
    return sorted(fits, key=lambda fit: (fit.ratio, -fit.kept))


def _related(child: Specimen, candidates: Sequence[Specimen]) -> list[Fit]:
    held = [(one, names) for one in candidates if (names := _common(child, one))]
    if not held:
        return []
    found = [_agreement(child, one, names) for one, names in held]
    spread = math.sqrt(sum(square for _, square, _ in found) / sum(n for _, _, n in found))
    p_values = [0.5 * math.erfc(a / max(spread, 1e-12) / math.sqrt(2)) for a, _, _ in found]
    q_values = benjamini_hochberg(p_values)
    return [
        _fit(child, one, names, agreement=agreement, p_value=p)
        for (one, names), (agreement, _, _), p, q in zip(
            held, found, p_values, q_values, strict=True
        )
        if q < FDR and agreement > MIN_AGREEMENT
    ]


def fold(child: Specimen, fit: Fit) -> Fit:
    """The same candidate with a scale for each row and each column of each matrix."""
    predicted: dict[str, Float64] = {}
    total, n = 0.0, 0
    for name in fit.predicted:
        mine, theirs = _pair(child, fit.parent, name)
        rows = _as_rows(mine, mine.values.astype(np.float64))
        wide = fitted_scales(
            rows,
            _as_rows(mine, theirs.values.astype(np.float64)),
            1 / _as_rows(mine, steps(mine)) ** 2,
        )
        free = rows.size - sum(rows.shape) + 1
        if free < (1 - MOST_FITTED) * rows.size:
            continue
        values = mine.values.astype(np.float64)
        offset = _offset(mine)
        values[offset : offset + rows.size] = wide.reshape(-1)
        predicted[name] = values
        total += float(residual(mine, values).sum())
        n += free
    if not n:
        return replace(fit, ratio=math.inf)
    return replace(fit, ratio=total / n, n=n, predicted=predicted, folded=True)


def fitted_scales(rows: Float64, source: Float64, weight: Float64) -> Float64:
    """`source` with one scale a row and one a column, nearest to `rows` in weighted squares.

    Parameters
    ----------
    rows, source, weight : (r, c); weights are the inverse squares of the steps.

    Notes
    -----
    Alternating least squares from scales of one; a scale that nothing determines stays one.
    """
    down, across = np.ones(rows.shape[0]), np.ones(rows.shape[1])
    for _ in range(ROUNDS):
        scaled = source * down[:, None]
        across = _least_squares((weight * scaled * rows).sum(0), (weight * scaled**2).sum(0))
        scaled = source * across
        down = _least_squares((weight * scaled * rows).sum(1), (weight * scaled**2).sum(1))
    return source * down[:, None] * across


def _least_squares(products: Float64, squares: Float64) -> Float64:
    told = squares > 0
    found: Float64 = np.where(told, products / np.where(told, squares, 1), 1.0)
    return found


def residual(mine: Block, predicted: Float64) -> Float64:
    """12 r^2 / step^2 of each weight."""
    squares: Float64 = 12 * ((mine.values - predicted) / steps(mine)) ** 2
    return squares


def steps(mine: Block) -> Float64:
    """The step at each weight; a group without one has its neighbours' smallest."""
    step = np.asarray(mine.step, dtype=np.float64)
    least = step[step > LEAST_STEP].min(initial=np.inf)
    widened: Float64 = np.maximum(step, least)
    return widened


def apart(child: Specimen, one: Fit, other: Fit) -> float:
    """Squared distance of what two candidates predict, in units of rounding's variance."""
    total = 0.0
    for name in one.predicted.keys() & other.predicted.keys():
        mine = child.blocks[name]
        difference = one.predicted[name] - other.predicted[name]
        total += float((12 * (difference / steps(mine)) ** 2).sum())
    return total


def pull(child: Specimen, one: Fit, other: Fit) -> tuple[float, float]:
    """How far the child lies from `one` towards `other`: (share of the way, its standard error).

    Notes
    -----
    In units of the steps, beta = <C - P, S - P> / |S - P|^2. With P the source the residual is
    rounding and beta 0; where C and P are both made from something else it is the share of the way
    from P to S that leads to that.
    """
    inner = length = 0.0
    for name in one.predicted.keys() & other.predicted.keys():
        mine = child.blocks[name]
        step = steps(mine)
        across = (other.predicted[name] - one.predicted[name]) / step
        inner += float((12 * across * (mine.values - one.predicted[name]) / step).sum())
        length += float((12 * across**2).sum())
    if length <= 0:
        return 0.0, math.inf
    return inner / length, math.sqrt(max(one.ratio, 1e-9) / length)


def narrowed(block: Block, width: int | None) -> Block:
    """A block without what lies beyond `width` in each row; rows that are not whole go too."""
    if width is None:
        return block
    _, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    kept = np.ascontiguousarray(rows[:, :width])
    return replace(block, values=kept.reshape(-1), width=width, step=None)


def _common(child: Specimen, other: Specimen) -> list[str]:
    """Names of the decoded matrices that both hold at the same place."""
    return [
        name
        for name in child.matrices()
        if (mine := child.blocks[name]).step is not None
        and np.max(mine.step, initial=0) > LEAST_STEP
        and (theirs := other.blocks.get(name)) is not None
        and theirs.step is None
        and _same_place(mine, theirs)
    ]


def _same_place(mine: Block, theirs: Block) -> bool:
    if mine.shape != theirs.shape or mine.transposed != theirs.transposed:
        return False
    return comparable(mine, narrowed(theirs, mine.width))


def _pair(child: Specimen, other: Specimen, name: str) -> tuple[Block, Block]:
    mine = child.blocks[name]
    return mine, narrowed(other.blocks[name], mine.width)


def _row_length(block: Block) -> int:
    return block.columns if block.width is None else block.width


def _offset(block: Block) -> int:
    """Weights of the span before its first whole row; a narrowed block has whole rows only."""
    return 0 if block.width is not None else -block.start % _row_length(block)


def _as_rows(block: Block, values: Float64) -> Float64:
    """(rows, columns) of the whole rows of what stands at a block's place."""
    columns, offset = _row_length(block), _offset(block)
    count = (values.size - offset) // columns if values.size > offset else 0
    return values[offset : offset + count * columns].reshape(count, columns)


def _agreement(child: Specimen, other: Specimen, names: Sequence[str]) -> tuple[float, float, int]:
    """Mean cosine of matched rows, and the squares and number of those of shifted rows."""
    matched, squares, shifted = 0.0, 0.0, 0
    for name in names:
        mine, theirs = _pair(child, other, name)
        a, b = _unit_rows(mine), _unit_rows(theirs)
        matched += float((a * b).sum()) / max(1, a.shape[0])
        for shift in range(1, min(SHIFTS, a.shape[0] - 1) + 1):
            mean = float((np.roll(a, shift, axis=0) * b).sum()) / a.shape[0]
            squares, shifted = squares + mean**2 / len(names), shifted + 1
    return matched / len(names), squares, max(1, shifted)


def _unit_rows(block: Block) -> Float32:
    _, rows = complete_rows(block.values, start=block.start, columns=_row_length(block))
    return unit_norm(rows)


def _fit(
    child: Specimen, other: Specimen, names: Sequence[str], *, agreement: float, p_value: float
) -> Fit:
    predicted: dict[str, Float64] = {}
    total, n = 0.0, 0
    for name in names:
        mine, theirs = _pair(child, other, name)
        predicted[name] = theirs.values.astype(np.float64)
        total, n = total + float(residual(mine, predicted[name]).sum()), n + mine.values.size
    return Fit(
        parent=other,
        ratio=total / max(1, n),
        n=n,
        kept=_kept(child, other),
        agreement=agreement,
        p_value=p_value,
        predicted=predicted,
    )


def _kept(child: Specimen, other: Specimen) -> float:
    """Share of the child's unpacked weights that are the other's, up to a cast."""
    same = total = 0
    for name, mine in child.blocks.items():
        theirs = other.blocks.get(name)
        if mine.step is not None or theirs is None or not comparable(mine, theirs):
            continue
        same += int(np.count_nonzero(same_up_to_cast(mine, theirs)))
        total += mine.values.size
    return same / total if total else 1.0
