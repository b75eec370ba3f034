"""What lies between a child and a candidate parent, block by block.

Deltas, not cosines, decide: inside a family cosines saturate at 0.998 for parent, child and
sibling alike. A delta is a float32 difference of exactly widened weights, so nothing is lost
before it is squared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sketch.plan import is_matrix, is_writer
from ..sketch.sketch import complete_rows
from .specimen import Block, Specimen, comparable, same_up_to_cast
from .traits import RELATIVE_HALF_ULP, Grid, Traits, grid_step

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

TOP_DIRECTIONS = 4
EDIT_ENERGY = 0.9
EDIT_COHERENCE = 0.9
LOW_RANK_SHARE = 0.5
NOISE_MARGIN = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDelta:
    """One block compared.

    `same` counts weights that differ by no more than the rounding of the two dtypes; `vanished`
    counts weights that are zero in the child only; `kept` counts same weights among those that
    did not vanish; `square` is the squared norm of the delta.
    """

    name: str
    layer: int | None
    matrix: bool
    writer: bool
    count: int
    same: int
    vanished: int
    kept: int
    square: float

    @property
    def unchanged(self) -> bool:
        """Whether every sampled weight is the parent's, up to a cast."""
        return self.same == self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """All comparable blocks of a child and a candidate parent."""

    blocks: Mapping[str, BlockDelta]

    @property
    def matrices(self) -> tuple[BlockDelta, ...]:
        """Blocks that lineage is decided on."""
        return tuple(b for b in self.blocks.values() if b.matrix)

    @property
    def changed(self) -> tuple[BlockDelta, ...]:
        """Matrix blocks in which something moved by more than a cast."""
        return tuple(b for b in self.matrices if not b.unchanged)

    @property
    def frozen_share(self) -> float:
        """Share of the sampled matrix weights that lie in unchanged blocks."""
        total = sum(b.count for b in self.matrices)
        return sum(b.count for b in self.matrices if b.unchanged) / total if total else 0.0

    @property
    def square(self) -> float:
        """Squared norm of the delta over the matrices."""
        return sum(b.square for b in self.matrices)

    @property
    def exact(self) -> bool:
        """Whether the child is the parent, up to a cast of dtype."""
        return bool(self.matrices) and not self.changed

    @property
    def beside(self) -> tuple[BlockDelta, ...]:
        """Blocks that lineage is not decided on: norms and sampled embedding rows."""
        return tuple(b for b in self.blocks.values() if not b.matrix)

    @property
    def same_elsewhere(self) -> bool:
        """Whether norms and sampled embedding rows are the parent's, up to a cast."""
        return all(b.unchanged for b in self.beside)

    @property
    def vanished_share(self) -> float:
        """Share of the matrix weights that are zero in the child only."""
        total = sum(b.count for b in self.matrices)
        return sum(b.vanished for b in self.matrices) / total if total else 0.0

    @property
    def pruned_share(self) -> float:
        """Share of weights that vanished in blocks where all others stayed; 0 if any moved."""
        changed = self.changed
        total = sum(b.count for b in changed)
        if not total or any(b.kept + b.vanished < b.count for b in changed):
            return 0.0
        return sum(b.vanished for b in changed) / total


def compare(child: Specimen, parent: Specimen) -> Delta:
    """Compare every block that both specimens hold at the same place.

    Notes
    -----
    O(sampled weights); a few milliseconds for a full sketch.
    """
    blocks = {}
    for name, block in child.blocks.items():
        other = parent.blocks.get(name)
        if other is not None and comparable(block, other):
            blocks[name] = _compare_block(name, block, other)
    return Delta(blocks=blocks)


