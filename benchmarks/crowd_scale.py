"""How long a bucket of thousands of models of one shape takes, and how many parents are right.

    python benchmarks/crowd_scale.py [--models 10000] [--added 100] [--rows 16] [--undated]

Draws a synthetic family tree (several unrelated roots, hubs with many children, chains, copies,
quantized copies, adapters and merges of earlier models), keeps the sketches on disk in bfloat16 as
a store does, and infers it with `modelkin.lineage.infer.crowd` reading each sketch when it is asked
for. Printed: CPU seconds of each stage, models a second, peak memory, edges right, and the same for
`--added` models placed afterwards while all others keep their parents. `--rows` scales the sketch
(80 rows a block are a full one); the thin sample that candidates come from is the same at any size.

Synthetic steps are drawn apart from each other. Those of real fine-tunes share directions, which
makes the search for merges dearer: `benchmarks/lineage.py` measures accuracy, this measures cost.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelkin.lineage.compute import Compute
from modelkin.lineage.dtypes import to_float32
from modelkin.lineage.infer.crowd import KnownParent, Resident, infer_crowd, resident
from modelkin.lineage.infer.engine import Inference
from modelkin.lineage.infer.neighbours import nearest_rows
from modelkin.lineage.infer.specimen import Block, Specimen
from modelkin.lineage.records import RoleKey

Float32 = NDArray[np.float32]

COLUMNS = 256
CACHED = 384
ROLES = ("attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
LAYERS = (0, 8, 23, 31)
KINDS = ("tune", "tune", "tune", "tune", "tune", "tune", "adapter", "round", "copy", "merge")
ROOT_EVERY = 2_500
FIRST = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Shelf:
    """Sketches on disk, and who came from whom."""

    weights: NDArray[np.uint16]
    rows: int
    dated: bool
    parents: list[tuple[int, ...]] = field(default_factory=list)
    cache: OrderedDict[str, Specimen] = field(default_factory=OrderedDict)
    reads: int = 0

    def fetch(self, node: str) -> Specimen:
        """One sketch, from the cache or from disk."""
        if node in self.cache:
            self.cache.move_to_end(node)
            return self.cache[node]
        self.reads += 1
        self.cache[node] = found = self.specimen(int(node.removeprefix("m")))
        if len(self.cache) > CACHED:
            self.cache.popitem(last=False)
        return found

    def specimen(self, at: int) -> Specimen:
        """A sketch read from disk and widened."""
        size = self.rows * COLUMNS
        keys = [RoleKey(role=role, layer=layer) for layer in LAYERS for role in ROLES]
        blocks = {
            str(key): Block(
                key=key,
                shape=(4 * COLUMNS, COLUMNS),
                transposed=False,
                start=0,
                dtype="BF16",
                values=to_float32(self.weights[at, i * size : (i + 1) * size].tobytes(), "BF16"),
            )
            for i, key in enumerate(keys)
        }
        created = FIRST + timedelta(hours=at) if self.dated else None
        return Specimen(node=f"m{at}", created=created, blocks=blocks)

    def values(self, at: int) -> Float32:
        """All weights of one sketch."""
        return to_float32(self.weights[at].tobytes(), "BF16")


def main() -> None:
    """Draw, infer, add, infer again, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--added", type=int, default=100)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--undated", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = asked.models + asked.added
        shelf = draw(Path(folder) / "sketches", count, asked.rows, dated=not asked.undated)
        print(f"{count} sketches of {shelf.weights.shape[1]:,} weights, dated: {shelf.dated}")
        measure(shelf, first=asked.models)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


def measure(shelf: Shelf, *, first: int) -> None:
    """Infer the first models at once, then the rest as additions."""
    compute = Compute(device="auto")
    start = time.process_time()
    residents = [resident(shelf.specimen(at)) for at in range(len(shelf.parents))]
    told("thin samples", start, len(residents))
    start = time.process_time()
    rows = np.stack([np.concatenate(list(one.thin.weights.values())) for one in residents])
    nearest_rows(rows, compute=compute)
    told("candidates of all pairs alone", start, len(residents))
    del rows
    start = time.process_time()
    whole, _ = infer_crowd(residents[:first], shelf.fetch, compute=compute)
    told("placed", start, first)
    print(f"sketches read {shelf.reads:,}")
    score("all at once", shelf, edges_of(whole), range(first))
    known: dict[str, list[KnownParent]] = {}
    for edge in whole.edges:
        known.setdefault(edge.child, []).append(
            KnownParent(parent=edge.parent, relation=edge.relation)
        )
    add(shelf, residents, known, first=first, compute=compute)


