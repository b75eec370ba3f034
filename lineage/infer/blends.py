"""Merges that are no single affine combination of whole models.

Tried from the exact to the searched: stacks of copied layers (passthrough), merges made tensor by
tensor (slerp, linear with weights that vary over the layers), merges made weight by weight (DARE,
TIES). Every member is a candidate for parent and base; none is named by the user. Each kind has
its verdict from rounding: in every block the residual is what rounding leaves, or every weight
is, within rounding, one of the few values that masks can give.

Not told apart, and therefore no blend: a child whose weights are all one of two members' (masks
over one parent give that, and so do two parents over any far base); parents that touch no weight
in common; a merge that was trained on, or one of whose parents was never published.

Searched only where the family explains some of the child's step: parents, masked or not, do, and
fresh training steps are orthogonal to those of others. `MAX_CANDIDATES`, `POOL` and
`LEAST_EXPLAINED` are set by hand, for time; nothing else here is a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .blend_layers import find_layered
from .blend_masks import find_masked
from .blend_record import Blend
from .blend_search import IsBase
from .blend_stack import find_passthrough, is_copy
from .geometry import Geometry
from .merges import find_mixture
from .specimen import Specimen

__all__ = ["Blend", "find_blend"]

MAX_CANDIDATES = 64
POOL = 16
LEAST_EXPLAINED = 0.02


def find_blend(
    child: int,
    candidates: Sequence[int],
    members: Sequence[Specimen],
    geometry: Geometry,
    *,
    is_base: IsBase | None = None,
) -> Blend | None:
    """The merge that made `child`, when it is one by layers or by masks.

    Parameters
    ----------
    child, candidates : indices into `members`; possible parents and bases, nearest first.
    members : the family `geometry` was measured on.
    is_base : whether a member may be the base that the deltas of some parents are taken from, for
        merges by masks; None for any.

    Returns
    -------
    Blend of two or more members, or None. None also for what is exactly one member or one affine
    combination of several: those have rules of their own.

    Notes
    -----
    Half a second for a child of 500,000 sampled weights that is no merge.
    """
    near = list(candidates[:MAX_CANDIDATES])
    if len(near) < 2 or not geometry.blocks:
        return None
    if explained_share(child, near[:POOL], geometry) < LEAST_EXPLAINED:
        return None
    if find_mixture(child, near, geometry) is not None:
        return None
    if any(is_copy(members[child], members[c], geometry.blocks) for c in near):
        return None
    found = find_passthrough(child, near, members, geometry.blocks)
    if found is None:
        found = find_layered(child, near, members, geometry.blocks)
    if found is None:
        found = find_masked(child, near, members, geometry, is_base=is_base)
    return found


def explained_share(child: int, near: Sequence[int], geometry: Geometry) -> float:
    """Share, in [0, 1], of a child's step from the nearest member that others' steps account for.

    Parameters
    ----------
    near : members, the nearest first, two at least.

    Notes
    -----
    Least squares on the Gram matrix. A merge by masks that keep a share p of its parents' weights
    leaves about p explained.
    """
    origin, others = near[0], list(near[1:])
    square = geometry.square_distance(child, origin)
    if square <= 0:
        return 0.0
    inner = np.array([[geometry.inner(a, b, origin=origin) for b in others] for a in others])
    target = np.array([geometry.inner(child, a, origin=origin) for a in others])
    solved, *_ = np.linalg.lstsq(inner, target, rcond=1e-9)
    return float(np.clip(solved @ target / square, 0.0, 1.0))
