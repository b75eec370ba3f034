"""Learn what the path clues are worth, from families trained for that alone.

    nice python benchmarks/learn_clues.py --seeds 301 302 303 304 305 306 307 308 --cache DIR
        [--zoos ZOO ...] [--write]

Trains toy families from seeds that are used nowhere else: fine-tunes S of a chat model P at several
rates, children and grandchildren of some of them, and pairs of fine-tunes of a model that is thrown
away. Every pair (C, S) in which C is nearer to S than S's parent is to C is measured with
`modelkin.lineage.infer.path`, and all pairs of families whose steps are drawn instead of trained.
An additive logistic model then weighs the clues, once for "child or other kin" and once for
"siblings through an unpublished model or siblings trained apart": each clue gets a piecewise linear
curve between quantiles of its values, pulled towards a straight and level one; how rare unpublished
parents are comes on top. Printed are the errors on families left out of the fit, beside those of
straight lines alone; `--write` puts
the curves of all families into `lineage/infer/likelihood.json`. `--zoos` adds
what placement meets in zoos (`python -m benchmarks.zoo`; see `path_cases`), which must not be the
ones that accuracy is measured on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from path_cases import Case, zoo_cases
from scipy.optimize import minimize
from toy_language import FAREWELLS, KINDS, Domain, World, build_tokenizer
from toys import Recipe, Toy, fine_tune, publish, train

from modelkin.lineage.infer.likelihood import featurise
from modelkin.lineage.infer.path import path_clues, take_sample
from modelkin.lineage.infer.specimen import Block, Specimen, shared_matrices
from modelkin.lineage.records import RoleKey

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from families import Weights, fresh, published, specimens_of, trained

Float64 = NDArray[np.float64]

DRAWN = range(900, 924)
RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
STEPS = (40, 60, 90, 140)
QUANTILES = (0.02, 0.2, 0.4, 0.6, 0.8, 0.98)
"""Where a curve has its knots; beyond the outer ones it is level."""
LEVEL = 0.3
STRAIGHT = 1.0
"""Penalties on the rises of a curve and on their differences from its mean rise."""
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
# Which way a clue can only speak for a child: a curve that turns is chance.
SIGNS = {"low": 1, "own_left": -1, "own_low": 1, "edge_bits": 1}


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


def main() -> None:
    """Train or load the families, measure, fit, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--zoos", type=Path, nargs="+", default=[], help="zoos to learn from, too")
    parser.add_argument("--cache", type=Path, default=Path(".cache/clues"))
    parser.add_argument("--check", type=Path, nargs="+", default=[], help="zoos to look at only")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    families = [load(seed, asked.cache) for seed in asked.seeds]
    cases = [case for family in families for case in measure(family)]
    cases += [case for zoo in asked.zoos for case in zoo_cases(zoo)]
    cases += [case for seed in DRAWN for case in measure(drawn_family(seed), near_only=False)]
    kin = [case for case in cases if not case.child]
    child = scorer(cases, [case.child for case in cases], signs=SIGNS)
    hidden = scorer(kin, [case.hidden for case in kin], prior=log_odds_of_hidden(kin))
    report("child against other kin", cases, [case.child for case in cases], signs=SIGNS)
    check = [case for zoo in asked.check for case in zoo_cases(zoo)]
    if check:
        found = fit(table(cases), [case.child for case in cases], signs=signs_of(cases, SIGNS))
        truth = np.array([case.child for case in check])
        print(
            f"\nzoos not fitted on, {len(check)} steps: {judged(found.odds(table(check)), truth)}"
        )
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


