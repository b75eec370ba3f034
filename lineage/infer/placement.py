"""Where one model belongs: the parent, or parents, that its weights name.

Rules are tried from the exact to the statistical, and the first that applies decides:

1. a copy: nothing differs by more than a cast of dtype;
2. a shuffled copy: hidden units in another order, values unchanged;
3. quantized: a child on a grid is within half a step of its parent everywhere;
4. pruned: what did not vanish is the parent's;
5. frozen: whole blocks are the parent's bit for bit, as an adapter or an edit leaves them;
6. a merge: an affine mixture of members down to the floor of rounding;
7. a blend: layers copied from several members, or weights mixed tensor by tensor or by masks;
8. nearest: the nearest earlier member, or the ancestor of it whose path the child still keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .blends import find_blend
from .decision import Placement, descends, parent_of, path_to
from .delta import grid_floor, on_grid_share, same_rows_permuted
from .family import NEAREST, Family, mixture_of
from .laundered import find_source
from .likelihood import hidden_scorer
from .merges import MIN_SHARE, Mixture, find_mixture
from .path import Sample
from .path_steps import PathStep, most_likely_stop, path_step, path_steps
from .relation import SHUFFLED_ROWS
from .specimen import mean_of
from .support import support_of, with_columns

FROZEN_SHARE = 0.1
SAME_SHARE = 0.01
ON_GRID = 0.999
FAR_APART = 0.5
FAMILY_LIMIT = 64
MAX_RIVALS = 6


def place(family: Family, child: int, placed: Mapping[int, Placement]) -> Placement:
    """Decide one member, given the decisions for all that come before it.

    Returns
    -------
    Placement with no parents for a root.
    """
    near = family.nearest(child)
    if not near:
        return Placement(child=child, rule="root", parents=())
    rules = (_copy, _shuffled, _quantized, _pruned)
    for rule in rules:
        decision = rule(family, child, near)
        if decision is not None:
            return decision
    washed = _washed(family, child, near, placed)
    if washed is not None:
        return washed
    frozen = _frozen(family, child, near)
    merged = _merge(family, child)
    if merged is None or not _outweighs(family, merged, frozen):
        merged = _blended(family, child, placed)
    if merged is not None and _outweighs(family, merged, frozen):
        return merged
    if frozen is not None:
        return frozen
    left, near = _over_what_is_left(family, child, near)
    return _nearest(left, child, near, placed)


def place_again(family: Family, child: int, placed: Mapping[int, Placement]) -> Placement:
    """Decide a member that its nearest relatives placed once more, now that all are placed."""
    if placed[child].rule != "nearest":
        return placed[child]
    family, near = _over_what_is_left(family, child, family.nearest(child))
    return _nearest(family, child, near, placed)


def with_support(family: Family, child: int, placed: Mapping[int, Placement]) -> Placement:
    """The decision with its bootstrap support, where a path was weighed.

    Notes
    -----
    Sixteen decisions on 4,096 weights each: some 30 ms.
    """
    decision = placed[child]
    if decision.rule != "nearest" or decision.odds is None:
        return decision
    family, near = _over_what_is_left(family, child, family.nearest(child))

    def decide(sample: Sample) -> int:
        return _nearest(replace(family, sample=sample), child, near, placed).parents[0]

    return replace(decision, support=support_of(decide, family.sample))


def _over_what_is_left(family: Family, child: int, near: list[int]) -> tuple[Family, list[int]]:
    """The family over the weights that pruning left of the child, and who is nearest there.

    What was set to zero says how large the weights were, and not whose.
    """
    if not family.traits[child].sparse:
        return family, near
    left = np.flatnonzero(family.sample.rows[child])
    if not left.size:
        return family, near
    sample = with_columns(family.sample, left)
    own = sample.rows[child]
    away = {i: float(np.square(sample.rows[i] - own).sum()) for i in family.predecessors(child)}
    return replace(family, sample=sample), sorted(away, key=away.__getitem__)[:NEAREST]


def _copy(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    same = [i for i in near if family.delta(child, i).exact]
    if not same:
        return None
    whole = [i for i in same if family.delta(child, i).same_elsewhere]
    first = min(whole or same, key=lambda i: family.rank[i])
    return Placement(child=child, rule="copy", parents=(first,))


def _washed(
    family: Family, child: int, near: Sequence[int], placed: Mapping[int, Placement]
) -> Placement | None:
    """A copy in which some blocks were permuted, rescaled or turned: far from all it resembles."""
    if family.geometry.relative(child, near[0]) < FAR_APART:
        return None
    others = family.predecessors(child)[:FAMILY_LIMIT]
    number = {i: at for at, i in enumerate(others)}
    found = find_source(
        family.members[child],
        [family.members[i] for i in others],
        compute=family.compute,
        above={at: number[p] for i, at in number.items() if (p := parent_of(i, placed)) in number},
    )
    if found is None or not found.done:
        return None
    return Placement(child=child, rule="washed", parents=(others[found.candidate],), washing=found)


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
    merged = None if fitting else _rounded_merge(family, child)
    if merged is not None:
        return merged
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


def _rounded_merge(family: Family, child: int) -> Placement | None:
    """A merge that was published on a grid only: rounding it gives the child, weight by weight."""
    traits, geometry = family.traits[child], family.geometry
    able = [i for i in family.predecessors(child) if not family.traits[i].lossy]
    floor = geometry.floor.copy()
    floor[child] = grid_floor(family.members[child], traits, geometry.blocks)
    rounded = replace(geometry, floor=floor)
    mixture = find_mixture(child, able, rounded)
    if mixture is None:
        return None
    mean = mean_of([(family.members[i], w) for i, w in mixture.weights.items()])
    share = on_grid_share(family.members[child], mean, traits) or 0.0
    return _mixed(child, mixture) if share >= ON_GRID else None


def _pruned(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    if not family.traits[child].sparse:
        return None
    share = {i: family.delta(child, i).pruned_share for i in near}
    exact = [i for i in near if share[i] > 0]
    if not exact:
        return None
    # Pruned models are leaves: a further pruning is likelier to start from the same source.
    best = min(exact, key=lambda i: (family.traits[i].lossy, share[i], family.rank[i]))
    return Placement(child=child, rule="pruned", parents=(best,), measure=share[best])


def _frozen(family: Family, child: int, near: Sequence[int]) -> Placement | None:
    share = {i: family.delta(child, i).frozen_share for i in near}
    most = max(share.values())
    if most < FROZEN_SHARE:
        return None
    tied = [i for i in near if share[i] >= most - SAME_SHARE]
    passed = {
        i: f"{share[i]:.0%} of the weights frozen against {most:.0%}" for i in near if i not in tied
    }
    return Placement(
        child=child, rule="frozen", parents=(tied[0],), measure=most, passed_over=passed
    )


def _outweighs(family: Family, merged: Placement, frozen: Placement | None) -> bool:
    """Whether a merge that left whole blocks alone left those of all its members alone.

    Adapters leave the same blocks alone, and so does their merge. An edit of one member can lie
    within rounding of a sum of several, but its untouched blocks are that member's only.
    """
    stacked = merged.blend is not None and merged.blend.method == "passthrough"
    if frozen is None or stacked:
        return True
    shares = [family.delta(merged.child, i).frozen_share for i in merged.parents]
    return max(shares) - min(shares) <= SAME_SHARE


def _merge(family: Family, child: int) -> Placement | None:
    mixture = mixture_of(family, child)
    return None if mixture is None else _mixed(child, mixture)


def _mixed(child: int, mixture: Mixture) -> Placement:
    heavy = tuple(sorted(mixture.weights, key=lambda i: -mixture.weights[i]))
    return Placement(
        child=child, rule="merge", parents=heavy, mixture=mixture, measure=mixture.ratio
    )


def _blended(family: Family, child: int, placed: Mapping[int, Placement]) -> Placement | None:
    """A merge by tensors or by weights, over a base that its parents descend from."""
    candidates = [i for i in family.predecessors(child) if not family.traits[i].quantized]

    def is_base(base: int, parents: Sequence[int]) -> bool:
        return all(descends(parent, base, placed) for parent in parents)

    blend = find_blend(child, candidates, family.members, family.geometry, is_base=is_base)
    if blend is None or min(blend.weights.values()) < MIN_SHARE:
        return None
    return Placement(
        child=child,
        rule="blend",
        parents=tuple(blend.weights),
        blend=blend,
        measure=blend.explained,
    )


def _nearest(
    family: Family,
    child: int,
    near: Sequence[int],
    placed: Mapping[int, Placement],
) -> Placement:
    """The member on the path to the nearest one that the child most likely branched off.

    Each step of the path is weighed by its clues; the stop that explains all of them best is taken.
    """
    steps = path_steps(family, child, path_to(near[0], placed), placed)
    stop, sure = most_likely_stop([step.odds for step in steps])
    parent = steps[stop].origin if stop < len(steps) else near[0]
    refused = steps[stop] if stop < len(steps) else None
    weighed = refused or (steps[-1] if steps else None)
    branch = None if weighed is None else _kept_branch(family, child, near, placed, weighed)
    if branch is not None:
        refused, parent, sure = weighed, branch.via, branch.odds
    told = branch or weighed
    return Placement(
        child=child,
        rule="nearest",
        parents=(parent,),
        kept=refused is None or branch is not None,
        sibling=_hidden_sibling(refused, placed) if branch is None else None,
        odds=sure if steps else None,
        clues=told.clues if told else None,
        passed_over={} if refused is None else {refused.via: _refusal(refused)},
    )


def _kept_branch(
    family: Family,
    child: int,
    near: Sequence[int],
    placed: Mapping[int, Placement],
    weighed: PathStep,
) -> PathStep | None:
    """Another step from the same origin that the model keeps, and keeps more surely than `weighed`.

    A child can learn so much like a sibling of its parent that it ends up nearer to that.
    """
    own = family.geometry.square_distance(child, weighed.origin)
    rivals = [
        i
        for i in near[1:MAX_RIVALS]
        if i != weighed.via
        and parent_of(i, placed) == weighed.origin
        and family.geometry.square_distance(child, i) < own
    ]
    steps = [path_step(family, child, via=i, origin=weighed.origin, placed=placed) for i in rivals]
    best = max(steps, key=lambda step: step.odds, default=None)
    return best if best is not None and best.odds > max(weighed.odds, 0.0) else None


def _hidden_sibling(refused: PathStep | None, placed: Mapping[int, Placement]) -> int | None:
    """The member that the child shares an unpublished parent with, where the clues say so.

    What an exact rule put under its parent comes from that parent and from nothing unpublished.
    """
    if refused is None or placed[refused.via].rule != "nearest":
        return None
    if hidden_scorer().log_odds(refused.clues) <= 0:
        return None
    return refused.via


def _refusal(step: PathStep) -> str:
    clues = step.clues
    told = "a sibling" if step.odds <= 0 else "kept less surely"
    return f"{told}: log-odds {step.odds:+.1f}, {clues.own:.2f} of its own path kept"
