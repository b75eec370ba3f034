"""GGUF files written by the reference library, and by hand where they are to be wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]

MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Llama tensor."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{MODULES[module]}.weight"


def permuted(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a query or key as llama.cpp's converter stores them."""
    rows = weight.shape[0]
    split = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    weights: Weights,
    kind: str,
    *,
    heads: int = 4,
    architecture: str = "llama",
    pairs: Mapping[str, str] | None = None,
) -> None:
    """Convert weights with Hugging Face names as llama.cpp does: norms kept in float32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_block_count(2)
    writer.add_array("tokenizer.ggml.tokens", [f"token{at}" for at in range(500)])
    for key, value in (pairs or {}).items():
        writer.add_string(key, value)
    type_of = gguf.GGMLQuantizationType[kind]
    for name, value in weights.items():
        stored = np.asarray(value, dtype=np.float32)
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            stored = permuted(stored, heads)
        of = type_of if stored.ndim > 1 else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(np.ascontiguousarray(stored), of)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text(value: str | bytes) -> bytes:
    """A GGUF string."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    """A key-value pair of a raw value."""
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor description; `dims` in the order of the file."""
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def raw_gguf(
    *,
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
) -> bytes:
    """A file from its parts, right or wrong."""
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_pairs)
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data
