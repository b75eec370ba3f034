"""Which weights are read: a plan that depends on role, layer and shape alone.

Child and parent are sampled at the same places whatever their sharding, dtype, file order, tensor
names or vocabulary, because nothing else enters the plan. Each span is one run of whole groups of
256 consecutive weights, so that a K-quant super-block or a GPTQ group is never cut.

Spans come from the value, output, gate, up and down projections of four layers spread over the
depth. Query and key are left out: conversion to GGUF permutes them. In the matrices that write to
the residual stream the span is a band of rows that starts at the same row everywhere, so that an
edit along one shared direction shows as one left factor. A few embedding rows, the output head
and the norms complete it.

One span is one request at most. A full plan is about 24 spans of 20,480 weights: 1 MB in bf16,
2 MB in float32. Where a row is longer than a span two are read all the same, which takes a model
of 70B parameters to 1.2 MB and one of 405B to 1.8 MB in bf16.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..records import RoleKey

PLAN_VERSION = "spans-1"
GROUP = 256
SPAN_WEIGHTS = 80 * GROUP
EDGE_WEIGHTS = 32 * GROUP
MAX_STACK_SPANS = 20
DEPTHS = 4
MIN_BAND_ROWS = 2

MATRIX_PRIORITY = (
    "attn.v",
    "attn.qkv",
    "attn.o",
    "mlp.down",
    "mlp.up",
    "mlp.gate",
    "mlp.gate_up",
    "cross.v",
    "cross.o",
)
WRITER_SUFFIXES = ("attn.o", "mlp.down", "cross.o")
EMBEDDING_ROLES = ("embed", "lm_head")
NORM_ROLES = ("final_norm",)
STACK_NORM_ROLES = ("attn_norm",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`count` consecutive weights of one tensor from flat element `start`."""

    key: RoleKey
    start: int
    count: int

    @property
    def name(self) -> str:
        """Stable text key of the span's tensor."""
        return str(self.key)


def is_matrix(key: RoleKey) -> bool:
    """Whether the tensor is one of the matrices that lineage is decided on."""
    return _suffix(key.role) in MATRIX_PRIORITY or key.role.startswith("raw:")


def is_writer(key: RoleKey) -> bool:
    """Whether the tensor writes to the residual stream."""
    return _suffix(key.role) in WRITER_SUFFIXES


def choose_places(keys: Collection[RoleKey]) -> tuple[RoleKey, ...]:
    """The tensors a plan reads, in order of importance, from their roles and layers alone.

    Parameters
    ----------
    keys : every tensor's place in the model; biases and buffers are ignored.

    Returns
    -------
    Matrices layer by layer (first layer first), then the final norm, the embedding, the output
    head and the first and last attention norms. Later places are the first to go when a budget
    is short.
    """
    stacks = _stacks(keys)
    matrices = _spread(stacks, limit=MAX_STACK_SPANS)
    if not matrices:
        matrices = _spread(_raw_stacks(keys), limit=MAX_STACK_SPANS)
    present = set(keys)
    edges = [RoleKey(role=role) for role in (*NORM_ROLES, *EMBEDDING_ROLES)]
    norms = sorted(
        (k for k in present if k.role in STACK_NORM_ROLES and k.layer is not None),
        key=lambda k: k.layer or 0,
    )
    ends = [norms[0], norms[-1]] if len(norms) > 1 else norms
    return (*matrices, *(k for k in edges if k in present), *ends)


def spans_of(shapes: Mapping[RoleKey, tuple[int, ...]]) -> tuple[Span, ...]:
    """The runs to read from tensors of known shape.

    Parameters
    ----------
    shapes : the stored shape of each place that `choose_places` named; places absent here are
        not read.

    Returns
    -------
    One span a tensor, in the order given. Whole tensors when they are small.
    """
    first_row = _band_start(shapes)
    return tuple(
        _span(key, shape, first_row=first_row)
        for key, shape in shapes.items()
        if math.prod(shape) > 0
    )


def shape_key(places: Iterable[RoleKey], shapes: Mapping[RoleKey, tuple[int, ...]]) -> str:
    """The bucket inside which weights can be compared coordinate by coordinate.

    Vocabulary, names, dtype and sharding do not enter. It names the number of layers and the
    shape of each matrix role in the planned layers.
    """
    layers = {k.layer for k in places if k.layer is not None and not k.role.startswith("raw:")}
    layers = layers or {k.layer for k in places if k.layer is not None}
    roles: dict[str, set[str]] = {}
    for key, shape in shapes.items():
        if is_matrix(key):
            roles.setdefault(key.role, set()).add("x".join(map(str, shape)))
    parts = [f"{role}={'|'.join(sorted(sizes))}" for role, sizes in sorted(roles.items())]
    text = f"L{len(layers)};" + ";".join(parts)
    if len(text) <= 160:
        return text
    return f"L{len(layers)};{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _suffix(role: str) -> str:
    for known in MATRIX_PRIORITY:
        if role == known or role.endswith("." + known):
            return known
    return role


