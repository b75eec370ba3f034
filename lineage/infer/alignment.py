"""Models of different shape laid on each other: layers on layers, hidden units on hidden units.

A sketch samples every layer at the same rows, from the first row on. So any layer of one model can
be compared with any layer of another of the same width, and where rows were taken out the rest are
still in the sample, moved forward.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dtypes import ulp
from ..sketch.plan import is_writer
from ..sketch.sketch import complete_rows
from .layouts import plain
from .specimen import Block, Specimen

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_UNIT_COSINE = 0.5
MIN_BAND = 16


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Site:
    """One sampled layer of a model; `stack` is `enc.` or `dec.` where there are two."""

    stack: str
    layer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A child's sampled layers on a parent's, and what their weights have in common.

    `sites` maps each of the child's layers that has a counterpart to it; `frozen` holds those of
    them all of whose compared weights are the parent's up to a cast. `frozen_share` counts
    weights in unchanged blocks, `relative` is the distance of all compared weights relative to the
    parent's norm. Where hidden units were taken out, `kept` counts those found again, in their old
    order, and `shuffled` those found in another.
    """

    sites: Mapping[Site, Site]
    frozen: frozenset[Site]
    frozen_share: float
    relative: float
    kept: int
    shuffled: int

    @property
    def in_order(self) -> bool:
        """Whether most of the units that were found again stand in their old order."""
        return self.shuffled <= self.kept


@dataclass(slots=True, kw_only=True)
class _Tally:
    """Sums over the blocks of one overlay."""

    square: float = 0.0
    norm: float = 0.0
    same: int = 0
    count: int = 0
    kept: int = 0
    shuffled: int = 0


def site_of(block: Block) -> Site | None:
    """The layer that a block stands in; None outside the stacks and for unknown roles."""
    key = block.key
    if key.layer is None or key.role.startswith("raw:"):
        return None
    stack = key.role[:4] if key.role.startswith(("enc.", "dec.")) else ""
    return Site(stack=stack, layer=key.layer)


def layered(one: Specimen) -> dict[Site, dict[str, Block]]:
    """The matrix blocks of a specimen by layer and the role that they stand for.

    A dense MLP goes before the experts beside it.
    """
    found: dict[Site, dict[str, Block]] = {}
    for name in one.matrices():
        stored = one.blocks[name]
        block, site = plain(stored), site_of(stored)
        if site is None or len(block.shape) != 2:
            continue
        roles = found.setdefault(site, {})
        if block is stored or block.key.role not in roles:
            roles[block.key.role] = block
    return found


def depth(one: Specimen) -> dict[str, int]:
    """Number of layers of each stack: the last layer is always among the sampled ones."""
    deepest: dict[str, int] = {}
    for site in layered(one):
        deepest[site.stack] = max(deepest.get(site.stack, 0), site.layer + 1)
    return deepest


def units(block: Block) -> Float32:
    """(units, inputs) whole sampled rows of a matrix; of one stored [in, out] all units, at the
    sampled inputs."""
    _, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    return np.ascontiguousarray(rows.T) if block.transposed else rows


def unit_rows(block: Block) -> Float32:
    """(units, weights) what enters each hidden unit, or in a writer what leaves it."""
    rows = units(block)
    return np.ascontiguousarray(rows.T) if is_writer(block.key) else rows


def longest_rise(numbers: Ints) -> Ints:
    """Places of a longest increasing subsequence, in order. O(n log n)."""
    tails: list[int] = []
    ends: list[int] = []
    before = np.full(len(numbers), -1, dtype=np.int64)
    for at, number in enumerate(numbers.tolist()):
        spot = bisect_left(tails, number)
        before[at] = ends[spot - 1] if spot else -1
        tails[spot : spot + 1] = [number]
        ends[spot : spot + 1] = [at]
    chain = []
    at = ends[-1] if ends else -1
    while at >= 0:
        chain.append(at)
        at = int(before[at])
    return np.array(chain[::-1], dtype=np.int64)


def unit_norm(rows: Float32) -> Float32:
    """Rows divided by their norm; a row of zeros stays zero."""
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Float32 = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    return scaled


def same_place(a: Block, b: Block) -> bool:
    """Whether two blocks hold the same coordinates of matrices of one shape."""
    return (
        a.shape == b.shape
        and a.transposed == b.transposed
        and a.start == b.start
        and a.values.size == b.values.size
    )


def reshaped(a: Block, b: Block) -> bool:
    """Whether two matrices of one role differ in the number of their hidden units alone."""
    if a.transposed != b.transposed or a.shape == b.shape:
        return False
    across = 0 if a.transposed != is_writer(a.key) else 1
    return a.shape[across] == b.shape[across]


