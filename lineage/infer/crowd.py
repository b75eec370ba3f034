"""Thousands of models of one shape: each is placed among its nearest, one after another.

Comparing all pairs of a bucket costs the square of its size. Here a thin sample of every model
gives an order and the nearest earlier ones; a child is then held, whole, against those, the hubs
near it and their ancestors alone. The decisions are those of `placement`, on a family of some
dozen. Models that were placed before keep their parents: what is new costs its own placement only.

Differs from a bucket compared whole: what siblings that come later have in common is not known, a
merge has its parents among the nearest, and of undated copies the first in the order is the
original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from ..records import Clue, InferredEdge, RejectedParent, Relation
from .circles import settled_edge, without_circles
from .components import tell_components
from .crowd_order import crowd_order
from .decision import Placement
from .edges import edges_of, runners_up
from .engine import Inference
from .evidence import kinship_clue
from .family import assemble_in_order
from .hidden import insert_hidden
from .kinship import kinship_of, measure_kinship
from .neighbours import (
    HUBS,
    ThinPart,
    ThinSample,
    comparable_rows,
    hubs_of,
    joined,
    nearest_rows,
    thin_sample,
)
from .packed import PackedPlaces, is_packed, place_packed
from .placement import place
from .specimen import Specimen
from .traits import Traits, measure_traits
from .washing import find_sources

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]

NULL_MEMBERS = 32
MAX_ANCESTORS = 8
MOST_ROOTS = 128
# Of squared distances: a new model this much nearer than the parent has a model placed again.
NEARER = 0.9
PLAIN = Traits(grids={}, zeros={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """One model of a crowd: what is held of it in memory.

    `lossy` whether its weights lie on a grid or hold many zeros, `packed` whether they were decoded
    from a packed type.
    """

    node: str
    created: datetime | None
    lossy: bool
    packed: bool
    thin: ThinSample


def resident(one: Specimen) -> Resident:
    """What a crowd keeps of a specimen. O(weights): a tenth of a second for a full sketch."""
    packed = is_packed(one)
    lossy = packed or measure_traits(one).lossy
    thin = thin_sample(one)
    return Resident(node=one.node, created=one.created, lossy=lossy, packed=packed, thin=thin)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownParent:
    """A parent believed before, by node."""

    parent: str
    relation: Relation


@dataclass(slots=True, kw_only=True)
class _Crowd:
    """A part of a bucket under inference; all numbers are places in `residents`."""

    residents: Sequence[Resident]
    fetch: Callable[[str], Specimen]
    compute: Compute
    null_sd: float
    tests: int
    traits: dict[int, Traits] = field(default_factory=dict)
    placed: dict[int, Placement] = field(default_factory=dict)
    edges: list[InferredEdge] = field(default_factory=list)
    rejected: list[RejectedParent] = field(default_factory=list)
    related: int = 0

    def specimen(self, at: int) -> Specimen:
        return self.fetch(self.residents[at].node)

    def traits_of(self, at: int) -> Traits:
        """Measured again only where there is something to see."""
        if not self.residents[at].lossy:
            return PLAIN
        if at not in self.traits:
            self.traits[at] = measure_traits(self.specimen(at))
        return self.traits[at]

    def ancestors(self, at: int) -> list[int]:
        """The nearest ancestors by the decisions so far, by the heaviest parent of each."""
        found: list[int] = []
        while len(found) < MAX_ANCESTORS:
            decision = self.placed.get(at)
            if decision is None or not decision.parents or decision.parents[0] in found:
                break
            at = decision.parents[0]
            found.append(at)
        return found


def infer_crowd(
    residents: Sequence[Resident],
    fetch: Callable[[str], Specimen],
    *,
    compute: Compute,
    known: Mapping[str, Sequence[KnownParent]] | None = None,
    again: Collection[str] | None = None,
) -> tuple[Inference, frozenset[str]]:
    """Infer parents in a bucket too large to compare all its pairs.

    Parameters
    ----------
    residents : every model of the bucket.
    fetch : the whole specimen of a node; asked for about 40 nodes a model, most of them asked for
        shortly before, so that a cache of some hundred serves.
    known : parents believed before, of models that need not be placed again.
    again : nodes to place; None for all. Those whose parent a new model is clearly nearer than
        are added.

    Returns
    -------
    What was decided, and the nodes that were.

    Notes
    -----
    O(n^2 t) for the t some thousand weights of a thin sample, in tiles; then O(d) a model for d
    sampled weights. A thin sample is 12 KB: 100,000 models take 1.2 GB.
    """
    found: list[Inference] = []
    decided: set[str] = set()
    plain = [one for one in residents if not one.packed]
    for part in comparable_rows([one.thin for one in plain]):
        members = [plain[i] for i in part.numbers]
        if len(members) > 1:
            inference, nodes = _infer_part(
                members, part, fetch, compute=compute, known=known or {}, again=again
            )
            found.append(inference)
            decided |= nodes
    edges = [edge for one in found for edge in one.edges]
    # Without dates the order moves with what is new, and need not be that of what was believed.
    settled = _settled_edges(known or {}, decided)
    edges = without_circles(edges, settled)
    sources = _laundered(plain, fetch, edges, decided, known or {}, compute)
    edges += without_circles(sources, [*settled, *edges])
    unpacked = _packed(residents, fetch, [*settled, *edges], again, compute)
    found.append(unpacked)
    edges += unpacked.edges
    decided |= {one.node for one in residents if one.packed and _is_asked(one, again)}
    inference = Inference(
        edges=tuple(edges),
        rejected=tuple(lost for one in found for lost in one.rejected),
        hidden=tuple(node for one in found for node in one.hidden),
        pairs_tested=sum(one.pairs_tested for one in found),
        pairs_related=sum(one.pairs_related for one in found),
    )
    return inference, frozenset(decided)


def _infer_part(
    members: Sequence[Resident],
    part: ThinPart,
    fetch: Callable[[str], Specimen],
    *,
    compute: Compute,
    known: Mapping[str, Sequence[KnownParent]],
    again: Collection[str] | None,
) -> tuple[Inference, set[str]]:
    rows = part.rows
    rank = _ranks(members, part, compute)
    settled = {} if again is None else _settled(members, known, again, part, rank, compute)
    wanted = np.array(
        sorted((i for i in range(len(members)) if i not in settled), key=rank.__getitem__),
        dtype=np.int64,
    )
    if not wanted.size:
        return Inference(), set()
    near = nearest_rows(rows, compute=compute, before=rank, wanted=wanted)
    hubs = hubs_of(near, parents=[p for d in settled.values() for p in d.parents])
    near_hubs = nearest_rows(
        rows, compute=compute, before=rank, among=hubs, wanted=wanted, count=HUBS
    )
    some = np.unique(np.linspace(0, len(members) - 1, NULL_MEMBERS).astype(int))
    null = measure_kinship([fetch(members[i].node) for i in some], compute=compute)
    crowd = _Crowd(
        residents=members,
        fetch=fetch,
        compute=compute,
        null_sd=null.null_sd,
        tests=int((near.index >= 0).sum() + (near_hubs.index >= 0).sum()),
        placed=settled,
    )
    for at, child in enumerate(wanted.tolist()):
        _place(crowd, child, joined(near.of(at), near_hubs.of(at)), rank)
    new = {child: crowd.placed[child] for child in wanted.tolist()}
    edges, hidden = insert_hidden(crowd.specimen, new, crowd.edges)
    inference = Inference(
        edges=tuple(edges),
        rejected=tuple(crowd.rejected),
        hidden=tuple(hidden),
        pairs_tested=crowd.tests,
        pairs_related=crowd.related,
    )
    return inference, {members[i].node for i in wanted.tolist()}


def _ranks(members: Sequence[Resident], part: ThinPart, compute: Compute) -> Ints:
    """(n,) place of each member in the order of descent."""
    order = crowd_order(
        part,
        created=[one.created for one in members],
        lossy=[i for i, one in enumerate(members) if one.lossy],
        compute=compute,
    )
    rank = np.empty(len(members), dtype=np.int64)
    rank[order] = np.arange(len(members))
    return rank


def _settled(
    members: Sequence[Resident],
    known: Mapping[str, Sequence[KnownParent]],
    again: Collection[str],
    part: ThinPart,
    rank: Ints,
    compute: Compute,
) -> dict[int, Placement]:
    """What was decided before, of the models that are not placed again."""
    number = {one.node: i for i, one in enumerate(members)}
    settled = {}
    for i, one in enumerate(members):
        if one.node not in again:
            parents = [p for p in known.get(one.node, ()) if p.parent in number]
            trained = any(p.relation is Relation.FINETUNE for p in parents)
            settled[i] = Placement(
                child=i,
                rule="nearest" if trained else "known",
                parents=tuple(number[p.parent] for p in parents),
            )
    new = np.array([i for i in range(len(members)) if i not in settled], dtype=np.int64)
    moved = _drawn_away(part.rows, new, rank, settled, compute)
    return {i: decision for i, decision in settled.items() if i not in moved}


def _drawn_away(
    rows: Float32, new: Ints, rank: Ints, settled: Mapping[int, Placement], compute: Compute
) -> set[int]:
    """Models placed before to which a new one that comes before them is nearer than the parent."""
    if not new.size or not settled:
        return set()
    old = np.array(sorted(settled), dtype=np.int64)
    near = nearest_rows(rows, compute=compute, before=rank, among=new, wanted=old, count=1)
    moved = set()
    for at, i in enumerate(old.tolist()):
        parents = settled[i].parents
        own = min((float(np.square(rows[i] - rows[p]).sum()) for p in parents), default=np.inf)
        if near.square[at, 0] < NEARER * own:
            moved.add(i)
    return moved


def _place(crowd: _Crowd, child: int, near: Sequence[int], rank: Ints) -> None:
    """Decide one child among its candidates and their ancestors, and keep the edges."""
    likely = [crowd.specimen(i) for i in near]
    one = crowd.specimen(child)
    kin = kinship_of(one, likely, null_sd=crowd.null_sd, tests=crowd.tests, compute=crowd.compute)
    related = [i for at, i in enumerate(near) if kin.related(at, len(near))]
    crowd.related += len(related)
    if not related:
        crowd.placed[child] = Placement(child=child, rule="root", parents=())
        return
    above = {a for i in related for a in crowd.ancestors(i)}
    context = sorted({*related, *above}, key=lambda i: int(rank[i]))
    local = {i: at for at, i in enumerate([*context, child])}
    members = [*(crowd.specimen(i) for i in context), one]
    family = assemble_in_order(
        members,
        traits=[crowd.traits_of(i) for i in (*context, child)],
        compute=crowd.compute,
    )
    placed = {local[i]: _renumbered(crowd.placed[i], local) for i in context if i in crowd.placed}
    last = len(context)
    decision = place(family, last, placed)
    placed[last] = decision
    clues = {p: _kin_clue(crowd, one, members[p]) for p in decision.parents}
    crowd.edges += tell_components(edges_of(family, decision, placed, clues), members)
    crowd.rejected += runners_up(family, decision)
    back = {at: i for i, at in local.items()}
    crowd.placed[child] = _renumbered(decision, back)


def _kin_clue(crowd: _Crowd, one: Specimen, parent: Specimen) -> Clue:
    kin = kinship_of(one, [parent], null_sd=crowd.null_sd, tests=crowd.tests, compute=crowd.compute)
    return kinship_clue(kin, 1, 0)


def _renumbered(decision: Placement, number: Mapping[int, int]) -> Placement:
    """A decision in the numbers of another list; who is not in it is left out."""
    sibling = decision.sibling
    return replace(
        decision,
        child=number[decision.child],
        parents=tuple(number[p] for p in decision.parents if p in number),
        sibling=None if sibling is None else number.get(sibling),
        mixture=None,
        blend=None,
        passed_over={},
    )


def _is_asked(one: Resident, again: Collection[str] | None) -> bool:
    return again is None or one.node in again


def _packed(
    residents: Sequence[Resident],
    fetch: Callable[[str], Specimen],
    believed: Sequence[InferredEdge],
    again: Collection[str] | None,
    compute: Compute,
) -> Inference:
    """Sources of packed models among the plain ones nearest to what they decode to."""
    asked = {one.node for one in residents if one.packed and _is_asked(one, again)}
    if not asked:
        return Inference()
    found: list[PackedPlaces] = []
    for part in comparable_rows([one.thin for one in residents]):
        members = [residents[i] for i in part.numbers]
        plain = np.array([i for i, one in enumerate(members) if not one.packed], dtype=np.int64)
        wanted = np.array([i for i, one in enumerate(members) if one.node in asked], dtype=np.int64)
        near = nearest_rows(part.rows, compute=compute, among=plain, wanted=wanted)
        for at, child in enumerate(wanted.tolist()):
            likely = [fetch(members[i].node) for i in near.of(at)]
            found.append(place_packed([fetch(members[child].node)], likely, believed))
    return Inference(
        edges=tuple(edge for one in found for edge in one.edges),
        rejected=tuple(lost for one in found for lost in one.rejected),
        pairs_tested=sum(one.pairs_tested for one in found),
    )


def _settled_edges(
    known: Mapping[str, Sequence[KnownParent]], decided: Collection[str]
) -> list[InferredEdge]:
    """Edges believed before, of the models that keep them."""
    return [
        settled_edge(child, one.parent, one.relation)
        for child, parents in known.items()
        if child not in decided
        for one in parents
    ]


def _laundered(
    residents: Sequence[Resident],
    fetch: Callable[[str], Specimen],
    edges: Sequence[InferredEdge],
    decided: Collection[str],
    known: Mapping[str, Sequence[KnownParent]],
    compute: Compute,
) -> list[InferredEdge]:
    """Sources of the new roots among all roots, those with most children first."""
    children = {edge.child for edge in edges}
    parents = Counter(edge.parent for edge in edges)
    parents.update(p.parent for believed in known.values() for p in believed)
    new = {one.node for one in residents if one.node in decided} - children
    old = {one.node for one in residents if one.node not in decided and not known.get(one.node)}
    roots = sorted(new | old, key=lambda n: (-parents[n], n))[:MOST_ROOTS]
    if len(roots) < 2 or new.isdisjoint(roots):
        return []
    return find_sources([fetch(n) for n in roots], edges, compute=compute, of=new)