def add(
    shelf: Shelf,
    residents: Sequence[Resident],
    known: dict[str, list[KnownParent]],
    *,
    first: int,
    compute: Compute,
) -> None:
    """Place the models that came last, and say what it cost."""
    new = {one.node for one in residents[first:]}
    if not new:
        return
    start = time.process_time()
    more, decided = infer_crowd(residents, shelf.fetch, compute=compute, known=known, again=new)
    told(f"{len(new)} added ({len(decided)} placed)", start, len(new))
    score("added", shelf, {e for e in edges_of(more) if e[0] in new}, range(first, len(residents)))


def edges_of(inference: Inference) -> set[tuple[str, str]]:
    """(child, parent) among published models: one behind a hidden model is that model's."""
    above = {edge.child: edge.parent for edge in inference.edges}
    found = set()
    for edge in inference.edges:
        parent = edge.parent
        while not published(parent):
            parent = above[parent]
        found.add((edge.child, parent))
    return found


def told(what: str, start: float, count: int) -> None:
    """One line of timing."""
    seconds = time.process_time() - start
    print(f"{what}: {seconds:.1f} s of CPU, {1000 * seconds / max(1, count):.1f} ms a model")


def score(what: str, shelf: Shelf, got: set[tuple[str, str]], models: range) -> None:
    """F1 of directed edges; of models with equal weights the first is meant, whatever made them."""
    first = originals(shelf)
    true = {
        (at, first[parent] if first[at] == at else first[at])
        for at in models
        for parent in shelf.parents[at]
    }
    found = {(int(child[1:]), first[int(parent[1:])]) for child, parent in got if published(child)}
    right = len(true & found)
    print(f"{what}: F1 {2 * right / max(1, len(true) + len(found)):.4f} ({right} of {len(true)})")


def published(node: str) -> bool:
    """Whether the node is a model of the shelf, and not one that was inferred."""
    return not node.startswith("hidden:")


def originals(shelf: Shelf) -> list[int]:
    """For each model the first one with its weights."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.sha256(row.tobytes()).digest() for row in shelf.weights)
    return [seen.setdefault(digest, at) for at, digest in enumerate(digests)]


def draw(path: Path, count: int, rows: int, *, dated: bool) -> Shelf:
    """A tree of `count` models, each made of earlier ones."""
    chance = np.random.default_rng(7)
    width = len(ROLES) * len(LAYERS) * rows * COLUMNS
    weights = np.memmap(path, dtype=np.uint16, mode="w+", shape=(count, width))
    shelf = Shelf(weights=weights, rows=rows, dated=dated)
    roots: list[int] = []
    for at in range(count):
        if at % ROOT_EVERY == 0 or not roots:
            roots.append(at)
            values, parents = chance.normal(0, 0.02, width).astype(np.float32), ()
        else:
            values, parents = descend(shelf, roots, at, chance)
        weights[at] = to_bfloat16(values)
        shelf.parents.append(parents)
    return shelf


def descend(
    shelf: Shelf, roots: list[int], at: int, chance: np.random.Generator
) -> tuple[Float32, tuple[int, ...]]:
    """Weights of a new model and what it was made from: most from a hub, others from anyone."""
    parent = int(chance.choice(roots)) if chance.random() < 0.4 else int(chance.integers(at))
    values, kind = shelf.values(parent), str(chance.choice(KINDS))
    block = shelf.rows * COLUMNS
    if kind == "copy":
        return values, (parent,)
    if kind == "round":
        groups = values.reshape(-1, 32)
        step = np.abs(groups).max(axis=1, keepdims=True) / 7
        return (np.round(groups / np.where(step > 0, step, 1)) * step).ravel(), (parent,)
    siblings = [i for i, of in enumerate(shelf.parents[-200:], max(0, at - 200)) if of == (parent,)]
    if kind == "merge" and len(siblings) > 1:
        first, second = chance.choice(siblings, 2, replace=False).tolist()
        return (0.6 * shelf.values(first) + 0.4 * shelf.values(second)), (first, second)
    size = np.float32(0.02 * 10 ** chance.uniform(-2.0, -0.8))
    if kind == "adapter":
        at_block = block * int(chance.integers(values.size // block))
        low = np.outer(chance.normal(size=shelf.rows), chance.normal(size=COLUMNS))
        values[at_block : at_block + block] += (size * low).ravel().astype(np.float32)
        return values, (parent,)
    return values + size * chance.standard_normal(values.size, dtype=np.float32), (parent,)


def to_bfloat16(values: Float32) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


if __name__ == "__main__":
    main()
