"""Where one model belongs: the parent, or parents, that its weights name.

Rules are tried from the exact to the statistical, and the first that applies decides:

1. a copy: nothing differs by more than a cast of dtype;
2. a shuffled copy: hidden units in another order, values unchanged;
3. quantized: a child on a grid is within half a step of its parent everywhere;
4. pruned: what did not vanish is the parent's;
5. frozen: whole blocks are the parent's bit for bit, as an adapter or an edit leaves them;
6. a merge: an affine mixture of members down to the floor of rounding;
7. nearest: the nearest earlier member, unless the child lacks the large moves that this member
   made from its own parent; then it is a sibling, and the parent lies further up the path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .delta import on_grid_share, same_rows_permuted
from .family import Family, mixture_of
from .geometry import far_beta
from .merges import Mixture

FROZEN_SHARE = 0.1
ON_GRID = 0.999
SHUFFLED_ROWS = 0.99
FAR_APART = 0.5
SAME_PATH = 0.92
OWN_PATH = 0.7
HIDDEN_PATH = 0.6
HIDDEN_OWN_PATH = 0.5
MAX_PATH = 32
MAX_OTHERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A decision for one member: the rule that made it and the members it names.

    `kept` is False when the nearest member was ruled out as a sibling, and `beta` the lesser of the
    two betas of the step that decided. `sibling` is set when the child shares a path with that
    member which no published model explains.
    """

    child: int
    rule: str
    parents: tuple[int, ...]
    mixture: Mixture | None = None
    kept: bool = True
    sibling: int | None = None
    beta: float | None = None
    measure: float | None = None
    passed_over: Mapping[int, str] = field(default_factory=dict)


def place(family: Family, child: int, placed: Mapping[int, Placement]) -> Placement:
    """Decide one member, given the decisions for all that come before it.

    Returns
    -------
    Placement with no parents for a root.
    """
    near = family.nearest(child)
    if not near:
        return Placement(child=child, rule="root", parents=())
    rules = (_copy, _shuffled, _quantized, _pruned, _frozen, _merge)
    for rule in rules:
        decision = rule(family, child, near)
        if decision is not None:
            return decision
    return _nearest(family, child, near, placed)


def _copy(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    same = [i for i in near if family.delta(child, i).exact]
    if not same:
        return None
    first = min(same, key=lambda i: family.rank[i])
    return Placement(child=child, rule="copy", parents=(first,))


def _shuffled(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    if family.geometry.relative(child, near[0]) < FAR_APART:
        return None
    share = {
        i: same_rows_permuted(family.members[child], family.members[i])
        for i in family.predecessors(child)
    }
    best = max(share, key=lambda i: (share[i], family.delta(child, i).frozen_share))
    if share[best] < SHUFFLED_ROWS:
        return None
    return Placement(child=child, rule="shuffled", parents=(best,), measure=share[best])


def _quantized(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    traits = family.traits[child]
    if not traits.quantized:
        return None
    share = {
        i: on_grid_share(family.members[child], family.members[i], traits) or 0.0 for i in near
    }
    fitting = [i for i in near if share[i] >= ON_GRID]
    if not fitting:
        best = max(share.values())
        fitting = [i for i in near if share[i] >= best - 0.01]
    # A coarser grid is a leaf: a second rounding is likelier to start from the same source.
    finer = [i for i in fitting if not family.traits[i].lossy] or fitting
    same = [i for i in finer if family.delta(child, i).same_elsewhere] or finer
    passed = {
        i: f"{1 - share[i]:.2%} of weights lie over half a step away"
        for i in near
        if share[i] < ON_GRID
    }
    passed |= {i: "itself on a grid or pruned: a leaf" for i in fitting if i not in finer}
    return Placement(
        child=child,
        rule="quantized",
        parents=(same[0],),
        measure=share[same[0]],
        passed_over=passed,
    )


def _pruned(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    if not family.traits[child].sparse:
        return None
    share = {i: family.delta(child, i).pruned_share for i in near}
    exact = [i for i in near if share[i] > 0]
    if not exact:
        return None
    best = min(exact, key=lambda i: (family.traits[i].quantized, share[i], family.rank[i]))
    return Placement(child=child, rule="pruned", parents=(best,), measure=share[best])


def _frozen(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    share = {i: family.delta(child, i).frozen_share for i in near}
    most = max(share.values())
    if most < FROZEN_SHARE:
        return None
    tied = [i for i in near if share[i] >= most - 0.01]
    passed = {
        i: f"{share[i]:.0%} of the weights frozen against {most:.0%}" for i in near if i not in tied
    }
    return Placement(
        child=child, rule="frozen", parents=(tied[0],), measure=most, passed_over=passed
    )


def _merge(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    mixture = mixture_of(family, child)
    if mixture is None:
        return None
    heavy = tuple(sorted(mixture.weights, key=lambda i: -mixture.weights[i]))
    return Placement(
        child=child, rule="merge", parents=heavy, mixture=mixture, measure=mixture.ratio
    )


def _nearest(
    family: Family, child: int, near: Sequence[int], placed: Mapping[int, Placement]
) -> Placement:
    """Follow the path to the nearest member for as long as the child keeps every step of it."""
    path = _path_to(near[0], placed)
    passed: dict[int, str] = {}
    least, sibling, kept = None, None, True
    for at, (origin, via) in enumerate(pairwise(path)):
        beta = _path_kept(family, child, via, origin)
        own = _own_path_kept(family, child, via, origin, placed)
        least = min(beta, own + SAME_PATH - OWN_PATH)
        if least >= SAME_PATH:
            continue
        passed[via] = f"a sibling: it keeps {min(beta, own):.2f} of the path from the parent"
        if _shares_path(family, child, via, origin, own):
            sibling = via
        path, kept = path[: at + 1], False
        break
    return Placement(
        child=child,
        rule="nearest",
        parents=(path[-1],),
        kept=kept,
        sibling=sibling,
        beta=least,
        passed_over=passed,
    )


def _path_to(member: int, placed: Mapping[int, Placement]) -> list[int]:
    """Ancestors of a member down to itself, as far as each has a single parent."""
    path = [member]
    while (above := _parent_of(path[0], placed)) is not None and len(path) < MAX_PATH:
        path.insert(0, above)
    return path


def _parent_of(member: int, placed: Mapping[int, Placement]) -> int | None:
    decision = placed.get(member)
    if decision is None or len(decision.parents) != 1:
        return None
    return decision.parents[0]


def _path_kept(family: Family, child: int, via: int, origin: int) -> float:
    members = family.members
    return far_beta(members[child], members[via], members[origin], blocks=family.geometry.blocks)


def _own_path_kept(
    family: Family, child: int, via: int, origin: int, placed: Mapping[int, Placement]
) -> float:
    """Beta along what only `via` learned; descendants of `via` do not count as others."""
    others = [
        i
        for i in family.predecessors(child)
        if i not in (via, origin)
        and not family.traits[i].lossy
        and origin in _path_to(i, placed)
        and via not in _path_to(i, placed)
    ]
    return family.geometry.own_beta(child, via, origin=origin, others=others[:MAX_OTHERS])


def _shares_path(family: Family, child: int, via: int, origin: int, own: float) -> bool:
    """Whether both siblings have more in common than siblings trained apart do."""
    beta = _path_kept(family, child, via, origin)
    back = _path_kept(family, via, child, origin)
    return min(beta, back) >= HIDDEN_PATH and own >= HIDDEN_OWN_PATH