def drawn_family(seed: int) -> Family:
    """A family whose steps are drawn, not trained: siblings that share little or nothing.

    Trained toys all learn one language. Without these no curve would have seen a sibling that
    has none of the path, or an own step of a thousandth of it.
    """
    draw = random.Random(seed)
    base = published(fresh(seed))
    weights = {"base": base, "P": published(trained(base, seed=100 * seed + 1, size=0.2))}
    parents: dict[str, str | None] = {"base": None, "P": "base"}
    hidden: dict[str, str] = {}
    common = draw.choice((0.0, 0.0, 0.3, 0.6, 0.75))
    numbers = itertools.count(100 * seed + 2)

    def grow(parent: Weights, least: float) -> Weights:
        size = math.exp(draw.uniform(math.log(least), math.log(0.1)))
        share = min(1.0, common * 1.3 * draw.random())
        return trained(parent, seed=next(numbers), size=size, data=seed, common=share)

    def add(name: str, parent: str, least: float) -> None:
        weights[name], parents[name] = published(grow(weights[parent], least)), parent

    for i in range(draw.randint(2, 6)):
        add(f"S{i}", "P", 0.02)
        if i < 4:
            add(f"C{i}", f"S{i}", 0.002)
        if i < 2:
            add(f"D{i}", f"C{i}", 0.005)
    for h in range(draw.randint(0, 2)):
        unpublished = grow(weights["P"], 0.02)
        for i in range(2):
            name = f"H{h}.{i}"
            weights[name] = published(grow(unpublished, 0.005))
            parents[name], hidden[name] = "P", f"H{h}"
    members = {one.node: one for one in specimens_of(weights)}
    return Family(seed=10_000 + seed, members=members, parents=parents, hidden=hidden)


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


def measure(family: Family, *, near_only: bool = True) -> Iterator[Case]:
    """Every pair that nearest-neighbour placement could meet below the chat model.

    `near_only` leaves out pairs of which S is no nearer to C than C's origin is.
    """
    names = list(family.members)
    group = [family.members[name] for name in names]
    at = {name: i for i, name in enumerate(names)}
    sample = take_sample(group, shared_matrices(group))
    for child, via, origin in triples(family):
        c, s, p = (sample.rows[at[name]] for name in (child, via, origin))
        if near_only and float(np.square(c - s).sum()) >= float(np.square(c - p).sum()):
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
            group=str(family.seed),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """An additive model: `knots` (features, k), `parts` (features, k) their heights."""

    knots: Float64
    parts: Float64
    intercept: float

    def odds(self, x: Float64) -> Float64:
        """(cases,) log-odds of (cases, features) values."""
        columns = zip(x.T, self.knots, self.parts, strict=True)
        heights = [np.interp(column, knots, parts) for column, knots, parts in columns]
        total: Float64 = np.sum(heights, axis=0) + self.intercept
        return total


def fit(
    x: Float64, y: Sequence[bool], *, signs: Sequence[int] = (), straight: float = STRAIGHT
) -> Fit:
    """The most likely curves under the penalties; both classes weigh the same.

    Parameters
    ----------
    x : (cases, features).
    signs : for each feature 1 or -1 where its curve may only rise or fall, 0 elsewhere.
    straight : how dear it is to bend; a very large value leaves straight lines.
    """
    truth = np.asarray(y, dtype=np.float64)
    weight = np.where(truth > 0, (1 - truth).sum() / max(1.0, truth.sum()), 1.0)
    knots = np.quantile(x, QUANTILES, axis=0).T  # (features, k)
    knots += np.arange(knots.shape[1]) * 1e-4  # never two at one place
    ramps = np.concatenate([_ramps(c, k) for c, k in zip(x.T, knots, strict=True)], axis=1)
    centre = ramps.mean(axis=0)
    pieces = len(QUANTILES) - 1
    widths = np.diff(knots, axis=1) / (knots[:, -1:] - knots[:, :1])

    def loss(p: Float64) -> tuple[float, Float64]:
        odds = (ramps - centre) @ p[:-1] + p[-1]
        slope = weight * (1 / (1 + np.exp(-odds)) - truth)
        rises = p[:-1].reshape(-1, pieces)
        bend = rises - widths * rises.sum(axis=1, keepdims=True)
        penalty = LEVEL * np.square(rises).sum() + straight * np.square(bend).sum()
        back = bend - (bend * widths).sum(axis=1, keepdims=True)
        gradient = (ramps - centre).T @ slope + 2 * (LEVEL * rises + straight * back).ravel()
        value = (weight * np.logaddexp(0, np.where(truth > 0, -odds, odds))).sum() + penalty
        return float(value), np.append(gradient, slope.sum())

    wanted = np.repeat(signs if len(signs) else [0] * x.shape[1], pieces)
    bounds = [((0, None), (None, None), (None, 0))[1 - sign] for sign in wanted.tolist()]
    start = np.zeros(ramps.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[*bounds, (None, None)]).x
    rises = found[:-1].reshape(-1, pieces)
    parts = np.concatenate([np.zeros((len(rises), 1)), rises.cumsum(axis=1)], axis=1)
    columns = zip(x.T, knots, parts, strict=True)
    parts -= np.array([np.interp(column, k, p).mean() for column, k, p in columns])[:, None]
    return Fit(knots=knots, parts=parts, intercept=float(found[-1]))


