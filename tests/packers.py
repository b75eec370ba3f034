"""Toy weights packed as quantizers publish them: rounded to nearest, in each one's layout.

Written from the layouts' descriptions and not from the readers, and checked against the reference
libraries where those are installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

Weights = Mapping[str, NDArray[np.float32]]
Packed = dict[str, torch.Tensor]
Array = NDArray[Any]

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4 = (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)


def is_packable(name: str, weight: Array) -> bool:
    """The matrices that quantizers pack: those of the layers."""
    return weight.ndim == 2 and ".layers." in name


def grouped(weight: Array, bits: int, group: int) -> tuple[Array, Array, Array]:
    """Asymmetric integers, scales and zero points of groups along a row: (out, in), (out, g) x2."""
    rows = weight.reshape(weight.shape[0], -1, group)
    low, high = np.minimum(rows.min(-1), 0), np.maximum(rows.max(-1), 0)
    top = 2**bits - 1
    scale = (np.maximum(high - low, 1e-8) / top).astype(np.float16).astype(np.float32)
    zero = np.clip(np.round(-low / scale), 0, top)
    q = np.clip(np.round(rows / scale[..., None]) + zero[..., None], 0, top)
    return q.reshape(weight.shape).astype(np.int64), scale, zero.astype(np.int64)


def symmetric(weight: Array, bits: int, group: int) -> tuple[Array, Array]:
    """Signed integers and scales of groups along a row."""
    rows = weight.reshape(weight.shape[0], -1, group)
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(rows).max(-1), 1e-8) / top
    scale = scale.astype(np.float16).astype(np.float32)
    q = np.clip(np.round(rows / scale[..., None]), -top - 1, top)
    return q.reshape(weight.shape).astype(np.int64), scale


def stream(values: Array, bits: int) -> NDArray[np.int32]:
    """Integers of each row as a dense little-endian bit stream of 32-bit words."""
    places = (values[..., None] >> np.arange(bits)) & 1
    flat = places.reshape(values.shape[0], -1).astype(np.uint8)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return np.packbits(flat, axis=1, bitorder="little").view("<i4")


def as_float(values: Array, kind: torch.dtype) -> torch.Tensor:
    """A tensor of a float type."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(kind)


def whole(values: Array) -> torch.Tensor:
    """A tensor of 32-bit integers."""
    return torch.from_numpy(np.ascontiguousarray(values).astype(np.int32))


def gptq(
    name: str,
    weight: Array,
    *,
    bits: int = 4,
    group: int = 32,
    act_order: bool = False,
    v2: bool = False,
) -> Packed:
    """AutoGPTQ: integers down the inputs, zeros less one in version 1, inputs in any order."""
    inputs = weight.shape[1]
    order = np.arange(inputs)
    if act_order:
        order = np.random.default_rng(inputs).permutation(inputs)
    q, scale, zero = grouped(weight[:, order], bits, group)
    back = np.argsort(order)
    stem = name.removesuffix(".weight")
    stored = (zero if v2 else zero - 1) % 2**bits
    return {
        f"{stem}.qweight": whole(stream(q[:, back], bits).T),
        f"{stem}.qzeros": whole(stream(stored.T, bits)),
        f"{stem}.scales": as_float(scale.T, torch.float16),
        f"{stem}.g_idx": whole((np.arange(inputs) // group)[back]),
    }


def awq(name: str, weight: Array, *, group: int = 32) -> Packed:
    """AutoAWQ, GEMM: eight outputs a word, in the order 0 2 4 6 1 3 5 7."""
    q, scale, zero = grouped(weight, 4, group)
    stem = name.removesuffix(".weight")

    def words(values: Array) -> torch.Tensor:
        eights = values.reshape(values.shape[0], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return whole(stream(eights.reshape(values.shape), 4))

    return {
        f"{stem}.qweight": words(q.T),
        f"{stem}.qzeros": words(zero.T),
        f"{stem}.scales": as_float(scale.T, torch.float16),
    }


def bnb4(name: str, weight: Array, *, kind: str = "nf4", double: bool = False) -> Packed:
    """bitsandbytes 4-bit: codes of the flat matrix, the high nibble first."""
    fp4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3]) / 12
    codes = np.array(NF4 if kind == "nf4" else fp4, dtype=np.float32)
    blocks = weight.reshape(-1, 64)
    absmax = np.maximum(np.abs(blocks).max(1), 1e-8).astype(np.float32)
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": 64,
        "dtype": "float16",
        "shape": list(weight.shape),
    }
    stem = f"{name}"
    parts: Packed = {}
    if double:
        offset = float(absmax.mean())
        spread = absmax - offset
        nested = np.array(
            [np.abs(spread[at : at + 256]).max() + 1e-12 for at in range(0, spread.size, 256)],
            dtype=np.float32,
        )
        table = np.linspace(-1, 1, 256, dtype=np.float32)
        scaled = spread / np.repeat(nested, 256)[: spread.size]
        code = np.abs(scaled[:, None] - table).argmin(1).astype(np.uint8)
        absmax = table[code] * np.repeat(nested, 256)[: spread.size] + np.float32(offset)
        state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        parts |= {
            f"{stem}.absmax": torch.from_numpy(code),
            f"{stem}.nested_absmax": torch.from_numpy(nested),
            f"{stem}.nested_quant_map": torch.from_numpy(table),
        }
    else:
        parts[f"{stem}.absmax"] = torch.from_numpy(absmax)
    at = np.abs(blocks[..., None] / absmax[:, None, None] - codes).argmin(-1).reshape(-1)
    raw = (at[0::2] << 4 | at[1::2]).astype(np.uint8)
    text = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8).copy()
    return parts | {
        name: torch.from_numpy(raw.reshape(-1, 1)),
        f"{stem}.quant_map": torch.from_numpy(codes),
        f"{stem}.quant_state.bitsandbytes__{kind}": torch.from_numpy(text),
    }


