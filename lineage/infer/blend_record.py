"""What a recognised blend is: a merge that is no single affine combination of whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .specimen import Specimen


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """A merge made tensor by tensor, layer by layer or weight by weight.

    Attributes
    ----------
    method : `slerp`, `linear` (weights differ between layers), `dare`, `ties`, `dare_ties` or
        `passthrough`.
    weights : member -> share, heaviest first. What the recipe calls a weight: of `dare` the
        factor before the rescaling of what was kept, of `ties` the share in the (weighted) mean,
        of `passthrough` the share of the sampled weights.
    base : the member that deltas are taken from (`dare`, `ties`, `dare_ties`), else None.
    explained : share in [0, 1] of weights (or blocks) explained within rounding.
    chance : the same share when the deltas are moved to other places of their block.
    detail : `{"t": 0.4}` (share of the last member of `weights`), `{"by_layer": {...}}`,
        `{"density": 0.5, "scale": 1.0}`, `{"layers": {...}}`.
    collinear : members that could stand for one of the parents and explain the child as well.
    """

    method: str
    weights: dict[int, float]
    base: int | None
    explained: float
    chance: float
    detail: Mapping[str, Any] = field(default_factory=dict)
    collinear: tuple[int, ...] = ()


def heaviest_first(weights: Mapping[int, float], *, digits: int = 4) -> dict[int, float]:
    """The same weights, rounded, in falling order."""
    order = sorted(weights, key=lambda member: -weights[member])
    return {member: round(float(weights[member]), digits) for member in order}


def by_layer(values: Mapping[str, Any], one: Specimen) -> dict[str, Any]:
    """One value a layer where all of a layer's blocks agree, else one a block."""
    layers: dict[str, list[Any]] = {}
    for name, value in values.items():
        layer = one.blocks[name].key.layer
        layers.setdefault("-" if layer is None else str(layer), []).append(value)
    if all(_agree(found) for found in layers.values()):
        return {layer: found[0] for layer, found in layers.items()}
    return dict(values)


def _agree(values: Sequence[Any]) -> bool:
    return bool(np.ptp(np.array(values, dtype=np.float64), axis=0).max() < 0.01)
