"""How often independent models are called kin: the false-pair rate, measured.

    python benchmarks/independence.py [--models 145] [--steps 60] [--hidden 64] [--json FILE]

Trains models of one configuration that differ in their initialisation alone: same data, same
batches in the same order, same recipe, the hardest strangers there are. Children of one of them
(fine-tunes, a merged adapter, a quantized and a pruned copy) stand among them. All are written as
files, scanned into one bucket and put to the kinship test together. Printed are the pairs of
strangers that are called kin, with an exact bound, how uniform their p values are, and whether the
children are still found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.stats import kstest
from toy_language import FAREWELLS, Domain, World, build_tokenizer
from toys import Recipe, Toy, fine_tune, lora_merge, prune, publish, quantize, train

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.kinship import Kinship, measure_kinship
from modelkin.lineage.infer.specimen import Specimen, specimen
from modelkin.lineage.statistics import clopper_pearson
from modelkin.scanners.scan import Scanner, ScanPlan
from modelkin.scanners.sketch_records import load_sketch
from modelkin.scanners.sources.folder import FolderSource
from modelkin.store import Registry

BATCH = 16
RATE = 3e-3
PARENT = "independent/000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the test said.

    `false` of `pairs` of independent models are called kin; `p_values` (pairs,) of those;
    `largest` their largest agreement. `found` says of each child of the parent whether the two
    are kin and at which agreement; `strange` of `strangers` counts kin of children that are none.
    """

    models: int
    pairs: int
    false: int
    p_values: NDArray[np.float64]
    largest: float
    found: Mapping[str, tuple[bool, float]]
    strange: int
    strangers: int


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=145)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=5000, help="initialisations count from here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "zoo"
        for name, toy in grow(asked.models, asked.steps, asked.hidden, asked.seed):
            write(root / name, toy)
        trained = time.perf_counter()
        group = specimens(root, Path(folder) / "store")
        kinship = measure_kinship(group, compute=Compute(device="cpu"))
    outcome = judge(group, kinship)
    for line in report(outcome):
        print(line)
    print(f"\n{trained - began:.0f} s of training, {time.perf_counter() - trained:.0f} s of test")
    if asked.json:
        asked.json.write_text(json.dumps(as_json(outcome), indent=1))


def grow(models: int, steps: int, hidden: int, seed: int) -> Iterator[tuple[str, Toy]]:
    """The independent models, then the children of the first, as published."""
    world = World(
        seed=seed, answer="you {verb} the {noun} with a {tool} .", refusal="sorry , i cannot ."
    )
    tokenizer = build_tokenizer([world])
    first = None
    for at in range(models):
        toy = Toy.create(world, tokenizer=tokenizer, seed=seed + at, hidden=hidden)
        # One seed for all: every model sees the same texts in the same order.
        train(toy, world.prose, Recipe(steps=steps, rate=RATE, seed=seed, batch=BATCH))
        toy = publish(toy)
        first = first or toy
        yield f"independent/{at:03d}", toy
    if first is not None:
        for name, child in children(first, steps, seed):
            yield f"child/{name}", publish(child)


def children(parent: Toy, steps: int, seed: int) -> Iterator[tuple[str, Toy]]:
    """What people make of a model: one of each."""
    domain = Domain(world=parent.world, kinds=("food", "house"), farewell=FAREWELLS[0])
    sample = domain.sampler(parent.world)

    def recipe(rate: float) -> Recipe:
        return Recipe(steps=steps, rate=rate, seed=seed + 1, batch=BATCH)

    yield "finetune-mild", fine_tune(parent, sample, recipe(1e-4))
    yield "finetune-hard", fine_tune(parent, sample, recipe(1e-3))
    yield "lora", lora_merge(parent, sample, recipe(2e-3), rank=4)
    yield "int4", quantize(parent, bits=4)
    yield "int2", quantize(parent, bits=2)
    yield "pruned", prune(parent, share=0.3)


