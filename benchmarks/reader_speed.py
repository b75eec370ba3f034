"""Sampled blocks of each format, decoded here and by the format's reference library, in one run.

    python benchmarks/reader_speed.py [--formats a,b]

A file of 60 matrices; of each the first 20,480 weights are decoded, header included. The best of
twelve runs each, alternating. Both hand over weights in memory of their own, because a view of a
mapped file has read nothing, and both read the file out of the system's memory. Ours gives the step
of the grid at each weight beside it. References: the `gguf` package, `safetensors`, `torch.load`
with its file mapped and weights only, `bitsandbytes`, `compressed_tensors`, and torch's own FP8.
Formats whose reference library needs a GPU or another machine (GPTQ, AWQ, MLX) are not here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from k_quants import K_QUANTS, quantize_k
from packers import pack

from modelkin.scanners.bytes import LocalBytes
from modelkin.scanners.formats.base import WeightFile
from modelkin.scanners.formats.gguf_file import gguf_weights
from modelkin.scanners.formats.gguf_header import read_gguf_header
from modelkin.scanners.formats.packed import unpack
from modelkin.scanners.formats.safetensors_file import read_header
from modelkin.scanners.formats.torch_file import read_torch_header

COLUMNS, ROWS, MATRICES, SPAN = 1024, 256, 60, 20_480
SAMPLED = SPAN // COLUMNS
BUDGET = 500_000
GGUF = ("Q4_K", "Q6_K", "Q2_K", "Q8_0", "Q4_0", "F16")
NAMES = tuple(f"model.layers.{at}.self_attn.v_proj.weight" for at in range(MATRICES))
NORM = "model.norm.weight"
Read = Callable[[Path], int]


def weights() -> dict[str, np.ndarray]:
    """The matrices, of random weights."""
    chance = np.random.default_rng(0)
    shape = (ROWS, COLUMNS)
    return {name: chance.normal(0, 0.05, shape).astype(np.float32) for name in NAMES}


def write(path: Path, form: str) -> None:
    """One file of a format."""
    tensors = {name: torch.from_numpy(value).half() for name, value in weights().items()}
    if form in GGUF:
        _write_gguf(path, form)
    elif form == "safetensors":
        save_file(tensors, path)
    elif form == "pytorch":
        torch.save(tensors, path)
    else:
        # The norm tells a reader how wide the matrices are that are stored flat.
        packed = {NORM: torch.ones(COLUMNS), **pack(weights(), form)}
        save_file({n: t.contiguous() for n, t in packed.items()}, path)


def _write_gguf(path: Path, form: str) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_array("tokenizer.ggml.tokens", [f"token{at}" for at in range(32_000)])
    of = gguf.GGMLQuantizationType[form]
    for at, value in enumerate(weights().values()):
        raw = quantize_k(value, form) if form in K_QUANTS else gguf.quants.quantize(value, of)
        writer.add_tensor(f"blk.{at}.attn_v.weight", raw, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(path: Path, form: str) -> int:
    """Weights decoded by modelkin."""

    async def read() -> int:
        source = LocalBytes(path, name=path.name)
        count = 0
        for weight in (await _opened(source, form)).weights.values():
            if weight.name == NORM:
                continue
            located = weight.locate(0, SPAN, budget=BUDGET)
            if located is not None:
                parts = [await source.read(r.begin, r.end) for r in located.ranges]
                decoded = located.decode(parts)
                count += len(decoded.data) // (2 if decoded.dtype.endswith("16") else 4)
        return count

    return asyncio.run(read())


async def _opened(source: LocalBytes, form: str) -> WeightFile:
    if form in GGUF:
        return gguf_weights({source.path: await read_gguf_header(source)})
    header = await (read_torch_header(source) if form == "pytorch" else read_header(source))
    return unpack({spec.name: spec for spec in header.tensors}, config={})


def of_gguf(path: Path) -> int:
    """Weights decoded by the `gguf` package."""
    reader = gguf.GGUFReader(path)
    return sum(dequantize(t.data[:SAMPLED], t.tensor_type).size for t in reader.tensors)


def of_safetensors(path: Path) -> int:
    """Weights read by `safetensors`."""
    with safe_open(path, "pt") as file:
        return sum(file.get_slice(name)[:SAMPLED].clone().numel() for name in NAMES)


def of_torch(path: Path) -> int:
    """Weights read by `torch.load`."""
    held = torch.load(path, mmap=True, weights_only=True)
    return sum(held[name][:SAMPLED].clone().numel() for name in NAMES)


def of_bitsandbytes(path: Path) -> int:
    """Weights decoded by `bitsandbytes`: the bytes and scales of the sampled weights only."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    count = 0
    with safe_open(path, "pt") as file:
        for name in NAMES:
            text = file.get_tensor(f"{name}.quant_state.bitsandbytes__nf4")
            told = json.loads(bytes(text.numpy()))
            state = QuantState(
                absmax=file.get_slice(f"{name}.absmax")[: SPAN // 64],
                shape=torch.Size((SAMPLED, COLUMNS)),
                code=file.get_tensor(f"{name}.quant_map"),
                blocksize=int(told["blocksize"]),
                quant_type=str(told["quant_type"]),
                dtype=torch.float32,
            )
            count += dequantize_4bit(file.get_slice(name)[: SPAN // 2], state).numel()
    return count


def of_compressed_tensors(path: Path) -> int:
    """Weights unpacked by `compressed_tensors` and scaled."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    count = 0
    with safe_open(path, "pt") as file:
        for name in NAMES:
            packed = file.get_slice(f"{name}_packed")[:SAMPLED]
            scale = file.get_slice(f"{name}_scale")[:SAMPLED].float()
            q = unpack_from_int32(packed, 4, torch.Size((SAMPLED, COLUMNS)))
            count += (q.float() * scale.repeat_interleave(COLUMNS // scale.shape[1], 1)).numel()
    return count


def of_fp8(path: Path) -> int:
    """Weights widened by torch and scaled."""
    with safe_open(path, "pt") as file:
        return sum(
            (
                file.get_slice(name)[:SAMPLED].float()
                * file.get_tensor(f"{name.removesuffix('weight')}weight_scale")
            ).numel()
            for name in NAMES
        )


REFERENCES: dict[str, Read] = {
    **dict.fromkeys(GGUF, of_gguf),
    "safetensors": of_safetensors,
    "pytorch": of_torch,
    "nf4": of_bitsandbytes,
    "w4a16": of_compressed_tensors,
    "fp8": of_fp8,
}


def _seconds(read: Callable[[], int]) -> float:
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


def main() -> None:
    """Print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formats", default=",".join(REFERENCES))
    asked = parser.parse_args()
    print("| format | weights | modelkin, s | reference, s | ratio |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="reader-speed-") as folder:
        for form in asked.formats.split(","):
            path = Path(folder) / f"m.{form}"
            write(path, form)
            reference = REFERENCES[form]
            pairs = [
                (_seconds(partial(ours, path, form)), _seconds(partial(reference, path)))
                for _ in range(12)
            ]
            mine, theirs = (min(pair[at] for pair in pairs) for at in (0, 1))
            counts = ours(path, form), reference(path)
            if counts[0] != counts[1]:
                raise SystemExit(f"{form}: {counts[0]} weights here, {counts[1]} by the reference")
            print(f"| {form} | {counts[0]:,} | {mine:.4f} | {theirs:.4f} | {theirs / mine:.2f} |")
            path.unlink()


if __name__ == "__main__":
    main()
