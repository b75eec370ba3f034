"""Stacks of copied layers (passthrough): every block is a copy of some member's, up to a cast.

No threshold: equal, or within the rounding of both dtypes. `FIRST`, how many weights are looked
at before a whole block is, is set for time alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .blend_record import Blend, by_layer, heaviest_first
from .specimen import Block, Specimen

FIRST = 64


def find_passthrough(
    child: int, candidates: Sequence[int], members: Sequence[Specimen], blocks: Sequence[str]
) -> Blend | None:
    """The fewest members of which every block of the child is a copy, up to a cast.

    Notes
    -----
    Exact: a block that equals no candidate ends the search. Greedy cover of the blocks.
    """
    one = members[child]
    head = [c for c in candidates if _holds_equal(one, members[c], blocks)]
    equal = {c: equal_blocks(one, members[c], blocks) for c in head}
    if set().union(*equal.values()) < set(blocks):
        return None
    picked: dict[int, set[str]] = {}
    left = set(blocks)
    while left:
        best = max(equal, key=lambda c: len(equal[c] & left))
        picked[best] = equal[best] & left
        left -= picked[best]
    if len(picked) < 2:
        return None
    takes = {name: c for c, names in picked.items() for name in names}
    weights = dict.fromkeys(picked, 0.0)
    for name, share in _layer_shares(one, blocks).items():
        weights[takes[name]] += share
    return Blend(
        method="passthrough",
        weights=heaviest_first(weights),
        base=None,
        explained=1.0,
        chance=0.0,
        detail={"layers": by_layer({name: takes[name] for name in blocks}, one)},
        collinear=_stand_ins(picked, equal),
    )


def _layer_shares(one: Specimen, blocks: Sequence[str]) -> dict[str, float]:
    """Share of each block where all layers count alike: of the end ones more is sampled."""
    layers: dict[int | None, dict[str, int]] = {}
    for name in blocks:
        block = one.blocks[name]
        layers.setdefault(block.key.layer, {})[name] = block.values.size
    return {
        name: size / sum(sizes.values()) / len(layers)
        for sizes in layers.values()
        for name, size in sizes.items()
    }


def is_copy(one: Specimen, other: Specimen, blocks: Sequence[str]) -> bool:
    """Whether all blocks are equal, up to a cast; nearly always settled by the first one."""
    return all(
        _equal_block(one.blocks[n], other.blocks[n], first=FIRST)
        and _equal_block(one.blocks[n], other.blocks[n])
        for n in blocks
    )


def _holds_equal(one: Specimen, other: Specimen, blocks: Sequence[str]) -> bool:
    """Whether the first weights of some block agree: cheap, and false for nearly everyone."""
    return any(_equal_block(one.blocks[n], other.blocks[n], first=FIRST) for n in blocks)


def equal_blocks(one: Specimen, other: Specimen, blocks: Sequence[str]) -> set[str]:
    """The blocks that are equal, up to a cast."""
    return {n for n in blocks if _equal_block(one.blocks[n], other.blocks[n])}


def _equal_block(a: Block, b: Block, *, first: int | None = None) -> bool:
    x, y = a.values[:first], b.values[:first]
    if a.dtype == b.dtype or (first is None and np.array_equal(x, y)):
        return np.array_equal(x, y)
    return bool((np.abs(x - y) <= a.half_ulp[:first] + b.half_ulp[:first]).all())


def _stand_ins(picked: Mapping[int, set[str]], equal: Mapping[int, set[str]]) -> tuple[int, ...]:
    """Members that hold all that was taken from one of those picked."""
    others = [c for c in equal if c not in picked]
    return tuple(c for c in others if any(took <= equal[c] for took in picked.values()))
