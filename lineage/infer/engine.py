"""From the sketches of a shape bucket to inferred edges."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..compute import Compute
from ..records import Clue, InferredEdge, RejectedParent, Relation
from .blends import Blend
from .circles import without_circles
from .evidence import direction_clues, edge_clues, edge_confidence, kinship_clue, sum_confidence
from .family import Family, assemble
from .kinship import Kinship, families, measure_kinship
from .laundered import Laundering
from .merges import MIN_SHARE
from .packed import is_packed, place_packed
from .placement import Placement, descends, place, place_again
from .relation import Step, classify
from .specimen import Specimen, comparable_parts
from .washing import find_sources, washed_relation, washing_clues, washing_detail

CODE_VERSION = "infer-2"
RUNNERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenModel:
    """A model that nobody published, inferred from children that share a path.

    `node` is `hidden:<digest>`; `children` and `parent` are nodes of published models.
    """

    node: str
    parent: str
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What one bucket's weights say."""

    edges: tuple[InferredEdge, ...] = ()
    rejected: tuple[RejectedParent, ...] = ()
    hidden: tuple[HiddenModel, ...] = ()
    pairs_tested: int = 0
    pairs_related: int = 0


def infer_bucket(
    group: Sequence[Specimen], *, compute: Compute, originals: Collection[str] = ()
) -> Inference:
    """Infer parents among models of one shape.

    Parameters
    ----------
    group : specimens that share a shape key; their order and names do not matter.
    originals : nodes to take as the original among models of equal weights without dates.

    Notes
    -----
    O(n^2 d) for n models and d sampled weights.
    """
    everyone = sorted(group, key=lambda one: (one.node not in originals, *_sort_key(one)))
    packed = [one for one in everyone if is_packed(one)]
    ordered = [one for one in everyone if not is_packed(one)]
    parts = [part for part in comparable_parts(ordered) if len(part) > 1]
    found = [_infer_part(part, compute) for part in parts]
    edges = [edge for one in found for edge in one.edges]
    edges += without_circles(find_sources(ordered, edges, compute=compute), edges)
    unpacked = place_packed(packed, ordered, edges)
    return Inference(
        edges=(*edges, *unpacked.edges),
        rejected=(*(lost for one in found for lost in one.rejected), *unpacked.rejected),
        hidden=tuple(node for one in found for node in one.hidden),
        pairs_tested=sum(one.pairs_tested for one in found) + unpacked.pairs_tested,
        pairs_related=sum(one.pairs_related for one in found),
    )


