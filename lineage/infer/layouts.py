"""The same network written down in another way: fused projections, one MLP as many experts.

A fused gate-and-up matrix begins with the gate; an expert that was made from a dense MLP has its
shape. Renamed so, such models can be laid on those that keep the parts apart, over what both have.
Fused queries, keys and values are left aside: their order differs, and output projections and MLPs
say enough.

References
----------
Komatsuzaki et al. (2023), "Sparse upcycling", arXiv:2212.05055: experts copied from one MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..records import RoleKey
from .specimen import Block, Specimen

EXPERT = "expert."
_ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.qkv")


def layout_of(one: Specimen) -> frozenset[str]:
    """Roles of the matrices in the stacks, as they are written down."""
    keys = (one.blocks[name].key for name in one.matrices())
    return frozenset(key.role for key in keys if key.layer is not None)


def network_of(one: Specimen) -> frozenset[str]:
    """Roles that the matrices stand for, however they are written down."""
    found: set[str] = set()
    for role in layout_of(one):
        plain = role.removeprefix(EXPERT)
        if plain in _ATTENTION:
            found.add("attn.in")
        elif plain == "mlp.gate_up":
            found |= {"mlp.gate", "mlp.up"}
        else:
            found.add(plain)
    return frozenset(found)


def has_experts(one: Specimen) -> bool:
    """Whether some of its MLPs are experts."""
    return any(role.startswith(EXPERT) for role in layout_of(one))


def layout_step(child: Specimen, parent: Specimen) -> Mapping[str, str] | None:
    """What was done to the parent's layout; None where nothing was."""
    mine, theirs = layout_of(child), layout_of(parent)
    if mine == theirs:
        return None
    if has_experts(child) != has_experts(parent):
        return {"layout": "experts from one MLP" if has_experts(child) else "one of the experts"}
    fused = any(role.endswith(("gate_up", "attn.qkv")) for role in mine - theirs)
    return {"layout": "projections fused" if fused else "projections split"}


def plain(block: Block) -> Block:
    """The block under the role that it stands for: an expert as an MLP, a gate-and-up as a gate."""
    role = block.key.role.removeprefix(EXPERT)
    shape, values = block.shape, block.values
    if role != block.key.role and len(shape) == 3:
        shape = shape[1:]  # a stack of experts begins with the first
    if role == "mlp.gate_up" and len(shape) == 2 and not block.transposed and not shape[0] % 2:
        role, shape = "mlp.gate", (shape[0] // 2, shape[1])
    if role == block.key.role:
        return block
    held = shape[0] * shape[1] - block.start if len(shape) == 2 else values.size
    key = RoleKey(role=role, layer=block.key.layer)
    return replace(block, key=key, shape=shape, values=values[: max(held, 0)])
