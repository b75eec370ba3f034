"""Canonical places of tensors: from the names in a file to (role, layer).

Two models of one family keep their tensors under the same roles whatever the file order, the
sharding, a wrapper's prefix or the head on top. Names are data: each `*.json` beside this module
describes one family by its `modules` (a module name with the layer number as `*`; `.weight` of it
has the role, `.bias` the role with `.bias` behind it) and its `tensors` (whole names). `stacks` are
expressions of what may stand before a module, each with what it puts before the role. `extends`
takes over another family's names, `requires` is a module without which the family does not apply,
`conv1d` lists the roles whose weights are stored [in, out]. `common.json` holds what all families
share: prefixes and infixes that wrappers add, buffers, tensors that only a quantizer adds.

Roles
-----
`embed` `pos_embed` `type_embed` `patch_embed` `cls_token` `embed_norm` `embed.project`
`attn_norm` `attn_post_norm` `mlp_norm` `mlp_post_norm` `final_norm`
`attn.q` `attn.k` `attn.v` `attn.qkv` `attn.o` `attn.q_norm` `attn.k_norm`
`mlp.gate` `mlp.up` `mlp.gate_up` `mlp.down` (a block without a gate has `up` and `down`)
`lm_head` `lm_head.transform` `lm_head.norm` `lm_head.project` `classifier` `pooler` `router`
`expert.mlp.gate` `expert.mlp.up` `expert.mlp.gate_up` `expert.mlp.down` of a layer's first expert
`shared.mlp.gate` and so on of the expert that every token passes through;
each with `.bias` for its bias; `enc.` / `dec.` before it in an encoder-decoder, whose cross
attention is `dec.cross.q` and so on; `text.` / `vision.` in a model of two towers; `down.0.1.` for
the blocks of a UNet, whose layers are counted inside of each attention; `text.` / `single.` for the
blocks of a diffusion transformer; `buffer` for constants that are no parameters;
`raw:<name with the layer number as *>` for a name no family knows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from ..records import RoleKey
from ..remembered import remembered

WRITERS = frozenset({"attn.o", "mlp.down"})
"""Roles of the matrices whose rows write to the residual stream."""

_LAYER = re.compile(r"\.(0|[1-9][0-9]{0,5})\.")
# Of names with several numbers (down_blocks.1.attentions.0.transformer_blocks.3) this one counts.
_INNER_LAYER = re.compile(r"(?<=\btransformer_blocks)\.(0|[1-9][0-9]{0,5})\.")
_PARAMETERS = {"weight": "", "gamma": "", "bias": ".bias", "beta": ".bias"}

_MAX_PREFIXES = 8
_NORMS = ("final_norm", "attn_norm", "mlp_norm", "attn_post_norm", "embed_norm")
_KEY_ORDER = (
    *("attn.q", "attn.k", "attn.v", "attn.qkv", "attn.o"),
    *("mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down"),
)
_HEADS = frozenset({"embed", "pos_embed", "lm_head", "classifier", "pooler", "buffer"})
_VOCABULARY = re.compile(r"emb|vocab|head|classif|pooler|wte|wpe|score", re.IGNORECASE)
_KEY_LENGTH = 160

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor belongs; `transposed` when it is stored [in, out] (GPT-2's Conv1D)."""

    key: RoleKey
    transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Names of one family of architectures."""

    name: str
    model_types: frozenset[str]
    modules: Mapping[str, str]
    tensors: Mapping[str, str]
    stacks: tuple[tuple[re.Pattern[str], str], ...]
    conv1d: frozenset[str]
    requires: str | None

    @cached_property
    def role(self) -> Callable[[str], str | None]:
        """Role of a name whose layer number is `*`, None when this family has no such name."""
        return remembered(self._role)

    def _role(self, template: str) -> str | None:
        for before, prefix in self.stacks:
            if found := before.match(template):
                role = self._bare_role(template[found.end() :])
                return None if role is None else found.expand(prefix) + role
        return self._bare_role(template)

    def _bare_role(self, template: str) -> str | None:
        if template in self.tensors:
            return self.tensors[template]
        module, _, parameter = template.rpartition(".")
        if module in self.modules and parameter in _PARAMETERS:
            return self.modules[module] + _PARAMETERS[parameter]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What all families share."""

    prefixes: tuple[str, ...]
    infixes: tuple[str, ...]
    buffers: tuple[str, ...]
    quantization: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    """A tensor name taken apart: wrappers off, layer number out."""

    full: str
    template: str
    layer: int | None


