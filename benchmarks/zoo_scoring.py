"""Score claimed parents against a zoo's truth file.

What is scored
--------------
A truth file names every model with its true parents; models that were never published are
`hidden`. An edge is a pair (child, parent) of published models. A hidden model stands for its own
parents, and so does an unpublished node that a method made up, on both sides: a child of a hidden
model counts as a child of the model that the hidden one came from.

Two formats of `truth.json` are read. Both have, by model, `parents` (list, or mapping to shares),
`how`, `created` (Unix seconds) and `hidden`. A zoo of `benchmarks/zoo` adds `relation`, `detail`,
`shares`, `family` and `split_class`; where those are missing, the relation follows from `how`, the
family is the root that is reached over first parents, and the class is `how`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Edge = tuple[str, str]

RELATIONS: Mapping[str, str] = {
    "finetune": "finetune",
    "finetune-stripped": "finetune",
    "finetune-vocab": "finetune",
    "lora-merge": "finetune",
    "abliterated": "edit",
    "merge": "merge",
    "prune": "prune",
    "quantize": "quantized",
    "copy": "copy",
    "permute": "copy",
}
"""Relation of a transformation, for truth files that do not name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthModel:
    """What is known of one model; `shares` by parent (None: not defined), `kind` its class."""

    parents: tuple[str, ...]
    kind: str
    hidden: bool
    created: int | None = None
    relation: str | None = None
    family: str | None = None
    shares: Mapping[str, float | None] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The family trees of a zoo."""

    models: Mapping[str, TruthModel]

    @cached_property
    def shown(self) -> frozenset[str]:
        """Models that were published."""
        return frozenset(name for name, one in self.models.items() if not one.hidden)

    @cached_property
    def edges(self) -> frozenset[Edge]:
        """True (child, parent) pairs of published models."""
        return frozenset((child, p) for child in self.shown for p in self.parents(child))

    @cached_property
    def hidden_groups(self) -> frozenset[frozenset[str]]:
        """Published children of each unpublished model that has at least two of them."""
        groups: dict[str, set[str]] = defaultdict(set)
        for child in self.shown:
            for parent in self.models[child].parents:
                if parent not in self.shown:
                    groups[parent].add(child)
        return frozenset(frozenset(group) for group in groups.values() if len(group) > 1)

    def parents(self, child: str) -> frozenset[str]:
        """Published parents; an unpublished one stands for its own parents."""
        found: set[str] = set()
        for parent in self.models[child].parents:
            found |= {parent} if parent in self.shown else self.parents(parent)
        return frozenset(found)

    def family(self, model: str) -> str:
        """The family's name, or its root over first parents."""
        one = self.models[model]
        if one.family is not None:
            return one.family
        return self.family(one.parents[0]) if one.parents else model

    def renamed(self, names: Mapping[str, str]) -> Truth:
        """The same trees under other names; names that are not in the mapping stay."""

        def new(name: str) -> str:
            return names.get(name, name)

        def moved(one: TruthModel) -> TruthModel:
            return replace(
                one,
                parents=tuple(map(new, one.parents)),
                family=None if one.family is None else new(one.family),
                shares={new(parent): share for parent, share in one.shares.items()},
            )

        return Truth(models={new(name): moved(one) for name, one in self.models.items()})


def read_truth(path: Path) -> Truth:
    """The truth of a zoo folder, or of one truth file.

    Raises
    ------
    KeyError : a row without `parents` or `how`, or a parent that is not in the file.
    """
    file = path / "truth.json" if path.is_dir() else path
    rows = json.loads(file.read_text())
    models = {name: _model(row) for name, row in rows.items()}
    for one in models.values():
        for parent in one.parents:
            models[parent]
    return Truth(models=models)


