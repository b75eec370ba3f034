"""From the sketches of a shape bucket to inferred edges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..compute import Compute
from ..records import InferredEdge, RejectedParent
from .circles import without_circles
from .components import tell_components
from .decision import Placement
from .edges import edges_of, runners_up
from .evidence import kinship_clue
from .family import assemble
from .hidden import HiddenModel, insert_hidden
from .kinship import Kinship, families, measure_kinship
from .packed import is_packed, place_packed
from .placement import place, place_again, with_support
from .specimen import Specimen, comparable_parts, content_key
from .washing import find_sources

CODE_VERSION = "infer-4"


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
        edges=tuple(tell_components([*edges, *unpacked.edges], everyone)),
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
    return content_key(one), one.created.timestamp() if one.created else 0.0, one.node


def _infer_family(
    group: Sequence[Specimen], part: Sequence[int], kinship: Kinship, compute: Compute
) -> Inference:
    family = assemble([group[i] for i in part], compute=compute)
    placed: dict[int, Placement] = {}
    for child in family.order:
        placed[child] = place(family, child, placed)
    for child in family.order:
        placed[child] = place_again(family, child, placed)
    placed = {child: with_support(family, child, placed) for child in family.order}
    edges: list[InferredEdge] = []
    rejected: list[RejectedParent] = []
    for decision in placed.values():
        kin = {p: kinship_clue(kinship, part[decision.child], part[p]) for p in decision.parents}
        edges += edges_of(family, decision, placed, kin)
        rejected += runners_up(family, decision)
    with_hidden, hidden = insert_hidden(lambda i: family.members[i], placed, edges)
    return Inference(edges=tuple(with_hidden), rejected=tuple(rejected), hidden=tuple(hidden))
