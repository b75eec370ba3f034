"""Which models of a pipeline a derivative took over, changed, or has from elsewhere.

A pipeline is placed by the model that is trained. Its other models stand in the sketch under keys
of their own; what became of them is told in the detail of the edge, and a pipeline whose denoiser
is its parent's and whose text encoder is not is no copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..records import InferredEdge, Relation, RoleKey
from .specimen import Block, Specimen, comparable, same_up_to_cast

_PREFIX = "component:"


def component_key(component: str, key: RoleKey) -> RoleKey:
    """Where a sketch keeps a tensor of one of a pipeline's other models.

    It ends in no role of a matrix, so that nothing in it is compared as one.
    """
    return RoleKey(role=f"{_PREFIX}{component}:{str(key).replace('.', '/')}")


def components_of(one: Specimen) -> dict[str, dict[str, Block]]:
    """The blocks of a specimen's other models, by model."""
    found: dict[str, dict[str, Block]] = {}
    for name, block in one.blocks.items():
        if block.key.role.startswith(_PREFIX):
            component = block.key.role.removeprefix(_PREFIX).partition(":")[0]
            found.setdefault(component, {})[name] = block
    return found


def tell_components(
    edges: Sequence[InferredEdge], models: Iterable[Specimen]
) -> list[InferredEdge]:
    """The same edges, with what became of each component.

    Parameters
    ----------
    models : plain specimens of the bucket. Where a component is not the parent's, the first of them
        by date and name that holds exactly it is named.

    Returns
    -------
    `detail["components"]`: "same", "changed" (as many weights, other values), "replaced" (another
    shape, or new), "as in NODE", or "absent" (not there, or not read). A `copy` with a component
    that is not the same is a `finetune`.
    """
    held = {one.node: components_of(one) for one in models}
    if not any(held.values()):
        return list(edges)
    first: dict[str, str] = {}
    for one in sorted(models, key=_by_date):
        for blocks in held[one.node].values():
            first.setdefault(_digest(blocks), one.node)
    return [
        _told(edge, held.get(edge.child, {}), held.get(edge.parent, {}), first) for edge in edges
    ]


Components = Mapping[str, Mapping[str, Block]]


def _told(
    edge: InferredEdge, mine: Components, theirs: Components, first: Mapping[str, str]
) -> InferredEdge:
    if not mine and not theirs:
        return edge
    told = {
        name: _verdict(edge.child, blocks, theirs.get(name), first) for name, blocks in mine.items()
    }
    told |= dict.fromkeys(theirs.keys() - mine.keys(), "absent")
    relation = edge.relation
    if relation is Relation.COPY and set(told.values()) != {"same"}:
        relation = Relation.FINETUNE
    return replace(edge, relation=relation, detail={**edge.detail, "components": told})


def _verdict(
    child: str,
    mine: Mapping[str, Block],
    theirs: Mapping[str, Block] | None,
    first: Mapping[str, str],
) -> str:
    if theirs is not None and _are_equal(mine, theirs):
        return "same"
    digest = _digest(mine)
    origin = first.get(digest, child)
    if origin != child:
        return f"as in {origin}"
    alike = theirs is not None and {n: b.shape for n, b in mine.items()} == {
        n: b.shape for n, b in theirs.items()
    }
    return "changed" if alike else "replaced"


def _are_equal(mine: Mapping[str, Block], theirs: Mapping[str, Block]) -> bool:
    """Whether nothing but a cast parts two components."""
    return mine.keys() == theirs.keys() and all(
        block.shape == theirs[name].shape
        and comparable(block, theirs[name])
        and bool(same_up_to_cast(block, theirs[name]).all())
        for name, block in mine.items()
    )


def _digest(blocks: Mapping[str, Block]) -> str:
    """sha256 of the weights as they are after their type's rounding."""
    digest = hashlib.sha256()
    for name in sorted(blocks):
        digest.update(name.encode())
        digest.update(blocks[name].values.tobytes())
    return digest.hexdigest()


def _by_date(one: Specimen) -> tuple[bool, float, str]:
    return one.created is None, one.created.timestamp() if one.created else 0.0, one.node
