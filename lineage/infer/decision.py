"""What was decided for each member of a family, and the tree that the decisions make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .blends import Blend
from .laundered import Laundering
from .merges import Mixture
from .path import PathClues

MAX_PATH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A decision for one member: the rule that made it and the members it names.

    `kept` is False when the nearest member was ruled out as a sibling; `odds` are the log-odds of
    the chosen place on the path against the next best, `clues` those of the step that decided.
    `support` is the share of resampled weights that name the same parent, where it was measured.
    `sibling` is set when the child shares a path with that member which nothing published explains.
    """

    child: int
    rule: str
    parents: tuple[int, ...]
    mixture: Mixture | None = None
    blend: Blend | None = None
    washing: Laundering | None = None
    kept: bool = True
    sibling: int | None = None
    odds: float | None = None
    clues: PathClues | None = None
    measure: float | None = None
    support: float | None = None
    passed_over: Mapping[int, str] = field(default_factory=dict)


def descends(member: int, ancestor: int, placed: Mapping[int, Placement]) -> bool:
    """Whether a member comes from another by the decisions made so far."""
    pending, seen = [member], set[int]()
    while pending:
        at = pending.pop()
        if at == ancestor and at != member:
            return True
        if at in seen or at not in placed:
            continue
        seen.add(at)
        pending += placed[at].parents
    return False


def path_to(member: int, placed: Mapping[int, Placement]) -> list[int]:
    """Ancestors of a member down to itself; of a merge, through the parent of the largest share."""
    path = [member]
    while (above := parent_of(path[0], placed)) is not None and len(path) < MAX_PATH:
        path.insert(0, above)
    return path


def parent_of(member: int, placed: Mapping[int, Placement]) -> int | None:
    """The parent of a member, of a merge the one with the largest share; None for a root."""
    decision = placed.get(member)
    return decision.parents[0] if decision is not None and decision.parents else None
