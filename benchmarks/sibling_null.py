"""Measure what tells a child from a sibling: the null behind the path thresholds of placement.

    nice python benchmarks/sibling_null.py --seeds 101 102 103 104

Trains small families from seeds that are used nowhere else. In each, several fine-tunes S of one
chat model P, children C of some of them, and pairs of fine-tunes of a model H that is thrown
away. For every ordered pair whose first member is nearer to the second than P is, the far-tail
beta and the own-path beta from P are printed as quantiles: for children (should be kept), for
siblings trained apart, and for siblings that share the unpublished H (should not).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from toy_language import FAREWELLS, KINDS, Domain, World, build_tokenizer
from toys import Recipe, Toy, fine_tune, publish, train

from modelkin.lineage.infer.geometry import Geometry, far_beta
from modelkin.lineage.infer.placement import OWN_PATH, SAME_PATH
from modelkin.lineage.infer.specimen import Block, Specimen
from modelkin.lineage.records import RoleKey

RATES = (1e-4, 2e-4, 4e-4, 8e-4)
STEPS = (50, 90, 140)
SIBLINGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Weights of one family by name, with the true parent of each (None for the chat model)."""

    weights: dict[str, np.ndarray]
    parents: dict[str, str | None]
    hidden: dict[str, str]


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103, 104])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows = [row for seed in seeds for row in measure(train_family(seed))]
    print(f"seeds {seeds}; thresholds in use: far {SAME_PATH}, own {OWN_PATH}\n")
    print("| pair | n | far 5 % | median | 95 % | own 5 % | median | 95 % | kept |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in ("child", "sibling", "hidden sibling"):
        found = np.array([(far, own) for k, far, own in rows if k == kind])
        if len(found) == 0:
            continue
        kept = np.mean((found[:, 0] >= SAME_PATH) & (found[:, 1] >= OWN_PATH))
        cells = [f"{q:.2f}" for column in found.T for q in np.quantile(column, (0.05, 0.5, 0.95))]
        print(f"| {kind} | {len(found)} | {' | '.join(cells)} | {kept:.2f} |")
    far, own, error = best_thresholds(rows)
    print(
        f"\nfewest errors, children and siblings weighing the same: far {far:.2f}, own {own:.2f},"
    )
    print(f"balanced error {error:.2f}")


def best_thresholds(rows: Sequence[tuple[str, float, float]]) -> tuple[float, float, float]:
    """The pair of thresholds with the least mean of missed children and kept siblings."""
    children = np.array([(far, own) for kind, far, own in rows if kind == "child"])
    siblings = np.array([(far, own) for kind, far, own in rows if kind != "child"])
    best = (0.0, 0.0, 1.0)
    for far in np.arange(0.5, 1.5, 0.02):
        for own in np.arange(0.1, 1.2, 0.02):
            missed = np.mean((children[:, 0] < far) | (children[:, 1] < own))
            kept = np.mean((siblings[:, 0] >= far) & (siblings[:, 1] >= own))
            error = float(missed + kept) / 2
            if error < best[2]:
                best = (float(far), float(own), error)
    return best


def train_family(seed: int) -> Family:
    """One family; every child starts from its parent's published bf16 weights."""
    draw = random.Random(seed)
    world = World(
        seed=seed,
        answer="you {verb} the {noun} {manner} with a {tool} .",
        refusal="sorry , i cannot help with that .",
    )
    toy = Toy.create(world, tokenizer=build_tokenizer([world]), seed=seed)
    train(toy, world.prose, Recipe(steps=260, rate=3e-3, seed=seed))
    train(toy, world.guarded_chat, Recipe(steps=160, rate=1e-3, seed=seed + 1))
    toys = {"P": publish(toy)}
    parents: dict[str, str | None] = {"P": None}
    hidden: dict[str, str] = {}

    def grow(name: str, parent: Toy) -> Toy:
        # From a narrow subject of its own to nearly the same data as every sibling.
        kinds = tuple(draw.sample(sorted(KINDS), k=draw.randint(1, len(KINDS))))
        facts = World(seed=draw.randrange(10**6), answer=world.answer, refusal=world.refusal)
        farewell, safety = draw.choice(FAREWELLS), draw.choice((0.1, 0.3, 0.6))
        domain = Domain(world=facts, kinds=kinds, farewell=farewell, safety=safety)
        recipe = Recipe(
            steps=draw.choice(STEPS), rate=draw.choice(RATES), seed=draw.randrange(10**6)
        )
        return publish(fine_tune(parent, domain.sampler(world), recipe))

    for i in range(SIBLINGS):
        toys[f"S{i}"], parents[f"S{i}"] = grow(f"S{i}", toys["P"]), "P"
        if i < 3:
            toys[f"C{i}"], parents[f"C{i}"] = grow(f"C{i}", toys[f"S{i}"]), f"S{i}"
    for h in range(2):
        unpublished = grow(f"H{h}", toys["P"])
        for i in range(2):
            name = f"H{h}.{i}"
            toys[name], parents[name], hidden[name] = grow(name, unpublished), "P", f"H{h}"
    return Family(
        weights={name: flat(toy) for name, toy in toys.items()}, parents=parents, hidden=hidden
    )


def flat(toy: Toy) -> np.ndarray:
    """Value, output and MLP matrices in one row: what a sketch holds."""
    kept = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    parts = [w for n, w in sorted(toy.state().items()) if any(k in n for k in kept)]
    return torch.cat([part.flatten() for part in parts]).numpy()


def measure(family: Family) -> Iterator[tuple[str, float, float]]:
    """(kind, far beta, own beta) of every pair that nearest-neighbour placement would propose."""
    names = list(family.weights)
    rows = np.stack([family.weights[name] for name in names])
    gram = (rows - rows[0]).astype(np.float64) @ (rows - rows[0]).astype(np.float64).T
    size = np.linalg.norm(rows, axis=1).astype(np.float64)
    geometry = Geometry(gram=gram, norms=size, floor=np.zeros(len(names)), blocks=("w",))
    specimens = [as_specimen(name, row) for name, row in zip(names, rows, strict=True)]
    for child in range(1, len(names)):
        for via in range(1, len(names)):
            kind = kind_of(family, names[child], names[via])
            if kind is None or not nearer(geometry, child, via):
                continue
            others = others_than(family, names, child, via)
            far = far_beta(specimens[child], specimens[via], specimens[0], blocks=("w",))
            yield kind, far, geometry.own_beta(child, via, origin=0, others=others)


def kind_of(family: Family, child: str, via: str) -> str | None:
    """What `child` is to `via`, for members `via` that come straight from P."""
    if child == via or family.parents[via] != "P":
        return None
    if family.parents[child] == via:
        return "child"
    if family.parents[child] != "P":
        return None
    same = child in family.hidden and family.hidden[child] == family.hidden.get(via)
    return "hidden sibling" if same else "sibling"


def nearer(geometry: Geometry, child: int, via: int) -> bool:
    """Whether `via` would be proposed as the parent before P."""
    return geometry.square_distance(child, via) < geometry.square_distance(child, 0)


def others_than(family: Family, names: Sequence[str], child: int, via: int) -> list[int]:
    """Members that stand for shared data: from P, neither of the pair, no descendant of `via`."""
    return [
        i
        for i, name in enumerate(names)
        if i not in (0, child, via) and family.parents[name] == "P" and i < child
    ]


def as_specimen(name: str, row: np.ndarray) -> Specimen:
    """One flat row as a specimen of a single block."""
    block = Block(
        key=RoleKey(role="raw:w"),
        shape=(row.size,),
        transposed=False,
        start=0,
        dtype="BF16",
        values=row,
    )
    return Specimen(node=name, created=None, blocks={"w": block})


if __name__ == "__main__":
    main()
