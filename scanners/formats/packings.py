"""Which packing a module is in, and the weight that its tensors make up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...lineage.errors import MalformedFile
from ...lineage.records import TensorSpec
from ...lineage.remembered import remembered
from .base import Packing, Weight
from .bnb_packed import MAX_BLOCK, BnbWeight, block_size
from .column_packed import ColumnPacked
from .row_packed import (
    Part,
    RowPacked,
    Unpack,
    affine,
    four_bit_float,
    fp8,
    integers,
    pack_quantized,
)

_BLOCK = 128
_WRITERS = ("o_proj", "down_proj", "dense", "fc2", "c_proj", "out_proj", "wo", "w2")
_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(("qweight", "qzeros", "scales", "biases", "g_idx"), ".weight"),
    **dict.fromkeys(("weight_packed", "weight_scale", "weight_scale_inv"), ".weight"),
    **dict.fromkeys(("weight_zero_point", "weight_shape", "weight_g_idx"), ".weight"),
    **dict.fromkeys(("weight_global_scale", "input_global_scale", "weight_scale_2"), ".weight"),
    **dict.fromkeys(("input_scale", "output_scale", "SCB", "weight_format"), ".weight"),
    **dict.fromkeys(("W_q", "zero", "scale", "meta", "q_weight", "q_scale"), ".weight"),
    **dict.fromkeys(("q_scale_max", "q_groups", "q_group_map", "q_invperm"), ".weight"),
    **dict.fromkeys(("trellis", "suh", "svh", "su", "sv", "mcg", "mul1"), ".weight"),
    **dict.fromkeys(("codes", "codebooks", "centroids", "indices"), ".weight"),
    **dict.fromkeys(("res_centroids", "weight_bias", "perm"), ".weight"),
}
_AFTER_WEIGHT = frozenset(
    {"absmax", "quant_map", "nested_absmax", "nested_quant_map"}
    | {"quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4"}
    | {"_data", "_scale", "_shift"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """The stored tensors of one plain weight, by what they are to it.

    `stacked` when they hold the weights of several experts, of which this is the first.
    """

    name: str
    parts: Mapping[str, TensorSpec]
    stacked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """What holds for all modules: the config's words, and the width of the residual stream."""

    method: str
    settings: Mapping[str, Any]
    width: int

    @classmethod
    def of(cls, specs: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> PackedModel:
        """Read the quantization settings; strangers wrote them, so odd ones are left out."""
        found = config.get("quantization_config")
        if not isinstance(found, Mapping):
            found = config.get("quantization")
        settings: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        method = settings.get("quant_method")
        norms = Counter(
            spec.shape[0] for name, spec in specs.items() if len(spec.shape) == 1 and "norm" in name
        )
        width = norms.most_common(1)[0][0] if norms else 0
        return cls(method=method if isinstance(method, str) else "", settings=settings, width=width)

    def integer(self, *names: str) -> int | None:
        """The first of these settings that is a whole number from 1 to 65,536."""
        for name in names:
            value = self.settings.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65_536:
                return value
        return None

    def scheme(self, name: str) -> Any:
        """A setting of the first group of a compressed-tensors config."""
        groups = self.settings.get("config_groups")
        if not isinstance(groups, Mapping):
            return None
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if isinstance(weights, Mapping) and name in weights:
                return weights[name]
        return None


Made = tuple[Weight | None, Packing]
Decoder = Callable[[Module, PackedModel], Made]


@remembered
def marks(name: str) -> tuple[str, str] | None:
    """(plain name, part) of a stored name that looks like a part of a packed weight."""
    stem, found, after = name.rpartition(".weight.")
    if found and after in _AFTER_WEIGHT:
        return stem + ".weight", after
    module, _, last = name.rpartition(".")
    if last in _SUFFIXES:
        return module + _SUFFIXES[last], last
    for part in ("_blocks", "_scales"):
        if name.endswith(part) and ".experts." in name:
            return name.removesuffix(part), part
    return None


def decoder_of(parts: Collection[str], specs: Mapping[str, TensorSpec] | None) -> Decoder | None:
    """What puts these parts together; None for a plain tensor.

    Parameters
    ----------
    specs : the parts' tensors, where their types are known: a few names mean two packings.
    """
    held = set(parts)
    # Of parts that are no packing's own, as the bare weight of most models, none is looked up.
    if not held.isdisjoint(_MARKED):
        for needed, decoder in _DECODERS:
            if needed <= held:
                return decoder
    if specs is None or "weight" not in specs or not specs["weight"].dtype.startswith("F8"):
        return None
    return _fp8


def _column(module: Module, model: PackedModel) -> Made:
    """GPTQ, or AWQ, told by the config, else by the shape."""
    parts = module.parts
    weight, scales = parts["qweight"], parts["scales"]
    if len(weight.shape) != 2 or len(scales.shape) != 2 or not scales.shape[1]:
        return None, Packing(format=model.method or "gptq", type="unknown", bits=4)
    outputs = scales.shape[1]
    awq = model.method == "awq" or (not model.method and weight.shape[1] == outputs // 8)
    bits = 4 if awq else _gptq_bits(module, model)
    inputs = weight.shape[0] if awq else weight.shape[0] * 32 // bits
    ordered = parts.get("g_idx") if model.settings.get("desc_act", True) else None
    symmetric = model.settings.get("sym") is True and not awq
    first = model.settings.get("checkpoint_format") != "gptq_v2"
    fits = awq or weight.shape[1] == outputs
    group = -(-inputs // max(1, scales.shape[0]))
    packing = Packing(format="awq" if awq else "gptq", type=f"int{bits} g{group}", bits=bits)
    if not fits or inputs <= 0:
        return None, packing
    _check_groups(module, model, inputs=inputs, awq=awq)
    return ColumnPacked(
        name=module.name,
        shape=(outputs, inputs),
        dtype=packing.format.upper(),
        bits=bits,
        weight=weight,
        scales=scales,
        zeros=None if symmetric else parts.get("qzeros"),
        order=None if awq else ordered,
        awq=awq,
        plus_one=first and not awq,
    ), packing


def _check_groups(module: Module, model: PackedModel, *, inputs: int, awq: bool) -> None:
    """Refuse parts that count different inputs, or groups of another size than the config's."""
    scales, order = module.parts["scales"], module.parts.get("g_idx")
    group = model.integer("group_size")
    odd = group is not None and -(-inputs // group) != scales.shape[0]
    if odd or (order is not None and not awq and order.shape != (inputs,)):
        raise MalformedFile(
            f"the parts of {module.name[:200]!r} are for different numbers of inputs",
            path=scales.path,
            offset=scales.begin,
        )


def _gptq_bits(module: Module, model: PackedModel) -> int:
    stated = model.integer("bits")
    order = module.parts.get("g_idx")
    if order is not None and order.shape and order.shape[0]:
        stated = module.parts["qweight"].shape[0] * 32 // order.shape[0]
    return stated if stated in (2, 3, 4, 5, 6, 8) else 4


def _bnb4(module: Module, model: PackedModel) -> Made:
    parts = module.parts
    kind = "nf4" if "quant_state.bitsandbytes__nf4" in parts else "fp4"
    packing = Packing(format="bitsandbytes", type=kind, bits=4)
    count = 2 * math.prod(parts["weight"].shape)
    nested = "nested_absmax" in parts and "nested_quant_map" in parts
    if not model.width or count % model.width or parts["quant_map"].shape != (16,):
        return None, packing
    inside = module.name.rsplit(".", 2)[-2] in _WRITERS
    other = count // model.width
    block = block_size(count, math.prod(parts["absmax"].shape))
    if block > MAX_BLOCK:
        return None, packing
    return BnbWeight(
        name=module.name,
        shape=(model.width, other) if inside else (other, model.width),
        dtype=kind.upper(),
        weight=parts["weight"],
        absmax=parts["absmax"],
        codes=parts["quant_map"],
        state=parts[f"quant_state.bitsandbytes__{kind}"],
        nested=parts["nested_absmax"] if nested else None,
        nested_map=parts["nested_quant_map"] if nested else None,
        block=block,
    ), packing


def _bnb8(module: Module, model: PackedModel) -> Made:
    weight, scale = module.parts["weight"], module.parts["SCB"]
    packing = Packing(format="bitsandbytes", type="int8", bits=8)
    if len(weight.shape) != 2 or weight.dtype not in ("I8", "U8"):
        return None, packing
    return _rows(
        module,
        weight.shape,
        "INT8",
        [Part(spec=weight), Part(spec=scale)],
        integers(weight, scale, 127.0),
    ), packing


def _fp8(module: Module, model: PackedModel) -> Made:
    """FP8, or whole numbers of 8 bits, with a scale of any extent."""
    weight = module.parts["weight"]
    scale = module.parts.get("weight_scale_inv") or module.parts.get("weight_scale")
    if weight.dtype == "U8" and "weight_scale_2" in module.parts:
        return _modelopt(module, model)
    if weight.dtype == "I8" and scale is not None and len(weight.shape) == 2:
        packing = Packing(format=model.method or "compressed-tensors", type="int8", bits=8)
        parts = [
            Part(spec=weight),
            Part(spec=scale, every=1 if scale.shape[:1] == weight.shape[:1] else 0),
        ]
        return _rows(module, weight.shape, "INT8", parts, integers(weight, scale)), packing
    packing = Packing(format=model.method or "fp8", type=weight.dtype.lower(), bits=8)
    if not weight.dtype.startswith("F8") or len(weight.shape) != 2:
        return None, Packing(format=model.method or "unknown", type="unknown", bits=8)
    every = 0
    if scale is not None and len(scale.shape) == 2 and scale.shape[0] > 1:
        every = 1 if scale.shape[0] == weight.shape[0] else _block_rows(model)
        if -(-weight.shape[0] // every) != scale.shape[0]:
            return None, packing
    elif scale is not None and scale.shape == weight.shape[:1]:
        every = 1
    parts = [Part(spec=weight), *([Part(spec=scale, every=every)] if scale else [])]
    return _rows(module, weight.shape, weight.dtype, parts, fp8(weight, scale, every)), packing


def _block_rows(model: PackedModel) -> int:
    stated = model.settings.get("weight_block_size")
    if isinstance(stated, list) and stated and isinstance(stated[0], int) and stated[0] > 0:
        return stated[0]
    return _BLOCK


def _modelopt(module: Module, model: PackedModel) -> Made:
    parts = module.parts
    packing = Packing(format=model.method or "modelopt", type="nvfp4", bits=4)
    weight, scale, second = parts["weight"], parts["weight_scale"], parts["weight_scale_2"]
    return _four_bits(module, weight, scale, second, divide=False, packing=packing), packing


def _four_bits(
    module: Module,
    weight: TensorSpec,
    scale: TensorSpec,
    second: TensorSpec | None,
    *,
    divide: bool,
    packing: Packing,
) -> Weight | None:
    if len(weight.shape) != 2 or scale.shape[:1] != weight.shape[:1]:
        return None
    parts = [Part(spec=weight), Part(spec=scale)]
    parts += [] if second is None else [Part(spec=second, every=0)]
    shape = (weight.shape[0], 2 * weight.shape[1])
    unpack = four_bit_float(scale, second, divide=divide)
    return _rows(module, shape, packing.type.upper(), parts, unpack)


def _compressed(module: Module, model: PackedModel) -> Made:
    parts = module.parts
    weight, scale = parts["weight_packed"], parts["weight_scale"]
    if weight.dtype == "U8":
        kind = "nvfp4" if "weight_global_scale" in parts else "mxfp4"
        packing = Packing(format="compressed-tensors", type=kind, bits=4)
        second = parts.get("weight_global_scale")
        return _four_bits(module, weight, scale, second, divide=True, packing=packing), packing
    stated = model.scheme("num_bits")
    bits = stated if isinstance(stated, int) and stated in (2, 3, 4, 5, 6, 8) else 4
    packing = Packing(format="compressed-tensors", type=f"int{bits}", bits=bits)
    if len(weight.shape) != 2 or len(scale.shape) != 2:
        return None, packing
    columns = weight.shape[1] * 32 // bits
    if 32 % bits and scale.shape[1] > 1:
        columns = columns // scale.shape[1] * scale.shape[1]
    zero, order = parts.get("weight_zero_point"), parts.get("weight_g_idx")
    pack = 32 // bits
    held = [Part(spec=weight), Part(spec=scale)]
    held += [] if zero is None else [Part(spec=zero, every=1 if zero.dtype == "I8" else pack)]
    held += [] if order is None else [Part(spec=order, every=0)]
    if zero is not None and zero.dtype != "I8" and 32 % bits:
        return None, packing
    unpack = pack_quantized(bits, scale, zero=zero, order=order is not None, pack=pack)
    return _rows(module, (weight.shape[0], columns), f"INT{bits}", held, unpack), packing


def _mlx(module: Module, model: PackedModel) -> Made:
    parts = module.parts
    weight, scale, bias = parts["weight"], parts["scales"], parts.get("biases")
    group = model.integer("group_size") or 64
    packing = Packing(format="mlx", type="affine", bits=model.integer("bits") or 4)
    if len(weight.shape) != 2 or len(scale.shape) != 2 or not scale.shape[1]:
        return None, packing
    columns = scale.shape[1] * group
    bits, rest = divmod(weight.shape[1] * 32, columns)
    packing = Packing(format="mlx", type=f"int{bits} g{group}", bits=bits)
    if rest or bits not in (2, 3, 4, 5, 6, 8):
        return None, packing
    if bias is None:
        kind = Packing(format="mlx", type="mxfp4", bits=4)
        if scale.dtype != "U8" or bits != 4:
            return None, kind
        held = [Part(spec=weight), Part(spec=scale)]
        shape = (weight.shape[0], columns)
        return _rows(module, shape, "MXFP4", held, four_bit_float(scale)), kind
    held = [Part(spec=weight), Part(spec=scale), Part(spec=bias)]
    unpack = affine(bits, scale, bias)
    return _rows(module, (weight.shape[0], columns), f"INT{bits}", held, unpack), packing


def _gpt_oss(module: Module, model: PackedModel) -> Made:
    """MXFP4 of stacked experts; the first of them stands for the stack."""
    blocks, scales = module.parts["_blocks"], module.parts["_scales"]
    packing = Packing(format="mxfp4", type="mxfp4", bits=4)
    if len(blocks.shape) != 4 or blocks.shape[:3] != scales.shape:
        return None, packing
    _, rows, groups, half = blocks.shape
    # A row of the flattened stack is a row of an expert, and those of the first come first.
    flat = [
        TensorSpec(
            name=spec.name,
            dtype=spec.dtype,
            shape=(spec.shape[0] * spec.shape[1], math.prod(spec.shape[2:])),
            path=spec.path,
            begin=spec.begin,
            end=spec.end,
        )
        for spec in (blocks, scales)
    ]
    parent, _, leaf = module.name.rpartition(".")
    name = f"{parent}.0.{leaf}.weight"
    inner = Module(name=name, parts=module.parts, stacked=True)
    shape = (rows, groups * half * 2)
    return _rows(
        inner, shape, "MXFP4", [Part(spec=flat[0]), Part(spec=flat[1])], four_bit_float(scales)
    ), packing


def _rows(
    module: Module, shape: tuple[int, ...], dtype: str, parts: list[Part], unpack: Unpack
) -> RowPacked:
    """A weight of parts that count its rows alike.

    Raises
    ------
    MalformedFile : one counts more or fewer.
    """
    for part in parts:
        rows = -(-shape[0] // part.every) if part.every else 0
        stacked = len(shape) == 2 and part.spec.shape and part.spec.shape[0] % max(1, rows) == 0
        if part.every and part.spec.shape[:1] != (rows,) and not (stacked and module.stacked):
            raise MalformedFile(
                f"{part.spec.name[:200]!r} is not for {shape[0]} rows",
                path=part.spec.path,
                offset=part.spec.begin,
            )
    return RowPacked(name=module.name, shape=shape, dtype=dtype, parts=tuple(parts), unpack=unpack)


def _named(format_: str, bits: int = 4) -> Decoder:
    """A packing that is recognised and cannot be decoded here."""

    def decoder(module: Module, model: PackedModel) -> Made:
        stated = model.settings.get("bits", bits)
        whole = isinstance(stated, int | float) and 0 < stated <= 16
        return None, Packing(format=format_, type=format_, bits=round(stated) if whole else bits)

    return decoder


_DECODERS: tuple[tuple[frozenset[str], Decoder], ...] = (
    (frozenset({"qweight", "scales"}), _column),
    (frozenset({"weight", "absmax", "quant_map", "quant_state.bitsandbytes__nf4"}), _bnb4),
    (frozenset({"weight", "absmax", "quant_map", "quant_state.bitsandbytes__fp4"}), _bnb4),
    (frozenset({"weight", "SCB"}), _bnb8),
    (frozenset({"weight_packed", "weight_scale"}), _compressed),
    (frozenset({"_blocks", "_scales"}), _gpt_oss),
    (frozenset({"weight", "scales"}), _mlx),
    (frozenset({"weight", "weight_scale"}), _fp8),
    (frozenset({"weight", "weight_scale_inv"}), _fp8),
    (frozenset({"q_weight", "q_invperm"}), _named("exl2")),
    (frozenset({"trellis"}), _named("exl3")),
    (frozenset({"W_q"}), _named("hqq")),
    (frozenset({"codes", "codebooks"}), _named("aqlm", 2)),
    (frozenset({"centroids", "indices"}), _named("vptq", 2)),
    (frozenset({"_data", "_scale"}), _named("quanto", 8)),
)
_MARKED = frozenset(part for needed, _ in _DECODERS for part in needed) - {"weight"}
