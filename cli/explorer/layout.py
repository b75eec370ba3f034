"""Where each descendant stands on the map: a radial tidy tree, linear in the number of models."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ...store.explorer import MapNodes
from ..output import clean

LOST, HIDDEN = 16, 32
COLOURS = ("#8a8a8a", "#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""Not measured, then retention below 0.2, 0.4, 0.6, 0.8 and above: viridis, which the
colour-blind can order too."""

_GOLDEN = 0.6180339887498949
_BAND = 0.7
_CROWD = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A map ready to draw: the root first, parents before children.

    `position` (n, 2) float32 within the unit circle; `under` (n,) uint32; `mark` (n,) uint8: the
    index into `COLOURS`, with `LOST` and `HIDDEN` added.
    """

    position: NDArray[np.float32]
    under: NDArray[np.uint32]
    mark: NDArray[np.uint8]

    def as_bytes(self) -> bytes:
        """Little-endian: uint32 n, float32 x[n], float32 y[n], uint32 under[n], uint8 mark[n]."""
        columns = (self.position[:, 0], self.position[:, 1])
        parts = [np.array([len(self.under)], dtype="<u4").tobytes()]
        parts += [column.astype("<f4").tobytes() for column in columns]
        return b"".join([*parts, self.under.astype("<u4").tobytes(), self.mark.tobytes()])


def lay_out(nodes: MapNodes) -> Drawing:
    """Place all descendants of a root.

    Notes
    -----
    Every model gets an angle in proportion to the leaves below it, beside its siblings, and a ring
    by its distance from the root (Reingold & Tilford's tidy tree, bent round). Where a ring is
    crowded, childless models are spread over its width by multiples of the golden ratio, so that
    100,000 children of one root are a disc and not a line. O(n), one pass over each ring.
    """
    leaves = _leaves(nodes)
    start = _starts(nodes, leaves)
    angle = 2 * np.pi * (start + leaves / 2) / leaves[0]
    radius = nodes.distance.astype(np.float64)
    crowded = np.bincount(nodes.distance)[nodes.distance] > _CROWD
    spread = crowded & (leaves == 1) & (nodes.distance > 0)
    radius[spread] += _BAND * ((np.arange(len(radius)) * _GOLDEN) % 1.0)[spread]
    radius /= max(radius.max(initial=0.0), 1.0)
    position = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return Drawing(
        position=position.astype(np.float32),
        under=nodes.under.astype(np.uint32),
        mark=_marks(nodes),
    )


def as_svg(drawing: Drawing, *, title: str) -> bytes:
    """The map as an SVG picture, one path for all edges and one for each kind of mark."""
    x, y = (drawing.position.T * 490 + 500).round(1)
    edges = " ".join(
        f"M{x[p]:g} {y[p]:g}L{x[c]:g} {y[c]:g}" for c, p in enumerate(drawing.under.tolist()) if c
    )
    paths = [f'<path d="{edges}" fill="none" stroke="#999" stroke-width=".3" opacity=".6"/>']
    for mark in np.unique(drawing.mark).tolist():
        at = np.flatnonzero(drawing.mark == mark)
        colour = COLOURS[mark & 7]
        if mark & LOST:
            shape = "".join(f"M{x[i]:g} {y[i] - 5:g}l4 8h-8z" for i in at)
            paths.append(f'<path d="{shape}" fill="{colour}" stroke="#d00" stroke-width="1"/>')
        else:
            dots = "".join(f"M{x[i]:g} {y[i]:g}h0" for i in at)
            paths.append(
                f'<path d="{dots}" fill="none" stroke="{colour}" stroke-width="3" '
                'stroke-linecap="round"/>'
            )
    # A name in a comment or title must be XML whatever it holds.
    words = escape(clean(title))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 1000" role="img">'
        f"<title>{words}</title>{''.join(paths)}</svg>"
    ).encode()


def _leaves(nodes: MapNodes) -> NDArray[np.float64]:
    """(n,) leaves below each model, 1 for a leaf itself."""
    leaves = np.zeros(len(nodes.under))
    for ring in range(int(nodes.distance.max(initial=0)), -1, -1):
        here = np.flatnonzero(nodes.distance == ring)
        leaves[here] = np.maximum(leaves[here], 1)
        if ring:
            np.add.at(leaves, nodes.under[here], leaves[here])
    return leaves


def _starts(nodes: MapNodes, leaves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) leaves before each model on its ring: its parent's, and its earlier siblings'."""
    start = np.zeros(len(leaves))
    for ring in range(1, int(nodes.distance.max(initial=0)) + 1):
        here = np.flatnonzero(nodes.distance == ring)
        here = here[np.lexsort((-leaves[here], nodes.under[here]))]
        parent = nodes.under[here]
        before = np.cumsum(leaves[here]) - leaves[here]
        first = np.ones(len(here), dtype=np.bool_)
        first[1:] = parent[1:] != parent[:-1]
        family = np.maximum.accumulate(np.where(first, np.arange(len(here)), 0))
        start[here] = start[parent] + before - before[family]
    return start


def _marks(nodes: MapNodes) -> NDArray[np.uint8]:
    root = nodes.refusal[0]
    known = np.isfinite(nodes.refusal) & bool(np.isfinite(root) and root > 0)
    retained = np.where(known, nodes.refusal, 0.0) / (root if known.any() else 1.0)
    colour = np.where(known, 1 + np.clip((retained * 5).astype(np.int64), 0, 4), 0)
    marks: NDArray[np.uint8] = (colour + LOST * nodes.lost + HIDDEN * nodes.hidden).astype(np.uint8)
    return marks