def bnb8(name: str, weight: Array) -> Packed:
    """bitsandbytes int8: each row by its largest weight, over 127."""
    largest = np.abs(weight).max(1)
    q = np.round(weight / largest[:, None] * 127).astype(np.int8)
    stem = name.removesuffix("weight")
    return {
        name: torch.from_numpy(q),
        f"{stem}SCB": torch.from_numpy(largest.astype(np.float32)),
        f"{stem}weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def fp8(name: str, weight: Array, *, extent: str = "tensor") -> Packed:
    """FP8 E4M3 with a scale for the tensor, each row, or blocks of 16 x 16."""
    stem = name.removesuffix("weight")
    if extent == "block":
        tiles = weight.reshape(weight.shape[0] // 16, 16, weight.shape[1] // 16, 16)
        scale = np.abs(tiles).max((1, 3)) / 448
        divided = (tiles / scale[:, None, :, None]).reshape(weight.shape)
        key = f"{stem}weight_scale_inv"
    else:
        axis = None if extent == "tensor" else 1
        scale = np.abs(weight).max(axis, keepdims=True) / 448
        divided, key = weight / scale, f"{stem}weight_scale"
        scale = scale.reshape(1) if extent == "tensor" else scale
    return {
        name: as_float(divided, torch.float8_e4m3fn),
        key: as_float(scale, torch.float32),
    }


def compressed(
    name: str, weight: Array, *, bits: int = 4, group: int = 32, zeros: bool = False
) -> Packed:
    """compressed-tensors pack-quantized; zero points packed along the rows."""
    stem = name.removesuffix("weight")
    half = 1 << (bits - 1)
    parts: Packed = {f"{stem}weight_shape": torch.tensor(weight.shape, dtype=torch.int64)}
    if zeros:
        q, scale, zero = grouped(weight, bits, group)
        parts[f"{stem}weight_zero_point"] = whole(stream(zero.T, bits).T)
    else:
        q, scale = symmetric(weight, bits, group)
        q = q + half
    return parts | {
        f"{stem}weight_packed": whole(stream(q, bits)),
        f"{stem}weight_scale": as_float(scale, torch.float16),
    }


def _fp4_codes(scaled: Array) -> NDArray[np.uint8]:
    at = np.abs(scaled[..., None] - np.array(FP4, dtype=np.float32)).argmin(-1)
    return (at[..., 0::2] | at[..., 1::2] << 4).astype(np.uint8)


def nvfp4(name: str, weight: Array, *, modelopt: bool = False) -> Packed:
    """NVFP4: FP4 codes, FP8 scales of 16 weights, a scale for the tensor."""
    stem = name.removesuffix("weight")
    groups = weight.reshape(weight.shape[0], -1, 16)
    outer = float(np.abs(weight).max()) / (448 * 6)
    inner = as_float(np.abs(groups).max(-1) / 6 / outer, torch.float8_e4m3fn)
    held = np.maximum(inner.float().numpy() * outer, 1e-12)
    codes = torch.from_numpy(_fp4_codes((groups / held[..., None]).reshape(weight.shape)))
    if modelopt:
        return {
            name: codes,
            f"{stem}weight_scale": inner,
            f"{stem}weight_scale_2": torch.tensor(outer, dtype=torch.float32),
        }
    return {
        f"{stem}weight_packed": codes,
        f"{stem}weight_scale": inner,
        f"{stem}weight_global_scale": torch.tensor([1 / outer], dtype=torch.float32),
    }


def mlx(name: str, weight: Array, *, bits: int = 4, group: int = 32) -> Packed:
    """MLX affine: q * scale + bias, a bit stream along the row."""
    stem = name.removesuffix("weight")
    rows = weight.reshape(weight.shape[0], -1, group)
    low = rows.min(-1).astype(np.float16).astype(np.float32)
    scale = ((rows.max(-1) - low) / (2**bits - 1)).astype(np.float16).astype(np.float32)
    q = np.clip(
        np.round((rows - low[..., None]) / np.maximum(scale, 1e-8)[..., None]), 0, 2**bits - 1
    )
    words = stream(q.reshape(weight.shape).astype(np.int64), bits)
    return {
        name: torch.from_numpy(words.copy()).view(torch.uint32),
        f"{stem}scales": as_float(scale, torch.float16),
        f"{stem}biases": as_float(low, torch.float16),
    }


Pack = Callable[[str, Array], Packed]


def _method(method: str, **more: Any) -> dict[str, Any]:
    stated = {"group_size": 32} if method in ("gptq", "awq") else {}
    return {"quantization_config": {"quant_method": method, **stated, **more}}


def _scheme(bits: int) -> dict[str, Any]:
    groups = {"group_0": {"weights": {"num_bits": bits, "group_size": 32}}}
    return _method("compressed-tensors", config_groups=groups)


PACKINGS: dict[str, tuple[Pack, dict[str, Any], tuple[str, int]]] = {
    "gptq": (gptq, _method("gptq", bits=4, desc_act=False), ("gptq", 4)),
    "gptq-act": (
        lambda n, w: gptq(n, w, act_order=True),
        _method("gptq", bits=4, desc_act=True),
        ("gptq", 4),
    ),
    "gptq-v2": (
        lambda n, w: gptq(n, w, v2=True),
        _method("gptq", bits=4, checkpoint_format="gptq_v2", desc_act=False),
        ("gptq", 4),
    ),
    "gptq-8": (lambda n, w: gptq(n, w, bits=8), _method("gptq", bits=8), ("gptq", 8)),
    "gptq-3": (
        lambda n, w: gptq(n, w, bits=3),
        _method("gptq", bits=3, desc_act=False),
        ("gptq", 3),
    ),
    "gptq-2": (lambda n, w: gptq(n, w, bits=2), _method("gptq", bits=2), ("gptq", 2)),
    "awq": (awq, _method("awq", bits=4), ("awq", 4)),
    "nf4": (bnb4, _method("bitsandbytes"), ("bitsandbytes", 4)),
    "nf4-double": (
        lambda n, w: bnb4(n, w, double=True),
        _method("bitsandbytes"),
        ("bitsandbytes", 4),
    ),
    "fp4": (lambda n, w: bnb4(n, w, kind="fp4"), _method("bitsandbytes"), ("bitsandbytes", 4)),
    "int8": (bnb8, _method("bitsandbytes"), ("bitsandbytes", 8)),
    "fp8": (fp8, _method("fp8"), ("fp8", 8)),
    "fp8-row": (lambda n, w: fp8(n, w, extent="row"), _method("fbgemm_fp8"), ("fbgemm_fp8", 8)),
    "fp8-block": (
        lambda n, w: fp8(n, w, extent="block"),
        _method("fp8", weight_block_size=[16, 16]),
        ("fp8", 8),
    ),
    "w4a16": (compressed, _scheme(4), ("compressed-tensors", 4)),
    "w4a16-zero": (
        lambda n, w: compressed(n, w, zeros=True),
        _scheme(4),
        ("compressed-tensors", 4),
    ),
    "w8a16": (lambda n, w: compressed(n, w, bits=8), _scheme(8), ("compressed-tensors", 8)),
    "nvfp4": (nvfp4, _method("compressed-tensors"), ("compressed-tensors", 4)),
    "nvfp4-modelopt": (
        lambda n, w: nvfp4(n, w, modelopt=True),
        _method("modelopt"),
        ("modelopt", 4),
    ),
    "mlx-4": (mlx, {"quantization": {"group_size": 32, "bits": 4}}, ("mlx", 4)),
    "mlx-3": (
        lambda n, w: mlx(n, w, bits=3),
        {"quantization": {"group_size": 32, "bits": 3}},
        ("mlx", 3),
    ),
    "mlx-2": (
        lambda n, w: mlx(n, w, bits=2),
        {"quantization": {"group_size": 32, "bits": 2}},
        ("mlx", 2),
    ),
    "mlx-8": (
        lambda n, w: mlx(n, w, bits=8),
        {"quantization": {"group_size": 32, "bits": 8}},
        ("mlx", 8),
    ),
}
"""How a matrix is packed, what config.json says of it, and the format and bits to be found."""


def pack(weights: Weights, kind: str, *, plain: torch.dtype = torch.float16) -> Packed:
    """All tensors of a packed model; what is not packed is stored as `plain`."""
    how = PACKINGS[kind][0]
    tensors: Packed = {}
    for name, weight in weights.items():
        if is_packable(name, weight):
            tensors |= how(name, weight)
        else:
            tensors[name] = as_float(weight, plain)
    return tensors


def write_packed(folder: Path, weights: Weights, kind: str, config: Mapping[str, Any]) -> None:
    """Write a repository of packed weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in pack(weights, kind).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, **PACKINGS[kind][1]}))
