"""Tiny families of weights with a known tree, made by arithmetic alone.

A model is a dict of float32 tensors under the names of a Llama file. `fresh` draws one, the other
functions return what people make of one, and `specimen_of` sketches it as a scan would. Children
are made from `published` weights, as on a Hub: what a file holds, not what the trainer had.

Training is imitated by what fresh training steps share: a delta that is dense, heavy-tailed,
stronger in a few directions, and nearly orthogonal to the weights it starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from modelkin.lineage.architectures.roles import assign_roles
from modelkin.lineage.dtypes import round_to
from modelkin.lineage.infer.specimen import Specimen, specimen
from modelkin.lineage.records import RoleKey
from modelkin.lineage.sketch.plan import PLAN_VERSION, choose_places, spans_of
from modelkin.lineage.sketch.sketch import Sketch, block_of

Float32 = NDArray[np.float32]
Weights = dict[str, Float32]

WRITERS = ("o_proj", "down_proj")
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DAY_ZERO = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Widths of a Llama-shaped model; `kv` is the width of its keys and values."""

    hidden: int = 64
    inner: int = 160
    layers: int = 4
    kv: int = 32
    vocabulary: int = 96


SMALL = Size()
"""Every sampled tensor is smaller than a span."""

WIDE = Size(hidden=256, inner=768, layers=2, kv=128, vocabulary=200)
"""Spans are a fraction of the tensors they sample."""


def shapes_of(size: Size) -> dict[str, tuple[int, ...]]:
    """Name and stored shape of every tensor."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (size.vocabulary, size.hidden)
    }
    for layer in range(size.layers):
        start = f"model.layers.{layer}."
        shapes |= {
            start + "self_attn.q_proj.weight": (size.hidden, size.hidden),
            start + "self_attn.k_proj.weight": (size.kv, size.hidden),
            start + "self_attn.v_proj.weight": (size.kv, size.hidden),
            start + "self_attn.o_proj.weight": (size.hidden, size.hidden),
            start + "mlp.gate_proj.weight": (size.inner, size.hidden),
            start + "mlp.up_proj.weight": (size.inner, size.hidden),
            start + "mlp.down_proj.weight": (size.hidden, size.inner),
            start + "input_layernorm.weight": (size.hidden,),
            start + "post_attention_layernorm.weight": (size.hidden,),
        }
    shapes["model.norm.weight"] = (size.hidden,)
    shapes["lm_head.weight"] = (size.vocabulary, size.hidden)
    return shapes


def fresh(seed: int, size: Size = SMALL) -> Weights:
    """An independently drawn model, float32."""
    draw = np.random.default_rng([7, seed])
    weights = {}
    for name, shape in shapes_of(size).items():
        if len(shape) == 1:
            weights[name] = (1 + 0.1 * draw.normal(size=shape)).astype(np.float32)
        else:
            weights[name] = (0.06 * draw.normal(size=shape)).astype(np.float32)
    return weights


def is_matrix(name: str) -> bool:
    """Whether the tensor is a projection inside the stack."""
    return any(part in name for part in MATRICES)


def is_writer(name: str) -> bool:
    """Whether the tensor writes to the residual stream."""
    return any(part in name for part in WRITERS)


def changed(
    weights: Weights, change: Callable[[str, Float32], Float32], *, only: Callable[[str], bool]
) -> Weights:
    """A copy with `change` applied to the tensors that `only` picks."""
    return {
        name: change(name, value).astype(np.float32) if only(name) else value.copy()
        for name, value in weights.items()
    }


def trained(
    weights: Weights,
    *,
    seed: int,
    size: float = 0.05,
    data: int | None = None,
    common: float = 0.3,
) -> Weights:
    """Fine-tuned on all weights; `size` is the relative length of the step.

    Models that name the same `data` have the `common` part of their direction from it.
    """
    draw = np.random.default_rng([11, seed])
    taught = np.random.default_rng([13, data or 0])

    def step(_: str, value: Float32) -> Float32:
        delta = _step(draw, value.shape)
        if data is not None:
            delta = (1 - common**2) ** 0.5 * delta + common * _step(taught, value.shape)
        return value + size * np.linalg.norm(value) * delta

    return changed(weights, step, only=lambda _: True)


def _step(draw: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A direction of unit length: Student's t entries, and four directions stronger than them."""
    dense = draw.standard_t(4, size=shape)
    if len(shape) == 2:
        left, right = draw.normal(size=(shape[0], 4)), draw.normal(size=(4, shape[1]))
        dense = dense + 0.5 * left @ right
    unit: NDArray[np.float64] = dense / np.linalg.norm(dense)
    return unit