def match_units(a: Float32, b: Float32) -> Ints:
    """Hidden units that are each other's nearest.

    Parameters
    ----------
    a, b : (n, d) and (m, d) float32 rows.

    Returns
    -------
    (k, 2) int64 pairs of row numbers, in the order of `a`; those with a cosine above
    `MIN_UNIT_COSINE` only.

    Notes
    -----
    Mutual nearest neighbours, not an optimal assignment: units of trained models are far apart,
    and a unit without a counterpart must stay without one. O(n m d).
    """
    if not a.size or not b.size:
        return np.zeros((0, 2), dtype=np.int64)
    cosines = unit_norm(a) @ unit_norm(b).T
    best, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    at = np.arange(a.shape[0])
    mutual = (back[best] == at) & (cosines[at, best] > MIN_UNIT_COSINE)
    return np.stack([at[mutual], best[mutual]], axis=1).astype(np.int64)


def overlay(child: Specimen, parent: Specimen, sites: Mapping[Site, Site]) -> Overlay:
    """Compare a child's layers with the parent's layers they were assigned to.

    Matrices of one shape are compared weight by weight, those that lost hidden units on the units
    that are left and stand in their old order.
    """
    mine, theirs = layered(child), layered(parent)
    total = _Tally()
    frozen = set()
    for site, other in sites.items():
        before = (total.same, total.count)
        for role in mine[site].keys() & theirs[other].keys():
            _add(total, mine[site][role], theirs[other][role])
        same, count = total.same - before[0], total.count - before[1]
        if count and same == count:
            frozen.add(site)
    return Overlay(
        sites=dict(sites),
        frozen=frozenset(frozen),
        frozen_share=total.same / total.count if total.count else 0.0,
        relative=math.sqrt(total.square / total.norm) if total.norm > 0 else math.inf,
        kept=total.kept,
        shuffled=total.shuffled,
    )


def _add(total: _Tally, mine: Block, theirs: Block) -> None:
    """Count one pair of blocks: unchanged ones as a whole, or unit by unit where some are gone."""
    if same_place(mine, theirs):
        bound = None if mine.dtype == theirs.dtype else mine.half_ulp + theirs.half_ulp
        _compare(total, mine.values[None], theirs.values[None], bound)
    elif reshaped(mine, theirs):
        rows, others, bound = _common_units(mine, theirs)
        if rows.shape[1] < MIN_BAND:
            return
        pairs = match_units(rows, others)
        forward = pairs[longest_rise(pairs[:, 1])]
        total.kept += len(forward)
        total.shuffled += len(pairs) - len(forward)
        if bound is not None:
            bound = bound[forward[:, 0]]
        _compare(total, rows[forward[:, 0]], others[forward[:, 1]], bound)


def _common_units(mine: Block, theirs: Block) -> tuple[Float32, Float32, Float32 | None]:
    """(units, weights) of both, as far as both samples reach, and what a cast may have moved."""
    a, b = unit_rows(mine), unit_rows(theirs)
    width = min(a.shape[1], b.shape[1])
    bound = None
    if mine.dtype != theirs.dtype:
        # Twice the coarser of the two: the other unit is not yet known, and is nearly the same.
        coarse = np.maximum(ulp(a, mine.dtype), ulp(a, theirs.dtype))
        bound = coarse[:, :width]
    return a[:, :width], b[:, :width], bound


def _compare(total: _Tally, a: Float32, b: Float32, bound: Float32 | None) -> None:
    """Rows of `a` on rows of `b`; a row counts as the same when all of it is unchanged."""
    if not a.size:
        return
    difference = a - b
    same = (np.abs(difference) <= (0 if bound is None else bound)).all(axis=1)
    total.square += float((difference.astype(np.float64) ** 2).sum())
    total.norm += float((b.astype(np.float64) ** 2).sum())
    total.count += a.size
    total.same += int(np.count_nonzero(same)) * a.shape[1]


def removed_rows(child: Specimen, parent: Specimen) -> dict[str, int] | None:
    """Rows that the child's matrices lack, by role, in the layer where most are missing.

    Returns
    -------
    Only the roles that differ; None when a matrix of the child has more rows than the parent's,
    or another width of the residual stream.
    """
    mine, theirs = _rows(child), _rows(parent)
    missing = {}
    for role in mine.keys() & theirs.keys():
        (rows, width), (others, other_width) = mine[role], theirs[role]
        if width != other_width or rows > others:
            return None
        if rows < others:
            missing[role] = others - rows
    return missing


def _rows(one: Specimen) -> dict[str, tuple[int, int]]:
    """(most hidden units in a layer, width of the residual stream) of each role."""
    found: dict[str, tuple[int, int]] = {}
    for block in (b for blocks in layered(one).values() for b in blocks.values()):
        stored = block.shape[::-1] if block.transposed else block.shape
        hidden, width = stored[::-1] if is_writer(block.key) else stored
        found[block.key.role] = max(found.get(block.key.role, (0, width)), (hidden, width))
    return found


def shape_signature(one: Specimen) -> Sequence[object]:
    """What two specimens agree in when all their matrices can be compared in place."""
    return sorted(
        (str(b.key), b.shape, b.transposed)
        for blocks in layered(one).values()
        for b in blocks.values()
    )
