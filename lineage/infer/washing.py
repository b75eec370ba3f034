"""Laundered models among the roots of a bucket: the source of a model that resembles nobody.

Only models without a parent are looked at, and only against models of other families of their
shape. A laundered model may have children of its own, so a whole family can hang from the edge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..compute import Compute
from ..records import Clue, InferredEdge, Relation
from .evidence import EXACT, sum_confidence
from .laundered import SAME_ROWS, Laundering, find_source
from .specimen import Specimen

FAMILY_LIMIT = 256
# Twice the square of bfloat16's spacing, for either side and the folded gains: rounding, no more.
ROUNDING = 6 * 2.0**-16


def find_sources(
    group: Sequence[Specimen],
    edges: Sequence[InferredEdge],
    *,
    compute: Compute,
    of: Collection[str] | None = None,
) -> list[InferredEdge]:
    """Edges from laundered roots to their sources.

    Parameters
    ----------
    group : all specimens of a bucket.
    edges : what is believed among them; models that hang together by them are not compared.
    of : nodes whose source is looked for; None for all of the group.

    Notes
    -----
    Half a second a root; at most 256 candidates a root are looked at, those with most kin first.
    """
    parents = _first_parents(edges)
    family = _families(group, parents)
    sizes: dict[str, int] = {}
    for root in family.values():
        sizes[root] = sizes.get(root, 0) + 1
    asked = [one for one in group if of is None or one.node in of]
    return [
        edge for one in asked for edge in _source_of(one, group, family, sizes, parents, compute)
    ]


def _source_of(
    one: Specimen,
    group: Sequence[Specimen],
    family: Mapping[str, str],
    sizes: Mapping[str, int],
    parents: Mapping[str, str],
    compute: Compute,
) -> Iterator[InferredEdge]:
    root = family[one.node]
    if root != one.node:
        return
    others = [other for other in group if family[other.node] != root]
    # Washing can be undone: without dates the smaller family is the washed one.
    others = [
        other
        for other in others
        if (one.created and other.created) or sizes[family[other.node]] > sizes[root]
    ]
    others.sort(key=lambda other: -sizes[family[other.node]])
    others = others[:FAMILY_LIMIT]
    number = {other.node: at for at, other in enumerate(others)}
    above = {
        at: number[parents[other.node]]
        for at, other in enumerate(others)
        if parents.get(other.node) in number
    }
    found = find_source(one, others, compute=compute, above=above) if others else None
    if found is not None and found.done:
        yield _edge(one, others[found.candidate], found)


def _first_parents(edges: Sequence[InferredEdge]) -> dict[str, str]:
    parents: dict[str, str] = {}
    for edge in edges:
        parents.setdefault(edge.child, edge.parent)
    return parents


def _families(group: Sequence[Specimen], parent: Mapping[str, str]) -> dict[str, str]:
    """Node -> the root it descends from by the first parent of each; roots are their own."""
    roots: dict[str, str] = {}
    for one in group:
        at, seen = one.node, set[str]()
        while at in parent and at not in seen:
            seen.add(at)
            at = parent[at]
        roots[one.node] = at
    return roots


def washing_clues(found: Laundering) -> tuple[Clue, Clue]:
    """What speaks for a laundered edge, and how near the two are once the washing is undone."""
    return (
        Clue(
            kind="permutation",
            statistic="agreement of hidden units once the washing is undone",
            value=found.agreement,
            llr=EXACT,
            p_value=found.p_value,
            n=found.units,
        ),
        Clue(
            kind="distance",
            statistic="what is left of one minus the squared cosines",
            value=found.residual,
        ),
    )


def washed_relation(found: Laundering) -> Relation:
    """A copy when undoing the washing leaves rounding only, else a fine-tune."""
    exact = found.exact >= SAME_ROWS or found.residual <= ROUNDING
    return Relation.COPY if exact else Relation.FINETUNE


def washing_detail(found: Laundering) -> dict[str, object]:
    """What was done to the source."""
    return {"method": "laundered", "undone": list(found.done)}


def _edge(child: Specimen, source: Specimen, found: Laundering) -> InferredEdge:
    dated = child.created is not None and source.created is not None
    clues = washing_clues(found)
    return InferredEdge(
        child=child.node,
        parent=source.node,
        relation=washed_relation(found),
        confidence=sum_confidence(clues),
        direction_confidence=0.97 if dated else 0.5,
        detail=washing_detail(found) | ({} if dated else {"direction": "unsure"}),
        clues=clues,
    )