def _ramps(column: Float64, knots: Float64) -> Float64:
    """(cases, k - 1): how far each value is through each piece between two knots."""
    through: Float64 = np.clip((column[:, None] - knots[:-1]) / np.diff(knots), 0, 1)
    return through


def log_odds_of_hidden(kin: Sequence[Case]) -> float:
    """How much rarer siblings through an unpublished model are than siblings trained apart."""
    hidden = sum(case.hidden for case in kin)
    return math.log(hidden / (len(kin) - hidden)) if 0 < hidden < len(kin) else 0.0


def scorer(
    cases: Sequence[Case], y: Sequence[bool], *, signs: Mapping[str, int] = {}, prior: float = 0.0
) -> dict[str, object]:
    """The fitted curves as `likelihood.json` holds them, each clue with its error alone."""
    x = table(cases)
    found = fit(x, y, signs=signs_of(cases, signs))
    features = [
        {
            "name": name,
            "knots": [round(k, 5) for k in knots],
            "parts": [round(p, 4) for p in parts],
            "error": stump_error(column, np.asarray(y)),
        }
        for name, knots, parts, column in zip(
            cases[0].features, found.knots.tolist(), found.parts.tolist(), x.T, strict=True
        )
    ]
    return {"intercept": round(found.intercept + prior, 5), "features": features}


def signs_of(cases: Sequence[Case], signs: Mapping[str, int]) -> list[int]:
    """The sign each feature may have, 0 for either."""
    return [signs.get(name, 0) for name in cases[0].features]


def stump_error(column: Float64, y: NDArray[np.bool_]) -> float:
    """Balanced error of the best single threshold on one clue, either way round."""
    errors = [
        (float(np.mean(column[y] < cut)) + float(np.mean(column[~y] >= cut))) / 2
        for cut in np.quantile(column, np.linspace(0.01, 0.99, 99))
    ]
    return round(min(min(errors), 1 - max(errors)), 3)


def left_out_odds(
    cases: Sequence[Case], y: Sequence[bool], signs: Mapping[str, int], *, straight: float
) -> Float64:
    """Log-odds of each case by the curves of all families but its own."""
    x, truth = table(cases), np.asarray(y)
    groups = np.array([case.group for case in cases])
    odds = np.zeros(len(cases))
    for group in np.unique(groups):
        left = groups == group
        found = fit(
            x[~left], truth[~left].tolist(), signs=signs_of(cases, signs), straight=straight
        )
        odds[left] = found.odds(x[left])
    return odds


def judged(odds: Float64, truth: NDArray[np.bool_]) -> str:
    """How well log-odds tell the two classes apart, in words."""
    yes, no = odds[truth], odds[~truth]
    auc = float(np.mean(yes[:, None] > no[None, :]))
    return (
        f"missed {np.mean(yes < 0):.3f}, false {np.mean(no >= 0):.3f}, "
        f"misjudged {np.mean((odds >= 0) != truth):.3f}, area under the curve {auc:.3f}"
    )


def report(
    title: str, cases: Sequence[Case], y: Sequence[bool], *, signs: Mapping[str, int] = {}
) -> None:
    """Print the errors on families left out of the fit, and each clue's curve."""
    x, truth = table(cases), np.asarray(y)
    print(f"\n{title}: {truth.sum()} against {(~truth).sum()}, ", end="")
    print(f"{len({case.group for case in cases})} families")
    odds = left_out_odds(cases, y, signs, straight=STRAIGHT)
    print(f"curves, left-out families: {judged(odds, truth)}")
    lines = left_out_odds(cases, y, signs, straight=1e6)
    print(f"straight lines, left-out families: {judged(lines, truth)}")
    print("| clue | error alone | rise of its curve |\n|---|---|---|")
    parts = fit(x, truth.tolist(), signs=signs_of(cases, signs)).parts
    for name, column, part in zip(cases[0].features, x.T, parts, strict=True):
        print(f"| {name} | {stump_error(column, truth):.3f} | {part[-1] - part[0]:+.2f} |")


if __name__ == "__main__":
    main()