def _stacks(keys: Iterable[RoleKey]) -> dict[str, set[int]]:
    """Layers of each matrix role; a model with value matrices keeps its fused qkv out."""
    stacks: dict[str, set[int]] = {}
    for key in keys:
        if key.layer is not None and _suffix(key.role) in MATRIX_PRIORITY:
            stacks.setdefault(key.role, set()).add(key.layer)
    return stacks


def _raw_stacks(keys: Iterable[RoleKey]) -> dict[str, set[int]]:
    stacks: dict[str, set[int]] = {}
    for key in keys:
        if key.role.startswith("raw:") and not key.role.endswith(".bias"):
            stacks.setdefault(key.role, set()).add(-1 if key.layer is None else key.layer)
    return stacks


def _spread(stacks: Mapping[str, set[int]], *, limit: int) -> list[RoleKey]:
    """Up to `limit` places: every role at as many depths as fit, at most `DEPTHS`."""
    if not stacks:
        return []
    roles = sorted(stacks, key=_role_order)[:limit]
    depths = max(1, min(DEPTHS, limit // len(roles)))
    chosen = [
        RoleKey(role=role, layer=None if layer < 0 else layer)
        for role in roles
        for layer in _depths(sorted(stacks[role]), depths)
    ]
    return sorted(chosen, key=lambda k: (-1 if k.layer is None else k.layer, _role_order(k.role)))


def _role_order(role: str) -> tuple[int, str]:
    suffix = _suffix(role)
    known = MATRIX_PRIORITY.index(suffix) if suffix in MATRIX_PRIORITY else len(MATRIX_PRIORITY)
    return known, role


def _depths(layers: list[int], count: int) -> list[int]:
    """`count` layers spread evenly from the first to the last."""
    if len(layers) <= count:
        return layers
    if count == 1:
        return [layers[len(layers) // 2]]
    step = (len(layers) - 1) / (count - 1)
    return [layers[round(i * step)] for i in range(count)]


def _band_start(shapes: Mapping[RoleKey, tuple[int, ...]]) -> int:
    """The first row of the band shared by all writers, on a group boundary in each of them."""
    writers = [s for k, s in shapes.items() if is_writer(k) and len(s) == 2]
    if not writers:
        return 0
    rows = min(s[0] for s in writers)
    step = math.lcm(*(_row_step(s[1]) for s in writers))
    reach = max(math.ceil(_band_weights(s) / s[1]) for s in writers)
    slots = max(1, (rows - reach) // step + 1) if rows > reach else 1
    return step * (_hash("band", rows) % slots)


def _row_step(columns: int) -> int:
    """Rows after which a row starts on a group boundary again."""
    return GROUP // math.gcd(GROUP, columns)


def _band_weights(shape: tuple[int, ...]) -> int:
    """Whole rows, rounded up to a whole group: some rows end inside one (6,826 columns)."""
    rows = max(MIN_BAND_ROWS, SPAN_WEIGHTS // shape[1])
    return min(math.prod(shape), math.ceil(rows * shape[1] / GROUP) * GROUP)


def _span(key: RoleKey, shape: tuple[int, ...], *, first_row: int) -> Span:
    size = math.prod(shape)
    if key.role in EMBEDDING_ROLES or not is_matrix(key):
        return _edge_span(key, shape, size)
    if is_writer(key) and len(shape) == 2:
        count = _band_weights(shape)
        return Span(key=key, start=min(first_row * shape[1], size - count), count=count)
    count = min(size, SPAN_WEIGHTS)
    slots = (size - count) // GROUP + 1
    return Span(key=key, start=GROUP * (_hash(str(key), *shape) % slots), count=count)


def _edge_span(key: RoleKey, shape: tuple[int, ...], size: int) -> Span:
    """Embedding rows from the top of the vocabulary: the rows an extension leaves in place."""
    if len(shape) < 2:
        return Span(key=key, start=0, count=min(size, EDGE_WEIGHTS))
    rows = max(1, EDGE_WEIGHTS // shape[1])
    return Span(key=key, start=0, count=min(size, rows * shape[1]))


def _hash(*parts: object) -> int:
    text = ":".join(map(str, (PLAN_VERSION, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
