"""The similarity engine against `torch.mm` + `topk` and faiss `IndexFlat`, on one set of data.

    python benchmarks/similarity.py [--rows 50000] [--queries 256] [--width 4096] [--data families]

The rows lie in a memory map on disk, as sketches do. `families`: bases drawn at random, sizes by
Zipf's law, each row its base and a change between 1e-3 and 1e-1 of its norm. `noise`: no row is
near another, the worst case. What is found is held against float64 on some of the queries. faiss
(`pip install faiss-cpu`) is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modelkin.lineage.compute import Compute
from modelkin.lineage.similarity.search import Neighbours, nearest

Floats = NDArray[np.float32]
COUNT = 16
CHECKED = 8


def write_rows(path: Path, rows: int, width: int, *, families: int, seed: int = 7) -> Floats:
    """A memory map of `rows` vectors in a random order; one family a row makes noise."""
    rng = np.random.default_rng(seed)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    weights = 1.0 / np.arange(1, families + 1)
    family = rng.choice(families, size=rows, p=weights / weights.sum())
    size = 10.0 ** rng.uniform(-3, -1, size=rows)
    for start in range(0, rows, 4096):
        part = slice(start, min(start + 4096, rows))
        out[part] = rng.standard_normal((part.stop - part.start, width), dtype=np.float32)
        if families < rows:
            out[part] *= size[part, None].astype(np.float32)
            for one in np.unique(family[part]):
                base = np.random.default_rng(one).standard_normal(width, dtype=np.float32)
                out[part][family[part] == one] += base
    out.flush()
    return out


def best_of(runs: int, work: Callable[[], object]) -> float:
    """The shortest of some runs, in seconds."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def by_products(queries: Floats, rows: Floats) -> NDArray[np.int64]:
    """One product, all scores, `topk`: squared distances from the Gram matrix."""
    x, y = torch.from_numpy(np.array(queries)), torch.from_numpy(np.asarray(rows))
    score = torch.mm(x, y.T)
    score -= y.square().sum(1) / 2
    return score.topk(COUNT).indices.numpy()


def by_faiss(queries: Floats, rows: Floats) -> NDArray[np.int64]:
    """faiss `IndexFlatL2`; building it copies the rows."""
    import faiss

    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    return index.search(np.array(queries), COUNT)[1]


def exact(queries: Floats, rows: Floats) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest rows in float64, by difference."""
    wide = queries.astype(np.float64)
    square = np.empty((len(queries), len(rows)))
    for start in range(0, len(rows), 2048):
        part = rows[start : start + 2048].astype(np.float64)
        for at, one in enumerate(wide):
            away = part - one
            square[at, start : start + len(part)] = np.einsum("ij,ij->i", away, away)
    order = np.argsort(square, axis=1, kind="stable")[:, :COUNT]
    return order, np.take_along_axis(square, order, axis=1)


def share_found(index: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Recall of the true nearest."""
    hits = [len(set(a) & set(b)) for a, b in zip(index.tolist(), truth.tolist(), strict=False)]
    return sum(hits) / truth.size


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--data", choices=("families", "noise"), default="families")
    parser.add_argument("--budget", type=int, default=256 << 20, help="bytes of the engine")
    parser.add_argument("--runs", type=int, default=2)
    asked = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; {asked}")
    with tempfile.TemporaryDirectory(prefix="modelkin-similarity-") as folder:
        families = 20 if asked.data == "families" else asked.rows
        rows = write_rows(Path(folder) / "rows.npy", asked.rows, asked.width, families=families)
        measure(rows, asked)


def measure(rows: Floats, asked: argparse.Namespace) -> None:
    """Each engine on the same rows, the smallest memory first: the peak only grows."""
    chosen = np.random.default_rng(1).choice(len(rows), asked.queries, replace=False)
    queries = np.array(rows[chosen])
    queries += 1e-2 * np.random.default_rng(2).standard_normal(queries.shape, dtype=np.float32)
    found: list[Neighbours] = []

    def engine() -> None:
        found.append(
            nearest(queries, rows, count=COUNT, compute=Compute(device="cpu"), budget=asked.budget)
        )

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = best_of(asked.runs, engine)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    one = found[-1]
    truth, square = exact(queries[:CHECKED], rows)
    error = float(np.abs(np.sqrt(one.square[:CHECKED] / square) - 1).max())
    print(f"engine     {own:8.2f} s  recall {share_found(one.index, truth):.4f}  ", end="")
    print(
        f"largest error of a distance {error:.1e}  settled {one.settled}/{len(queries)}  ", end=""
    )
    print(f"peak memory grew by {grown:,.0f} MiB, the mapped rows among it")
    peers = {"torch.mm": by_products}
    if find_spec("faiss"):
        peers["faiss"] = by_faiss
    for name, work in peers.items():
        seconds = best_of(asked.runs, lambda work=work: work(queries, rows))
        recall = share_found(work(queries[:CHECKED], rows), truth)
        print(
            f"{name:10} {seconds:8.2f} s  recall {recall:.4f}  engine is {seconds / own:.2f} times"
        )


if __name__ == "__main__":
    main()
