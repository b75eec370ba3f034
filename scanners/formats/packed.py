"""Quantized safetensors: the tensors of a module put together to one weight of the plain model.

A quantizer replaces `module.weight` by several tensors: packed integers, scales, zero points. The
names that stand together under a module say which packing it is; the config says the rest. What
cannot be decoded is named.

References
----------
AutoGPTQ and GPTQModel, AutoAWQ, bitsandbytes, compressed-tensors, ModelOpt, mlx-lm and the
transformers integrations, as of 2026.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...lineage.records import TensorSpec
from .base import Packing, Weight, WeightFile
from .packings import Module, PackedModel, decoder_of, marks
from .plain import PlainWeight, plain

_STACKED = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
# Granite stores the experts' matrices beside the router, without a module of their own.
_GRANITE = ("input_linear", "output_linear")


def group_parts(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of the plain model's tensors, each with the stored tensors that make it up."""
    return {name: tuple(parts.values()) for name, parts in _modules(names).items()}


def unpack(specs: Mapping[str, TensorSpec], *, config: Mapping[str, Any]) -> WeightFile:
    """The weights of the plain model that a safetensors model holds.

    Parameters
    ----------
    specs : stored tensors by name.
    config : the model's config.json; empty where it has none.

    Returns
    -------
    WeightFile whose `packing` is that of most packed weights; tensors of a packing that cannot be
    decoded are left out and counted in `skipped`.
    """
    model = PackedModel.of(specs, config)
    weights: dict[str, Weight] = {}
    kinds: Counter[Packing] = Counter()
    skipped: Counter[str] = Counter()
    for name, parts in _modules(specs).items():
        held = {part: specs[stored] for part, stored in parts.items()}
        decoder = decoder_of(held.keys(), held)
        if decoder is None:
            for spec in held.values():
                weights |= {one.name: one for one in _plain(spec)}
            continue
        module = Module(name=name, parts=held)
        weight, packing = decoder(module, model)
        kinds[packing] += 1
        if weight is None:
            skipped[packing.format] += 1
        else:
            weights[weight.name] = weight
    most = max(kinds, key=lambda kind: (kinds[kind], kind.type), default=None)
    return WeightFile(weights=weights, packing=most, skipped=skipped)


def _modules(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Stored names under the plain tensor they belong to: {plain name: {part: stored name}}."""
    found: dict[str, dict[str, str]] = {}
    loose: dict[str, str] = {}
    for name in names:
        split = marks(name)
        if split is None:
            loose[name] = name
        else:
            found.setdefault(split[0], {})[split[1]] = name
    for name in loose:
        # Beside scales the bare name is a part too; alone it is a tensor as any other.
        found.setdefault(name, {})["weight"] = name
    return _without_orphans(found)


def _without_orphans(found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Names that only look like a part, put back under their own."""
    kept: dict[str, dict[str, str]] = {}
    for name, parts in found.items():
        if parts.keys() == {"weight"} or decoder_of(parts.keys(), None) is not None:
            kept[name] = parts
        else:
            kept |= {stored: {"weight": stored} for stored in parts.values()}
    return kept


def _plain(spec: TensorSpec) -> list[PlainWeight]:
    """A tensor as it is, and the first expert of a stack of experts under its own name."""
    weights = [plain(spec)]
    stem = spec.name.removesuffix(".weight")
    parent, _, leaf = stem.rpartition(".")
    stacked = parent.endswith("experts") and leaf in _STACKED
    if parent.endswith("block_sparse_moe") and leaf in _GRANITE:
        stacked, parent = True, f"{parent}.experts"
    if len(spec.shape) == 3 and stacked:
        name = f"{parent}.0.{leaf}.weight"
        weights.append(PlainWeight(spec=spec, shape=spec.shape[1:], called=name))
    return weights
