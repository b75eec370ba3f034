"""Kin of another shape: layers taken out, put in or repeated, neurons or heads taken out, or the
same network in another layout.

Related or not is decided as inside a bucket: the i-th hidden unit of a layer of one model against
the i-th of a layer of the other, for every pair of layers, with shuffled units as the null
(kinship). Each layer of the child is then assigned to the parent's layer that it agrees with most,
and the parent is the candidate that shares the most unchanged blocks, or else the nearest over the
assigned layers. What is smaller was made from what is larger; what repeats layers was made from
what has them once.

Layers are assigned one by one, not by a monotone path: independent layers agree by chance alone
(a few thousandths where kin have nearly one), and a self-stack goes back as well as forward.

References
----------
Zhu et al. (2025), "Independence tests for language models", arXiv:2502.12292: the null.
Kim et al. (2023), SOLAR, arXiv:2312.15166: repeated layers. Men et al. (2024), ShortGPT,
arXiv:2403.03853: layers removed. Ma et al. (2023), LLM-Pruner, arXiv:2305.11627: heads and
neurons removed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..compute import Compute
from ..records import Clue, InferredEdge, RejectedParent, Relation
from ..statistics import benjamini_hochberg
from .across_layers import Agreement, Layers, layers_of, measure_layers, upper_tail
from .across_path import leave_siblings
from .across_step import Step, days_between, depths_between, runs_forward, step_between
from .alignment import Overlay, Site, depth, overlay, shape_signature
from .evidence import sum_confidence
from .kinship import FDR, MIN_AGREEMENT
from .layouts import has_experts, layout_of, network_of
from .specimen import Specimen

FROZEN_SHARE = 0.1
MAX_PATHS = 16
RUNNERS = 3
EXACT = 8.0
TIME = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AcrossShapes:
    """Edges between models of different shape, and what was tried."""

    edges: tuple[InferredEdge, ...] = ()
    rejected: tuple[RejectedParent, ...] = ()
    pairs_tested: int = 0
    pairs_related: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """A related candidate, laid under the child."""

    candidate: int
    overlay: Overlay
    agreement: float
    p_value: float
    step: Step | None
    size: int

    @property
    def order(self) -> tuple[bool, float, float, int]:
        """The best first: units in order, most weights unchanged, nearest; of equals the largest,
        for what was taken out of a smaller one was taken out of the larger as well."""
        laid = self.overlay
        share = laid.frozen_share if laid.frozen_share >= FROZEN_SHARE else 0.0
        return not laid.in_order, -share, laid.relative, -self.size


def infer_across(
    children: Sequence[Specimen],
    candidates: Sequence[Specimen],
    *,
    compute: Compute,
    parents: Mapping[str, str] | None = None,
) -> AcrossShapes:
    """Find parents of another shape.

    Parameters
    ----------
    children : models without a parent among models of their own shape.
    candidates : models of any shape; those of a child's own shape, and the child itself, are
        passed over. Among equals the first is taken.
    parents : what is known of the candidates: the parent of each, by node. With it a nearest
        candidate that is only a sibling of the child is told from its parent.

    Returns
    -------
    At most one parent a child, or two that gave it whole layers. Nothing is said of pairs of which
    the candidate is the smaller and no date or repeated layer tells which came first.

    Notes
    -----
    O(n m) products of sampled layers for n children and m candidates, for each of at most 16
    shifts. Only models of one width of the residual stream are compared.
    """
    mine, theirs = layers_of(children), layers_of(candidates)
    if not mine.site or not theirs.site:
        return AcrossShapes()
    agreement = measure_layers(mine, theirs, compute=compute)
    tests = _test_pairs(children, candidates, agreement, mine, theirs)
    q = dict(zip(tests, benjamini_hochberg(list(tests.values())), strict=True))
    related = [pair for pair in tests if q[pair] < FDR]
    found = [
        _place(children[a], candidates, options, parents or {})
        for a, options in _options(related, tests, children, candidates, agreement, mine, theirs)
    ]
    return AcrossShapes(
        edges=tuple(edge for edges, _ in found for edge in edges),
        rejected=tuple(lost for _, rejected in found for lost in rejected),
        pairs_tested=len(tests),
        pairs_related=len(related),
    )


def _test_pairs(
    children: Sequence[Specimen],
    candidates: Sequence[Specimen],
    agreement: Agreement,
    mine: Layers,
    theirs: Layers,
) -> dict[tuple[int, int], float]:
    """One-sided p-value of each pair of one network in another shape or layout."""
    shapes = [(layout_of(one), shape_signature(one)) for one in candidates]
    networks = [network_of(one) for one in candidates]
    tests = {}
    for a, child in enumerate(children):
        own, network = (layout_of(child), shape_signature(child)), network_of(child)
        for b, candidate in enumerate(candidates):
            if networks[b] != network or shapes[b] == own or candidate.node == child.node:
                continue
            z = agreement.z[np.ix_(mine.model == a, theirs.model == b)]
            if z.any():
                tests[a, b] = min(1.0, upper_tail(float(z.max())) * z.size)
    return tests


def _options(
    related: Sequence[tuple[int, int]],
    p_values: Mapping[tuple[int, int], float],
    children: Sequence[Specimen],
    candidates: Sequence[Specimen],
    agreement: Agreement,
    mine: Layers,
    theirs: Layers,
) -> Iterator[tuple[int, list[_Option]]]:
    """The related candidates of each child that has any, best first."""
    found: dict[int, list[_Option]] = defaultdict(list)
    for a, b in related:
        sites, mean = _assign(agreement, mine, theirs, a, b)
        if not sites or mean < MIN_AGREEMENT:
            continue
        laid = overlay(children[a], candidates[b], sites)
        found[a].append(
            _Option(
                candidate=b,
                overlay=laid,
                agreement=mean,
                p_value=p_values[a, b],
                step=step_between(children[a], candidates[b], laid),
                size=sum(depth(candidates[b]).values()),
            )
        )
    for a, options in found.items():
        yield a, sorted(options, key=lambda option: option.order)


def _assign(
    agreement: Agreement, mine: Layers, theirs: Layers, a: int, b: int
) -> tuple[dict[Site, Site], float]:
    """Each layer of the child to the candidate's layer it agrees with beyond chance, if any."""
    columns = np.nonzero(theirs.model == b)[0].tolist()
    sites, means = {}, []
    for at in np.nonzero(mine.model == a)[0].tolist():
        here = mine.site[at]
        same_stack = [k for k in columns if theirs.site[k].stack == here.stack]
        if not same_stack:
            continue
        best = max(same_stack, key=lambda k: agreement.z[at, k])
        if upper_tail(float(agreement.z[at, best])) * len(columns) < FDR:
            sites[here] = theirs.site[best]
            means.append(float(agreement.mean[at, best]))
    return sites, float(np.mean(means)) if means else 0.0


