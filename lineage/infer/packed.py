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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..records import Clue, InferredEdge, RejectedParent, Relation
from ..sketch.sketch import complete_rows
from ..statistics import benjamini_hochberg
from .alignment import unit_norm
from .evidence import EXACT, sum_confidence
from .kinship import FDR, MIN_AGREEMENT
from .specimen import Block, Specimen, comparable, content_key

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SHIFTS = 4
RUNNERS = 3
# Of weights rounded to nearest the mean is 1; a search for scales, or errors that later columns
# make up for (GPTQ), leave up to three times as much.
ROUNDING_RATIO = 4.0
# A model this near to what a packed file decodes to was decoded from it.
DECODED_RATIO = 0.05
SURE = 3.0
WORTH = 4.0
# A step this small against the weights is rounding of a float type: the weight is then exact.
LEAST_STEP = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One candidate source held against a packed model.

    `ratio` is the mean of 12 r^2 / step^2 over the decoded matrix weights, `n` their number;
    `kept` the share of unpacked weights that are the candidate's up to a cast (1 without any).
    """

    parent: Specimen
    ratio: float
    n: int
    kept: float
    agreement: float
    p_value: float


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
        sources, and only a model without a parent can have been decoded from a packed file.

    Returns
    -------
    Edges and runners-up. Among packed models of equal weights whose source is not there all but the
    first are copies of it; where it is there each was made from it.

    Notes
    -----
    O(candidates x weights) a packed model.
    """
    lossy = {e.child for e in known if e.relation in (Relation.COPY, Relation.QUANTIZED)}
    children = {edge.child for edge in known}
    originals = [one for one in plain if one.node not in lossy]
    edges: list[InferredEdge] = []
    rejected: list[RejectedParent] = []
    firsts: dict[str, Specimen] = {}
    pairs = 0
    for child in sorted(packed, key=_by_date):
        fits = fit_sources(child, originals)
        pairs += len(originals)
        decoded = [fit for fit in fits if _is_decoded(fit, child, children)]
        edges += [_decoded_edge(fit, child) for fit in decoded]
        before = [f for f in fits if f not in decoded and _can_precede(f.parent, child)]
        found = _decide(child, before)
        first = firsts.setdefault(content_key(child), child)
        if found is not None:
            edges.append(found[0])
            rejected += found[1]
        elif first is not child:
            edges.append(_copy_edge(child, first))
    return PackedPlaces(edges=tuple(edges), rejected=tuple(rejected), pairs_tested=pairs)


def fit_sources(child: Specimen, candidates: Sequence[Specimen]) -> list[Fit]:
    """Every candidate that is related to the child, best first.

    Related is decided as everywhere: cosines of matched rows against the same rows shifted, with
    false-discovery control over the candidates.
    """
    usable = [(one, _common(child, one)) for one in candidates]
    held = [(one, names) for one, names in usable if names]
    if not held:
        return []
    found = [_agreement(child, one, names) for one, names in held]
    spread = math.sqrt(sum(square for _, square, _ in found) / sum(n for _, _, n in found))
    p_values = [0.5 * math.erfc(a / max(spread, 1e-12) / math.sqrt(2)) for a, _, _ in found]
    q_values = benjamini_hochberg(p_values)
    fits = [
        _fit(child, one, names, agreement=agreement, p_value=p)
        for (one, names), (agreement, _, _), p, q in zip(
            held, found, p_values, q_values, strict=True
        )
        if q < FDR and agreement > MIN_AGREEMENT
    ]
    return sorted(fits, key=lambda fit: (fit.ratio, -fit.kept))


def narrowed(block: Block, width: int | None) -> Block:
    """A block without what lies beyond `width` in each row; rows that are not whole go too."""
    if width is None:
        return block
    _, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    kept = np.ascontiguousarray(rows[:, :width])
    return replace(block, values=kept.reshape(-1), width=width, step=None)


def _common(child: Specimen, other: Specimen) -> list[str]:
    """Names of the decoded matrices that both hold at the same place."""
    return [
        name
        for name in child.matrices()
        if (mine := child.blocks[name]).step is not None
        and (theirs := other.blocks.get(name)) is not None
        and theirs.step is None
        and _same_place(mine, theirs)
    ]


def _same_place(mine: Block, theirs: Block) -> bool:
    if mine.shape != theirs.shape or mine.transposed != theirs.transposed:
        return False
    return comparable(mine, narrowed(theirs, mine.width))


def _pair(child: Specimen, other: Specimen, name: str) -> tuple[Block, Block]:
    mine = child.blocks[name]
    return mine, narrowed(other.blocks[name], mine.width)