def assign_roles(
    tensors: Sequence[tuple[str, Shape]], *, model_type: str | None = None
) -> dict[str, Place]:
    """Place of every tensor of a model.

    Parameters
    ----------
    tensors : (name, shape) pairs
        All tensors of one model, over all its shards.
    model_type : str, optional
        `model_type` of the config; decides only between families that know equally many names.

    Returns
    -------
    dict from tensor name to its place. No two tensors share a place, but for buffers: where two
    names claim one, the shorter keeps it and the other becomes `raw:`.
    """
    names = [_take_apart(name) for name, _ in tensors]
    family = _best_family(Counter(name.template for name in names), model_type)
    taken: set[RoleKey] = set()
    keys: dict[str, RoleKey] = {}
    for name in sorted(names, key=lambda name: (len(name.full), name.full)):
        key = next(key for key in _claims(name, family) if key not in taken)
        keys[name.full] = key
        if key.role != "buffer":
            taken.add(key)
    shapes = {keys[name]: shape for name, shape in tensors}
    transposed = _transposed_roles(family, shapes)
    return {
        name: Place(key=keys[name], transposed=keys[name].role in transposed and len(shape) == 2)
        for name, shape in tensors
    }


def shape_key(places: Mapping[str, Place], shapes: Mapping[str, Shape]) -> str:
    """Name of the bucket of models that can be compared weight by weight.

    Parameters
    ----------
    places : from `assign_roles`
    shapes : shape of each tensor in `places`, as stored

    Returns
    -------
    `d96-L4-q96x96-k48x96-v48x96-o96x96-...`: the width, the number of layers and each role's
    distinct shapes as [out, in]; a shape of just the width is left out, and `*n` marks a role
    that only n layers have. Above 160 characters the roles are replaced by 12 hexadecimal digits
    of the SHA-256 of the long form.

    Notes
    -----
    What a derivative changes without leaving the family is not counted: embeddings, heads,
    positions, poolers, buffers, a quantizer's scales. So vocabulary, tying of the embeddings,
    prefixes and file order do not matter.
    """
    canonical = [
        (place.key, shapes[name][::-1] if place.transposed else shapes[name])
        for name, place in places.items()
    ]
    width = hidden_width(dict(canonical))
    layers = len({key.layer for key, _ in canonical} - {None})
    by_role: dict[str, list[tuple[int | None, Shape]]] = {}
    for key, shape in canonical:
        if not _is_outside(key):
            by_role.setdefault(key.role, []).append((key.layer, shape))
    start = f"d{width}-L{layers}-"
    roles = sorted(by_role, key=_key_order)
    text = start + "-".join(
        _shapes_of(role, by_role[role], width=width, layers=layers) for role in roles
    )
    if len(text) <= _KEY_LENGTH:
        return text
    return start + hashlib.sha256(text.encode()).hexdigest()[:12]


def hidden_width(shapes: Mapping[RoleKey, Shape]) -> int:
    """Width of the residual stream, 0 where nothing tells.

    The length of a norm, since an embedding may be narrower (OPT's `word_embed_proj_dim`) and
    then projected; the embedding's where there is no norm with weights.
    """
    found: dict[str, Shape] = {}
    for key, shape in shapes.items():
        if shape:
            role = _without_stack(key.role)
            found[role] = max(shape, found.get(role, shape))
    for role in (*_NORMS, "embed"):
        if role in found:
            return found[role][-1]
    return 0


def _without_stack(role: str) -> str:
    return role[4:] if role.startswith(("enc.", "dec.")) else role


def _is_outside(key: RoleKey) -> bool:
    """Whether a shape key leaves this tensor out."""
    if key.role.startswith("raw:"):
        scale = key.role.rpartition(".")[2] in _common().quantization
        return scale or (key.layer is None and _VOCABULARY.search(key.role) is not None)
    role = _without_stack(key.role).removesuffix(".bias")
    return role in _HEADS or role.startswith(("lm_head.", "classifier.", "cross.pos_embed"))


def _key_order(role: str) -> tuple[str, int, str]:
    bare = _without_stack(role)
    rank = _KEY_ORDER.index(bare) if bare in _KEY_ORDER else len(_KEY_ORDER)
    return role[: -len(bare)], rank, role


