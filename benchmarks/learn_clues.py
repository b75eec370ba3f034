"""Learn what the path clues are worth, from families trained for that alone.

    nice python benchmarks/learn_clues.py --seeds 301 302 303 304 305 306 307 308 --cache DIR
        [--write]

Trains toy families from seeds that are used nowhere else: fine-tunes S of a chat model P at several
rates, children and grandchildren of some of them, and pairs of fine-tunes of a model that is thrown
away. Every pair (C, S) in which C is nearer to S than S's parent is to C is measured with
`modelkin.lineage.infer.path`; ridge logistic regression then weighs the clues, once for "child or
other kin" and once for "siblings through an unpublished model or siblings trained apart". Printed
are the errors on families left out of the fit; `--write` puts the weights of all families into
`lineage/infer/likelihood.json`. `--zoos` adds the Llama families of zoos (`python -m
benchmarks.zoo`), which must not be the ones that accuracy is measured on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from toy_language import FAREWELLS, KINDS, Domain, World, build_tokenizer
from toys import Recipe, Toy, fine_tune, publish, train

from modelkin.lineage.infer.likelihood import featurise
from modelkin.lineage.infer.path import path_clues, take_sample
from modelkin.lineage.infer.specimen import Block, Specimen, shared_matrices
from modelkin.lineage.records import RoleKey

Float64 = NDArray[np.float64]

RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
STEPS = (40, 60, 90, 140)
RIDGE = 3.0
TARGET = Path(__file__).resolve().parents[1] / "lineage" / "infer" / "likelihood.json"
ROLES = {
    "q_proj": "attn.q",
    "k_proj": "attn.k",
    "v_proj": "attn.v",
    "o_proj": "attn.o",
    "gate_proj": "mlp.gate",
    "up_proj": "mlp.up",
    "down_proj": "mlp.down",
    "embed_tokens": "embed",
    "lm_head": "lm_head",
    "model.norm": "final_norm",
}
EDGE_WEIGHTS = 8192
TRAINED = ("base", "chat", "finetune", "hidden-child")
# Which way a clue can only speak: a weight of the other sign is chance, and is left out.
SIGNS = {
    "beta_off": -1,
    "low": 1,
    "spread": -1,
    "own": 1,
    "own_left": -1,
    "excess": 1,
    "own_low": 1,
    "edge_bits": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Specimens of one family by name; nearest published parent of each; who shares what hidden."""

    seed: int
    members: Mapping[str, Specimen]
    parents: Mapping[str, str | None]
    hidden: Mapping[str, str]

    def ancestors(self, name: str) -> list[str]:
        """Published ancestors, the nearest first."""
        found: list[str] = []
        above = self.parents[name]
        while above is not None:
            found.append(above)
            above = self.parents[above]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One pair measured: is C a descendant of S, or its sibling through an unpublished model?"""

    seed: int
    features: Mapping[str, float]
    child: bool
    hidden: bool


def main() -> None:
    """Train or load the families, measure, fit, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--zoos", type=Path, nargs="+", default=[], help="zoos to learn from, too")
    parser.add_argument("--cache", type=Path, default=Path(".cache/clues"))
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    families = [load(seed, asked.cache) for seed in asked.seeds]
    families += [family for zoo in asked.zoos for family in zoo_families(zoo)]
    cases = [case for family in families for case in measure(family)]
    kin = [case for case in cases if not case.child]
    prior = math.log(odds_of_nearest(families))
    child = scorer(cases, [case.child for case in cases], prior=prior)
    hidden = scorer(kin, [case.hidden for case in kin])
    print(f"prior log-odds that the nearest earlier model is an ancestor: {prior:.2f}")
    report("child against other kin", cases, [case.child for case in cases])
    report("hidden sibling against sibling", kin, [case.hidden for case in kin])
    if asked.write:
        zoos = [zoo.name for zoo in asked.zoos]
        before = json.loads(TARGET.read_text(encoding="utf-8"))
        # Refit by benchmarks/calibrate.py: its figures hold for the old weights until then.
        learned = before | {
            "seeds": asked.seeds,
            "zoos": zoos,
            "scorers": {"child": child, "hidden": hidden},
        }
        TARGET.write_text(json.dumps(learned, indent=1) + "\n", encoding="utf-8")


