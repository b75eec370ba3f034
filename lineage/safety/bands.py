"""The rows that two models share in the matrices that write to the residual stream.

Row i of such a matrix writes to residual coordinate i, so that the same rows of all of them can be
laid beside each other, and an edit along one residual direction r shows as one left factor:
W' = W - alpha r r^T W has the difference -alpha r (W^T r)^T in every matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..infer.specimen import Block, Specimen, comparable
from ..sketch.plan import is_writer
from ..sketch.sketch import complete_rows

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Whole sampled rows of one writing matrix in parent and child.

    `parent`, `child` (rows, m) float64, row i being residual coordinate i; `width` is the number
    of rows of the whole matrix.
    """

    name: str
    parent: Float64
    child: Float64
    width: int

    @property
    def rows(self) -> int:
        """Rows sampled."""
        return int(self.parent.shape[0])

    @property
    def whole(self) -> bool:
        """Whether every row of the matrix was sampled."""
        return self.rows == self.width

    @property
    def delta(self) -> Float64:
        """(rows, m) child minus parent."""
        return self.child - self.parent

    @property
    def changed(self) -> bool:
        """Whether any sampled weight differs."""
        return not np.array_equal(self.parent, self.child)


def bands_of(child: Specimen, parent: Specimen) -> tuple[Band, ...]:
    """The bands that begin at residual coordinate 0 in both models, in the order of the sketch.

    Notes
    -----
    In a matrix stored [in, out] a stored row is a whole residual vector; it is turned round and
    holds all coordinates of a few columns.
    """
    return tuple(_bands(child, parent))


def _bands(child: Specimen, parent: Specimen) -> Iterator[Band]:
    for name, block in child.blocks.items():
        other = parent.blocks.get(name)
        if other is None or not is_writer(block.key) or not comparable(block, other):
            continue
        mine, theirs = _rows(block), _rows(other)
        # Two rows are the least in which a direction can agree or disagree.
        if mine is not None and theirs is not None and min(mine.shape) >= 2 and theirs.any():
            width = block.shape[-1] if block.transposed else block.shape[0]
            yield Band(name=name, parent=theirs, child=mine, width=width)


def _rows(block: Block) -> Float64 | None:
    if len(block.shape) != 2:
        return None
    first, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    if first != 0:
        return None
    return (rows.T if block.transposed else rows).astype(np.float64)


def whitened(band: Band) -> Float64:
    """(rows, m) difference with each row in units of its parent's norm, and no part along it.

    Rounding errs in proportion to a row's size, and a coarse quantizer shrinks rows: without
    this, the clean copy of a model looks like an edit along its own largest rows.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", band.parent, band.parent))
    safe = np.where(norms > 0, norms, 1.0)
    units = band.parent / safe[:, None]
    scaled = band.delta / safe[:, None]
    scaled[norms == 0] = 0.0
    along = np.einsum("ij,ij->i", scaled, units)
    white: Float64 = scaled - along[:, None] * units
    return white


def common_rows(bands: Sequence[Band], *, least: int = 4) -> tuple[int, list[Band]]:
    """The bands that are laid side by side, and how many rows of each.

    As many rows as `least` bands have (all, where there are fewer bands): long rows make short
    bands, and one short band must not cut the others down.
    """
    sizes = sorted((band.rows for band in bands), reverse=True)
    if not sizes:
        return 0, []
    rows = sizes[min(least, len(sizes)) - 1]
    return rows, [band for band in bands if band.rows >= rows]
