"""Every sampled layer of some models against every sampled layer of others.

Two layers agree when the i-th hidden unit of one is like the i-th of the other, over the matrices
of equal shape, measured in units of the spread that shuffled units show (kinship). Where no matrix
kept its shape the nearest units are taken instead, and shuffled residual channels are the null:
training is equivariant to a permutation of either.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from ..sketch.plan import is_writer
from .alignment import Site, layered, reshaped, unit_norm, units
from .kinship import MAX_SHIFTS
from .specimen import Block, Specimen

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

NULL_LAYERS = 64
CHANNEL_SHIFTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The sampled layers of a group of models, numbered through.

    `model[k]` is the model of layer k, `site[k]` its place there.
    """

    model: Ints
    site: Sequence[Site]
    blocks: Sequence[Mapping[str, Block]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Every layer of the children against every layer of the candidates.

    `mean` is the mean cosine of matched hidden units over the roles that can be matched, `z` the
    same in units of the spread under shuffled units; both 0 where nothing could be matched.
    """

    mean: Float64
    z: Float64


def layers_of(group: Sequence[Specimen]) -> Layers:
    """The sampled layers of all models of a group."""
    model, sites, blocks = [], [], []
    for at, one in enumerate(group):
        for site, found in sorted(layered(one).items()):
            model.append(at)
            sites.append(site)
            blocks.append(found)
    return Layers(model=np.array(model, dtype=np.int64), site=sites, blocks=blocks)


def measure_layers(mine: Layers, theirs: Layers, *, compute: Compute) -> Agreement:
    """Compare all layers of two groups.

    Notes
    -----
    One product for all layers of a role and shape, and one for each of at most 16 shifts over at
    most 64 layers a side.
    """
    shape = (len(mine.site), len(theirs.site))
    total, variance, used = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    left, right = _by_shape(mine), _by_shape(theirs)
    for key in sorted(left.keys() & right.keys(), key=str):
        a, b = _stack(mine, left[key], key[0]), _stack(theirs, right[key], key[0])
        if a.shape[1] < 2:
            continue
        cells = np.ix_(left[key], right[key])
        total[cells] += _matched(a, b, compute)
        variance[cells] += _null_variance(a, b, compute)
        used[cells] += 1
    mean = np.divide(total, used, out=np.zeros(shape), where=used > 0)
    z = np.divide(total, np.sqrt(variance), out=np.zeros(shape), where=variance > 0)
    agreement = Agreement(mean=mean, z=z)
    _add_reshaped(agreement, mine, theirs)
    return agreement


def _by_shape(layers: Layers) -> dict[tuple[Any, ...], list[int]]:
    """Numbers of the layers that hold a readers' matrix of one role and shape."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for at, blocks in enumerate(layers.blocks):
        for role, block in blocks.items():
            if not is_writer(block.key):
                place = (role, block.shape, block.transposed, block.start, block.values.size)
                found[place].append(at)
    return found


def _stack(layers: Layers, picked: Sequence[int], role: str) -> Float32:
    """(layers, units, inputs) unit-norm rows."""
    return np.stack([unit_norm(units(layers.blocks[at][role])) for at in picked])


def _matched(a: Float32, b: Float32, compute: Compute) -> Float64:
    """(layers, layers) mean cosine between units of the same number."""
    sums = compute.cross(a.reshape(len(a), -1), b.reshape(len(b), -1)).astype(np.float64)
    means: Float64 = sums / a.shape[1]
    return means


def _null_variance(a: Float32, b: Float32, compute: Compute) -> float:
    """Mean square of the agreement of shuffled units: rotated by every shift in turn."""
    count = a.shape[1]
    a, b = (rows[:: -(-len(rows) // NULL_LAYERS)] for rows in (a, b))
    shifts = np.unique(np.linspace(1, count - 1, min(MAX_SHIFTS, count - 1)).astype(int))
    squares = [
        float((_matched(a, np.roll(b, int(s), axis=1), compute) ** 2).mean()) for s in shifts
    ]
    return float(np.mean(squares))


def _add_reshaped(agreement: Agreement, mine: Layers, theirs: Layers) -> None:
    """Nearest units where no matrix kept its shape, against the same with channels shuffled."""
    for rows, columns in _unmatched(agreement, mine, theirs):
        role = _reshaped_role(mine, theirs, int(rows[0]), int(columns[0]))
        if role is None:
            continue
        block = np.ix_(rows, columns)
        found, null = _nearest_units(mine, theirs, rows, columns, role)
        agreement.mean[block] = found
        agreement.z[block] = (found - null.mean()) / max(float(null.std()), 1e-12)


def _unmatched(agreement: Agreement, mine: Layers, theirs: Layers) -> Iterator[tuple[Ints, Ints]]:
    """Layers of the pairs of models with the same roles of which none could be matched."""
    right = [np.nonzero(theirs.model == b)[0] for b in np.unique(theirs.model)]
    for a in np.unique(mine.model):
        rows = np.nonzero(mine.model == a)[0]
        for columns in right:
            alike = mine.blocks[rows[0]].keys() == theirs.blocks[columns[0]].keys()
            if alike and not agreement.z[np.ix_(rows, columns)].any():
                yield rows, columns


def _reshaped_role(mine: Layers, theirs: Layers, at: int, other: int) -> str | None:
    """The role with the most units among those that differ in their units alone."""
    here, there = mine.blocks[at], theirs.blocks[other]
    fit = [
        role
        for role in sorted(here)
        if not is_writer(here[role].key) and reshaped(here[role], there[role])
    ]
    return max(fit, key=lambda role: len(units(here[role])), default=None)


def _nearest_units(
    mine: Layers, theirs: Layers, rows: Ints, columns: Ints, role: str
) -> tuple[Float64, Float64]:
    """(layers, layers) mean cosine of each unit's nearest, and samples of it by chance."""
    found, null = np.zeros((len(rows), len(columns))), [0.0]
    for i, at in enumerate(rows):
        for j, other in enumerate(columns):
            here, there = mine.blocks[at].get(role), theirs.blocks[other].get(role)
            if here is None or there is None:
                continue
            a, b = unit_norm(units(here)), unit_norm(units(there))
            width = min(a.shape[1], b.shape[1])
            if not a.size or not b.size or width < 2:
                continue
            found[i, j] = _nearest(a[:, :width], b[:, :width])
            if j == i % len(columns):
                steps = np.unique(np.linspace(1, width - 1, CHANNEL_SHIFTS).astype(int))
                null += [_nearest(a[:, :width], np.roll(b[:, :width], s, axis=1)) for s in steps]
    return found, np.array(null[1:] or null)


def _nearest(a: Float32, b: Float32) -> float:
    return float((a @ b.T).max(axis=1).mean())


def upper_tail(z: float) -> float:
    """Probability that a standard normal variable exceeds `z`."""
    return 0.5 * math.erfc(z / math.sqrt(2))