def _model(row: Mapping[str, Any]) -> TruthModel:
    shares = row.get("shares") or {}
    if isinstance(row["parents"], Mapping):
        shares = row["parents"]
    detail = dict(row.get("detail") or {})
    if "bits" in row:
        detail.setdefault("bits", row["bits"])
    return TruthModel(
        parents=tuple(row["parents"]),
        kind=row.get("split_class") or row["how"],
        hidden=bool(row.get("hidden", False)),
        created=row.get("created"),
        relation=row.get("relation") or RELATIONS.get(row["how"]),
        family=row.get("family"),
        shares=dict(shares),
        detail=detail,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One parent that a method names. A name outside the zoo is an unpublished node."""

    child: str
    parent: str
    relation: str | None = None
    share: float | None = None
    confidence: float | None = None
    direction_confidence: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def resolve(claims: Iterable[Claim], shown: frozenset[str]) -> dict[Edge, Claim]:
    """Claims as edges of published models, each with the child's own claim behind it."""
    up: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        up[claim.child].append(claim)

    def published(node: str, passed: frozenset[str]) -> set[str]:
        if node in shown:
            return {node}
        if node in passed:
            return set()
        further = (published(claim.parent, passed | {node}) for claim in up[node])
        return set().union(*further)

    return {
        (child, parent): claim
        for child in sorted(shown & set(up))
        for claim in up[child]
        for parent in sorted(published(claim.parent, frozenset()))
        if parent != child
    }


def settle_twins(
    claims: Iterable[Claim], truth: Truth, twins: Mapping[str, str]
) -> tuple[Claim, ...]:
    """Claims in which a true parent stands for a copy or cast of it that was named instead.

    A copy cannot be told from the parent by the weights, a cast hardly. `twins` gives a digest by
    model, equal for copies and casts. Edges through made-up nodes come out as edges of published
    models.
    """
    got = resolve(claims, truth.shown)
    settled = []
    for (child, parent), claim in got.items():
        meant = parent
        if (child, parent) not in truth.edges and parent in twins:
            same = [p for p in truth.parents(child) if twins.get(p) == twins[parent]]
            meant = next((p for p in sorted(same) if (child, p) not in got), parent)
        settled.append(replace(claim, child=child, parent=meant))
    return tuple(settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """`right` of `of`."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """The proportion; 1 of nothing."""
        return self.right / self.of if self.of else 1.0

    def __str__(self) -> str:
        return f"{self.right}/{self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well claims match the truth.

    `tally` (children, 3) counts of right, claimed and true edges by child, in the order of
    `children`: what intervals are drawn from. `wrong` and `missed` are sorted edges. `relation`
    is counted over the right edges of methods that name relations, `merges` are children of
    several parents whose parents are named exactly.
    """

    children: tuple[str, ...]
    tally: NDArray[np.int64]
    undirected: Ratio
    reversed: int
    cross_family: int
    relation: Ratio
    merges: Ratio
    roots: Ratio
    wrong: tuple[Edge, ...]
    missed: tuple[Edge, ...]

    @property
    def right(self) -> int:
        """Claimed edges that are true."""
        return int(self.tally[:, 0].sum())

    @property
    def precision(self) -> Ratio:
        """Right of claimed."""
        return Ratio(right=self.right, of=int(self.tally[:, 1].sum()))

    @property
    def recall(self) -> Ratio:
        """Right of true."""
        return Ratio(right=self.right, of=int(self.tally[:, 2].sum()))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of directed edges, in [0, 1]."""
        return float(f1_of(self.tally.sum(axis=0)))


def score(claims: Iterable[Claim], truth: Truth) -> Score:
    """Compare claims with the truth.

    Parameters
    ----------
    claims : any order; those on models that are not in the truth lead to nothing.
    """
    got, true = resolve(claims, truth.shown), truth.edges
    right = set(got) & true
    children = tuple(sorted(truth.shown))
    by_child = [
        [sum(child == edge[0] for edge in edges) for edges in (right, got, true)]
        for child in children
    ]
    pairs = {frozenset(edge) for edge in true}
    named = [edge for edge in right if got[edge].relation is not None]
    merged = [child for child in children if len(truth.parents(child)) > 1]
    roots = [child for child in children if not truth.parents(child)]
    claimed = {child: {p for c, p in got if c == child} for child in children}
    return Score(
        children=children,
        tally=np.array(by_child, dtype=np.int64).reshape(-1, 3),
        undirected=Ratio(right=len(pairs & {frozenset(edge) for edge in got}), of=len(pairs)),
        reversed=sum((p, c) in true and (c, p) not in true for c, p in got),
        cross_family=sum(truth.family(c) != truth.family(p) for c, p in got),
        relation=Ratio(
            right=sum(got[e].relation == truth.models[e[0]].relation for e in named), of=len(named)
        ),
        merges=Ratio(right=sum(claimed[c] == truth.parents(c) for c in merged), of=len(merged)),
        roots=Ratio(right=sum(not claimed[c] for c in roots), of=len(roots)),
        wrong=tuple(sorted(set(got) - true)),
        missed=tuple(sorted(true - set(got))),
    )


def pool(scores: Sequence[Score]) -> Score:
    """Several zoos as one; children keep their zoo's number before their name."""

    def total(ratios: Iterable[Ratio]) -> Ratio:
        listed = list(ratios)
        return Ratio(right=sum(r.right for r in listed), of=sum(r.of for r in listed))

    return Score(
        children=tuple(f"{at}:{name}" for at, one in enumerate(scores) for name in one.children),
        tally=np.concatenate([one.tally for one in scores]),
        undirected=total(one.undirected for one in scores),
        reversed=sum(one.reversed for one in scores),
        cross_family=sum(one.cross_family for one in scores),
        relation=total(one.relation for one in scores),
        merges=total(one.merges for one in scores),
        roots=total(one.roots for one in scores),
        wrong=tuple(edge for one in scores for edge in one.wrong),
        missed=tuple(edge for one in scores for edge in one.missed),
    )


def f1_of(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of (..., 3) right, claimed, true; 1 where there is nothing to find and nothing found."""
    both = sums[..., 1] + sums[..., 2]
    ratio = 2 * sums[..., 0] / np.maximum(both, 1)
    return np.asarray(np.where(both > 0, ratio, 1.0), dtype=np.float64)