def _compare_block(name: str, child: Block, parent: Block) -> BlockDelta:
    difference = child.values - parent.values
    same = same_up_to_cast(child, parent)
    vanished = (child.values == 0) & (parent.values != 0)
    return BlockDelta(
        name=name,
        layer=child.key.layer,
        matrix=is_matrix(child.key),
        writer=is_writer(child.key),
        count=child.values.size,
        same=int(np.count_nonzero(same)),
        vanished=int(np.count_nonzero(vanished & ~same)),
        kept=int(np.count_nonzero(same)),
        square=float((difference.astype(np.float64) ** 2).sum()),
    )


def on_grid_share(child: Specimen, parent: Specimen, traits: Traits) -> float | None:
    """Share of the child's gridded weights within half a step of the parent's.

    Rounding to nearest moves no weight by more than half a step, so the true parent scores 1
    and a sibling does not. None where the child has no grid.
    """
    inside = total = 0
    for name, grid in traits.grids.items():
        other = parent.blocks.get(name)
        if other is None or not comparable(child.blocks[name], other):
            continue
        hits, count = _inside_half_step(child.blocks[name], other, grid)
        inside += hits
        total += count
    return inside / total if total else None


def grid_floor(one: Specimen, traits: Traits, blocks: Sequence[str]) -> float:
    """Squared norm that rounding to its grids leaves: the sum of step^2 / 12, and elsewhere that of
    the published type."""
    total = 0.0
    for name in blocks:
        block, grid = one.blocks[name], traits.grids.get(name)
        if grid is None:
            total += block.floor
            continue
        _, steps = grid_step(block, grid)
        square = float((steps.astype(np.float64) ** 2).mean())
        total += block.values.size * square / 12
    return total


def _inside_half_step(child: Block, parent: Block, grid: Grid) -> tuple[int, int]:
    _, steps = grid_step(child, grid)
    _, mine = complete_rows(child.values, start=child.start, columns=child.columns)
    _, theirs = complete_rows(parent.values, start=parent.start, columns=parent.columns)
    # The step itself was read from rounded weights: that much is allowed for.
    slack = 2 * np.abs(mine) * RELATIVE_HALF_ULP.get(child.dtype, 0.0)
    inside = np.abs(mine - theirs) <= 0.51 * steps + slack
    return int(np.count_nonzero(inside)), int(inside.size)


def same_rows_permuted(child: Specimen, parent: Specimen) -> float:
    """Share of sampled writer rows that hold the parent's values in another order.

    A permutation of hidden units re-orders the columns of the matrices that write to the
    residual stream; sorted rows do not change.
    """
    matched = total = 0
    for name in child.matrices():
        block, other = child.blocks[name], parent.blocks.get(name)
        if other is None or not is_writer(block.key) or not comparable(block, other):
            continue
        if np.array_equal(block.values, other.values):
            continue
        _, mine = complete_rows(block.values, start=block.start, columns=block.columns)
        _, theirs = complete_rows(other.values, start=other.start, columns=other.columns)
        matched += int((np.sort(mine, axis=1) == np.sort(theirs, axis=1)).all(axis=1).sum())
        total += mine.shape[0]
    return matched / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaShape:
    """The algebraic form of a delta in the changed matrices.

    `writers_only`: nothing but matrices that write to the residual stream changed.
    `top_energy`: share of the delta's energy in its `TOP_DIRECTIONS` leading directions, the
    median over changed blocks. `coherence`: agreement, in [0, 1], of the leading left factors of
    the writer bands; 1 when one direction of the residual stream is shared by all.
    `rank`: directions above the rounding noise, the largest over blocks; `full`: whether some
    changed block has more of them than half of the rows sampled.
    """

    writers_only: bool
    top_energy: float
    coherence: float
    rank: int
    full: bool
    matrices: int

    @property
    def is_edit(self) -> bool:
        """A closed-form edit along few shared directions, or of a single matrix."""
        if not self.writers_only or self.top_energy < EDIT_ENERGY:
            return False
        return self.coherence >= EDIT_COHERENCE or (self.matrices == 1 and self.rank == 1)

    @property
    def is_low_rank(self) -> bool:
        """Every changed block moved in few directions only, as a merged adapter does."""
        return not self.full and self.rank > 0