def _place(
    child: Specimen,
    candidates: Sequence[Specimen],
    options: Sequence[_Option],
    parents: Mapping[str, str],
) -> tuple[list[InferredEdge], list[RejectedParent]]:
    """The parent among the related candidates, or the two that gave whole layers."""
    able = [option for option in options if option.step is not None]
    chosen = _with_path_kept(child, candidates, able, parents)
    if chosen and len(chosen[0].overlay.frozen) < len(chosen[0].overlay.sites):
        chosen += _second_donor(able)
    edges = [_edge(child, candidates, option, able, chosen) for option in chosen]
    lost = [option for option in options if option not in chosen][:RUNNERS]
    best = chosen[0] if chosen else None
    rejected = [
        RejectedParent(
            child=child.node,
            parent=candidates[option.candidate].node,
            rank=rank,
            score=option.overlay.relative,
            rejected_because=_why(option, best),
        )
        for rank, option in enumerate(lost, start=1)
    ]
    return edges, rejected


def _with_path_kept(
    child: Specimen,
    candidates: Sequence[Specimen],
    able: Sequence[_Option],
    parents: Mapping[str, str],
) -> list[_Option]:
    """The best option, unless it is only a sibling: unchanged weights are never a sibling's."""
    if not able or able[0].overlay.frozen_share >= FROZEN_SHARE:
        return list(able[:1])
    sites = able[0].overlay.sites
    alike = [option for option in able if option.overlay.sites == sites][:MAX_PATHS]
    group = [candidates[option.candidate] for option in alike]
    return [alike[leave_siblings(child, group, sites, parents=parents)]]


