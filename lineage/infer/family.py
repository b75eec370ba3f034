"""One family under inference: its members, its geometry and what was compared so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..compute import Compute
from .blend_stack import equal_blocks
from .blends import Blend, find_blend
from .delta import Delta, compare
from .geometry import Geometry, measure_geometry
from .merges import Mixture, find_mixture
from .order import family_order, later_copies
from .path import Sample, take_sample
from .specimen import Specimen, shared_matrices
from .traits import Traits, measure_traits

NEAREST = 12


@dataclass(slots=True, kw_only=True)
class Family:
    """Members of one family, in order of descent, with lazily compared pairs.

    `mixtures` are those found before the family was in order; None where they are looked for among
    the predecessors, as dates or a given order allow. `copies` are members that an original stands
    in for wherever a parent is sought. `order` lists member indices, ancestors first; `rank[i]` is
    i's place in it. A pair is compared at most once, and only when a decision needs it.
    """

    members: Sequence[Specimen]
    geometry: Geometry
    sample: Sample
    traits: Sequence[Traits]
    mixtures: dict[int, Mixture] | None
    copies: set[int]
    order: Sequence[int]
    rank: dict[int, int]
    compute: Compute
    deltas: dict[tuple[int, int], Delta] = field(default_factory=dict)

    @property
    def dated(self) -> bool:
        """Whether every member has a date."""
        return all(one.created is not None for one in self.members)

    def delta(self, child: int, parent: int) -> Delta:
        """The comparison of two members."""
        if (child, parent) not in self.deltas:
            self.deltas[child, parent] = compare(self.members[child], self.members[parent])
        return self.deltas[child, parent]

    def predecessors(self, child: int) -> list[int]:
        """Members that can have come before `child`, nearest first."""
        before = [i for i in self.order if i not in self.copies and self._before(i, child)]
        return sorted(before, key=lambda i: self.geometry.square_distance(child, i))

    def nearest(self, child: int) -> list[int]:
        """The nearest predecessors, as many as are worth comparing weight by weight."""
        return self.predecessors(child)[:NEAREST]

    def _before(self, one: int, child: int) -> bool:
        a, b = self.members[one].created, self.members[child].created
        if self.dated and a is not None and b is not None and a != b:
            return a < b
        return self.rank[one] < self.rank[child]


def assemble(members: Sequence[Specimen], *, compute: Compute) -> Family:
    """Measure a family: geometry, traits, exact mixtures, order.

    Notes
    -----
    O(n^2 d) for the Gram matrices, O(n^2) mixture fits.
    """
    geometry = measure_geometry(members, compute=compute)
    traits = [measure_traits(one) for one in members]
    copies = later_copies(members, geometry)
    leaves = {i for i, t in enumerate(traits) if t.lossy} | copies
    dated = all(one.created is not None for one in members)
    mixtures = None if dated else _undated_mixtures(members, geometry, leaves)
    parts: dict[int, set[int]] = {}
    if mixtures is not None:
        parts = {child: set(mixture.weights) for child, mixture in mixtures.items()}
        parts |= _undated_blends(members, geometry, leaves | set(mixtures))
    order = family_order(members, geometry, last=leaves | set(parts))
    return _family(
        members,
        geometry=geometry,
        traits=traits,
        copies=copies,
        mixtures=mixtures,
        order=after_their_parts(order, parts),
        compute=compute,
    )


def assemble_in_order(
    members: Sequence[Specimen], *, traits: Sequence[Traits], compute: Compute
) -> Family:
    """A family whose order of descent is known: the one that `members` stand in."""
    geometry = measure_geometry(members, compute=compute)
    return _family(
        members,
        geometry=geometry,
        traits=traits,
        copies=later_copies(members, geometry, in_order=True),
        mixtures=None,
        order=range(len(members)),
        compute=compute,
    )


def _family(
    members: Sequence[Specimen],
    *,
    geometry: Geometry,
    traits: Sequence[Traits],
    copies: set[int],
    mixtures: dict[int, Mixture] | None,
    order: Sequence[int],
    compute: Compute,
) -> Family:
    return Family(
        members=members,
        geometry=geometry,
        sample=take_sample(members, geometry.blocks),
        traits=traits,
        mixtures=mixtures,
        copies=copies,
        order=order,
        rank={i: at for at, i in enumerate(order)},
        compute=compute,
    )


def mixture_of(family: Family, child: int) -> Mixture | None:
    """The exact mixture of earlier members that `child` is, or None."""
    if family.mixtures is not None:
        return family.mixtures.get(child)
    return find_mixture(child, family.predecessors(child), family.geometry, ordered=family.dated)


def _undated_mixtures(
    members: Sequence[Specimen], geometry: Geometry, leaves: set[int]
) -> dict[int, Mixture]:
    """Exact mixtures without dates, among members that are not leaves by their own weights.

    An exact relation can be solved for several of its members. The one that averages most is the
    merge; the others are tried again without it, so that no two are made of each other.
    """
    squares = geometry.square_distances()

    def search(child: int, without: Collection[int]) -> Mixture | None:
        near = [
            int(i)
            for i in squares[child].argsort()
            if i != child
            and i not in leaves
            and i not in without
            and not _is_later(members[int(i)], members[child])
        ]
        return find_mixture(child, near, geometry)

    return settle_mixtures([i for i in range(len(members)) if i not in leaves], search)


def settle_mixtures(
    children: Iterable[int], search: Callable[[int, Collection[int]], Mixture | None]
) -> dict[int, Mixture]:
    """Exact mixtures of which no two are made of each other.

    Parameters
    ----------
    search : finds the mixture that a child is, without the members it must not be made of.
    """
    tried = {i: search(i, ()) for i in children}
    first = {i: mixture for i, mixture in tried.items() if mixture is not None}
    found: dict[int, Mixture] = {}
    for child in sorted(first, key=lambda i: max(first[i].weights.values())):
        made = _made_of(child, found)
        mixture = first[child] if made.isdisjoint(first[child].weights) else search(child, made)
        if mixture is not None:
            found[child] = mixture
    return found


def _undated_blends(
    members: Sequence[Specimen], geometry: Geometry, known: set[int]
) -> dict[int, set[int]]:
    """Merges by masks or by tensors, with the members each is made of: they come after those.

    Which member was the base cannot be told before the family is in order; that there was a merge
    can. None is taken as made of another.
    """
    squares = geometry.square_distances()
    found: dict[int, set[int]] = {}
    for child in range(len(members)):
        near = [
            int(i) for i in squares[child].argsort() if i != child and i not in known | set(found)
        ]
        blend = None if child in known else find_blend(child, near, members, geometry)
        # A stack can be read backwards: what two models left alone of a third makes up the third.
        # An average cannot: solved for a parent, the merge is magnified.
        if blend is not None and (blend.base is not None or _all_mixed(blend, child, members)):
            found[child] = set(blend.weights)
    return found


def _all_mixed(blend: Blend, child: int, members: Sequence[Specimen]) -> bool:
    """Whether every block of a merge by tensors is a mixture, and none a copy of one member's.

    What a model shares with a copy of itself, of which other blocks were shuffled, is no sign of
    a merge.
    """
    if blend.method == "passthrough":
        return False
    one, parts = members[child], [members[i] for i in blend.weights]
    held = [equal_blocks(one, part, shared_matrices([one, *parts])) for part in parts]
    return all(names == held[0] for names in held)


def _is_later(one: Specimen, other: Specimen) -> bool:
    """Whether both are dated and `one` came after `other`."""
    return one.created is not None and other.created is not None and one.created > other.created


def _made_of(member: int, mixtures: Mapping[int, Mixture]) -> set[int]:
    """Mixtures that `member` is a part of, directly or through other mixtures."""
    made = {member}
    for _ in mixtures:
        made |= {i for i, mixture in mixtures.items() if not made.isdisjoint(mixture.weights)}
    return made - {member}


def after_their_parts(order: Sequence[int], parts: Mapping[int, set[int]]) -> list[int]:
    """The same order with every merge moved behind the last of its members."""
    waiting, settled = list(order), list[int]()
    while waiting:
        ready = next((i for i in waiting if parts.get(i, set()) <= set(settled)), waiting[0])
        settled.append(ready)
        waiting.remove(ready)
    return settled