def delta_shape(child: Specimen, parent: Specimen, delta: Delta) -> DeltaShape:
    """Singular values of the delta in each changed matrix block.

    Notes
    -----
    One eigendecomposition of the smaller Gram matrix per changed block.
    """
    energies, lefts, ranks, fulls = [], [], [0], []
    for changed in delta.changed:
        block, other = child.blocks[changed.name], parent.blocks[changed.name]
        _, mine = complete_rows(block.values, start=block.start, columns=block.columns)
        _, theirs = complete_rows(other.values, start=other.start, columns=other.columns)
        d = (mine - theirs).T if block.transposed else mine - theirs
        if min(d.shape) == 0 or not np.isfinite(d).all() or not d.any():
            continue
        left, s = _leading(d.astype(np.float64))
        noise = _noise(block, other)
        energies.append(_top_energy(s, noise))
        rank = _rank(s, noise, d.shape)
        ranks.append(rank)
        fulls.append(rank > LOW_RANK_SHARE * min(d.shape) and rank > 1)
        if changed.writer:
            lefts.append(left)
    return DeltaShape(
        writers_only=bool(delta.changed) and all(b.writer for b in delta.changed),
        top_energy=float(np.median(energies)) if energies else 0.0,
        coherence=_coherence(lefts),
        rank=max(ranks),
        full=any(fulls),
        matrices=len(energies),
    )


def _leading(d: Float64) -> tuple[Float64, Float64]:
    """The leading left singular vector and all singular values, through the smaller Gram matrix.

    Directions weaker than 1e-7 of the strongest are lost; rounding noise lies far above that.
    """
    wide = d.shape[0] <= d.shape[1]
    gram = d @ d.T if wide else d.T @ d
    values = np.linalg.eigvalsh(gram)
    top = _top_vector(gram, float(values[-1]))
    return top if wide else d @ top, np.sqrt(np.maximum(values[::-1], 0))


def _top_vector(gram: Float64, value: float) -> Float64:
    """The unit eigenvector of the largest eigenvalue, by inverse iteration just above it.

    All eigenvectors at once cost ten times the eigenvalues, and fifty where a threaded LAPACK
    shares its cores.
    """
    shifted = gram - value * (1 + 1e-10) * np.eye(gram.shape[0])
    vector: Float64 = gram[:, int(np.argmax(np.diag(gram)))]
    for _ in range(3):
        vector = np.linalg.solve(shifted, vector).astype(np.float64)
        vector /= np.linalg.norm(vector)
    return vector


def _noise(child: Block, parent: Block) -> float:
    """Variance that rounding of both sides leaves in one element of a block's delta."""
    both = child.half_ulp.astype(np.float64) ** 2 + parent.half_ulp.astype(np.float64) ** 2
    return float(both.mean() / 3)


def _top_energy(s: Float64, noise: float) -> float:
    """Share of the energy above the noise in the leading directions."""
    energy = np.maximum(s**2 - noise * s.size, 0)
    total = float(energy.sum())
    return float(energy[:TOP_DIRECTIONS].sum()) / total if total > 0 else 0.0


def _rank(s: Float64, noise: float, shape: tuple[int, ...]) -> int:
    """Singular values above the edge of a random matrix with the rounding's variance."""
    edge = np.sqrt(noise) * (np.sqrt(shape[0]) + np.sqrt(shape[1]))
    return int(np.count_nonzero(s > NOISE_MARGIN * edge))


def _coherence(lefts: list[Float64]) -> float:
    """Largest eigenvalue of the mean projector onto the left factors, over their common rows."""
    if not lefts:
        return 0.0
    rows = min(u.size for u in lefts)
    heads = [u[:rows] / n for u in lefts if (n := np.linalg.norm(u[:rows])) > 0]
    if not heads:
        return 0.0
    mean = sum(np.outer(u, u) for u in heads) / len(heads)
    return float(np.linalg.eigvalsh(mean)[-1])
