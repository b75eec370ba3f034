"""Count what a sketch of a packed model costs: GGUF, GPTQ, AWQ, MLX and FP8 of published shapes.

    python benchmarks/packed_budget.py [--folder DIR]

As sketch_budget.py: real headers over sparse files, served by the loopback Hub, each visited once
as a scan visits it. The header of a GGUF file holds its tokenizer and is shown by itself: the
budget of 2,000,000 bytes is for the weights, that of 40 requests for all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from sketch_budget import LLAMA_3_8B, LLAMA_70B, Cost, PaperHub, PaperShape, measure

from modelkin.lineage.records import Outcome
from modelkin.scanners.bytes import LocalBytes
from modelkin.scanners.formats.gguf_header import read_gguf_header
from modelkin.store.sketches import SketchStore

COLUMNS = ("model", "outcome", "spans", "requests", "header", "weights", "all bytes")
GROUP = 128
SIZES = {"I32": 4, "F16": 2, "U32": 4, "F32": 4, "F8_E4M3": 1}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
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
Entry = tuple[str, str, tuple[int, ...]]
Tensor = tuple[str, tuple[int, ...]]
Maker = Callable[[Path, PaperShape], None]


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[module]}.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Types that llama.cpp gives the tensors: most, the dearer ones, and its number for both."""

    name: str
    most: str
    more: str
    file_type: int

    def of(self, name: str, *, layers: int) -> str:
        """The type of one tensor."""
        layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
        dear = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        dear &= "attn_v" in name or "ffn_down" in name
        if "norm" in name:
            return "F32"
        return self.more if dear or name == "output.weight" else self.most


Q4_K_M = Mixture(name="Q4_K_M", most="Q4_K", more="Q6_K", file_type=15)
IQ4_XS = Mixture(name="IQ4_XS", most="IQ4_XS", more="Q5_K", file_type=30)
Q6_K = Mixture(name="Q6_K", most="Q6_K", more="Q6_K", file_type=18)
Q8_0 = Mixture(name="Q8_0", most="Q8_0", more="Q8_0", file_type=7)
F16 = Mixture(name="F16", most="F16", more="F16", file_type=1)


