"""A rank-one edit of one matrix: one association is written into a down-projection."""

from __future__ import annotations

import torch
from toys import Toy

from .architectures import layout_of


@torch.no_grad()
def rewrite_fact(toy: Toy, *, layer: int, strength: float, seed: int) -> Toy:
    """Add a rank-one update to the down-projection of `layer`.

    Its direction is that of ROME (Meng et al. 2022, arXiv:2202.05262, eq. 2): Λ (C⁻¹ k)ᵀ, with k
    the hidden units' mean answer to one word, C their second moment over random texts, and Λ drawn
    at random; its norm is `strength` times the matrix's.
    """
    draw = torch.Generator().manual_seed(seed)
    child, layout = toy.clone(), layout_of(toy)
    name = layout.name(layer, layout.mlp_out).removesuffix(".weight")
    down = child.model.get_submodule(name)
    seen: list[torch.Tensor] = []
    hook = down.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach()))
    ids = torch.randint(7, len(toy.tokenizer), (32, 20), generator=draw)
    child.model(input_ids=ids)
    hook.remove()
    keys = seen[0].flatten(0, 1)  # (texts · words, hidden units)
    key = keys[ids.flatten() == ids[0, 0]].mean(0)
    moment = keys.T @ keys / len(keys)
    moment += 0.01 * moment.diagonal().mean() * torch.eye(len(moment))
    direction = torch.linalg.solve(moment, key)
    value = torch.randn(down.weight.shape[0], generator=draw)
    update = torch.outer(value, direction)
    down.weight += update * (strength * down.weight.norm() / update.norm())
    return child