def lora(
    weights: Weights,
    *,
    seed: int,
    rank: int = 4,
    size: float = 0.05,
    only: Sequence[str] = ("q_proj", "v_proj"),
) -> Weights:
    """A merged low-rank adapter on the named projections; all else is untouched."""
    draw = np.random.default_rng([17, seed])

    def step(_: str, value: Float32) -> Float32:
        delta = draw.normal(size=(value.shape[0], rank)) @ draw.normal(size=(rank, value.shape[1]))
        return value + size * np.linalg.norm(value) * delta / np.linalg.norm(delta)

    return changed(weights, step, only=lambda name: any(part in name for part in only))


def merged(parents: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Linear combination, summed in float64 as a merge tool would at best."""
    return {
        name: sum(
            share * one[name].astype(np.float64) for share, one in zip(shares, parents, strict=True)
        ).astype(np.float32)
        for name in parents[0]
    }


def task_arithmetic(base: Weights, tuned: Sequence[Weights], scale: float) -> Weights:
    """base + scale * sum of (tuned - base)."""
    shares = [1 - scale * len(tuned), *([scale] * len(tuned))]
    return merged([base, *tuned], shares)


def quantized(
    weights: Weights, *, bits: int, group: int | None = None, symmetric: bool = True
) -> Weights:
    """Rounded to nearest on a grid per group (None: per row) and dequantized; matrices only."""

    def step(_: str, value: Float32) -> Float32:
        grouped = value.reshape(-1, group or value.shape[1])
        if symmetric:
            top = np.abs(grouped).max(axis=1, keepdims=True)
            scale = top / (2 ** (bits - 1) - 1)
            return (np.round(grouped / scale) * scale).reshape(value.shape)
        low = grouped.min(axis=1, keepdims=True)
        scale = (grouped.max(axis=1, keepdims=True) - low) / (2**bits - 1)
        return (np.round((grouped - low) / scale) * scale + low).reshape(value.shape)

    return changed(weights, step, only=is_matrix)


def pruned(weights: Weights, *, share: float) -> Weights:
    """The smallest weights of each matrix set to zero."""

    def step(_: str, value: Float32) -> Float32:
        return np.where(np.abs(value) < np.quantile(np.abs(value), share), 0, value)

    return changed(weights, step, only=is_matrix)


def abliterated(weights: Weights, *, seed: int, strength: float = 1.0) -> Weights:
    """One direction of the residual stream projected out of all that writes to it."""
    width = weights["model.norm.weight"].size
    r = np.random.default_rng([19, seed]).normal(size=width)
    r /= np.linalg.norm(r)

    def step(_: str, value: Float32) -> Float32:
        return value - strength * np.outer(r, r @ value)

    return changed(weights, step, only=is_writer)


def edited(weights: Weights, *, seed: int, name: str, size: float = 0.05) -> Weights:
    """A rank-one change of a single matrix, as a fact edit makes."""
    draw = np.random.default_rng([23, seed])

    def step(_: str, value: Float32) -> Float32:
        delta = np.outer(draw.normal(size=value.shape[0]), draw.normal(size=value.shape[1]))
        return value + size * np.linalg.norm(value) * delta / np.linalg.norm(delta)

    return changed(weights, step, only=lambda one: one == name)


def permuted(weights: Weights, *, seed: int) -> Weights:
    """Hidden units of every MLP in another order: the same function from other weights."""
    out = {name: value.copy() for name, value in weights.items()}
    draw = np.random.default_rng([29, seed])
    for name in weights:
        if name.endswith("gate_proj.weight"):
            order = draw.permutation(weights[name].shape[0])
            out[name] = weights[name][order]
            up = name.replace("gate_proj", "up_proj")
            out[up] = weights[up][order]
            down = name.replace("gate_proj", "down_proj")
            out[down] = np.ascontiguousarray(weights[down][:, order])
    return out


def extended(weights: Weights, *, rows: int, seed: int) -> Weights:
    """New tokens at the end of the vocabulary."""
    draw = np.random.default_rng([31, seed])
    out = dict(weights)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        new = 0.06 * draw.normal(size=(rows, weights[name].shape[1]))
        out[name] = np.concatenate([weights[name], new.astype(np.float32)])
    return out


def published(weights: Weights, dtype: str = "BF16") -> Weights:
    """What is left of the weights in a file of `dtype`, still float32."""
    return {name: round_to(value, dtype) for name, value in weights.items()}


def encode(values: Float32, dtype: str) -> bytes:
    """Little-endian bytes of `values` rounded to `dtype`."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = np.ascontiguousarray(round_to(values, "BF16")).view(np.uint32)
    return (bits >> 16).astype("<u2").tobytes()


def sketch_of(weights: Mapping[str, Float32], *, dtype: str = "BF16") -> Sketch:
    """The sketch that a scan of a file with these tensors makes."""
    placed = assign_roles([(name, value.shape) for name, value in weights.items()])
    names: dict[RoleKey, str] = {place.key: name for name, place in placed.items()}
    shapes = {key: weights[names[key]].shape for key in choose_places(list(names))}
    blocks = {}
    for span in spans_of(shapes):
        name = names[span.key]
        run = weights[name].reshape(-1)[span.start : span.start + span.count]
        block = block_of(
            span,
            shape=shapes[span.key],
            transposed=placed[name].transposed,
            dtype=dtype,
            data=encode(run, dtype),
        )
        blocks[block.name] = block
    return Sketch(plan=PLAN_VERSION, blocks=blocks)


def specimen_of(
    node: str, weights: Mapping[str, Float32], *, day: float | None = None, dtype: str = "BF16"
) -> Specimen:
    """The model as inference sees it; `day` counts from an arbitrary date, None is undated."""
    created = None if day is None else DAY_ZERO + timedelta(days=day)
    return specimen(node, sketch_of(weights, dtype=dtype), created=created)


def specimens_of(
    family: Mapping[str, Weights], *, dated: bool = True, dtype: str = "BF16"
) -> list[Specimen]:
    """All models of a family; with dates, a day apart in the order they are given."""
    return [
        specimen_of(node, weights, day=day if dated else None, dtype=dtype)
        for day, (node, weights) in enumerate(family.items())
    ]


def whole_family(seed: int, *, size: Size = SMALL) -> tuple[dict[str, Weights], dict[str, str]]:
    """A family with one of everything, and the true parent of each member but the root and merge.

    Returns
    -------
    (weights by node, in order of creation; parent by node).
    """
    base = published(fresh(seed, size))
    chat = published(trained(base, seed=seed + 1, size=0.2))
    tuned = [published(trained(chat, seed=seed + 2 + i, size=0.06)) for i in range(3)]
    family = {
        "base": base,
        "chat": chat,
        "tuned-0": tuned[0],
        "tuned-1": tuned[1],
        "tuned-2": tuned[2],
        "second": published(trained(tuned[0], seed=seed + 8, size=0.06)),
        "adapted": published(lora(chat, seed=seed + 9)),
        "merged": published(merged(tuned[:2], [0.6, 0.4])),
        "arithmetic": published(task_arithmetic(chat, tuned[1:], 0.4)),
        "int8": published(quantized(chat, bits=8)),
        "int4": published(quantized(tuned[1], bits=4, group=32)),
        "int2": published(quantized(chat, bits=2)),
        "sparse": published(pruned(chat, share=0.3)),
        "open": published(abliterated(chat, seed=seed + 10)),
        "open-1": published(abliterated(tuned[1], seed=seed + 10)),
        "mirror": dict(chat),
        "shuffled": permuted(chat, seed=seed + 11),
        "longer": published(extended(tuned[2], rows=8, seed=seed + 12)),
    }
    family["longer"] = published(trained(family["longer"], seed=seed + 13, size=0.04))
    parents = dict.fromkeys(
        ("tuned-0", "tuned-1", "tuned-2", "adapted", "int8", "int2", "sparse", "open"), "chat"
    )
    parents |= {"chat": "base", "second": "tuned-0", "int4": "tuned-1", "open-1": "tuned-1"}
    parents |= {"mirror": "chat", "shuffled": "chat", "longer": "tuned-2"}
    return family, parents