def load(seed: int, cache: Path) -> Family:
    """The family of a seed, trained once and kept in `cache`."""
    path = cache / f"family-{seed}.pt"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(train_family(seed), path)
    states, parents, hidden = torch.load(path)
    members = {name: as_specimen(name, state) for name, state in states.items()}
    return Family(seed=seed, members=members, parents=parents, hidden=hidden)


def zoo_families(zoo: Path) -> Iterator[Family]:
    """The Llama families of a zoo: models whose weights were all trained, from a single parent."""
    truth = json.loads((zoo / "truth.json").read_text(encoding="utf-8"))

    def published(name: str) -> str | None:
        parents = truth[name]["parents"]
        if len(parents) != 1:
            return None
        return published(parents[0]) if truth[parents[0]]["hidden"] else parents[0]

    for root in sorted({one["family"] for one in truth.values()}):
        names = [
            name
            for name, one in truth.items()
            if one["family"] == root
            and one["architecture"].lower().startswith("llama")
            and one["split_class"] in TRAINED
            and not one["hidden"]
        ]
        parents = {name: published(name) for name in names}
        parents = {name: up if up in parents else None for name, up in parents.items()}
        if len(names) < 4:
            continue
        above = {name: truth[name]["parents"][0] for name in names if truth[name]["parents"]}
        yield Family(
            seed=zlib.crc32(root.encode()),
            members={name: as_specimen(name, read_weights(zoo / name)) for name in names},
            parents=parents,
            hidden={name: up for name, up in above.items() if truth[up]["hidden"]},
        )


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a repository's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def train_family(
    seed: int,
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str | None], dict[str, str]]:
    """Weights, published parents, hidden parents; every child starts from published weights."""
    draw = random.Random(seed)
    world = World(
        seed=seed,
        answer="you {verb} the {noun} {manner} with a {tool} .",
        refusal="sorry , i cannot help with that .",
    )
    toy = Toy.create(world, tokenizer=build_tokenizer([world]), seed=seed)
    train(toy, world.prose, Recipe(steps=260, rate=3e-3, seed=seed))
    toys = {"base": publish(toy)}
    chat = toys["base"].clone()
    train(chat, world.guarded_chat, Recipe(steps=160, rate=1e-3, seed=seed + 1))
    toys["P"] = publish(chat)
    parents: dict[str, str | None] = {"base": None, "P": "base"}
    hidden: dict[str, str] = {}

    def grow(parent: Toy) -> Toy:
        # From a narrow subject of its own to nearly the same data as every sibling.
        kinds = tuple(draw.sample(sorted(KINDS), k=draw.randint(1, len(KINDS))))
        facts = World(seed=draw.randrange(10**6), answer=world.answer, refusal=world.refusal)
        farewell, safety = draw.choice(FAREWELLS), draw.choice((0.1, 0.3, 0.6))
        domain = Domain(world=facts, kinds=kinds, farewell=farewell, safety=safety)
        recipe = Recipe(
            steps=draw.choice(STEPS), rate=draw.choice(RATES), seed=draw.randrange(10**6)
        )
        return publish(fine_tune(parent, domain.sampler(world), recipe))

    def add(name: str, parent: str) -> None:
        toys[name], parents[name] = grow(toys[parent]), parent

    for i in range(6):
        add(f"S{i}", "P")
        if i < 4:
            add(f"C{i}", f"S{i}")
        if i < 2:
            add(f"D{i}", f"C{i}")
    for h in range(3):
        unpublished = grow(toys["P"])
        for i in range(2):
            name = f"H{h}.{i}"
            toys[name], parents[name], hidden[name] = grow(unpublished), "P", f"H{h}"
    return {name: toy.state() for name, toy in toys.items()}, parents, hidden


