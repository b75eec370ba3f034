"""Typed evidence for an edge, each clue with its log-likelihood ratio.

The ratios are bounded weights of evidence: what each kind of clue, when it speaks, is worth
against "child does not come from parent". They sum to the confidence of the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..records import Clue, Relation
from .decision import Placement
from .family import Family
from .kinship import Kinship
from .likelihood import child_scorer, exact_share, path_confidence
from .order import arrow_llr
from .relation import Step
from .specimen import is_narrowed
from .support import REPLICATES

EXACT = 8.0
PRIOR = -1.0
TIME = 3.5
MARGIN_SLOPE = 4.0


def sum_confidence(clues: Sequence[Clue], *, prior: float = PRIOR) -> float:
    """Probability from a prior log-odds and the clues' summed ratios, within [0.01, 0.999]."""
    total = float(np.clip(prior + sum(c.llr for c in clues), -30, 30))
    return float(np.clip(1 / (1 + math.exp(-total)), 0.01, 0.999))


def edge_confidence(decision: Placement, clues: Sequence[Clue], *, dated: bool) -> float:
    """Probability that an edge is right: calibrated where a path was weighed, else summed.

    A sum of exact clues is bounded by how often exact rules were right.
    """
    if decision.rule == "nearest" and decision.odds is not None:
        return path_confidence(decision.odds, dated=dated)
    return sum_confidence(clues) * exact_share(dated=dated)


def edge_clues(
    family: Family, decision: Placement, parent: int, *, step: Step, runner: int | None
) -> tuple[Clue, ...]:
    """Everything measured on one edge, the decisive clue first."""
    clues = _decisive(decision)
    clues += [_distance(family, decision.child, parent, runner), *_time(family, decision, parent)]
    delta = family.delta(decision.child, parent)
    clues.append(
        Clue(
            kind="frozen",
            statistic="share of weights in unchanged blocks",
            value=delta.frozen_share,
            n=sum(b.count for b in delta.matrices),
        )
    )
    if step.shape is not None and step.shape.matrices:
        clues += _shape_clues(step)
    return tuple(clues)


def kinship_clue(kinship: Kinship, a: int, b: int) -> Clue:
    """Agreement of matched hidden units, judged against shuffled ones."""
    return Clue(
        kind="family",
        statistic="cosine of matched hidden units",
        value=float(kinship.agreement[a, b]),
        p_value=float(kinship.p_value[a, b]),
        n=kinship.pairs,
        ci_low=-2 * kinship.null_sd,
        ci_high=2 * kinship.null_sd,
    )


def direction_clues(
    family: Family, decision: Placement, parent: int, *, step: Step
) -> tuple[Clue, ...]:
    """What says which of the two came first."""
    child = decision.child
    clues: list[Clue] = []
    if decision.rule in ("nearest", "frozen"):
        arrow = arrow_llr(family.members, child, parent, geometry=family.geometry)
        told = "the step starts at the parent: orthogonal to it, or a projection of it"
        clues.append(Clue(kind="drift", statistic=told, value=arrow, llr=arrow))
    if decision.rule in ("merge", "blend"):
        told = "a merge averages its parents; solved for one of them it would magnify"
        clues.append(Clue(kind="averaging", statistic=told, value=1.0, llr=EXACT))
    lossy = family.traits[child].lossy or step.relation is Relation.QUANTIZED
    if lossy and not family.traits[parent].lossy:
        told = "grid or zeros in the child only"
        clues.append(Clue(kind="lost precision", statistic=told, value=1.0, llr=EXACT))
    if decision.rule == "copy" and is_narrowed(family.members[child], family.members[parent]):
        told = "the child holds its own type, the parent more than that type can"
        clues.append(Clue(kind="lost precision", statistic=told, value=1.0, llr=EXACT))
    return (*clues, *_dates(family, child, parent))