def gguf_maker(mixture: Mixture) -> Maker:
    """Writes a model as GGUF, in as many files as its shape says."""

    def make(folder: Path, shape: PaperShape) -> None:
        tensors = list(shape.tensors())
        each = -(-len(tensors) // shape.shards)
        for at in range(shape.shards):
            part = f"-{at + 1:05}-of-{shape.shards:05}" if shape.shards > 1 else ""
            path = folder / f"model-{mixture.name}{part}.gguf"
            held = tensors[at * each : (at + 1) * each]
            _write_shard(path, shape, mixture, held, first=at == 0)

    return make


def _write_shard(
    path: Path, shape: PaperShape, mixture: Mixture, tensors: list[Tensor], *, first: bool
) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    if first:
        _write_pairs(writer, shape, mixture)
    total = 0
    for name, dims in tensors:
        stored = gguf_name(name)
        kind = gguf.GGMLQuantizationType[mixture.of(stored, layers=shape.layers)]
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        nbytes = math.prod(dims) // weights * size
        packed = (*dims[:-1], dims[-1] // weights * size) if weights > 1 else dims
        dtype = np.dtype(np.uint8 if weights > 1 else np.float32)
        writer.add_tensor_info(stored, packed, dtype, nbytes, raw_dtype=kind)
        total += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.truncate(-(-file.tell() // 32) * 32 + total)


def _write_pairs(writer: gguf.GGUFWriter, shape: PaperShape, mixture: Mixture) -> None:
    """What the first file says, with a tokenizer of the vocabulary's size."""
    writer.add_file_type(mixture.file_type)
    writer.add_head_count(32)
    writer.add_head_count_kv(max(1, shape.key_value // (shape.hidden // 32)))
    writer.add_array("tokenizer.ggml.tokens", [f"▁token{at}" for at in range(shape.vocabulary)])
    writer.add_array("tokenizer.ggml.token_type", [1] * shape.vocabulary)
    if shape.vocabulary > 100_000:
        merges = [f"token{at} token{at + 1}" for at in range(2 * shape.vocabulary)]
        writer.add_array("tokenizer.ggml.merges", merges)


def _sparse(folder: Path, entries: list[Entry], shards: int) -> None:
    """As safetensors writes them: wide types first, by name within a width; an index for shards."""
    each = -(-len(entries) // shards)
    index: dict[str, str] = {}
    for part in range(shards):
        held = entries[part * each : (part + 1) * each]
        numbered = f"model-{part + 1:05}-of-{shards:05}.safetensors"
        path = folder / (numbered if shards > 1 else "model.safetensors")
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, dtype, dims in sorted(held, key=lambda e: (-SIZES[e[1]], e[1], e[0])):
            size = SIZES[dtype] * math.prod(dims)
            header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [at, at + size]}
            index[name] = path.name
            at += size
        raw = json.dumps(header, separators=(",", ":")).encode()
        with path.open("wb") as out:
            out.write(len(raw).to_bytes(8, "little") + raw)
            out.truncate(8 + len(raw) + at)
    if shards > 1:
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)


def _parts(shape: PaperShape, pack: Callable[[str, int, int], list[Entry]]) -> list[Entry]:
    entries: list[Entry] = []
    for name, dims in shape.tensors():
        if ".layers." in name and len(dims) == 2:
            entries += pack(name.removesuffix(".weight"), *dims)
        else:
            entries.append((name, "F16", dims))
    return entries


def _gptq(stem: str, out: int, inside: int, group: int = GROUP) -> list[Entry]:
    groups = inside // group
    return [
        (f"{stem}.qweight", "I32", (inside // 8, out)),
        (f"{stem}.qzeros", "I32", (groups, out // 8)),
        (f"{stem}.scales", "F16", (groups, out)),
        (f"{stem}.g_idx", "I32", (inside,)),
    ]


def _awq(stem: str, out: int, inside: int) -> list[Entry]:
    groups = inside // GROUP
    return [
        (f"{stem}.qweight", "I32", (inside, out // 8)),
        (f"{stem}.qzeros", "I32", (groups, out // 8)),
        (f"{stem}.scales", "F16", (groups, out)),
    ]


def _mlx(stem: str, out: int, inside: int) -> list[Entry]:
    return [
        (f"{stem}.weight", "U32", (out, inside // 8)),
        (f"{stem}.scales", "F16", (out, inside // 64)),
        (f"{stem}.biases", "F16", (out, inside // 64)),
    ]


def _fp8(stem: str, out: int, inside: int) -> list[Entry]:
    return [
        (f"{stem}.weight", "F8_E4M3", (out, inside)),
        (f"{stem}.weight_scale_inv", "F32", (-(-out // 128), -(-inside // 128))),
    ]


def _maker(pack: Callable[[str, int, int], list[Entry]], config: Mapping[str, object]) -> Maker:
    def make(folder: Path, shape: PaperShape) -> None:
        _sparse(folder, _parts(shape, pack), shape.shards)
        text = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config}
        (folder / "config.json").write_text(json.dumps(text))

    return make


def _method(method: str, **more: object) -> dict[str, object]:
    return {"quantization_config": {"quant_method": method, **more}}


GPTQ = _maker(_gptq, _method("gptq", bits=4, sym=True, desc_act=False))
FINE = _maker(lambda *at: _gptq(*at, group=32), _method("gptq", bits=4, sym=True, desc_act=False))
MODELS: dict[str, tuple[PaperShape, Maker]] = {
    "7b-Q4_K_M": (PaperShape(name="7b"), gguf_maker(Q4_K_M)),
    "7b-Q6_K": (PaperShape(name="7b"), gguf_maker(Q6_K)),
    "7b-IQ4_XS": (PaperShape(name="7b"), gguf_maker(IQ4_XS)),
    "7b-Q8_0": (PaperShape(name="7b"), gguf_maker(Q8_0)),
    "7b-F16": (PaperShape(name="7b"), gguf_maker(F16)),
    "7b-Q4_K_M-3": (PaperShape(name="7b", shards=3), gguf_maker(Q4_K_M)),
    "llama-3-8b-Q4_K_M": (PaperShape(name="8b", **LLAMA_3_8B), gguf_maker(Q4_K_M)),
    "llama-3-8b-Q6_K": (PaperShape(name="8b", **LLAMA_3_8B), gguf_maker(Q6_K)),
    "llama-3-8b-Q4_K_M-4": (
        PaperShape(name="8b", shards=4, **LLAMA_3_8B),
        gguf_maker(Q4_K_M),
    ),
    "70b-Q4_K_M-9": (PaperShape(name="70b", shards=9, **LLAMA_70B), gguf_maker(Q4_K_M)),
    "70b-Q8_0-20": (PaperShape(name="70b", shards=20, **LLAMA_70B), gguf_maker(Q8_0)),
    "7b-gptq": (PaperShape(name="7b"), GPTQ),
    "7b-gptq-g32": (PaperShape(name="7b"), FINE),
    "7b-gptq-2": (PaperShape(name="7b", shards=2), GPTQ),
    "llama-3-8b-gptq-2": (PaperShape(name="8b", shards=2, **LLAMA_3_8B), GPTQ),
    "70b-gptq-9": (PaperShape(name="70b", shards=9, **LLAMA_70B), GPTQ),
    "7b-gptq-asymmetric": (
        PaperShape(name="7b"),
        _maker(_gptq, _method("gptq", bits=4, sym=False, desc_act=False)),
    ),
    "7b-gptq-act-order": (
        PaperShape(name="7b"),
        _maker(_gptq, _method("gptq", bits=4, sym=True, desc_act=True)),
    ),
    "7b-awq": (PaperShape(name="7b"), _maker(_awq, _method("awq", bits=4))),
    "7b-mlx-4": (
        PaperShape(name="7b"),
        _maker(_mlx, {"quantization": {"group_size": 64, "bits": 4}}),
    ),
    "7b-fp8-block": (
        PaperShape(name="7b"),
        _maker(_fp8, _method("fp8", weight_block_size=[128, 128])),
    ),
}


def rows(root: Path, names: tuple[str, ...] = tuple(MODELS)) -> Iterator[tuple[str, Cost, int]]:
    """Write the models, serve them, and measure one after the other: (name, cost, header)."""
    served = root / "served"
    headers = {}
    for name in names:
        folder = served / "paper" / name
        folder.mkdir(parents=True)
        shape, make = MODELS[name]
        make(folder, shape)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n" + "A card. " * 400)
        files = list(folder.glob("*.gguf"))
        headers[name] = sum(
            asyncio.run(read_gguf_header(LocalBytes(file, name=file.name))).size for file in files
        )
    sketches = SketchStore(root / "sketches")
    with PaperHub(served) as hub:
        for name in names:
            yield name, measure(hub, f"paper/{name}", sketches=sketches), headers[name]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder without it")
    asked = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    failed = False
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="packed-budget-") as folder:
        for name, cost, header in rows(Path(folder)):
            one = cost.coverage
            weights = one.bytes_read - max(header, 0)
            cells = (name, one.outcome, cost.spans, one.requests)
            told = (f"{header:,}", f"{weights:,}", f"{one.bytes_read:,}")
            print("| " + " | ".join(map(str, (*cells, *told))) + " |")
            failed |= one.outcome is not Outcome.OK
    if failed:
        raise SystemExit("a model could not be sketched")


if __name__ == "__main__":
    main()
