"""The steps of a path held against a child: which of them it keeps, and where it branched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .decision import Placement, path_to
from .family import Family
from .likelihood import child_scorer
from .path import MAX_OTHERS, PathClues, path_clues

TRAINED = frozenset({"nearest", "frozen"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """One step of a path held against a child: log-odds that the child keeps it."""

    origin: int
    via: int
    clues: PathClues
    odds: float


def path_steps(
    family: Family,
    child: int,
    path: Sequence[int],
    placed: Mapping[int, Placement],
) -> list[PathStep]:
    """Each step of a path held against a child: how likely it is that the child keeps it."""
    return [
        path_step(family, child, via=via, origin=origin, placed=placed)
        for origin, via in pairwise(path)
    ]


def path_step(
    family: Family,
    child: int,
    *,
    via: int,
    origin: int,
    placed: Mapping[int, Placement],
) -> PathStep:
    """One step held against a child, with what is known of its siblings."""
    clues = path_clues(
        family.members,
        family.sample,
        child=child,
        via=via,
        origin=origin,
        others=_others(family, child, via, origin, placed),
    )
    odds = child_scorer().log_odds(clues)
    return PathStep(origin=origin, via=via, clues=clues, odds=odds)


def most_likely_stop(odds: Sequence[float]) -> tuple[int, float]:
    """How many steps are kept, and the log-odds of that against the next best number.

    If the child branched off after step j, the steps up to j are kept and those behind it are not:
    against no step kept, the log-likelihood is the sum of the first j log-odds.
    """
    sums = [0.0]
    for step in odds:
        sums.append(sums[-1] + step)
    best = max(range(len(sums)), key=sums.__getitem__)
    others = [value for j, value in enumerate(sums) if j != best]
    return best, sums[best] - max(others) if others else 0.0


def _others(
    family: Family, child: int, via: int, origin: int, placed: Mapping[int, Placement]
) -> list[int]:
    """Members from the same origin that stand for shared data, nearest to `via` first.

    Later ones too, once they are placed: what they have in common is known whoever came first.
    """
    squares = family.geometry.square_distance
    found = [
        i
        for i, decision in placed.items()
        if i not in (via, origin, child)
        and decision.rule in TRAINED
        and origin in (above := path_to(i, placed))
        and via not in above
        and child not in above
    ]
    return sorted(found, key=lambda i: squares(i, via))[:MAX_OTHERS]