def _decisive(decision: Placement) -> list[Clue]:
    """The clue of an exact rule, or those of the path that was weighed."""
    if decision.odds is None or decision.clues is None:
        return [_exact_clue(decision)]
    # What speaks against the model that was refused speaks for the parent above it.
    sign = 1 if decision.kept else -1
    parts = [
        replace(clue, llr=sign * clue.llr)
        for clue in child_scorer().explain(decision.clues, kind="path")
    ]
    told = "log-odds of this place on the path against the next best"
    rest = decision.odds - sum(clue.llr for clue in parts)
    found = [Clue(kind="geometry", statistic=told, value=decision.odds, llr=rest), *parts]
    if decision.support is not None:
        told = "share of resampled weights that name the same parent"
        found.append(Clue(kind="bootstrap", statistic=told, value=decision.support, n=REPLICATES))
    return found


def _exact_clue(decision: Placement) -> Clue:
    measure = decision.measure if decision.measure is not None else 1.0
    match decision.rule:
        case "merge":
            return Clue(
                kind="rounding_floor",
                statistic="residual over rounding floor",
                value=measure,
                llr=EXACT,
            )
        case "blend":
            return Clue(
                kind="rounding_floor",
                statistic="share of weights that the merge explains within rounding",
                value=measure,
                llr=EXACT,
            )
        case "quantized":
            return Clue(
                kind="grid",
                statistic="share of weights within half a step",
                value=measure,
                llr=EXACT if measure >= 0.999 else 1.0,
            )
        case "pruned":
            return Clue(
                kind="zeros", statistic="share vanished, all others kept", value=measure, llr=EXACT
            )
        case "frozen":
            return Clue(
                kind="frozen",
                statistic="share frozen, the most of any candidate",
                value=measure,
                llr=EXACT * min(1.0, measure + 0.5),
            )
        case "copy":
            return Clue(
                kind="rounding", statistic="all weights equal up to a cast", value=1.0, llr=EXACT
            )
        case "shuffled":
            return Clue(
                kind="permutation",
                statistic="rows with the same sorted values",
                value=measure,
                llr=EXACT,
            )
    return Clue(kind="geometry", statistic="nearest earlier member", value=0.0, llr=1.0)


def _distance(family: Family, child: int, parent: int, runner: int | None) -> Clue:
    relative = family.geometry.relative(child, parent)
    if runner is None:
        return Clue(kind="distance", statistic="relative distance", value=relative, llr=1.0)
    mine = family.geometry.square_distance(child, parent)
    other = family.geometry.square_distance(child, runner)
    margin = math.log(max(other, 1e-30) / max(mine, 1e-30))
    llr = float(np.clip(MARGIN_SLOPE * margin, -1.0, 4.0))
    return Clue(kind="distance", statistic="relative distance", value=relative, llr=llr)


def _time(family: Family, decision: Placement, parent: int) -> tuple[Clue, ...]:
    # Dates already narrowed the candidates; here they are shown, not counted a second time.
    return tuple(
        Clue(kind=c.kind, statistic=c.statistic, value=c.value)
        for c in _dates(family, decision.child, parent)
    )


def _dates(family: Family, child: int, parent: int) -> tuple[Clue, ...]:
    a, b = family.members[parent].created, family.members[child].created
    if a is None or b is None:
        return ()
    days = (b - a).total_seconds() / 86_400
    return (
        Clue(
            kind="time",
            statistic="days from parent to child",
            value=days,
            llr=math.copysign(TIME, days) if days else 0.0,
        ),
    )


def _shape_clues(step: Step) -> tuple[Clue, ...]:
    shape = step.shape
    if shape is None:
        return ()
    return (
        Clue(kind="delta", statistic="rank above rounding", value=float(shape.rank)),
        Clue(kind="delta", statistic="energy in four directions", value=shape.top_energy),
        Clue(kind="delta", statistic="shared left direction", value=shape.coherence),
    )