def _infer_part(ordered: Sequence[Specimen], compute: Compute) -> Inference:
    """Infer parents among models that can all be compared with each other."""
    kinship = measure_kinship(ordered, compute=compute)
    parts = families(kinship, len(ordered))
    edges: list[InferredEdge] = []
    rejected: list[RejectedParent] = []
    hidden: list[HiddenModel] = []
    for part in parts:
        if len(part) > 1:
            found = _infer_family(ordered, part, kinship, compute)
            edges += found.edges
            rejected += found.rejected
            hidden += found.hidden
    related = sum(len(part) * (len(part) - 1) // 2 for part in parts)
    return Inference(
        edges=tuple(edges),
        rejected=tuple(rejected),
        hidden=tuple(hidden),
        pairs_tested=kinship.pairs,
        pairs_related=related,
    )


def _sort_key(one: Specimen) -> tuple[str, float, str]:
    """From weights first, so that renaming changes nothing; date and name part equal weights."""
    return _content_key(one), one.created.timestamp() if one.created else 0.0, one.node


def _content_key(one: Specimen) -> str:
    digest = hashlib.sha256()
    for name in sorted(one.blocks):
        digest.update(one.blocks[name].dtype.encode())
        digest.update(one.blocks[name].values.tobytes())
    return digest.hexdigest()


def _infer_family(
    group: Sequence[Specimen], part: Sequence[int], kinship: Kinship, compute: Compute
) -> Inference:
    family = assemble([group[i] for i in part], compute=compute)
    placed: dict[int, Placement] = {}
    for child in family.order:
        placed[child] = place(family, child, placed)
    for child in family.order:
        placed[child] = place_again(family, child, placed)
    edges: list[InferredEdge] = []
    rejected: list[RejectedParent] = []
    for decision in placed.values():
        kin = {p: kinship_clue(kinship, part[decision.child], part[p]) for p in decision.parents}
        edges += _edges_of(family, decision, placed, kin)
        rejected += _runners_up(family, decision)
    with_hidden, hidden = _insert_hidden(family, placed, edges)
    return Inference(edges=tuple(with_hidden), rejected=tuple(rejected), hidden=tuple(hidden))


def _edges_of(
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
    arrows = direction_clues(family, decision, parent)
    return InferredEdge(
        child=family.members[decision.child].node,
        parent=family.members[parent].node,
        relation=step.relation,
        confidence=edge_confidence(decision, clues, dated=family.dated),
        direction_confidence=sum_confidence(arrows, prior=0.0),
        detail=step.detail,
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
    step = Step(relation=Relation.MERGE, detail=detail)
    parents = [i for i in weights if i != base and weights[i] > 0]
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
    """The member that all others descend from, when two or more others are mixed."""
    for member in weights:
        others = [i for i in weights if i != member]
        if len(others) > 1 and all(descends(i, member, placed) for i in others):
            return member
    return None


def _runners_up(family: Family, decision: Placement) -> list[RejectedParent]:
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
            or _why_further(family, child, other, chosen),
        )
        for rank, other in enumerate(others, start=1)
    ]


def _why_further(family: Family, child: int, other: int, chosen: int | None) -> str:
    if chosen is None:
        return "no parent is believed"
    mine = family.geometry.square_distance(child, chosen)
    theirs = family.geometry.square_distance(child, other)
    if theirs >= mine:
        return f"further: {theirs / max(mine, 1e-30):.3g} times the squared distance"
    return "nearer, but the chosen parent explains the child exactly"


def _insert_hidden(
    family: Family, placed: Mapping[int, Placement], edges: Sequence[InferredEdge]
) -> tuple[list[InferredEdge], list[HiddenModel]]:
    """Put an unpublished model between siblings that share a path and their common parent."""
    groups = _sharing_groups(placed)
    hidden: list[HiddenModel] = []
    moved: dict[tuple[str, str], HiddenModel] = {}
    for parent, children in groups:
        names = sorted(family.members[c].node for c in children)
        digest = hashlib.sha256(
            "".join(sorted(_content_key(family.members[c]) for c in children)).encode()
        ).hexdigest()[:16]
        node = HiddenModel(
            node=f"hidden:{digest}", parent=family.members[parent].node, children=tuple(names)
        )
        hidden.append(node)
        moved |= {(name, node.parent): node for name in names}
    kept = [_through(edge, moved.get((edge.child, edge.parent))) for edge in edges]
    return [*kept, *(_to_hidden(node) for node in hidden)], hidden


def _sharing_groups(placed: Mapping[int, Placement]) -> list[tuple[int, set[int]]]:
    groups: list[tuple[int, set[int]]] = []
    for child, decision in placed.items():
        other = decision.sibling
        if other is None or placed[other].parents != decision.parents:
            continue
        joined = next((g for p, g in groups if p == decision.parents[0] and other in g), None)
        if joined is None:
            groups.append((decision.parents[0], {child, other}))
        else:
            joined.add(child)
    return groups


def _through(edge: InferredEdge, node: HiddenModel | None) -> InferredEdge:
    return edge if node is None else replace(edge, parent=node.node)


def _to_hidden(node: HiddenModel) -> InferredEdge:
    clue = Clue(
        kind="geometry",
        statistic="children that share a path",
        value=len(node.children),
        n=len(node.children),
        llr=1.0,
    )
    return InferredEdge(
        child=node.node,
        parent=node.parent,
        relation=Relation.FINETUNE,
        confidence=sum_confidence([clue], prior=0.0),
        direction_confidence=sum_confidence([clue], prior=0.0),
        detail={"published": False},
        clues=(clue,),
    )
