"""Merges of several models into one, as the usual merge tools compute them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .architectures import State

_COLLINEAR = 0.9995


def linear(states: Sequence[State], shares: Sequence[float]) -> State:
    """The weighted sum (Wortsman et al. 2022, arXiv:2203.05482); `shares` sum to one."""
    return {name: _weighted([state[name] for state in states], shares) for name in states[0]}


def slerp(one: State, two: State, *, share: float) -> State:
    """Each tensor as one vector, turned from `one` to `two` by `share` of their angle.

    Nearly collinear tensors are mixed linearly.
    """
    return {name: _slerp(one[name], two[name], share) for name in one}


def gradient(one: State, two: State, *, ends: tuple[float, float], layers: int) -> State:
    """A linear mix whose share of `two` runs from `ends[0]` at the first layer to `ends[1]`."""
    step = (ends[1] - ends[0]) / max(1, layers - 1)
    mixed = {}
    for name in one:
        found = re.search(r"\.layers?\.(\d+)\.", name)
        at = int(found[1]) if found else 0 if "embed" in name else layers - 1
        share = ends[0] + step * at
        mixed[name] = (1 - share) * one[name] + share * two[name]
    return mixed


def task_arithmetic(base: State, states: Sequence[State], weights: Sequence[float]) -> State:
    """The base plus the weighted task vectors (Ilharco et al. 2023, arXiv:2212.04089)."""
    return {
        name: start + _weighted([state[name] - start for state in states], weights)
        for name, start in base.items()
    }


def ties(
    base: State, states: Sequence[State], weights: Sequence[float], *, density: float
) -> State:
    """Trim, elect a sign, average what agrees (Yadav et al. 2023, arXiv:2306.01708).

    Each task vector keeps the largest `density` of every tensor; a weight's sign is that of the
    weighted sum, and those that have it are averaged by `weights`.
    """
    merged = {}
    for name, start in base.items():
        deltas = [_trim(state[name] - start, density) for state in states]
        merged[name] = start + _elect(deltas, weights, normalize=True)
    return merged


def dare(
    base: State,
    states: Sequence[State],
    weights: Sequence[float],
    *,
    drop: float,
    elect: bool,
    draw: torch.Generator,
) -> State:
    """Drop `drop` of every task vector at random and rescale (Yu et al. 2024, arXiv:2311.03099).

    The rest is summed by `weights`, with TIES' election of signs where `elect` is set.
    """
    merged = {}
    for name, start in base.items():
        deltas = []
        for state in states:
            kept = torch.rand(start.shape, generator=draw) >= drop
            deltas.append((state[name] - start) * kept / (1 - drop))
        summed = _elect(deltas, weights, normalize=False) if elect else _weighted(deltas, weights)
        merged[name] = start + summed
    return merged


def stack(states: Sequence[State], layers: Sequence[tuple[int, int]], *, prefix: str) -> State:
    """Layers taken as they are: the n-th is layer `layers[n][1]` of `states[layers[n][0]]`.

    What stands before the layers comes from the first state, what stands after from the last.
    """
    first, last = states[0], states[layers[-1][0]]
    outside = [name for name in first if not name.startswith(prefix.split("{}")[0])]
    stacked = {name: (first if "embed" in name else last)[name] for name in outside}
    for at, (which, layer) in enumerate(layers):
        begin = prefix.format(layer)
        for name, weight in states[which].items():
            if name.startswith(begin):
                stacked[prefix.format(at) + name.removeprefix(begin)] = weight
    return stacked


def normalized(names: Sequence[str], weights: Sequence[float]) -> Mapping[str, float]:
    """The weights as shares of one."""
    total = sum(weights)
    return {name: round(weight / total, 6) for name, weight in zip(names, weights, strict=True)}


def _weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor
    return total


def _slerp(one: Tensor, two: Tensor, share: float) -> Tensor:
    cosine = float((one * two).sum() / (one.norm() * two.norm()).clamp_min(1e-12))
    if abs(cosine) > _COLLINEAR:
        return (1 - share) * one + share * two
    angle = torch.arccos(torch.tensor(cosine))
    left, right = torch.sin((1 - share) * angle), torch.sin(share * angle)
    return (left * one + right * two) / torch.sin(angle)


def _trim(delta: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * delta.numel()))
    limit = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return delta.masked_fill(delta.abs() < limit, 0.0)


def _elect(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    scaled = torch.stack([w * delta for delta, w in zip(deltas, weights, strict=True)])
    agree = (scaled.sign() == scaled.sum(0).sign()) & (scaled != 0)
    total = (scaled * agree).sum(0)
    if not normalize:
        return total
    held = torch.tensor(weights).view(-1, *[1] * deltas[0].dim())
    return total / (agree * held).sum(0).clamp_min(1e-8)
