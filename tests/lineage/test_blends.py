"""Merges by layers and by masks: found with parents and weights, and nothing else taken for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from families import (
    Size,
    Weights,
    abliterated,
    changed,
    edited,
    fresh,
    is_matrix,
    lora,
    merged,
    pruned,
    published,
    quantized,
    specimen_of,
    specimens_of,
    trained,
)
from numpy.typing import NDArray

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.blends import Blend, find_blend
from modelkin.lineage.infer.engine import infer_bucket
from modelkin.lineage.infer.geometry import measure_geometry
from modelkin.lineage.records import Relation

CPU = Compute(device="cpu")
TINY = Size(hidden=48, inner=64, layers=4, kv=32, vocabulary=48)
SLOW = pytest.mark.slow
DTYPES = ["BF16", "F32", pytest.param("F16", marks=SLOW)]
BF16_FIRST = ["BF16", *(pytest.param(one, marks=SLOW) for one in ("F16", "F32"))]
Float64 = NDArray[np.float64]


def family(
    seed: int, *, count: int = 3, dtype: str = "BF16", common: float = 0.5
) -> tuple[Weights, list[Weights]]:
    """A base and fine-tunes of it, before publication; their deltas share `common` squared."""
    base = trained(fresh(seed, TINY), seed=seed + 90, size=0.2)
    base = published(base, dtype)
    sizes = (0.09, 0.07, 0.08, 0.06)
    tuned = [
        trained(base, seed=seed + 1 + i, size=sizes[i % 4], data=seed + 1, common=common)
        for i in range(count)
    ]
    return base, tuned


def blend_of(
    child: Weights,
    others: Sequence[Weights],
    *,
    dtype: str = "BF16",
    is_base: Callable[[int, Sequence[int]], bool] | None = None,
) -> Blend | None:
    """Of a child that is member 0 among others that are members 1, 2, ..."""
    group = [specimen_of(f"m{i}", w, dtype=dtype) for i, w in enumerate([child, *others])]
    geometry = measure_geometry(group, compute=CPU)
    near = sorted(range(1, len(group)), key=lambda i: geometry.square_distance(0, i))
    return find_blend(0, near, group, geometry, is_base=is_base)


def by_masks(
    base: Weights,
    parents: Sequence[Weights],
    make: Callable[[Float64], Float64],
) -> Weights:
    """base + make(deltas) in every tensor; deltas are (k, n) float64."""

    def step(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
        origin = value.astype(np.float64)
        deltas = np.stack([(p[name] - origin).reshape(-1) for p in parents])
        return (origin + make(deltas).reshape(value.shape)).astype(np.float32)

    return changed(base, step, only=lambda _: True)


def dare(shares: Sequence[float], drop: float, *, seed: int, elect: bool = False) -> object:
    """Drop at random, rescale what is kept, add up; with `elect`, drop the minority's sign."""
    draw = np.random.default_rng([41, seed])

    def make(deltas: Float64) -> Float64:
        kept = draw.random(deltas.shape) >= drop
        scaled = np.array(shares)[:, None] * deltas * kept / (1 - drop)
        if elect:
            scaled = np.where(np.sign(scaled) == np.sign(scaled.sum(axis=0)), scaled, 0)
        return np.asarray(scaled.sum(axis=0))

    return make


def ties(
    shares: Sequence[float], density: float, *, scale: float = 1.0, mean: bool = True
) -> object:
    """Trim the small, elect the sign, average what agrees (or, without `mean`, add it up)."""

    def make(deltas: Float64) -> Float64:
        least = np.quantile(np.abs(deltas), 1 - density, axis=1, keepdims=True)
        weight = np.array(shares)[:, None] * (np.abs(deltas) >= least)
        sign = np.sign((weight * deltas).sum(axis=0))
        weight = np.where(np.sign(deltas) == sign, weight, 0)
        total = (weight * deltas).sum(axis=0)
        size = weight.sum(axis=0) if mean else np.ones_like(total)
        return np.asarray(scale * total / np.where(size == 0, 1, size))

    return make