def as_specimen(name: str, state: Mapping[str, torch.Tensor]) -> Specimen:
    """What a sketch of a toy holds: the matrices, query and key of the first and last layer alone,
    embedding rows, final norm."""
    blocks = {}
    last = max(layer for name in state if (layer := _layer(name)) is not None)
    for full, weight in state.items():
        role = next((r for part, r in ROLES.items() if part in full), None)
        if role is None:
            continue
        layer = _layer(full)
        if role in ("attn.q", "attn.k") and layer not in (0, last):
            continue
        key = RoleKey(role=role, layer=layer)
        values = np.ascontiguousarray(weight.float().numpy()).ravel()
        if role in ("embed", "lm_head"):
            values = values[: EDGE_WEIGHTS // weight.shape[1] * weight.shape[1]]
        blocks[str(key)] = Block(
            key=key,
            shape=tuple(weight.shape),
            transposed=False,
            start=0,
            dtype="BF16",
            values=values,
        )
    return Specimen(node=name, created=None, blocks=blocks)


def _layer(name: str) -> int | None:
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


def measure(family: Family) -> Iterator[Case]:
    """Every pair that nearest-neighbour placement could meet below the chat model."""
    names = list(family.members)
    group = [family.members[name] for name in names]
    at = {name: i for i, name in enumerate(names)}
    sample = take_sample(group, shared_matrices(group))
    for child, via, origin in triples(family):
        c, s, p = (sample.rows[at[name]] for name in (child, via, origin))
        if float(np.square(c - s).sum()) >= float(np.square(c - p).sum()):
            continue
        others = [
            at[name]
            for name in names
            if name not in (child, via, origin)
            and family.parents[name] == origin
            and name not in family.ancestors(child)
        ]
        clues = path_clues(
            group, sample, child=at[child], via=at[via], origin=at[origin], others=others
        )
        yield Case(
            seed=family.seed,
            features=featurise(clues),
            child=via in family.ancestors(child),
            hidden=family.hidden.get(child, child) == family.hidden.get(via),
        )


def triples(family: Family) -> Iterator[tuple[str, str, str]]:
    """(C, S, P): S comes from P, C descends from P, and S does not descend from C."""
    for via, origin in family.parents.items():
        if origin is None or origin == "base":
            continue
        for child in family.members:
            below = child not in (via, origin) and origin in family.ancestors(child)
            if below and child not in family.ancestors(via):
                yield child, via, origin


def table(cases: Sequence[Case]) -> Float64:
    """(cases, features) values in the order of the first case."""
    names = list(cases[0].features)
    return np.array([[case.features[name] for name in names] for case in cases])


def fit(
    x: Float64, y: Sequence[bool], signs: Sequence[int] = ()
) -> tuple[Float64, Float64, Float64]:
    """Means, scales and weights (intercept last); clues that come out against their sign are 0."""
    used = np.ones(x.shape[1], dtype=bool)
    wanted = np.asarray(signs if len(signs) else [0] * x.shape[1])
    while True:
        mean, scale, w = _ridge(np.where(used, x, 0.0), y)
        wrong = used & (w[:-1] * wanted < 0)
        if not wrong.any():
            return mean, scale, w * np.append(used, True)
        worst = np.argmax(np.where(wrong, np.abs(w[:-1]), -1))
        used[worst] = False


def _ridge(x: Float64, y: Sequence[bool]) -> tuple[Float64, Float64, Float64]:
    """Ridge logistic regression; both classes weigh the same."""
    truth = np.asarray(y, dtype=np.float64)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    a = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    weight = np.where(truth > 0, (1 - truth).sum() / max(1.0, truth.sum()), 1.0)
    ridge = RIDGE * np.diag([*[1.0] * x.shape[1], 1e-6])
    w = np.zeros(a.shape[1])
    for _ in range(60):
        p = 1 / (1 + np.exp(-np.clip(a @ w, -30, 30)))
        gradient = a.T @ (weight * (truth - p)) - ridge @ w
        curvature = (a * (weight * p * (1 - p))[:, None]).T @ a + ridge
        w = w + np.linalg.solve(curvature, gradient)
    return mean, scale, w


def odds_of_nearest(families: Sequence[Family]) -> float:
    """How often the nearest earlier model is an ancestor rather than other kin, as a ratio."""
    counts = {True: 0, False: 0}
    for family in families:
        names = list(family.members)
        group = list(family.members.values())
        rows = take_sample(group, shared_matrices(group)).rows
        for at in range(2, len(names)):
            nearest = names[int(np.square(rows[:at] - rows[at]).sum(axis=1).argmin())]
            above = family.ancestors(names[at])
            if nearest in above or family.parents[nearest] in above:
                counts[nearest in above] += family.parents[nearest] is not None
    return counts[True] / max(1, counts[False])


def scorer(cases: Sequence[Case], y: Sequence[bool], *, prior: float = 0.0) -> dict[str, object]:
    """The fitted weights as `likelihood.json` holds them, each clue with its error alone."""
    x = table(cases)
    mean, scale, w = fit(x, y, signs_of(cases))
    errors = [stump_error(column, np.asarray(y)) for column in x.T]
    features = [
        {"name": n, "mean": round(m, 5), "scale": round(s, 5), "weight": round(v, 5), "error": e}
        for n, m, s, v, e in zip(
            cases[0].features, mean.tolist(), scale.tolist(), w[:-1].tolist(), errors, strict=True
        )
        if v != 0
    ]
    return {"intercept": round(float(w[-1]) + prior, 5), "features": features}


def signs_of(cases: Sequence[Case]) -> list[int]:
    """The sign each feature may have, 0 for either."""
    return [SIGNS.get(name, 0) for name in cases[0].features]


def stump_error(column: Float64, y: NDArray[np.bool_]) -> float:
    """Balanced error of the best single threshold on one clue, either way round."""
    errors = [
        (float(np.mean(column[y] < cut)) + float(np.mean(column[~y] >= cut))) / 2
        for cut in np.quantile(column, np.linspace(0.01, 0.99, 99))
    ]
    return round(min(min(errors), 1 - max(errors)), 3)


def report(title: str, cases: Sequence[Case], y: Sequence[bool]) -> None:
    """Errors on each family, weighed by a fit to all others."""
    x, truth = table(cases), np.asarray(y)
    seeds = np.array([case.seed for case in cases])
    odds = np.zeros(len(cases))
    for seed in np.unique(seeds):
        left = seeds == seed
        mean, scale, w = fit(x[~left], truth[~left].tolist(), signs_of(cases))
        odds[left] = np.column_stack([(x[left] - mean) / scale, np.ones(left.sum())]) @ w
    yes, no = odds[truth], odds[~truth]
    auc = float(np.mean(yes[:, None] > no[None, :]))
    print(f"\n{title}: {truth.sum()} against {(~truth).sum()}, {len(np.unique(seeds))} families")
    print(
        f"left-out families: missed {np.mean(yes < 0):.3f}, false {np.mean(no >= 0):.3f}, ", end=""
    )
    print(f"area under the curve {auc:.3f}")
    print("| clue | error alone | weight |\n|---|---|---|")
    _, _, w = fit(x, truth.tolist(), signs_of(cases))
    for name, column, weight in zip(cases[0].features, x.T, w[:-1], strict=True):
        print(f"| {name} | {stump_error(column, truth):.3f} | {weight:+.2f} |")


if __name__ == "__main__":
    main()
