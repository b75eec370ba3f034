"""What kind of step leads from a parent to a child, read off the delta."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import Relation
from .delta import Delta, DeltaShape, delta_shape, same_rows_permuted
from .specimen import Block, Specimen
from .tables import find_table
from .traits import ZEROS_OF_A_PRUNED_BLOCK, Grid, Traits, rounded_grid

SHUFFLED_ROWS = 0.99
ROUNDED_BLOCKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A relation with its detail and the measured form of the delta behind it."""

    relation: Relation
    detail: Mapping[str, Any] = field(default_factory=dict)
    shape: DeltaShape | None = None


def classify(child: Specimen, parent: Specimen, *, delta: Delta, traits: Traits, rule: str) -> Step:
    """The relation of a single-parent edge.

    Parameters
    ----------
    delta : `compare(child, parent)`.
    traits : the child's own.
    rule : the placement rule that chose the parent.
    """
    if rule == "copy":
        return _copied(child, parent, delta)
    if rule == "shuffled":
        return _shuffled(delta)
    if traits.quantized and rule != "frozen":
        return Step(relation=Relation.QUANTIZED, detail=grid_detail(traits))
    if rule == "pruned":
        share = round(delta.pruned_share, 3)
        return Step(relation=Relation.PRUNE, detail={"fraction": share, "kind": "unstructured"})
    if delta.changed and same_rows_permuted(child, parent) >= SHUFFLED_ROWS:
        return _shuffled(delta)
    rounded = _rounded(child, parent, delta)
    if rounded is not None:
        return Step(relation=Relation.QUANTIZED, detail=rounded)
    vanished = delta.vanished_share
    if traits.sparse and vanished > ZEROS_OF_A_PRUNED_BLOCK:
        detail = {"fraction": round(vanished, 3), "kind": "unstructured", "others": "changed"}
        return Step(relation=Relation.PRUNE, detail=detail)
    shape = delta_shape(child, parent, delta)
    if shape.is_edit:
        return Step(relation=Relation.EDIT, detail=_edit(shape), shape=shape)
    return Step(relation=Relation.FINETUNE, detail=_tuned(child, parent, shape, delta), shape=shape)


def _copied(child: Specimen, parent: Specimen, delta: Delta) -> Step:
    """A copy, or a model that was trained in nothing but what stands beside its matrices."""
    mine, theirs = _dtypes(child), _dtypes(parent)
    detail = {} if mine == theirs else {"cast": f"{theirs} to {mine}"}
    made_for = child.packing.get("format")
    detail |= {"format": made_for} if made_for else {}
    extended = _vocabulary(child.blocks.get("embed"), parent.blocks.get("embed"))
    detail |= {"vocabulary": extended} if extended else {}
    moved = sorted({child.blocks[b.name].key.role for b in delta.beside if not b.unchanged})
    if not moved:
        return Step(relation=Relation.COPY, detail=detail)
    return Step(
        relation=Relation.FINETUNE, detail={"method": "partial", "changed": moved, **detail}
    )


def _shuffled(delta: Delta) -> Step:
    """A copy with its hidden units in another order, or one that was trained besides.

    Units of an MLP do not show in the attention, nor heads in an output whose columns stand still:
    where a layer's output projection is the parent's, its other projections are too, in a copy.
    """
    still = {b.layer for b in delta.blocks.values() if b.unchanged and b.name.endswith("attn.o")}
    tuned = any(
        b.layer in still and ".attn." in b.name and not b.unchanged for b in delta.blocks.values()
    )
    relation = Relation.FINETUNE if tuned else Relation.COPY
    return Step(relation=relation, detail={"method": "hidden units permuted"})


def _dtypes(one: Specimen) -> str:
    return "+".join(sorted({one.blocks[name].dtype for name in one.matrices()}))


def _rounded(child: Specimen, parent: Specimen, delta: Delta) -> dict[str, Any] | None:
    """What most changed matrices were rounded to: a table of values, or a grid that is too fine to
    show by itself."""
    changed = delta.changed[:ROUNDED_BLOCKS]
    tables = [find_table(child.blocks[b.name]) for b in changed]
    named = Counter(table for table in tables if table is not None)
    if sum(named.values()) * 2 > len(tables):
        (table, _), *_ = named.most_common(1)
        return {"format": "dequantized", "bits": table.bits, "table": table.name}
    found = [rounded_grid(child.blocks[b.name], parent.blocks[b.name]) for b in changed]
    grids = [grid for grid in found if grid is not None]
    return _grid_detail(grids) if len(grids) * 2 > len(found) else None


def grid_detail(traits: Traits) -> dict[str, Any]:
    """The grid that most of a model's matrices lie on."""
    return _grid_detail(list(traits.grids.values()))


def _grid_detail(grids: Sequence[Grid]) -> dict[str, Any]:
    widest = max(grids, key=lambda g: sum(g == other for other in grids))
    kind = "symmetric" if widest.symmetric else "asymmetric"
    return {"format": "dequantized", "bits": widest.bits, "group": widest.group, "grid": kind}


def _edit(shape: DeltaShape) -> dict[str, Any]:
    signature = "abliteration" if shape.coherence >= 0.9 and shape.matrices > 1 else "rank-one"
    return {
        "signature": signature,
        "rank": shape.rank,
        "shared_direction": round(shape.coherence, 3),
        "matrices": shape.matrices,
    }


def _tuned(child: Specimen, parent: Specimen, shape: DeltaShape, delta: Delta) -> dict[str, Any]:
    detail: dict[str, Any] = {"method": "full"}
    # An adapter leaves something alone: whole matrices, or all norms and embeddings.
    if shape.is_low_rank and (delta.frozen_share > 0 or delta.same_elsewhere):
        detail = {"method": "lora", "rank": shape.rank}
    extended = _vocabulary(child.blocks.get("embed"), parent.blocks.get("embed"))
    return detail | ({"vocabulary": extended} if extended else {})


def _vocabulary(mine: Block | None, theirs: Block | None) -> str | None:
    if mine is None or theirs is None or mine.shape[:1] == theirs.shape[:1]:
        return None
    return f"{theirs.shape[0]} to {mine.shape[0]}"
