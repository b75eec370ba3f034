"""The same function in other weights: every exact symmetry of the toys' architectures.

Each function takes a state and returns another with the same logits up to rounding. Permutations of
hidden units and heads hold for all layouts; the other symmetries are those of a Llama block
(RMSNorm, SwiGLU, no biases), a change of the residual basis as in Ashkboos et al. 2024
(arXiv:2401.15024, rotations with the norms' gains folded into the matrices that read).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from toys import Toy

from .architectures import Layout, State, layout_of

TOLERANCE: Final = 1e-3

_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_WRITERS = ("o_proj", "down_proj")

Wash = Callable[[State, Toy, torch.Generator], State]


def permute_mlp(state: State, toy: Toy, draw: torch.Generator) -> State:
    """Shuffle the hidden units of every MLP."""
    layout, washed = layout_of(toy), dict(state)
    for layer in range(toy.model.config.num_hidden_layers):
        down = layout.name(layer, layout.mlp_out)
        order = torch.randperm(state[down].shape[1], generator=draw)
        washed[down] = state[down][:, order]
        for part in layout.mlp_in:
            for name in _with_bias(state, layout, layer, part):
                washed[name] = state[name][order]
    return washed


def permute_heads(state: State, toy: Toy, draw: torch.Generator) -> State:
    """Shuffle the groups of heads that share a key, and the queries within each group."""
    layout, config, washed = layout_of(toy), toy.model.config, dict(state)
    groups = layout.groups(config)
    inner = config.num_attention_heads // groups
    for layer in range(config.num_hidden_layers):
        outer = torch.randperm(groups, generator=draw)
        queries = [torch.randperm(inner, generator=draw) for _ in range(groups)]
        order = torch.cat([group * inner + queries[group] for group in outer.tolist()])
        for at, part in enumerate(layout.heads_in):
            for name in _with_bias(state, layout, layer, part):
                washed[name] = _by_block(state[name], order if at == 0 else outer)
        name = layout.name(layer, layout.heads_out)
        washed[name] = _by_block(state[name].T, order).T
    return washed


def rescale_mlp(state: State, toy: Toy, draw: torch.Generator) -> State:
    """Scale every hidden unit's up row and divide its down column by the same."""
    washed, layout = dict(state), layout_of(toy)
    for layer in range(toy.model.config.num_hidden_layers):
        up, down = layout.name(layer, "mlp.up_proj"), layout.name(layer, "mlp.down_proj")
        scale = _scales(state[up].shape[0], draw)
        washed[up], washed[down] = state[up] * scale[:, None], state[down] / scale
    return washed


def rescale_values(state: State, toy: Toy, draw: torch.Generator) -> State:
    """Scale every value channel and divide the output columns that read it by the same."""
    washed, layout, config = dict(state), layout_of(toy), toy.model.config
    repeats = config.num_attention_heads // config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        value, out = layout.name(layer, "self_attn.v_proj"), layout.name(layer, "self_attn.o_proj")
        scale = _scales(state[value].shape[0], draw)
        washed[value] = state[value] * scale[:, None]
        spread = scale.view(config.num_key_value_heads, 1, -1).expand(-1, repeats, -1)
        washed[out] = state[out] / spread.reshape(-1)
    return washed


def permute_basis(state: State, toy: Toy, draw: torch.Generator) -> State:
    """Permute the residual channels and flip the sign of half of them."""
    order = torch.randperm(toy.model.config.hidden_size, generator=draw)
    signs = torch.randint(0, 2, (len(order),), generator=draw).float() * 2 - 1
    washed = {}
    for name, weight in state.items():
        if weight.dim() == 1:
            washed[name] = weight[order]
        elif name.endswith(tuple(f"{part}.weight" for part in _WRITERS)):
            washed[name] = weight[order] * signs[:, None]
        else:
            washed[name] = weight[:, order] * signs
    return washed


def rotate_basis(state: State, toy: Toy, draw: torch.Generator) -> State:
    """Rotate the residual space at random; the norms' gains move into the readers first."""
    size = toy.model.config.hidden_size
    turn, triangle = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    turn = turn * triangle.diagonal().sign()  # uniform over all rotations and reflections
    washed = {}
    for name, weight in _folded(state).items():
        if weight.dim() == 1:
            washed[name] = weight
        elif name.endswith(tuple(f"{part}.weight" for part in _WRITERS)):
            washed[name] = (turn.T @ weight.double()).float()
        else:
            washed[name] = (weight.double() @ turn).float()
    return washed


WASHES: Mapping[str, Wash] = {
    "mlp-permutation": permute_mlp,
    "head-permutation": permute_heads,
    "mlp-rescale": rescale_mlp,
    "value-rescale": rescale_values,
    "basis-permutation": permute_basis,
    "rotation": rotate_basis,
}


def launder(toy: Toy, washes: tuple[str, ...], *, seed: int) -> Toy:
    """Apply the named washes one after another, and check that the function is the same.

    Raises
    ------
    ArithmeticError : some logit differs by more than `TOLERANCE` in float32.
    """
    draw = torch.Generator().manual_seed(seed)
    state = toy.state()
    for wash in washes:
        state = WASHES[wash](state, toy, draw)
    washed = toy.clone(state)
    gap = logit_gap(toy, washed)
    if gap > TOLERANCE:
        raise ArithmeticError(f"{washes} changed a logit by {gap:.2g}")
    return washed


@torch.no_grad()
def logit_gap(one: Toy, two: Toy, *, seed: int = 0) -> float:
    """The largest difference of a logit between two toys on random texts, in float32."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, len(one.tokenizer), (4, 20), generator=draw)
    return float((one.model(input_ids=ids).logits - two.model(input_ids=ids).logits).abs().max())


def _folded(state: State) -> State:
    """Gains of one everywhere, their former values in the columns of the matrices that read."""
    folded = {n: torch.ones_like(w) if w.dim() == 1 else w for n, w in state.items()}
    for name in state:
        layer, _, part = name.rpartition(".self_attn.")
        gain = f"{layer}.input_layernorm.weight"
        if not layer:
            layer, _, part = name.rpartition(".mlp.")
            gain = f"{layer}.post_attention_layernorm.weight"
        if name == "lm_head.weight":
            gain = "model.norm.weight"
        if gain in state and (part.startswith(_READERS) or name == "lm_head.weight"):
            folded[name] = state[name] * state[gain]
    return folded


def _scales(size: int, draw: torch.Generator) -> Tensor:
    """Factors between a quarter and four, even in the logarithm."""
    return torch.exp2(torch.rand(size, generator=draw) * 4 - 2)


def _by_block(weight: Tensor, order: Tensor) -> Tensor:
    """The rows in `len(order)` equal blocks, in that order."""
    blocks = weight.reshape(len(order), -1, *weight.shape[1:])
    return blocks[order].reshape(weight.shape)


def _with_bias(state: State, layout: Layout, layer: int, part: str) -> list[str]:
    name = layout.name(layer, part)
    return [n for n in (name, name.removesuffix("weight") + "bias") if n in state]
