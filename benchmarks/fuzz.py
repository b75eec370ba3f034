"""Coverage-guided fuzzing of the readers of weight files.

    python benchmarks/fuzz.py [CORPUS] [-max_total_time=60]

Needs `atheris`, which `make fuzz` installs. The first byte picks a reader. Whatever a reader says
of any bytes must be a `FormatError`; anything else is a bug, and the bytes are kept by the fuzzer.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np
import torch

with atheris.instrument_imports(include=["modelkin.scanners.formats"]):
    from modelkin.lineage.errors import FormatError
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

SPAN = 512


def one_input(data: bytes) -> None:
    """Read one file."""
    if not data:
        return
    try:
        asyncio.run(_read(data[0] % 3, data[1:]))
    except FormatError:
        return


async def _read(which: int, data: bytes) -> None:
    source = MemoryBytes(data)
    if which == 0:
        weights = gguf_weights({"m.gguf": await read_gguf_header(source)}).weights
    else:
        header = await (read_header(source) if which == 1 else read_torch_header(source))
        specs = {spec.name: spec for spec in header.tensors}
        adapter_weights(specs, {})
        weights = unpack(specs, config={}).weights
    for weight in weights.values():
        located = weight.locate(0, SPAN, budget=100_000) if weight.shape else None
        if located is not None:
            parts = [data[r.begin : r.end] for r in located.ranges]
            try:
                located.decode(parts)
            except (ValueError, IndexError, ArithmeticError):
                # The sketch makes an error of the file of these.
                continue


def write_seeds(folder: Path) -> None:
    """Whole files of each reader to start from."""
    weight = np.random.default_rng(0).normal(0, 0.1, (32, 64)).astype(np.float32)
    name = "model.layers.0.self_attn.v_proj.weight"
    (folder / "gguf").write_bytes(b"\0" + good_gguf()[0])
    for kind in PACKINGS:
        parts = {n: t.contiguous() for n, t in pack({name: weight}, kind).items()}
        (folder / kind).write_bytes(b"\1" + save(parts))
    for legacy in (False, True):
        data = saved({name: torch.from_numpy(weight)}, legacy=legacy)
        (folder / f"torch-{legacy}").write_bytes(b"\2" + data)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as seeds:
        write_seeds(Path(seeds))
        atheris.Setup([*sys.argv, seeds], one_input)
        atheris.Fuzz()
