"""Models of another shape: fewer neurons, heads or layers, repeated layers, more words."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from toys import Toy

from .architectures import Layout, State, layout_of
from .merging import stack


@torch.no_grad()
def zero_neurons(toy: Toy, *, share: float) -> Toy:
    """Set the weakest `share` of every MLP's hidden units to zero, in all matrices."""
    layout, state = layout_of(toy), toy.state()
    for layer in range(toy.model.config.num_hidden_layers):
        gone = _by_strength(state, layout, layer)[: round(share * _width(state, layout))]
        for name in _rows(state, layout, layer):
            state[name][gone] = 0.0
        state[layout.name(layer, layout.mlp_out)][:, gone] = 0.0
    return toy.clone(state)


def remove_neurons(toy: Toy, *, share: float) -> Toy:
    """Take the weakest `share` of every MLP's hidden units out: a narrower model."""
    layout, state = layout_of(toy), toy.state()
    config = copy.deepcopy(toy.model.config)
    config.intermediate_size = _width(state, layout) - round(share * _width(state, layout))
    for layer in range(config.num_hidden_layers):
        kept = _by_strength(state, layout, layer)[-config.intermediate_size :].sort().values
        for name in _rows(state, layout, layer):
            state[name] = state[name][kept]
        down = layout.name(layer, layout.mlp_out)
        state[down] = state[down][:, kept]
    return toy.clone(state, config=config)


def remove_heads(toy: Toy) -> Toy:
    """Take one key-value head of a Llama, drawn by its output's norm, with its queries out."""
    layout, state, config = layout_of(toy), toy.state(), copy.deepcopy(toy.model.config)
    groups = layout.groups(config)
    config.head_dim = config.hidden_size // config.num_attention_heads
    config.num_attention_heads -= config.num_attention_heads // groups
    config.num_key_value_heads = groups - 1
    for layer in range(config.num_hidden_layers):
        out = layout.name(layer, layout.heads_out)
        blocks = state[out].view(state[out].shape[0], groups, -1)
        gone = int(blocks.norm(dim=(0, 2)).argmin())
        kept = torch.tensor([group for group in range(groups) if group != gone])
        state[out] = blocks[:, kept].reshape(state[out].shape[0], -1)
        for part in layout.heads_in:
            name = layout.name(layer, part)
            rows = state[name].view(groups, -1, state[name].shape[1])[kept]
            state[name] = rows.reshape(-1, state[name].shape[1])
    return toy.clone(state, config=config)


def restack(toy: Toy, layers: Sequence[int]) -> Toy:
    """The given layers of a model in that order, renumbered: fewer of them, or repeated ones.

    Repetition as in Kim et al. 2023 (SOLAR, arXiv:2312.15166).
    """
    config = copy.deepcopy(toy.model.config)
    config.num_hidden_layers = len(layers)
    picked = [(0, layer) for layer in layers]
    state = stack([toy.state()], picked, prefix=layout_of(toy).layer)
    return toy.clone(state, config=config)


def add_words(toy: Toy, *, rows: int, seed: int) -> Toy:
    """More rows in the embedding and the head, drawn around the mean of the old ones."""
    draw = torch.Generator().manual_seed(seed)
    config, state = copy.deepcopy(toy.model.config), toy.state()
    words = config.vocab_size
    config.vocab_size = words + rows
    for name, weight in state.items():
        if weight.dim() == 2 and weight.shape[0] == words:
            noise = torch.randn(rows, weight.shape[1], generator=draw) * weight.std(0)
            state[name] = torch.cat([weight, weight.mean(0) + noise])
    return toy.clone(state, config=config)


def _width(state: State, layout: Layout) -> int:
    return state[layout.name(0, layout.mlp_out)].shape[1]


def _rows(state: State, layout: Layout, layer: int) -> list[str]:
    names = [layout.name(layer, part) for part in layout.mlp_in]
    names += [name.removesuffix("weight") + "bias" for name in names]
    return [name for name in names if name in state]


def _by_strength(state: State, layout: Layout, layer: int) -> Tensor:
    """Hidden units, weakest first: by the product of the norms of what enters and leaves."""
    strength = state[layout.name(layer, layout.mlp_out)].norm(dim=0)
    for part in layout.mlp_in:
        strength = strength * state[layout.name(layer, part)].norm(dim=1)
    return strength.argsort()