def _second_donor(able: Sequence[_Option]) -> list[_Option]:
    """The candidate that has, unchanged, most of the layers that the first does not have so."""
    open_sites = able[0].overlay.sites.keys() - able[0].overlay.frozen
    if not able[0].overlay.frozen:
        return []
    best = max(able[1:], key=lambda o: len(o.overlay.frozen & open_sites), default=None)
    return [best] if best is not None and best.overlay.frozen & open_sites else []


def _why(option: _Option, best: _Option | None) -> str:
    if option.step is None:
        return "related, but not what the child could have been made from"
    if best is None:
        return "no parent is believed"
    if best.overlay.in_order and not option.overlay.in_order:
        return "hidden units in another order"
    if best.overlay.frozen_share > max(option.overlay.frozen_share, FROZEN_SHARE):
        return "fewer unchanged weights"
    if option.overlay.relative < best.overlay.relative and not best.overlay.frozen_share:
        return "nearer, but a sibling: the child has not gone its way"
    ratio = (option.overlay.relative / max(best.overlay.relative, 1e-30)) ** 2
    return f"further: {ratio:.3g} times the squared distance over the assigned layers"


def _edge(
    child: Specimen,
    candidates: Sequence[Specimen],
    option: _Option,
    able: Sequence[_Option],
    chosen: Sequence[_Option],
) -> InferredEdge:
    step = option.step or Step(relation=Relation.PRUNE)
    parent = candidates[option.candidate]
    if len(chosen) > 1:
        layers = [o.layer for _, o in sorted(option.overlay.sites.items())]
        step = Step(relation=Relation.MERGE, detail={"method": "passthrough", "layers": layers})
    runner = next((other for other in able if other not in chosen), None)
    clues = _clues(option, runner)
    arrows = _arrows(child, parent, option)
    return InferredEdge(
        child=child.node,
        parent=parent.node,
        relation=step.relation,
        confidence=sum_confidence(clues),
        direction_confidence=sum_confidence(arrows, prior=0.0),
        detail=step.detail,
        share=_share(option, chosen),
        clues=(*clues, *arrows),
    )


def _share(option: _Option, chosen: Sequence[_Option]) -> float | None:
    """Of two donors: the share of the child's layers that came from this one."""
    if len(chosen) < 2:
        return None
    first, second = (o.overlay.frozen for o in chosen)
    mine = first if option is chosen[0] else second - first
    return round(len(mine) / len(first | second), 4)


def _clues(option: _Option, runner: _Option | None) -> tuple[Clue, ...]:
    laid = option.overlay
    margin = 1.0
    if runner is not None:
        ratio = max(runner.overlay.relative, 1e-15) / max(laid.relative, 1e-15)
        margin = float(np.clip(4 * 2 * math.log(ratio), -1.0, 4.0))
    found = [
        Clue(
            kind="family",
            statistic="cosine of matched hidden units over the assigned layers",
            value=option.agreement,
            p_value=option.p_value,
            n=len(laid.sites),
        ),
        Clue(
            kind="frozen",
            statistic="share of weights unchanged in whole blocks or units",
            value=laid.frozen_share,
            llr=EXACT * laid.frozen_share if laid.frozen_share >= FROZEN_SHARE else 0.0,
        ),
        Clue(
            kind="distance",
            statistic="relative distance over the assigned layers",
            value=laid.relative,
            llr=margin,
        ),
    ]
    if laid.kept:
        told = "hidden units found again in their order"
        found.append(
            Clue(kind="units", statistic=told, value=laid.kept, n=laid.kept + laid.shuffled)
        )
    return tuple(found)


def _arrows(child: Specimen, parent: Specimen, option: _Option) -> tuple[Clue, ...]:
    days = days_between(parent, child)
    deeper, _ = depths_between(child, parent)
    told = "layers of the parent, repeated" if deeper else "layers or rows that the parent has more"
    clear = not deeper or not runs_forward(option.overlay)
    if layout_of(child) != layout_of(parent):
        clear = has_experts(child) and not has_experts(parent)
        told = "one MLP, repeated as experts" if clear else "the same network, in another layout"
    found = [Clue(kind="size", statistic=told, value=1.0, llr=EXACT if clear else 0.0)]
    if days is not None:
        found.append(Clue(kind="time", statistic="days from parent to child", value=days, llr=TIME))
    return tuple(found)
