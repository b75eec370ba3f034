"""Quantized copies: whose weights a packed file was made from.

A packed file says of each weight the grid that it was rounded to, so the test is exact where the
rounding is: with the true source the residual is the rounding's, mean 12 r^2 / step^2 = 1 for
rounding to nearest, and with any other model the square of their difference comes on top. What a
packed file leaves unpacked (norms, often the embedding) must be the source's up to a cast.

Only weights that were published as they are can be a source here. A packed model is a leaf: it
takes no part in the geometry of its family, and is placed when the others are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Clue, InferredEdge, RejectedParent, Relation
from .evidence import EXACT, sum_confidence
from .packed_fit import Fit, apart, fit_sources, pull
from .specimen import Specimen, content_key

RUNNERS = 3
# Largest ratios with the true source that benchmarks/packed_null.py and the tests of K-quants saw:
# 1.04 where weights are rounded to nearest on their grid (K-quants; MXFP4 1.02), and 3.24 where
# errors are made up for by later columns (GPTQ) or scales are searched for (AWQ).
ROUNDING_RATIO = 1.25
SOLVED_RATIO = 4.0
SOLVERS = frozenset({"gptq", "awq", "compressed-tensors", "auto-round"})
# A model this near to what a packed file decodes to was decoded from it.
DECODED_RATIO = 0.05
# Copies were drawn from their true source towards another model by 0.010 of the way at most where
# they were rounded to nearest, by 0.039 where a solver made them; copies of siblings by 0.45 in the
# median (same script).
PULL = 0.08
SURE = 3.0
WORTH = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPlaces:
    """What `place_packed` found."""

    edges: tuple[InferredEdge, ...]
    rejected: tuple[RejectedParent, ...]
    pairs_tested: int


def place_packed(
    packed: Sequence[Specimen], plain: Sequence[Specimen], known: Sequence[InferredEdge]
) -> PackedPlaces:
    """Sources of packed models.

    Parameters
    ----------
    packed : specimens whose blocks carry steps.
    plain : those that can be a source: of the same shape, published as they are.
    known : edges believed among the plain ones; copies and rounded models among them are no
        sources, pruned ones tell nothing about what a copy lies between, and only a model without
        a parent can have been decoded from a packed file.

    Returns
    -------
    Edges and runners-up. Among packed models of equal weights whose source is not there all but the
    first are copies of it; where it is there each was made from it.

    Notes
    -----
    O(candidates x weights) a packed model.
    """
    lossy = {e.child for e in known if e.relation in (Relation.COPY, Relation.QUANTIZED)}
    pruned = {e.child for e in known if e.relation is Relation.PRUNE}
    children = {edge.child for edge in known}
    originals = [one for one in plain if one.node not in lossy]
    edges: list[InferredEdge] = []
    rejected: list[RejectedParent] = []
    firsts: dict[str, Specimen] = {}
    pairs = 0
    for child in sorted(packed, key=_by_date):
        fits = fit_sources(child, originals, rounding=rounding_limit(child))
        pairs += len(originals)
        decoded = [fit for fit in fits if _is_decoded(fit, child, children)]
        edges += [_decoded_edge(fit, child) for fit in decoded]
        before = [f for f in fits if f not in decoded and _can_precede(f.parent, child)]
        edge, lost = _decide(child, before, pruned)
        rejected += lost
        first = firsts.setdefault(content_key(child), child)
        if edge is not None:
            edges.append(edge)
        elif first is not child:
            edges.append(_copy_edge(child, first))
    return PackedPlaces(edges=tuple(edges), rejected=tuple(rejected), pairs_tested=pairs)


def _decide(
    child: Specimen, fits: Sequence[Fit], pruned: Collection[str]
) -> tuple[InferredEdge | None, list[RejectedParent]]:
    """The parent and the runners-up; kin only, where the child lies between two candidates."""
    if not fits:
        return None, []
    possible = _possible(child, fits)
    best = possible[0]
    # Where the grid is too coarse to tell, what was left unpacked tells.
    tied = [fit for fit in possible if abs(_margin(child, best, fit)) < SURE]
    best = max(tied, key=lambda fit: (fit.kept, _margin(child, fit, best)))
    others = [fit for fit in fits if fit is not best]
    # Rounding makes zeros of the weights that pruning does: a copy is drawn to a pruned sibling of
    # its source by that alone.
    if drawn := _drawn(child, best, [fit for fit in others if fit.parent.node not in pruned]):
        return None, _rejected(child, [best, *others], lambda fit: drawn)
    rivals = [fit for fit in possible if fit is not best]
    margin = min((_margin(child, best, fit) for fit in rivals), default=math.inf)
    return _edge(child, best, margin), _rejected(child, others, lambda fit: _why_not(best, fit))


def _possible(child: Specimen, fits: Sequence[Fit]) -> Sequence[Fit]:
    """Where some candidates are the source by all that was left unpacked, these alone.

    On a grid of a few bits a pruned or rounded model of the family can leave a smaller residual
    than the source: what it lost is what the grid loses. What is not packed cannot agree by chance.
    """
    limit = rounding_limit(child)
    whole = [fit for fit in fits if fit.kept == 1.0 and fit.ratio <= limit and not fit.folded]
    return whole or fits


def _rejected(
    child: Specimen, fits: Sequence[Fit], why: Callable[[Fit], str]
) -> list[RejectedParent]:
    return [
        RejectedParent(
            child=child.node,
            parent=fit.parent.node,
            rank=rank,
            score=fit.ratio,
            rejected_because=why(fit),
        )
        for rank, fit in enumerate(fits[:RUNNERS], start=1)
    ]


def _drawn(child: Specimen, best: Fit, others: Sequence[Fit]) -> str | None:
    """Why the nearest candidate is kin and no parent; None where it may be the parent."""
    for other in others:
        share, error = pull(child, best, other)
        if share > PULL and share > SURE * error:
            return (
                f"kin: {share:.0%} of the way from the nearest, {best.parent.node}, to "
                f"{other.parent.node}: made of something that is not here"
            )
    return None


def _why_not(best: Fit, fit: Fit) -> str:
    told = f"residual {fit.ratio:.3g} times the rounding's against {best.ratio:.3g}"
    if fit.kept < best.kept:
        told += f", {fit.kept:.0%} of what is unpacked against {best.kept:.0%}"
    return told


def _margin(child: Specimen, best: Fit, other: Fit) -> float:
    """How many standard deviations of rounding the child is nearer to `best` than to `other`.

    For a source P, another model S and rounding errors e: |C - S|^2 - |C - P|^2 has the mean
    |S - P|^2 and, errors being independent, the deviation 2 |e| |S - P| per weight.
    """
    if best is other:
        return 0.0
    nearer = other.ratio * other.n - best.ratio * best.n
    width = 2 * math.sqrt(max(best.ratio, 0.1) * apart(child, best, other))
    return nearer / max(width, 1e-12)


def _edge(child: Specimen, best: Fit, margin: float) -> InferredEdge:
    rounding = best.ratio <= rounding_limit(child)
    detail: dict[str, object] = {
        key: int(value) if key == "bits" else value for key, value in child.packing.items()
    }
    if best.folded:
        detail["scales"] = "folded"
    if not rounding:
        detail["source"] = "unpublished"
    told = float(np.clip(WORTH * (margin / SURE - 0.5), -2.0, EXACT))
    clues = (
        Clue(
            kind="grid",
            statistic="mean squared residual over that of rounding to nearest",
            value=best.ratio,
            n=best.n,
            llr=told if rounding else 0.0,
        ),
        Clue(
            kind="frozen",
            statistic="share of unpacked weights that are the parent's",
            value=best.kept,
            llr=2.0 * best.kept - 1.0 if rounding else 0.0,
        ),
        Clue(
            kind="family",
            statistic="cosine of matched hidden units",
            value=best.agreement,
            p_value=best.p_value,
            n=best.n,
        ),
    )
    arrow = Clue(kind="lost precision", statistic="packed in the child only", value=1.0, llr=EXACT)
    return InferredEdge(
        child=child.node,
        parent=best.parent.node,
        relation=Relation.QUANTIZED if rounding else Relation.FINETUNE,
        confidence=sum_confidence(clues),
        direction_confidence=sum_confidence([arrow], prior=0.0),
        detail=detail,
        clues=(*clues, arrow),
    )


def _copy_edge(child: Specimen, first: Specimen) -> InferredEdge:
    clue = Clue(kind="rounding", statistic="all weights equal", value=1.0, llr=EXACT)
    return InferredEdge(
        child=child.node,
        parent=first.node,
        relation=Relation.COPY,
        confidence=sum_confidence([clue]),
        direction_confidence=sum_confidence([clue], prior=-EXACT),
        detail={},
        clues=(clue,),
    )


def _is_decoded(fit: Fit, child: Specimen, children: Collection[str]) -> bool:
    """Whether a plain model without a parent of its own is what the packed file decodes to."""
    plain = fit.parent
    if fit.ratio >= DECODED_RATIO or plain.node in children:
        return False
    dated = plain.created is not None and child.created is not None
    return not dated or not _can_precede(plain, child)


def _decoded_edge(fit: Fit, packed: Specimen) -> InferredEdge:
    clue = Clue(
        kind="grid",
        statistic="mean squared residual over that of rounding to nearest",
        value=fit.ratio,
        n=fit.n,
        llr=EXACT,
    )
    return InferredEdge(
        child=fit.parent.node,
        parent=packed.node,
        relation=Relation.COPY,
        confidence=sum_confidence([clue]),
        direction_confidence=sum_confidence([clue], prior=-EXACT / 2),
        detail={"method": "decoded", "from": dict(packed.packing)},
        clues=(clue,),
    )


def _can_precede(one: Specimen, child: Specimen) -> bool:
    if one.created is None or child.created is None:
        return True
    return one.created <= child.created


def _by_date(one: Specimen) -> tuple[float, str]:
    return one.created.timestamp() if one.created else 0.0, one.node


def rounding_limit(child: Specimen) -> float:
    """The ratio up to which a residual is rounding, by how the format's files are made."""
    return SOLVED_RATIO if child.packing.get("format") in SOLVERS else ROUNDING_RATIO


def is_packed(one: Specimen) -> bool:
    """Whether most matrices of a specimen were decoded from a packed type."""
    decoded = [one.blocks[name].step is not None for name in one.matrices()]
    return sum(decoded) * 2 > len(decoded) > 0
