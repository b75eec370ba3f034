"""Quantized safetensors: the tensors of a module put together to one weight of the plain model.

A quantizer replaces `module.weight` by several tensors: packed integers, scales, zero points. The
names that stand together under a module say which packing it is; the config says the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...lineage.records import TensorSpec
from .base import Weight, WeightFile
from .plain import plain


def group_parts(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of the plain model's tensors, each with the stored tensors that make it up."""
    return {name: (name,) for name in names}


def unpack(specs: Mapping[str, TensorSpec], *, config: Mapping[str, Any]) -> WeightFile:
    """The weights of the plain model that a safetensors model holds."""
    weights: dict[str, Weight] = {name: plain(spec) for name, spec in specs.items()}
    return WeightFile(weights=weights)
