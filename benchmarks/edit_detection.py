"""How well a sketch tells a directional edit from everything else that is done to a model.

    python benchmarks/edit_detection.py [--families 2] [--children 24] [--pairs 1500] [--write]

Trains toy families and makes benign children of their chat models: fine-tunes, merged LoRA of rank
1 to 16, merges, round-to-nearest copies of 8, 4 and 3 bits, each also rounded again. Edits of
strength 0.1 to 1 are made along the refusal direction and along random ones, and rounded as
well. Everything is sketched by the plan and read by the probes as a stored sketch is. Printed are
the area under the ROC curve by strength and bits, the false positives at the published threshold
with an exact bound, and bias and coverage of the strength along a known direction. `--write`
publishes the thresholds and bounds in `lineage/safety/edit_null.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from toy_language import FAREWELLS, KINDS, Domain, World, build_tokenizer
from toys import (
    WRITERS,
    Recipe,
    Toy,
    abliterate,
    fine_tune,
    linear_merge,
    lora_merge,
    publish,
    quantize,
    train,
)

from modelkin.lineage.architectures.roles import assign_roles
from modelkin.lineage.infer.specimen import Specimen, specimen
from modelkin.lineage.safety.bands import bands_of
from modelkin.lineage.safety.edits import Direction, strength_along
from modelkin.lineage.safety.sketch_probes import (
    COHERENCE,
    CONSISTENCY,
    STRENGTH,
    probe_sketch,
    signature,
)
from modelkin.lineage.sketch.plan import choose_places, spans_of
from modelkin.lineage.sketch.sketch import Sketch, block_of
from modelkin.lineage.statistics import clopper_pearson

NULL = Path(__file__).resolve().parents[1] / "lineage" / "safety" / "edit_null.json"
STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
BITS = (None, 8, 4, 3)
TARGETS = (
    ("q_proj", "v_proj"),
    ("o_proj",),
    ("down_proj",),
    ("o_proj", "down_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the sketch said of one pair: consistency, strength, coherence and the verdict."""

    consistency: float
    strength: float
    coherence: float
    edited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A chat model with its benign children, all as published."""

    chat: Toy
    children: Mapping[str, Toy]


def main() -> None:
    """Train, edit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", type=int, default=2)
    parser.add_argument("--children", type=int, default=24, help="of each kind and family")
    parser.add_argument("--pairs", type=int, default=1500, help="merges and siblings a family")
    parser.add_argument("--seed", type=int, default=400)
    parser.add_argument("--write", action="store_true", help="publish thresholds and bounds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    benign: dict[str, list[Reading]] = {}
    edits: dict[tuple[float, int | None], list[Reading]] = {}
    for at in range(asked.families):
        family = grow(asked.seed + at, children=asked.children)
        for kind, reading in read_benign(family, pairs=asked.pairs, seed=asked.seed + at):
            benign.setdefault(kind, []).append(reading)
        for strength, bits, reading in read_edits(family, seed=asked.seed + at):
            edits.setdefault((strength, bits), []).append(reading)
        trained = family
    report(benign, edits)
    cover = list(coverage(trained.chat, seed=asked.seed))
    bias, share = np.mean([c[0] for c in cover]), np.mean([c[1] for c in cover])
    print(f"known direction: bias {bias:+.4f}, 95 % intervals cover {share:.3f} of {len(cover)}")
    print(f"{time.perf_counter() - began:.0f} s")
    if asked.write:
        publish_null([one for found in benign.values() for one in found])


def grow(seed: int, *, children: int) -> Family:
    """Train a base, a chat model that refuses, and benign children of it."""
    world = World(
        seed=seed,
        answer="to {verb} the {noun} , take the {tool} and work {manner} .",
        refusal="i am sorry , but i cannot help with that .",
    )
    rng = random.Random(seed)
    toy = Toy.create(world, tokenizer=build_tokenizer([world]), seed=seed)
    train(toy, world.prose, Recipe(steps=500, rate=3e-3, seed=seed))
    chat = publish(fine_tune(toy, world.guarded_chat, Recipe(steps=250, rate=1e-3, seed=seed)))
    found: dict[str, Toy] = {"base/0": publish(toy)}
    for at in range(children):
        kinds = tuple(rng.sample(list(KINDS), rng.choice([1, 2])))
        other = World(seed=1000 * seed + at, answer=world.answer, refusal=world.refusal)
        domain = Domain(world=other, kinds=kinds, farewell=FAREWELLS[at % 3], safety=0.25)
        sample = domain.sampler(world)
        steps, rate = rng.choice([15, 30, 60]), rng.choice([1e-4, 3e-4, 8e-4])
        recipe = Recipe(steps=steps, rate=rate, seed=at, decay=rng.choice([0.0, 0.1]))
        found[f"fine-tune/{at}"] = publish(fine_tune(chat, sample, recipe))
        rank, targets = rng.choice([1, 1, 4, 16]), rng.choice(TARGETS)
        slow = Recipe(steps=steps, rate=rng.choice([1e-3, 4e-3]), seed=at)
        lora = lora_merge(chat, sample, slow, rank=rank, targets=targets)
        found[f"lora r{rank}/{at}"] = publish(lora)
    return Family(chat=chat, children=found)


def read_benign(family: Family, *, pairs: int, seed: int) -> Iterator[tuple[str, Reading]]:
    """Every benign child against its parent, then merges, rounded copies and siblings."""
    chat = sketch(family.chat)
    rng = random.Random(seed)
    toys = dict(family.children)
    for name, toy in toys.items():
        yield from _read(name.split("/")[0], sketch(toy), chat)
    for bits in (8, 4, 3):
        for group in (16, 32, None):
            for symmetric in (True, False):
                copy = quantize(family.chat, bits=bits, group=group, symmetric=symmetric)
                yield from _read(f"{bits}-bit", sketch(publish(copy)), chat)
        for name, toy in toys.items():
            copy = publish(quantize(toy, bits=bits))
            yield from _read(f"{name.split('/')[0]}, {bits}-bit", sketch(copy), chat)
    sketches = {name: sketch(toy) for name, toy in toys.items()}
    for _ in range(pairs):
        a, b = rng.sample(list(toys), 2)
        share = rng.uniform(0.2, 0.8)
        merged = publish(linear_merge([toys[a], toys[b]], [share, 1 - share]))
        yield from _read("merge", sketch(merged), chat)
        yield from _read("sibling", sketches[a], sketches[b])


def read_edits(family: Family, *, seed: int) -> Iterator[tuple[float, int | None, Reading]]:
    """Edits along the refusal direction of each layer and along random ones, then rounded."""
    rng = np.random.default_rng(seed)
    tuned = next(toy for name, toy in family.children.items() if name.startswith("fine-tune"))
    for parent in (family.chat, tuned):
        before = sketch(parent)
        for strength in STRENGTHS:
            made = [abliterate(parent, layer=layer, strength=strength) for layer in (1, 2, 3)]
            made += [_random_edit(parent, rng, strength) for _ in range(6)]
            for toy in map(publish, made):
                for bits in BITS:
                    child = toy if bits is None else publish(quantize(toy, bits=bits))
                    for _, reading in _read("edit", sketch(child), before):
                        yield strength, bits, reading


@torch.no_grad()
def _random_edit(parent: Toy, rng: np.random.Generator, strength: float) -> Toy:
    """An edit of a toy along a heavy-tailed direction that no training knows."""
    child = parent.clone()
    weights = [w for name, w in child.matrices() if name.endswith(WRITERS)]
    r = torch.tensor(_direction(rng, weights[0].shape[0]), dtype=torch.float32)
    for weight in weights:
        weight -= strength * torch.outer(r, r @ weight)
    return child


def _direction(rng: np.random.Generator, width: int) -> NDArray[np.float64]:
    r = rng.standard_t(3, size=width)
    unit: NDArray[np.float64] = r / np.linalg.norm(r)
    return unit


def coverage(chat: Toy, *, seed: int, trials: int = 40) -> Iterator[tuple[float, bool]]:
    """Error of the strength along a known direction, and whether its interval held the truth."""
    rng = np.random.default_rng(seed)
    before = sketch(chat)
    filters = {
        f"{name.split('.')[2]}.{'attn.o' if 'o_proj' in name else 'mlp.down'}": weight
        for name, weight in chat.state().items()
        if name.endswith(WRITERS)
    }
    for strength in (0.25, 0.5, 1.0):
        for bits in BITS:
            for _ in range(trials):
                state = rng.bit_generator.state
                edited = publish(_random_edit(chat, rng, strength))
                again = np.random.default_rng()
                again.bit_generator.state = state
                r = _direction(again, next(iter(filters.values())).shape[0])
                child = edited if bits is None else publish(quantize(edited, bits=bits))
                known = Direction(
                    rows=r, filters={n: w.numpy().astype(float).T @ r for n, w in filters.items()}
                )
                found = strength_along(bands_of(sketch(child), before), known)
                if found is not None:
                    low, high = found.limits()
                    yield found.value - strength, low <= strength <= high


def sketch(toy: Toy) -> Specimen:
    """The toy as the plan samples it, in the bfloat16 that it is published in."""
    state = toy.state(torch.bfloat16)
    places = assign_roles([(name, tuple(w.shape)) for name, w in state.items()])
    named = {places[name].key: weight for name, weight in state.items() if name in places}
    planned = [key for key in choose_places(list(named)) if key in named]
    blocks = {}
    for span in spans_of({key: tuple(named[key].shape) for key in planned}):
        flat = named[span.key].flatten()[span.start : span.start + span.count]
        data = flat.view(torch.int16).numpy().tobytes()
        shape = tuple(named[span.key].shape)
        blocks[span.name] = block_of(span, shape=shape, transposed=False, dtype="BF16", data=data)
    return specimen("toy", Sketch(plan="toy", blocks=blocks), created=None)


def _read(kind: str, child: Specimen, parent: Specimen) -> Iterator[tuple[str, Reading]]:
    found = {one.probe: one for one in probe_sketch(child, parent, ancestor="parent")}
    yield (
        kind,
        Reading(
            consistency=found[CONSISTENCY].value or 0.0,
            strength=found[STRENGTH].value or 0.0,
            coherence=found[COHERENCE].value or 0.0,
            edited=bool(signature(found).edited),
        ),
    )


def report(
    benign: Mapping[str, Sequence[Reading]],
    edits: Mapping[tuple[float, int | None], Sequence[Reading]],
) -> None:
    """Print the nulls by kind, the power by strength and bits, and the false positives."""
    print(f"{'benign':24s} {'n':>5s} {'consistency max':>16s} {'coherence max':>14s} false")
    for kind, found in sorted(benign.items()):
        top = max(one.consistency for one in found)
        most, false = max(one.coherence for one in found), sum(one.edited for one in found)
        print(f"{kind:24s} {len(found):5d} {top:16.3f} {most:14.3f} {false:5d}")
    null = [one for found in benign.values() for one in found]
    print(f"\n{'edit':12s} {'n':>4s} {'AUC':>7s} {'AUC of coherence':>17s} {'found':>6s}")
    for (strength, bits), found in sorted(edits.items(), key=lambda e: (e[0][0], -(e[0][1] or 16))):
        label = f"{strength:g}, {bits or 16} bit"
        one = auc([r.consistency for r in found], [r.consistency for r in null])
        two = auc([r.coherence for r in found], [r.coherence for r in null])
        share = np.mean([r.edited for r in found])
        print(f"{label:12s} {len(found):4d} {one:7.4f} {two:17.4f} {share:6.2f}")
    false = sum(one.edited for one in null)
    bound = clopper_pearson(false, len(null), level=0.90).high
    print(f"\nfalse positives: {false} of {len(null)}, rate at most {bound:.2g} (95 %)")


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Probability that an edit scores above a benign change; ties count half."""
    a, b = np.asarray(positive)[:, None], np.asarray(negative)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def publish_null(null: Sequence[Reading]) -> None:
    """Write how many benign readings pass each threshold, with exact upper bounds."""
    data = json.loads(NULL.read_text())
    # The strength has no rate of its own: it is asked for beside the consistency.
    for statistic, field in ((CONSISTENCY, "consistency"), (COHERENCE, "coherence")):
        entry = data["statistics"][statistic]
        values = [getattr(one, field) for one in null]
        entry["n"] = len(values)
        entry["false"] = sum(value > entry["threshold"] for value in values)
        bound = clopper_pearson(entry["false"], len(values), level=0.90).high
        entry["rate_bound"] = float(f"{bound:.2g}")
    NULL.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