def _agreement(child: Specimen, other: Specimen, names: Sequence[str]) -> tuple[float, float, int]:
    """Mean cosine of matched rows, and the squares and number of those of shifted rows."""
    matched, squares, shifted = 0.0, 0.0, 0
    for name in names:
        mine, theirs = _pair(child, other, name)
        a, b = _unit_rows(mine), _unit_rows(theirs)
        matched += float((a * b).sum()) / max(1, a.shape[0])
        for shift in range(1, min(SHIFTS, a.shape[0] - 1) + 1):
            mean = float((np.roll(a, shift, axis=0) * b).sum()) / a.shape[0]
            squares, shifted = squares + mean**2 / len(names), shifted + 1
    return matched / len(names), squares, max(1, shifted)


def _unit_rows(block: Block) -> Float32:
    columns = block.columns if block.width is None else block.width
    _, rows = complete_rows(block.values, start=block.start, columns=columns)
    return unit_norm(rows)


def _fit(
    child: Specimen, other: Specimen, names: Sequence[str], *, agreement: float, p_value: float
) -> Fit:
    total, n = 0.0, 0
    for name in names:
        mine, theirs = _pair(child, other, name)
        squares = _scaled(mine, theirs)
        total, n = total + float(squares.sum()), n + squares.size
    return Fit(
        parent=other,
        ratio=total / max(1, n),
        n=n,
        kept=_kept(child, other),
        agreement=agreement,
        p_value=p_value,
    )


def _scaled(mine: Block, theirs: Block) -> Float64:
    """12 r^2 / step^2 of each weight; a group without a step has its neighbours' smallest."""
    step = np.asarray(mine.step, dtype=np.float64)
    least = step[step > LEAST_STEP].min(initial=np.inf)
    if not math.isfinite(least):
        return np.zeros(0)
    residual = (mine.values - theirs.values).astype(np.float64)
    scaled: Float64 = 12 * (residual / np.maximum(step, least)) ** 2
    return scaled


def _kept(child: Specimen, other: Specimen) -> float:
    """Share of the child's unpacked weights that are the other's, up to a cast."""
    same = total = 0
    for name, mine in child.blocks.items():
        theirs = other.blocks.get(name)
        if mine.step is not None or theirs is None or not comparable(mine, theirs):
            continue
        bound = 0 if mine.dtype == theirs.dtype else mine.half_ulp + theirs.half_ulp
        same += int(np.count_nonzero(np.abs(mine.values - theirs.values) <= bound))
        total += mine.values.size
    return same / total if total else 1.0


def _decide(
    child: Specimen, fits: Sequence[Fit]
) -> tuple[InferredEdge, list[RejectedParent]] | None:
    if not fits:
        return None
    best = fits[0]
    # Where the grid is too coarse to tell, what was left unpacked tells.
    tied = [fit for fit in fits if abs(_margin(child, best, fit)) < SURE]
    best = max(tied, key=lambda fit: (fit.kept, _margin(child, fit, best)))
    others = [fit for fit in fits if fit is not best]
    rejected = [
        RejectedParent(
            child=child.node,
            parent=fit.parent.node,
            rank=rank,
            score=fit.ratio,
            rejected_because=_why_not(best, fit),
        )
        for rank, fit in enumerate(others[:RUNNERS], start=1)
    ]
    margin = min((_margin(child, best, fit) for fit in others), default=math.inf)
    return _edge(child, best, margin), rejected


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
    apart = 0.0
    for name in _common(child, best.parent):
        mine, first = _pair(child, best.parent, name)
        if name not in other.parent.blocks or not _same_place(mine, other.parent.blocks[name]):
            continue
        _, second = _pair(child, other.parent, name)
        apart += float(_scaled(replace(mine, values=first.values), second).sum())
    nearer = other.ratio * other.n - best.ratio * best.n
    return nearer / max(2 * math.sqrt(max(best.ratio, 0.1) * apart), 1e-12)


def _edge(child: Specimen, best: Fit, margin: float) -> InferredEdge:
    rounding = best.ratio <= ROUNDING_RATIO
    detail: dict[str, object] = {
        key: int(value) if key == "bits" else value for key, value in child.packing.items()
    }
    if not rounding:
        detail["source"] = "unpublished"
    told = float(np.clip(WORTH * (margin / SURE - 0.5), -2.0, EXACT))
    clues = (
        Clue(
            kind="grid",
            statistic="mean squared residual over that of rounding to nearest",
            value=best.ratio,
            n=best.n,
            llr=told if rounding else min(told, 1.0),
        ),
        Clue(
            kind="frozen",
            statistic="share of unpacked weights that are the parent's",
            value=best.kept,
            llr=2.0 * best.kept - 1.0,
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


def is_packed(one: Specimen) -> bool:
    """Whether most matrices of a specimen were decoded from a packed type."""
    decoded = [one.blocks[name].step is not None for name in one.matrices()]
    return sum(decoded) * 2 > len(decoded) > 0
