"""From a decision to the edges it means, with their evidence, and the candidates that lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records import Clue, InferredEdge, RejectedParent, Relation
from .blends import Blend
from .decision import Placement, descends
from .evidence import direction_clues, edge_clues, edge_confidence, sum_confidence
from .family import Family
from .laundered import Laundering
from .merges import MIN_SHARE
from .relation import Step, classify, grid_detail
from .washing import washed_relation, washing_clues, washing_detail

RUNNERS = 3
# Less than three to one is said to be unsure.
SURE_DIRECTION = 0.75


def edges_of(
    family: Family,
    decision: Placement,
    placed: Mapping[int, Placement],
    kin: Mapping[int, Clue],
) -> list[InferredEdge]:
    if decision.blend is not None:
        return _blend_edges(family, decision, decision.blend, kin)
    if decision.mixture is not None:
        return _merge_edges(family, decision, placed, kin)
    return [_single_edge(family, decision, parent, kin) for parent in decision.parents]


def _single_edge(
    family: Family, decision: Placement, parent: int, kin: Mapping[int, Clue]
) -> InferredEdge:
    child = decision.child
    if decision.washing is not None:
        return _washed_edge(family, decision, parent, decision.washing)
    step = classify(
        family.members[child],
        family.members[parent],
        delta=family.delta(child, parent),
        traits=family.traits[child],
        rule=decision.rule,
    )
    runner = next((i for i in family.nearest(child) if i != parent), None)
    clues = (*edge_clues(family, decision, parent, step=step, runner=runner), kin[parent])
    return _edge(family, decision, parent, step=step, clues=clues)


def told_unsure(detail: Mapping[str, Any], direction: float) -> Mapping[str, Any]:
    """The detail of an edge, with a word where the weights do not tell parent from child."""
    return detail if direction >= SURE_DIRECTION else {**detail, "direction": "unsure"}


def _washed_edge(
    family: Family, decision: Placement, parent: int, washing: Laundering
) -> InferredEdge:
    step = Step(relation=washed_relation(washing), detail=washing_detail(washing))
    return _edge(family, decision, parent, step=step, clues=washing_clues(washing))


def _edge(
    family: Family,
    decision: Placement,
    parent: int,
    *,
    step: Step,
    clues: tuple[Clue, ...],
    share: float | None = None,
) -> InferredEdge:
    arrows = direction_clues(family, decision, parent, step=step)
    direction = sum_confidence(arrows, prior=0.0)
    return InferredEdge(
        child=family.members[decision.child].node,
        parent=family.members[parent].node,
        relation=step.relation,
        confidence=edge_confidence(decision, clues, dated=family.dated),
        direction_confidence=direction,
        detail=told_unsure(step.detail, direction),
        share=share,
        clues=(*clues, *(c for c in arrows if c.kind != "time")),
    )


def _merge_edges(
    family: Family,
    decision: Placement,
    placed: Mapping[int, Placement],
    kin: Mapping[int, Clue],
) -> list[InferredEdge]:
    """One edge a parent; the common base of a task arithmetic stands in the detail."""
    mixture = decision.mixture
    if mixture is None:
        return []
    weights = {i: w for i, w in mixture.weights.items() if abs(w) >= MIN_SHARE}
    base = _task_base(weights, placed)
    detail: dict[str, object] = {"method": "linear"}
    if base is not None:
        named = family.members[base].node
        detail = {"method": "task_arithmetic", "base": named, "base_share": round(weights[base], 4)}
    traits = family.traits[decision.child]
    if traits.quantized:
        detail["rounded"] = grid_detail(traits)
    step = Step(relation=Relation.MERGE, detail=detail)
    # What several are moved away from is a base that was not found; what one is, was put in.
    parents = [i for i in weights if i != base and (weights[i] > 0 or len(weights) == 2)]
    return [
        _edge(
            family,
            decision,
            parent,
            step=step,
            clues=(*edge_clues(family, decision, parent, step=step, runner=None), kin[parent]),
            share=round(weights[parent], 4),
        )
        for parent in parents
    ]


def _blend_edges(
    family: Family, decision: Placement, blend: Blend, kin: Mapping[int, Clue]
) -> list[InferredEdge]:
    """One edge a parent, with its share of the sum of weights; the recipe's own in the detail."""
    named = {i: family.members[i].node for i in (*blend.weights, *blend.collinear)}
    detail = {"method": blend.method, **blend.detail}
    detail["weights"] = {named[i]: round(w, 4) for i, w in blend.weights.items()}
    if blend.base is not None:
        detail["base"] = family.members[blend.base].node
    if blend.collinear:
        detail["collinear"] = [named[i] for i in blend.collinear]
    step = Step(relation=Relation.MERGE, detail=detail)
    total = sum(blend.weights.values())
    return [
        _edge(
            family,
            decision,
            parent,
            step=step,
            clues=(*edge_clues(family, decision, parent, step=step, runner=None), kin[parent]),
            share=round(weight / total, 4),
        )
        for parent, weight in blend.weights.items()
    ]


def _task_base(weights: Mapping[int, float], placed: Mapping[int, Placement]) -> int | None:
    """The member that all others descend from, when others are mixed or one magnified."""
    for member in weights:
        others = [i for i in weights if i != member]
        if (len(others) > 1 or weights[member] < 0) and all(
            descends(i, member, placed) for i in others
        ):
            return member
    return None


def runners_up(family: Family, decision: Placement) -> list[RejectedParent]:
    child = decision.child
    others = [i for i in family.nearest(child) if i not in decision.parents][:RUNNERS]
    chosen = decision.parents[0] if decision.parents else None
    return [
        RejectedParent(
            child=family.members[child].node,
            parent=family.members[other].node,
            rank=rank,
            score=family.geometry.relative(child, other),
            rejected_because=decision.passed_over.get(other)
            or _why_further(family, child, other, chosen, rule=decision.rule),
        )
        for rank, other in enumerate(others, start=1)
    ]


def _why_further(family: Family, child: int, other: int, chosen: int | None, *, rule: str) -> str:
    if chosen is None:
        return "no parent is believed"
    mine = family.geometry.square_distance(child, chosen)
    theirs = family.geometry.square_distance(child, other)
    if theirs >= mine:
        return f"further: {theirs / max(mine, 1e-30):.3g} times the squared distance"
    if rule == "nearest":
        return "nearer, but off the path that the child keeps"
    return "nearer, but the chosen parent explains the child exactly"
