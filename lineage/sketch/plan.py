"""Which weights are read: a plan that depends on role, layer and shape alone.

Child and parent are sampled at the same places whatever their sharding, dtype, file order, tensor
names or vocabulary, because nothing else enters the plan. Each span is one run of whole groups of
256 consecutive weights, so that a K-quant super-block or a GPTQ group is never cut.

Every span is the beginning of its tensor. A layer can so be compared with any other layer, of a
deeper or shallower model too; where rows were taken out, those that are left have moved forward
and most are still in the sample; the rows of gate and up belong to the same hidden units; and the
bands of the matrices that write to the residual stream hold the same rows everywhere, so that an
edit along one shared direction shows as one left factor. No row is special: training treats
hidden units and channels alike.

Spans come from the value, output, gate, up and down projections of four layers: the first, the
last, and one as far from each end, by a power of two, so that models of somewhat different depth
have them in common when layers between were taken out or put in. A shorter span of query and key
in the first and the last layer shows adapters that touch nothing else. A few embedding rows, the
output head and the norms of the sampled layers complete it.

One span is one request at most. A full plan is about 35 spans, 20 of them of 20,480 weights: 1 MB
in bf16, 2 MB in float32. Where a row is longer than a span two are read all the same, which takes
a model of 70B parameters to 1.3 MB and one of 405B to 1.9 MB in bf16.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..records import RoleKey

PLAN_VERSION = "spans-3"
GROUP = 256
SPAN_WEIGHTS = 80 * GROUP
EMBED_WEIGHTS = 128 * GROUP
EDGE_WEIGHTS = 32 * GROUP
MAX_STACK_SPANS = 20
DEPTHS = 4
MAX_END_SPANS = 4
ENDS = 2
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
END_MATRICES = ("attn.q", "attn.k")
WRITER_SUFFIXES = ("attn.o", "mlp.down", "cross.o")
EMBEDDING_ROLES = ("embed", "lm_head")
NORM_ROLES = ("final_norm",)
STACK_NORM_ROLES = ("attn_norm", "mlp_norm")


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
    known = (*MATRIX_PRIORITY, *END_MATRICES)
    return _suffix(key.role) in known or key.role.startswith("raw:")


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
    Matrices layer by layer (first layer first), then the final norm, the embedding, the key of
    the first and the query of the last layer, the norms of both, the output head, the other query
    and key of the two, and the norms of the layers between. Later places are the first to go when a
    budget is short.
    """
    matrices = _spread(_stacks(keys, MATRIX_PRIORITY), limit=MAX_STACK_SPANS, depths=DEPTHS)
    if not matrices:
        matrices = _spread(_raw_stacks(keys), limit=MAX_STACK_SPANS, depths=DEPTHS)
    queries = _spread(_stacks(keys, END_MATRICES), limit=MAX_END_SPANS, depths=ENDS)
    known = set(keys)
    first, last = (
        [key for key in map(_outside, roles) if key in known]
        for roles in ((*NORM_ROLES, "embed"), ("lm_head",))
    )
    # An adapter of queries or of keys is on every layer: one of each shows it.
    crossed = [key for at, key in enumerate(queries) if at % 3 == 0]
    spare = [key for key in queries if key not in crossed]
    ends, between = _norms(keys, matrices)
    return (*matrices, *first, *crossed, *ends, *last, *spare, *between)


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
    return tuple(_span(key, shape) for key, shape in shapes.items() if math.prod(shape) > 0)


def shape_key(places: Iterable[RoleKey], shapes: Mapping[RoleKey, tuple[int, ...]]) -> str:
    """The bucket inside which weights can be compared coordinate by coordinate.

    Vocabulary, names, dtype and sharding do not enter. It names the number of layers and the
    shape of each matrix role in the planned layers; those of query and key follow from value and
    output.
    """
    layers = {k.layer for k in places if k.layer is not None and not k.role.startswith("raw:")}
    layers = layers or {k.layer for k in places if k.layer is not None}
    roles: dict[str, set[str]] = {}
    for key, shape in shapes.items():
        if is_matrix(key) and _suffix(key.role) not in END_MATRICES:
            roles.setdefault(key.role, set()).add("x".join(map(str, shape)))
    parts = [f"{role}={'|'.join(sorted(sizes))}" for role, sizes in sorted(roles.items())]
    text = f"L{len(layers)};" + ";".join(parts)
    if len(text) <= 160:
        return text
    return f"L{len(layers)};{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def kindred_shapes(key: str, other: str) -> bool:
    """Whether models of two shape keys may be kin: one width of the residual stream, same roles.

    Depth, width of the layers and number of heads may differ. A shape key too long to be spelt out
    is kindred to itself only.
    """
    if key == other:
        return True
    mine, theirs = _widths(key), _widths(other)
    return mine is not None and theirs is not None and mine == theirs


