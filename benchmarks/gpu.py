"""Every GPU figure of this project, in one command: `make bench-gpu`.

    python benchmarks/gpu.py [--size 1b] [--rows 2500000] [--queries 10000] [--pairs 1000000]

Prints device, driver and torch version, the rates that the machine reaches by itself (bfloat16
products, host to device, disk), and each figure beside its bar as a share of them. Needs a GPU of
40 GB or more for the defaults, 100 GB of host memory and 30 GB of disk; everything is made on the
spot and deleted. Without a GPU, `--smoke` runs the same code on the CPU at reduced size: that shows
that it runs, and says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from gpu_parts import (
    Figure,
    activations,
    all_pairs,
    candidates,
    delta_norms,
    family,
    full_compare,
    rates,
)

MISSING = (
    "no CUDA device: every line above is from the CPU at reduced size. Missing, and still to be "
    "measured on a GPU: candidates 10k x 2.5 M, all pairs of 1 M, full compare of two 1 B models, "
    "share of the forward pass, families of 100 M to 1 B parameters"
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure all of it; 2 where there is no GPU and no `--smoke`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="reduced size, also on a CPU")
    parser.add_argument("--size", choices=("smoke", "100m", "1b"), default="1b")
    parser.add_argument("--rows", type=int, default=2_500_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--budget", type=int, default=16 << 30, help="bytes of device memory")
    parser.add_argument("--work", type=Path, help="folder for weights; a temporary one without it")
    asked = parser.parse_args(words)
    there = torch.cuda.is_available()
    if not there and not asked.smoke:
        print("no CUDA device; --smoke runs the same code on the CPU at reduced size")
        return 2
    if asked.smoke:
        asked.size, asked.rows, asked.queries, asked.pairs = "smoke", 1_000, 32, 500
        asked.width, asked.budget = 256, 32 << 20
    tell_machine()
    device = "cuda" if there else "cpu"
    with tempfile.TemporaryDirectory(prefix="modelkin-gpu-", dir=asked.work) as folder:
        place = Path(folder)
        measured = rates(place, device=device, smoke=asked.smoke)
        parts: list[Callable[[], list[Figure]]] = [
            lambda: candidates(asked, measured, device=device),
            lambda: all_pairs(asked, measured, device=device),
            lambda: delta_norms(device=device),
            lambda: family(place, asked.size, device=device),
            lambda: full_compare(place, measured, device=device),
            lambda: activations(place, device=device),
        ]
        for part in parts:
            for figure in part():
                print(figure.line(), flush=True)
    if not there:
        print(MISSING)
    return 0


def tell_machine() -> None:
    """Name what all figures hang on."""
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}")
    if not torch.cuda.is_available():
        print("device: none; CPU")
        return
    known = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    driver = found.stdout.strip() or "driver unknown"
    print(f"device: {known.name}, {known.total_memory / 2**30:.0f} GiB; {driver}")
    print(f"CUDA {torch.version.cuda}")


if __name__ == "__main__":
    sys.exit(main())