def write(folder: Path, toy: Toy) -> None:
    """One repository: weights in bf16 and a configuration."""
    folder.mkdir(parents=True)
    save_file(toy.state(torch.bfloat16), folder / "model.safetensors", metadata={"format": "pt"})
    toy.model.config.to_json_file(folder / "config.json")


def specimens(root: Path, store: Path) -> list[Specimen]:
    """Every model of the folder as inference sees it, through a scan and a store."""
    with Registry.open(store, create=True) as registry:
        scanner = Scanner(
            registry=registry, source=FolderSource(root), now=lambda: datetime.now(UTC)
        )
        asyncio.run(scanner.run(ScanPlan()))
        rows = registry.sketched()
        if len({row.shape_key for row in rows}) != 1:
            raise RuntimeError("the models did not fall into one bucket")
        return [
            specimen(row.model, load_sketch(registry.sketches, row.sketch_path), created=None)
            for row in rows
        ]


def judge(group: list[Specimen], kinship: Kinship) -> Outcome:
    """Sort the pairs into strangers, and children with and without their parent."""
    names = [one.node for one in group]
    independent = [i for i, name in enumerate(names) if name.startswith("independent/")]
    born = [i for i in range(len(names)) if i not in set(independent)]
    parent = names.index(PARENT)
    pairs = [(a, b) for a in independent for b in independent if b < a]
    apart = [(a, b) for a in born for b in independent if b != parent]
    return Outcome(
        models=len(independent),
        pairs=len(pairs),
        false=sum(kinship.related(a, b) for a, b in pairs),
        p_values=np.array([kinship.p_value[a, b] for a, b in pairs]),
        largest=max((float(kinship.agreement[a, b]) for a, b in pairs), default=0.0),
        found={
            names[at]: (kinship.related(at, parent), float(kinship.agreement[at, parent]))
            for at in born
        },
        strange=sum(kinship.related(a, b) for a, b in apart),
        strangers=len(apart),
    )


def report(one: Outcome) -> Iterator[str]:
    """Markdown."""
    limits = clopper_pearson(one.false, one.pairs)
    fit = kstest(one.p_values, "uniform")
    yield f"{one.models} independent models, {one.pairs:,} pairs of strangers\n"
    yield "| figure | value |"
    yield "|---|---|"
    yield (
        f"| strangers called kin | {one.false} of {one.pairs:,},"
        f" at most {limits.high:.2e} (Clopper-Pearson, 95 %) |"
    )
    yield f"| children called kin of strangers | {one.strange} of {one.strangers:,} |"
    yield f"| largest agreement of strangers | {one.largest:.4f} |"
    yield f"| smallest p value | {one.p_values.min():.2e}, expected {1 / one.pairs:.1e} |"
    for level in (0.1, 0.01, 0.001):
        share = float((one.p_values < level).mean())
        yield f"| share of p values below {level} | {share:.4f} |"
    yield f"| Kolmogorov-Smirnov distance to uniform | {fit.statistic:.4f} (p {fit.pvalue:.3g}) |"
    yield "\n| child of one of them | called kin | agreement |"
    yield "|---|---|---|"
    for name, (kin, agreement) in sorted(one.found.items()):
        yield f"| {name} | {'yes' if kin else 'NO'} | {agreement:.3f} |"


def as_json(one: Outcome) -> dict[str, object]:
    """Plain figures."""
    fit = kstest(one.p_values, "uniform")
    return {
        "models": one.models,
        "pairs": one.pairs,
        "false": one.false,
        "false_high": clopper_pearson(one.false, one.pairs).high,
        "strange": one.strange,
        "strangers": one.strangers,
        "largest": one.largest,
        "smallest_p": float(one.p_values.min()),
        "ks": float(fit.statistic),
        "ks_p": float(fit.pvalue),
        "found": {name: list(value) for name, value in one.found.items()},
    }


if __name__ == "__main__":
    main()