def slerp(a: Weights, b: Weights, t: Mapping[int | None, float]) -> Weights:
    """Each tensor along the great circle, at its layer's t."""

    def step(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
        x, y = value.astype(np.float64), b[name].astype(np.float64)
        angle = np.arccos((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
        at = t[layer_of(name)]
        mixed = np.sin((1 - at) * angle) * x + np.sin(at * angle) * y
        return (mixed / np.sin(angle)).astype(np.float32)

    return changed(a, step, only=lambda _: True)


def layer_of(name: str) -> int | None:
    return int(name.split(".")[2]) if ".layers." in name else None


def assert_found(
    found: Blend | None, method: str, shares: Mapping[int, float], *, within: float
) -> None:
    assert found is not None
    assert found.method == method
    assert found.weights == {m: pytest.approx(w, abs=within) for m, w in shares.items()}
    assert found.explained >= 0.99
    assert found.chance < found.explained


SHARES = {2: (0.6, 0.4), 3: (0.4, 0.35, 0.25)}


@pytest.mark.parametrize("dtype", BF16_FIRST)
@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize(
    ("k", "drop"), [(2, 0.5), (2, 0.9), pytest.param(2, 0.1, marks=SLOW), (3, 0.5)]
)
def test_dare_is_found_with_base_parents_and_weights(
    k: int, drop: float, elect: bool, dtype: str
) -> None:
    base, tuned = family(3 + k, dtype=dtype)
    known = [base, *(published(one, dtype) for one in tuned)]
    child = by_masks(base, known[1 : 1 + k], dare(SHARES[k], drop, seed=k, elect=elect))
    found = blend_of(published(child, dtype), known, dtype=dtype)
    shares = dict(zip(range(2, 2 + k), SHARES[k], strict=True))
    assert_found(found, "dare_ties" if elect else "dare", shares, within=0.03)
    assert found is not None
    assert found.base == 1
    assert found.detail["density"] == pytest.approx(1 - drop, abs=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("k", "density", "scale"), [(2, 0.5, 1.0), (2, 0.3, 0.7), (3, 0.6, 1.2)])
def test_ties_is_found_with_base_parents_and_weights(
    k: int, density: float, scale: float, mean: bool, dtype: str
) -> None:
    base, tuned = family(20 + k, dtype=dtype)
    known = [base, *(published(one, dtype) for one in tuned)]
    child = by_masks(base, known[1 : 1 + k], ties(SHARES[k], density, scale=scale, mean=mean))
    found = blend_of(published(child, dtype), known, dtype=dtype)
    factor = 1.0 if mean else scale
    shares = {2 + i: share * factor for i, share in enumerate(SHARES[k])}
    assert_found(found, "ties", shares, within=0.02)
    assert found is not None
    assert found.base == 1
    assert found.detail["density"] == pytest.approx(density, abs=0.05)
    assert found.detail.get("scale", scale) == pytest.approx(scale, abs=0.01)


@pytest.mark.parametrize("k", [2, 3])
def test_a_merge_of_unrounded_parents_is_found(k: int) -> None:
    """The merge was made before its parents were rounded for publication."""
    base, tuned = family(31)
    known = [base, *(published(one) for one in tuned)]
    shares = dict(zip(range(2, 2 + k), SHARES[k], strict=True))
    child = by_masks(base, tuned[:k], dare(SHARES[k], 0.5, seed=1))
    assert_found(blend_of(published(child), known), "dare", shares, within=0.03)
    child = by_masks(base, tuned[:k], ties(SHARES[k], 0.5))
    assert_found(blend_of(published(child), known), "ties", shares, within=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.3, 0.5])
def test_slerp_is_found_with_its_t(t: float, dtype: str) -> None:
    base, tuned = family(41, count=2, dtype=dtype)
    far = published(trained(base, seed=77, size=0.5), dtype)
    known = [base, *(published(one, dtype) for one in tuned), far]
    child = slerp(far, known[1], dict.fromkeys((None, 0, 1, 2, 3), 1 - t))
    found = blend_of(published(child, dtype), known, dtype=dtype)
    assert_found(found, "slerp", {2: 1 - t, 4: t}, within=0.02)
    assert found is not None
    last = list(found.weights)[-1]
    assert found.detail["t"] == pytest.approx(t if last == 4 else 1 - t, abs=0.01)
    assert "by_layer" not in found.detail


def test_slerp_along_a_curve_has_a_t_for_every_layer() -> None:
    base, tuned = family(42, count=2)
    far = published(trained(base, seed=78, size=0.5))
    known = [base, *(published(one) for one in tuned), far]
    curve = {None: 0.5, 0: 0.1, 1: 0.3, 2: 0.5, 3: 0.8}
    found = blend_of(published(slerp(far, known[1], curve)), known)
    assert found is not None
    assert found.method == "slerp"
    last = list(found.weights)[-1]
    due = [curve[i] if last == 2 else 1 - curve[i] for i in range(4)]
    assert list(found.detail["by_layer"].values()) == pytest.approx(due, abs=0.02)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_gradient_over_the_layers_is_found_with_its_weights(k: int, dtype: str) -> None:
    base, tuned = family(50 + k, dtype=dtype)
    known = [base, *(published(one, dtype) for one in tuned)]
    slope = {None: 0.5, 0: 0.0, 1: 0.2, 2: 0.4, 3: 0.6}

    def mixed(at: float) -> Weights:
        return merged(known[1 : 1 + k], [1 - at, at] if k == 2 else [0.8 - at, at, 0.2])

    steps = {layer: mixed(at) for layer, at in slope.items()}
    child = {name: steps[layer_of(name)][name] for name in base}
    found = blend_of(published(child, dtype), known, dtype=dtype)
    shares = {2: 0.7, 3: 0.3} if k == 2 else {2: 0.5, 3: 0.3, 4: 0.2}
    assert_found(found, "linear", shares, within=0.02)
    assert found is not None
    place = list(found.weights).index(3)
    second = [row[place] for row in found.detail["by_layer"].values()]
    assert second == pytest.approx([0.0, 0.2, 0.4, 0.6], abs=0.02)


@pytest.mark.parametrize("picks", [(0, 0, 1, 1), (0, 1, 2, 0)])
def test_a_stack_of_copied_layers_is_found(picks: tuple[int, ...]) -> None:
    base, tuned = family(60)
    known = [base, *(published(one) for one in tuned)]
    child = {name: known[1 + picks[layer_of(name) or 0]][name] for name in base}
    found = blend_of(child, known)
    shares = {2 + one: picks.count(one) / 4 for one in set(picks)}
    assert_found(found, "passthrough", shares, within=0.01)
    assert found is not None
    assert found.detail["layers"] == {str(i): 2 + one for i, one in enumerate(picks)}


def test_a_base_that_its_parents_do_not_descend_from_is_refused() -> None:
    """The same values can be deltas from a sibling: only descent tells it from the base."""
    base, tuned = family(65)
    known = [base, *(published(one) for one in tuned)]
    for make in (dare((0.6, 0.4), 0.5, seed=5), ties((0.6, 0.4), 0.5)):
        child = published(by_masks(base, known[1:3], make))
        assert blend_of(child, known, is_base=lambda *_: False) is None
        found = blend_of(child, known, is_base=lambda one, _: one == 4)
        assert found is None or found.base == 4
        found = blend_of(child, known, is_base=lambda one, parents: one == 1 not in parents)
        assert found is not None
        assert found.base == 1


def test_the_base_is_an_ancestor_of_the_parents() -> None:
    """Deltas from the foundation model would give a merge of chat models the same values."""
    root = published(fresh(66, TINY))
    chat = published(trained(root, seed=67, size=0.2))
    tuned = [published(trained(chat, seed=68 + i, size=0.06)) for i in range(3)]
    child = published(by_masks(chat, tuned[:2], ties((0.6, 0.4), 0.5)))
    known = [root, chat, *tuned]
    above = {2: {1}, 3: {1, 2}, 4: {1, 2}, 5: {1, 2}}

    def is_base(one: int, parents: Sequence[int]) -> bool:
        return all(one in above.get(parent, set()) for parent in parents)

    found = blend_of(child, known, is_base=is_base)
    assert_found(found, "ties", {3: 0.6, 4: 0.4}, within=0.02)
    assert found is not None
    assert found.base == 2


def test_the_engine_names_a_base_that_both_parents_come_from() -> None:
    root = published(fresh(95, TINY))
    chat = published(trained(root, seed=96, size=0.2))
    tuned = [published(trained(chat, seed=97 + i, size=0.06)) for i in range(2)]
    child = published(by_masks(chat, tuned, dare((0.6, 0.4), 0.5, seed=6)))
    family = {"root": root, "chat": chat, "one": tuned[0], "two": tuned[1], "child": child}
    edges = infer_bucket(specimens_of(family), compute=CPU).edges
    made = [edge for edge in edges if edge.child == "child"]
    assert {edge.parent for edge in made} == {"one", "two"}
    assert {edge.relation for edge in made} == {Relation.MERGE}
    assert {edge.detail["base"] for edge in made} == {"chat"}


def test_weights_picked_from_two_members_are_no_deltas_from_a_third() -> None:
    """Around any far base, keeping one of two parents' deltas at each weight gives such a child."""
    root = published(fresh(55, TINY))
    chat = published(trained(root, seed=56, size=0.2))
    tuned = published(trained(chat, seed=57, size=0.06))
    child = by_masks(chat, [tuned], ties((1.0,), 0.5))
    assert blend_of(published(child), [root, chat, tuned]) is None


def test_tensors_of_zeros_divide_nothing() -> None:
    base, tuned = family(58)
    known = [base, *(published(one) for one in tuned)]
    name = "model.layers.2.mlp.down_proj.weight"
    empty = [{**one, name: np.zeros_like(one[name])} for one in known]
    child = published(trained(known[1], seed=59, size=0.1))
    for one in (child, {**child, name: np.zeros_like(child[name])}):
        assert blend_of(one, known) is None
        assert blend_of(one, empty) is None
        assert blend_of(one, [*known[:2], *empty[2:]]) is None
    mixed = published(slerp(known[1], known[2], dict.fromkeys((None, 0, 1, 2, 3), 0.4)))
    found = blend_of({**mixed, name: np.zeros_like(mixed[name])}, empty)
    assert found is None or set(found.weights) == {2, 3}


def test_members_that_could_stand_for_a_parent_are_named() -> None:
    base, tuned = family(70)
    known = [base, *(published(one) for one in tuned)]
    nearly = published(trained(known[1], seed=71, size=1e-4))
    child = by_masks(base, known[1:3], dare((0.5, 0.5), 0.5, seed=2))
    found = blend_of(published(child), [*known, nearly])
    assert found is not None
    assert set(found.weights) | set(found.collinear) == {2, 3, 5}
    assert 3 in found.weights


def test_what_came_after_a_merge_is_not_the_merge() -> None:
    base, tuned = family(80)
    known = [base, *(published(one) for one in tuned)]
    for make in (dare((0.5, 0.5), 0.5, seed=3), ties((0.5, 0.5), 0.5)):
        child = by_masks(base, known[1:3], make)
        assert blend_of(published(trained(child, seed=81, size=0.02)), known) is None
    far = slerp(known[1], trained(base, seed=82, size=0.5), dict.fromkeys((None, 0, 1, 2, 3), 0.5))
    assert blend_of(published(trained(far, seed=83, size=0.02)), known) is None


def test_a_parent_that_nobody_published_leaves_no_blend() -> None:
    base, tuned = family(85)
    known = [base, *(published(one) for one in tuned)]
    for make in (dare((0.5, 0.5), 0.5, seed=4), ties((0.5, 0.5), 0.5)):
        child = published(by_masks(base, known[1:3], make))
        assert blend_of(child, [known[0], *known[2:]]) is None


def no_merges(seed: int, dtype: str) -> dict[str, Weights]:
    """What people make of one model, or of an exact affine mixture."""
    base, tuned = family(seed, dtype=dtype, common=(0.0, 0.3, 0.7)[seed % 3])
    known = [published(one, dtype) for one in tuned]
    size = (0.002, 0.01, 0.05, 0.2)[seed % 4]
    gate = "model.layers.1.mlp.gate_proj.weight"
    return {
        "sibling": trained(base, seed=seed + 11, size=0.07, data=seed + 1, common=0.7),
        "child": trained(known[0], seed=seed + 12, size=size),
        "tuned matrices": changed(
            trained(known[0], seed=seed + 13, size=size), lambda _, v: v, only=is_matrix
        ),
        "adapted": lora(known[0], seed=seed + 14),
        "adapted twice": lora(lora(base, seed=seed + 15), seed=seed + 16, only=["o_proj"]),
        "pruned": pruned(known[1], share=0.3),
        "edited": edited(known[1], seed=seed + 17, name=gate),
        "open": abliterated(known[0], seed=seed + 18),
        "int8": quantized(known[0], bits=8),
        "int4": quantized(base, bits=4),
        "linear": merged(known[:2], [0.6, 0.4]),
        "arithmetic": merged([base, *known[:2]], [-0.2, 0.7, 0.5]),
        "merge trained on": trained(merged(known[:2], [0.5, 0.5]), seed=seed + 19, size=size),
        "copy": known[2],
    }


@pytest.mark.parametrize("seed", [100, *(pytest.param(i, marks=SLOW) for i in range(101, 109))])
def test_what_is_no_blend_is_never_called_one(seed: int) -> None:
    """9 families of 14 children: 126 chances to be wrong."""
    dtype = ("BF16", "F16", "F32")[seed % 3]
    base, tuned = family(seed, dtype=dtype, common=(0.0, 0.3, 0.7)[seed % 3])
    known = [base, *(published(one, dtype) for one in tuned)]
    for name, child in no_merges(seed, dtype).items():
        found = blend_of(published(child, dtype), known, dtype=dtype)
        assert found is None, (name, found)


def test_too_few_candidates_are_no_blend() -> None:
    base, tuned = family(90, count=2)
    assert blend_of(published(tuned[0]), [base]) is None
    assert blend_of(published(tuned[0]), [base, published(tuned[1])]) is None