def _shapes_of(
    role: str, tensors: Sequence[tuple[int | None, Shape]], *, width: int, layers: int
) -> str:
    short = role.replace("attn.", "").replace("mlp.", "")
    distinct = sorted({shape for _, shape in tensors})
    text = short
    if distinct != [(width,)]:
        text += ",".join("x".join(map(str, shape)) for shape in distinct)
    inside = len({layer for layer, _ in tensors} - {None})
    return f"{text}*{inside}" if inside not in (0, layers) else text


@remembered
def _take_apart(name: str) -> _Name:
    common = _common()
    bare = name
    for infix in common.infixes:
        bare = bare.replace("." + infix, ".")
    # One prefix may hide another (`module.model.`); real names wear four at most.
    for _ in range(_MAX_PREFIXES):
        if not bare.startswith(common.prefixes):
            break
        bare = bare[len(next(p for p in common.prefixes if bare.startswith(p))) :]
    found = _INNER_LAYER.search(bare) or _LAYER.search(bare)
    if found is None:
        return _Name(full=name, template=bare, layer=None)
    template = f"{bare[: found.start(1)]}*{bare[found.end(1) :]}"
    return _Name(full=name, template=template, layer=int(found[1]))


def _claims(name: _Name, family: _Family | None) -> Iterator[RoleKey]:
    """Places for one name, best first, without end: the first free one is taken."""
    if _is_buffer(name.template):
        yield RoleKey(role="buffer", layer=name.layer)
    role = family.role(name.template) if family else None
    if role is not None:
        yield RoleKey(role=role, layer=name.layer)
    yield RoleKey(role=f"raw:{name.template}", layer=name.layer)
    role = f"raw:{name.full}"
    while True:
        yield RoleKey(role=role)
        role += "~"


@remembered
def _is_buffer(template: str) -> bool:
    return any(template == end or template.endswith("." + end) for end in _common().buffers)


def _best_family(templates: Mapping[str, int], model_type: str | None) -> _Family | None:
    """The family that knows most of the names; None when none knows any."""
    modules = {template.rpartition(".")[0] for template in templates}
    best: tuple[int, bool] = (0, True)
    chosen: _Family | None = None
    for family in _families():
        if family.requires is not None and family.requires not in modules:
            continue
        known = sum(n for name, n in templates.items() if family.role(name) is not None)
        rank = (known, model_type in family.model_types)
        if rank > best:
            best, chosen = rank, family
    return chosen


def _transposed_roles(family: _Family | None, shapes: Mapping[RoleKey, Shape]) -> frozenset[str]:
    """Roles stored [in, out]: the family's, unless a shape shows them to be [out, in].

    Some families took over GPT-2's names and not its Conv1D; the up projection and the fused
    query-key-value matrix are wider than the stream and tell the two apart.
    """
    if family is None or not family.conv1d:
        return frozenset()
    width = hidden_width(shapes)
    for key, shape in shapes.items():
        if key.role in ("mlp.up", "attn.qkv") and len(shape) == 2 and shape[0] != shape[1]:
            if shape[0] == width:
                return family.conv1d
            if shape[1] == width:
                return frozenset()
    return family.conv1d


@cache
def _common() -> _Common:
    data = _read("common.json")
    return _Common(
        prefixes=tuple(data["prefixes"]),
        infixes=tuple(data["infixes"]),
        buffers=tuple(data["buffers"]),
        quantization=frozenset(data["quantization"]),
    )


@cache
def _families() -> tuple[_Family, ...]:
    """All families, by name, so that ties fall the same way on every machine."""
    folder = resources.files(__package__)
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    return tuple(_read_family(name) for name in files if name != "common.json")


def _read_family(file: str) -> _Family:
    data = _read(file)
    base = _read_family(f"{data['extends']}.json") if "extends" in data else None
    return _Family(
        name=file.removesuffix(".json"),
        model_types=frozenset(data["model_types"]),
        modules={**(base.modules if base else {}), **data["modules"]},
        tensors={**(base.tensors if base else {}), **data.get("tensors", {})},
        stacks=tuple((re.compile(key), value) for key, value in data.get("stacks", {}).items()),
        conv1d=frozenset(data.get("conv1d", ())),
        requires=data.get("requires"),
    )


def _read(file: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
