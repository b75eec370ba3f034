"""Sampled blocks of a GGUF file, decoded here and by the reference library, in one run.

    python benchmarks/reader_speed.py

A file of 60 matrices in Q4_K and Q6_K with a tokenizer of 32,000 tokens; of each the first 20,480
weights are decoded, header included. The best of four runs each, alternating.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

from modelkin.scanners.bytes import LocalBytes
from modelkin.scanners.formats.gguf_file import gguf_weights
from modelkin.scanners.formats.gguf_header import read_gguf_header

COLUMNS, ROWS, LAYERS, SPAN = 1024, 256, 20, 20_480
BUDGET = 500_000


def write(path: Path) -> None:
    """The file, of random blocks."""
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_array("tokenizer.ggml.tokens", [f"token{at}" for at in range(32_000)])
    for layer in range(LAYERS):
        for name, kind in (("attn_v", "Q6_K"), ("ffn_up", "Q4_K"), ("ffn_down", "Q4_K")):
            of = gguf.GGMLQuantizationType[kind]
            weights, size = gguf.GGML_QUANT_SIZES[of]
            raw = chance.integers(0, 100, (ROWS, COLUMNS // weights * size), dtype=np.uint8)
            writer.add_tensor(f"blk.{layer}.{name}.weight", raw, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(path: Path) -> int:
    """Weights decoded by modelkin."""

    async def read() -> int:
        source = LocalBytes(path, name=path.name)
        file = gguf_weights({path.name: await read_gguf_header(source)})
        count = 0
        for weight in file.weights.values():
            located = weight.locate(0, SPAN, budget=BUDGET)
            if located is not None:
                parts = [await source.read(r.begin, r.end) for r in located.ranges]
                count += len(located.decode(parts).data) // 4
        return count

    return asyncio.run(read())


def reference(path: Path) -> int:
    """Weights decoded by the `gguf` package."""
    reader = gguf.GGUFReader(path)
    found = (dequantize(t.data[: SPAN // COLUMNS], t.tensor_type) for t in reader.tensors)
    return sum(values.size for values in found)


def _seconds(read: Callable[[Path], int], path: Path) -> float:
    started = time.perf_counter()
    read(path)
    return time.perf_counter() - started


def main() -> None:
    """Print both and their ratio."""
    with tempfile.TemporaryDirectory(prefix="reader-speed-") as folder:
        path = Path(folder) / "m.gguf"
        write(path)
        pairs = [(_seconds(ours, path), _seconds(reference, path)) for _ in range(4)]
        mine, theirs = (min(pair[at] for pair in pairs) for at in (0, 1))
        print(f"{ours(path):,} weights: modelkin {mine:.3f} s, gguf {theirs:.3f} s")
        print(f"ratio {theirs / mine:.1f}")


if __name__ == "__main__":
    main()
