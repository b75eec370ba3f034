"""What leads from one model to another of a different shape, read off how the two lie together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..records import Relation
from .alignment import Overlay, depth, layered, removed_rows
from .layouts import has_experts, layout_step
from .specimen import Specimen


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How a child of another shape was made: a relation and its detail."""

    relation: Relation
    detail: Mapping[str, Any] = field(default_factory=dict)


def step_between(child: Specimen, parent: Specimen, laid: Overlay) -> Step | None:
    """What leads from the candidate to the child; None where nothing does."""
    days = days_between(parent, child)
    layout = layout_step(child, parent)
    if layout is not None:
        return _rewritten(child, parent, laid, layout, days)
    missing = removed_rows(child, parent)
    if missing is None or (days is not None and days <= 0):
        return None
    deeper, shallower = depths_between(child, parent)
    layers = [laid.sites[site].layer for site in sorted(laid.sites)]
    detail: dict[str, Any] = {"removed": _removed(missing)} if missing else {}
    if not deeper and not shallower:
        return (
            Step(relation=Relation.PRUNE, detail={"kind": "width", **detail}) if missing else None
        )
    # A stack is longer than what it was stacked from: undated, the longer one is no parent of it.
    stacked = shallower and not deeper and (not runs_forward(laid) or repeats_layers(parent))
    if stacked and days is None:
        return None
    if shallower and not deeper and runs_forward(laid):
        kind = "depth and width" if missing else "depth"
        return Step(relation=Relation.PRUNE, detail={"kind": kind, "layers": layers, **detail})
    # A stack takes whole layers: with rows missing as well, both come from a larger model. And a
    # longer model whose sampled layers run forward may be the one that layers were taken from.
    if missing or (runs_forward(laid) and days is None):
        return None
    return Step(relation=Relation.MERGE, detail={"method": "passthrough", "layers": layers})


def _rewritten(
    child: Specimen, parent: Specimen, laid: Overlay, layout: Mapping[str, str], days: float | None
) -> Step | None:
    """The same network in another layout; undated, only what all weights prove, or experts."""
    if any(depths_between(child, parent)) or (days is not None and days <= 0):
        return None
    exact = laid.frozen == laid.sites.keys()
    upcycled = has_experts(child) and not has_experts(parent)
    if days is None and not upcycled and (has_experts(parent) or not exact):
        return None
    same = exact and has_experts(child) == has_experts(parent)
    return Step(relation=Relation.COPY if same else Relation.FINETUNE, detail=layout)


def days_between(parent: Specimen, child: Specimen) -> float | None:
    """Days from the parent's date to the child's; None where one has none."""
    if parent.created is None or child.created is None:
        return None
    return (child.created - parent.created).total_seconds() / 86_400


def depths_between(child: Specimen, parent: Specimen) -> tuple[bool, bool]:
    """Whether some stack of the child has more layers, and whether some has fewer."""
    mine, theirs = depth(child), depth(parent)
    both = [(mine[s], theirs[s]) for s in mine.keys() & theirs.keys()]
    return any(a > b for a, b in both), any(a < b for a, b in both)


def runs_forward(laid: Overlay) -> bool:
    """Whether no layer is repeated or moved before another."""
    return all(
        a.stack != b.stack or laid.sites[a].layer < laid.sites[b].layer
        for a, b in pairwise(sorted(laid.sites))
    )


def repeats_layers(one: Specimen) -> bool:
    """Whether two sampled layers of a stack hold the same weights, as a stack of layers leaves."""
    seen: set[tuple[str, tuple[tuple[str, bytes], ...]]] = set()
    for site, blocks in layered(one).items():
        matrices = tuple((role, block.values.tobytes()) for role, block in sorted(blocks.items()))
        content = (site.stack, matrices)
        if content in seen:
            return True
        seen.add(content)
    return False


def _removed(missing: Mapping[str, int]) -> dict[str, int]:
    """Neurons, and rows of the value (or fused) projection, that are gone."""
    kinds = {"mlp": ("mlp.up", "mlp.gate", "mlp.gate_up"), "value_rows": ("attn.v", "attn.qkv")}
    counts = {
        kind: max((n for role, n in missing.items() if role.endswith(roles)), default=0)
        for kind, roles in kinds.items()
    }
    return {kind: n for kind, n in counts.items() if n}
