"""Coverage-guided fuzzing of the readers of weight files.

    python benchmarks/fuzz.py gguf|safetensors|torch|names [CORPUS] [-max_total_time=60]

Needs `atheris`, which `make fuzz` installs. Whatever a reader says of any bytes must be a
`FormatError`; anything else is a bug, and the bytes are kept by the fuzzer. `names` reads a list of
tensor names and shapes, as an adapter's and as a quantized model's, for packings come from names.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris
import numpy as np
import torch

with atheris.instrument_imports(include=["modelkin.scanners.formats"]):
    from modelkin.lineage.dtypes import ITEMSIZE_BITS
    from modelkin.lineage.errors import FormatError
    from modelkin.lineage.records import TensorSpec
    from modelkin.scanners.formats.adapters import adapter_weights
    from modelkin.scanners.formats.gguf_file import gguf_weights
    from modelkin.scanners.formats.gguf_header import read_gguf_header
    from modelkin.scanners.formats.packed import unpack
    from modelkin.scanners.formats.safetensors_file import read_header
    from modelkin.scanners.formats.torch_file import read_torch_header

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile_corpus import good_gguf
from packers import PACKINGS, pack
from safetensors.torch import save
from torch_files import saved
from weight_files import MemoryBytes

TARGETS = ("gguf", "safetensors", "torch", "names")
SPAN = 512


def one_input(data: bytes, *, target: str) -> None:
    """Read one file."""
    try:
        asyncio.run(_read(target, data))
    except FormatError:
        return


async def _read(target: str, data: bytes) -> None:
    source = MemoryBytes(data)
    if target == "gguf":
        weights = gguf_weights({"m.gguf": await read_gguf_header(source)}).weights
    elif target == "names":
        specs = named_tensors(data)
        data = bytes(4096)
        weights = {**adapter_weights(specs, {}).weights, **unpack(specs, config={}).weights}
    else:
        header = await (
            read_header(source) if target == "safetensors" else read_torch_header(source)
        )
        specs = {spec.name: spec for spec in header.tensors}
        weights = {**adapter_weights(specs, {}).weights, **unpack(specs, config={}).weights}
    for weight in weights.values():
        located = weight.locate(0, SPAN, budget=100_000) if weight.shape else None
        if located is not None:
            parts = [data[r.begin : r.end] for r in located.ranges]
            try:
                located.decode(parts)
            except (ValueError, IndexError, ArithmeticError):
                # The sketch makes an error of the file of these.
                continue


def named_tensors(data: bytes) -> dict[str, TensorSpec]:
    """Tensors of a file whose lines are `DTYPE ROWS COLUMNS NAME`; others are passed over."""
    found = {}
    for line in data.decode("utf-8", "replace").splitlines()[:64]:
        dtype, *sides, name = line.split(" ", 3) if line.count(" ") >= 3 else ("", "")
        if dtype not in ITEMSIZE_BITS or not all(s.isdecimal() and len(s) < 4 for s in sides):
            continue
        shape = tuple(int(side) for side in sides)
        end = -(-math.prod(shape) * ITEMSIZE_BITS[dtype] // 8)
        spec = TensorSpec(name=name, dtype=dtype, shape=shape, path="m", begin=0, end=end)
        found[name] = spec
    return found


def seeds_of(target: str) -> dict[str, bytes]:
    """Whole files of a reader to start from."""
    weight = np.random.default_rng(0).normal(0, 0.1, (32, 64)).astype(np.float32)
    name = "model.layers.0.self_attn.v_proj.weight"
    packed = {kind: pack({name: weight}, kind) for kind in PACKINGS}
    match target:
        case "gguf":
            return {"gguf": good_gguf()[0]}
        case "torch":
            tensors = {name: torch.from_numpy(weight)}
            return {f"torch-{old}": saved(tensors, legacy=old) for old in (False, True)}
        case "names":
            return {kind: _as_lines(parts) for kind, parts in packed.items()}
    return {k: save({n: t.contiguous() for n, t in p.items()}) for k, p in packed.items()}


def _as_lines(parts: dict[str, torch.Tensor]) -> bytes:
    kinds = {torch.int32: "I32", torch.float16: "F16", torch.uint8: "U8", torch.int8: "I8"}
    lines = [
        f"{kinds.get(t.dtype, 'F32')} {t.shape[0]} {t.shape[-1]} {name}"
        for name, t in parts.items()
        if t.ndim == 2
    ]
    return "\n".join(lines).encode()


if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    if chosen not in TARGETS:
        raise SystemExit(f"the target is one of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as seeds:
        for name, data in seeds_of(chosen).items():
            (Path(seeds) / name).write_bytes(data)
        atheris.Setup([*sys.argv, seeds], partial(one_input, target=chosen))
        atheris.Fuzz()