def _widths(key: str) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
    """Roles with the width they write to, or read from; None where the key is a digest."""
    parts = [part.partition("=") for part in key.split(";")[1:]]
    if not parts or not all(equals for _, equals, _ in parts):
        return None
    return tuple((role, _stream_sides(role, shapes)) for role, _, shapes in parts)


def _stream_sides(role: str, shapes: str) -> tuple[str, ...]:
    """The side of each shape that lies on the residual stream: rows of writers, columns else."""
    side = 0 if _suffix(role) in WRITER_SUFFIXES else -1
    return tuple(sorted({shape.split("x")[side] for shape in shapes.split("|")}))


def _suffix(role: str) -> str:
    for known in (*MATRIX_PRIORITY, *END_MATRICES):
        if role == known or role.endswith("." + known):
            return known
    return role


def _outside(role: str) -> RoleKey:
    return RoleKey(role=role)


def _norms(
    keys: Collection[RoleKey], matrices: Collection[RoleKey]
) -> tuple[list[RoleKey], list[RoleKey]]:
    """Norms before the sampled layers' matrices: of the first and last layer, and between."""
    layers = sorted({key.layer for key in matrices if key.layer is not None})
    found = [
        key
        for key in sorted(keys, key=lambda k: (k.layer or 0, k.role))
        if key.role in STACK_NORM_ROLES and key.layer in layers
    ]
    ends = [key for key in found if key.layer in (layers[0], layers[-1])]
    return ends, [key for key in found if key not in ends]


def _stacks(keys: Iterable[RoleKey], roles: Collection[str]) -> dict[str, set[int]]:
    """Layers of each role of the named kinds, per stack."""
    stacks: dict[str, set[int]] = {}
    for key in keys:
        if key.layer is not None and _suffix(key.role) in roles:
            stacks.setdefault(key.role, set()).add(key.layer)
    return stacks


def _raw_stacks(keys: Iterable[RoleKey]) -> dict[str, set[int]]:
    stacks: dict[str, set[int]] = {}
    for key in keys:
        if key.role.startswith("raw:") and not key.role.endswith(".bias"):
            stacks.setdefault(key.role, set()).add(-1 if key.layer is None else key.layer)
    return stacks


def _spread(stacks: Mapping[str, set[int]], *, limit: int, depths: int) -> list[RoleKey]:
    """Up to `limit` places: every role at as many depths as fit, at most `depths`."""
    if not stacks:
        return []
    roles = sorted(stacks, key=_role_order)[:limit]
    depths = max(1, min(depths, limit // len(roles)))
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
    """Up to `count` layers: the ends first, then one a power of two away from each end.

    A model of 21 to 40 layers is sampled at 8 from each end, whatever their number: what a
    removal or a repetition between them leaves in place is what is compared.
    """
    last = len(layers) - 1
    if last < count:
        return layers
    if count == 1:
        return [layers[last // 2]]
    away = 1
    while 5 * away <= last:
        away *= 2
    chosen = [0, last, away, last - away][:count]
    return [layers[at] for at in sorted(chosen)]


def _band_weights(shape: tuple[int, ...], *, most: int, least_rows: int) -> int:
    """Whole rows, rounded up to a whole group: some rows end inside one (6,826 columns)."""
    rows = max(least_rows, most // shape[1])
    return min(math.prod(shape), math.ceil(rows * shape[1] / GROUP) * GROUP)


def _span(key: RoleKey, shape: tuple[int, ...]) -> Span:
    size = math.prod(shape)
    if key.role in EMBEDDING_ROLES or not is_matrix(key):
        return Span(key=key, start=0, count=_edge_weights(key, shape))
    if _suffix(key.role) in END_MATRICES and len(shape) == 2:
        count = _band_weights(shape, most=EDGE_WEIGHTS, least_rows=1)
        return Span(key=key, start=0, count=count)
    if is_writer(key) and len(shape) == 2:
        return Span(
            key=key,
            start=0,
            count=_band_weights(shape, most=SPAN_WEIGHTS, least_rows=MIN_BAND_ROWS),
        )
    return Span(key=key, start=0, count=min(size, SPAN_WEIGHTS))


def _edge_weights(key: RoleKey, shape: tuple[int, ...]) -> int:
    """Whole rows from the first one on; of an embedding those that an extension leaves in place."""
    most = EMBED_WEIGHTS if key.role == "embed" else EDGE_WEIGHTS
    size = math.prod(shape)
    if len(shape) < 2:
        return min(size, most)
    return min(size, max(1, most // shape[1]) * shape[1])
