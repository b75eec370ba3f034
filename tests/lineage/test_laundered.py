"""The source of a model whose weights were changed and whose function was not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from families import (
    Size,
    Weights,
    fresh,
    is_writer,
    lora,
    permuted,
    published,
    quantized,
    specimen_of,
    specimens_of,
    trained,
)

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.engine import infer_bucket
from modelkin.lineage.infer.kinship import measure_kinship
from modelkin.lineage.infer.laundered import Laundering, find_source
from modelkin.lineage.infer.specimen import Specimen
from modelkin.lineage.infer.unwash import procrustes
from modelkin.lineage.records import Relation

HEAD = 16
QUERIES = 2
CPU = Compute(device="cpu")
LARGE = Size(hidden=1024, inner=1024, layers=2, kv=256, vocabulary=40)
"""Twenty rows of every matrix are sampled, and 32 of the embedding."""

Wash = Callable[[Weights, np.random.Generator], Weights]


def swap_units(weights: Weights, draw: np.random.Generator) -> Weights:
    return permuted(weights, seed=int(draw.integers(2**31)))


def swap_heads(weights: Weights, draw: np.random.Generator) -> Weights:
    """The key-value heads turned round, and the queries in each of their groups."""
    out = dict(weights)
    for name, value in weights.items():
        blocks = value.shape[0] // HEAD if name.endswith(("q_proj.weight",)) else 0
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            out[name] = value.reshape(-1, HEAD, value.shape[1])[::-1].reshape(value.shape)
        if blocks:
            out[name] = value.reshape(-1, HEAD, value.shape[1])[::-1].reshape(value.shape)
        if name.endswith("o_proj.weight"):
            turned = value.T.reshape(-1, HEAD, value.shape[0])[::-1].reshape(value.T.shape)
            out[name] = np.ascontiguousarray(turned.T)
    return out


def rescale(weights: Weights, draw: np.random.Generator) -> Weights:
    """Up against down and value against output, by factors from a quarter to four."""
    out = dict(weights)
    for name, value in weights.items():
        scale = np.exp2(draw.uniform(-2, 2, size=(value.shape[0], 1))).astype(np.float32)
        if name.endswith("up_proj.weight"):
            down = name.replace("up_proj", "down_proj")
            out |= {name: value * scale, down: weights[down] / scale.T}
        if name.endswith("v_proj.weight"):
            out_name = name.replace("v_proj", "o_proj")
            spread = np.repeat(scale.reshape(-1, 1, HEAD), QUERIES, axis=1).reshape(1, -1)
            out |= {name: value * scale, out_name: weights[out_name] / spread}
    return out


def swap_channels(weights: Weights, draw: np.random.Generator) -> Weights:
    """The residual channels in another order, half of them with the other sign."""
    width = weights["model.norm.weight"].size
    order = draw.permutation(width)
    sign = draw.choice([-1, 1], size=width).astype(np.float32)
    out = {}
    for name, value in weights.items():
        if value.ndim == 1:
            out[name] = value[order]
        elif is_writer(name):
            out[name] = value[order] * sign[:, None]
        else:
            out[name] = np.ascontiguousarray(value[:, order] * sign)
    return out


def rotate(weights: Weights, draw: np.random.Generator) -> Weights:
    """The residual space turned at random, the gains of the norms folded away before."""
    width = weights["model.norm.weight"].size
    turn, _ = np.linalg.qr(draw.normal(size=(width, width)))
    out = {}
    for name, value in folded(weights).items():
        turned = value
        if value.ndim == 2:
            turned = turn.T @ value if is_writer(name) else value @ turn
        out[name] = turned.astype(np.float32)
    return out


def folded(weights: Weights) -> Weights:
    out = {n: np.ones_like(v) if v.ndim == 1 else v for n, v in weights.items()}
    for name, value in weights.items():
        layer = name.rpartition(".self_attn.")[0] or name.rpartition(".mlp.")[0]
        if "lm_head" in name:
            out[name] = value * weights["model.norm.weight"]
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            out[name] = value * weights[f"{layer}.input_layernorm.weight"]
        elif name.endswith(("gate_proj.weight", "up_proj.weight")):
            out[name] = value * weights[f"{layer}.post_attention_layernorm.weight"]
    return out


WASHES: dict[str, tuple[Wash, ...]] = {
    "mlp-permutation": (swap_units,),
    "head-permutation": (swap_heads,),
    "rescaled": (rescale,),
    "basis-permutation": (swap_channels,),
    "basis-rotation": (rotate,),
    "mlp-permutation head-permutation": (swap_units, swap_heads),
    "mlp-permutation basis-permutation": (swap_channels, swap_units),
    "mlp-permutation rescaled": (swap_units, rescale),
    "mlp-permutation head-permutation rescaled basis-rotation": (
        swap_units,
        swap_heads,
        rescale,
        rotate,
    ),
}


def washed(weights: Weights, washes: tuple[Wash, ...], *, seed: int = 0) -> Weights:
    draw = np.random.default_rng([41, seed])
    for wash in washes:
        weights = wash(weights, draw)
    return published(weights)


def relatives(seed: int, size: Size) -> dict[str, Weights]:
    base = published(fresh(seed, size))
    chat = published(trained(base, seed=seed + 1, size=0.2))
    first = published(trained(chat, seed=seed + 2, size=0.06))
    return {
        "base": base,
        "chat": chat,
        "first": first,
        "adapted": published(lora(chat, seed=seed + 3)),
        "int4": published(quantized(chat, bits=4)),
    }


@pytest.fixture(scope="module")
def family() -> dict[str, Weights]:
    return relatives(80, Size())


@pytest.fixture(scope="module")
def bucket(family: dict[str, Weights]) -> list[Specimen]:
    strangers = {f"other-{node}": w for node, w in relatives(90, Size()).items()}
    return [specimen_of(node, weights) for node, weights in (family | strangers).items()]


def ask(child: Weights, bucket: list[Specimen]) -> tuple[str | None, Laundering | None]:
    found = find_source(specimen_of("child", child), bucket, compute=CPU)
    return (None if found is None else bucket[found.candidate].node), found


@pytest.mark.parametrize("first", ["chat", "edited"])
def test_a_twin_by_what_is_compared_is_not_taken_for_the_source(
    family: dict[str, Weights], first: str
) -> None:
    edited = {
        n: v * 1.5 if n.endswith("down_proj.weight") else v for n, v in family["chat"].items()
    }
    both = {"chat": family["chat"], "edited": edited}
    names = [first, *(both.keys() - {first})]
    group = [specimen_of(name, both[name]) for name in names]
    child = specimen_of("child", washed(family["chat"], WASHES["basis-rotation"]))
    above = {names.index("edited"): names.index("chat")}
    found = find_source(child, group, compute=CPU, above=above)
    assert found is not None
    assert names[found.candidate] == "chat"


@pytest.mark.parametrize("source", ["chat", "first", "adapted"])
@pytest.mark.parametrize("done", WASHES)
def test_the_source_is_found_and_what_was_done_is_named(
    family: dict[str, Weights], bucket: list[Specimen], done: str, source: str
) -> None:
    node, found = ask(washed(family[source], WASHES[done]), bucket)
    assert node == source
    assert found is not None
    assert found.done == tuple(done.split())
    assert found.p_value < 1e-12
    assert found.residual < 1e-4


@pytest.mark.parametrize("done", WASHES)
def test_what_was_trained_afterwards_is_still_found(
    family: dict[str, Weights], bucket: list[Specimen], done: str
) -> None:
    later = published(trained(washed(family["first"], WASHES[done]), seed=5, size=0.05))
    node, found = ask(later, bucket)
    assert node == "first"
    assert found is not None
    assert found.done == tuple(done.split())


def test_these_models_resemble_nobody_directly(family: dict[str, Weights]) -> None:
    """What the washes hide: no hidden unit is like the one in its place."""
    child = specimen_of("child", washed(family["chat"], (swap_heads, swap_units, rotate)))
    pair = [child, specimen_of("chat", family["chat"])]
    assert not measure_kinship(pair, compute=CPU).related(0, 1)


def test_models_of_another_family_are_no_source(family: dict[str, Weights]) -> None:
    for seed in range(5):
        others = relatives(200 + 10 * seed, Size())
        group = [specimen_of(node, weights) for node, weights in others.items()]
        for child in (family["chat"], washed(family["chat"], (swap_units, rotate))):
            assert ask(child, group) == (None, None)


def test_a_shared_embedding_alone_is_no_source(family: dict[str, Weights]) -> None:
    """Models of one tokenizer and text have embeddings that lie alike."""
    stranger = fresh(300)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        stranger[name] = family["chat"][name]
    group = [specimen_of("chat", family["chat"])]
    assert ask(published(stranger), group) == (None, None)
    assert ask(washed(stranger, (swap_units, rotate)), group) == (None, None)


def test_an_extended_vocabulary_does_not_hide_the_source(
    family: dict[str, Weights], bucket: list[Specimen]
) -> None:
    child = washed(family["first"], (swap_units, rotate))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        child[name] = np.concatenate([child[name], child[name][:3]])
    assert ask(child, bucket)[0] == "first"


def test_a_later_model_is_no_source(family: dict[str, Weights]) -> None:
    child = specimen_of("child", washed(family["chat"], (rotate,)), day=3)
    early, late = (specimen_of("chat", family["chat"], day=day) for day in (1, 5))
    assert find_source(child, [late], compute=CPU) is None
    found = find_source(child, [late, early], compute=CPU)
    assert found is not None
    assert found.candidate == 1


def test_a_few_rows_of_a_large_model_tell_a_change_of_basis() -> None:
    family = relatives(400, LARGE)
    bucket = [specimen_of(node, weights) for node, weights in family.items()]
    for wash in (rotate, swap_channels):
        node, found = ask(washed(family["first"], (wash,)), bucket)
        assert node == "first"
        assert found is not None
        assert found.p_value < 1e-6


def test_a_few_rows_of_a_large_model_leave_shuffled_units_in_a_new_basis_open() -> None:
    """The sampled units of the two are different ones: there is nothing to compare."""
    chat = published(fresh(410, LARGE))
    bucket = [specimen_of("chat", chat)]
    assert ask(washed(chat, (swap_units, swap_heads, rotate)), bucket) == (None, None)


def test_models_without_an_embedding_are_left_alone(family: dict[str, Weights]) -> None:
    bare = {n: w for n, w in family["chat"].items() if "embed" not in n}
    assert ask(bare, [specimen_of("chat", family["chat"])]) == (None, None)
    assert ask(family["chat"], [specimen_of("bare", bare)]) == (None, None)
    assert ask(family["chat"], []) == (None, None)


@pytest.mark.parametrize(("rows", "width"), [(60, 16), (5, 16), (9, 400)])
def test_procrustes_undoes_a_rotation(rows: int, width: int) -> None:
    draw = np.random.default_rng(rows)
    b = draw.normal(size=(rows, width)).astype(np.float32)
    turn, _ = np.linalg.qr(draw.normal(size=(width, width)))
    a = (b @ turn).astype(np.float32)
    u, v = procrustes(a, b)
    assert u.shape == v.shape == (width, min(rows, width))
    np.testing.assert_allclose(a @ u, b @ v, atol=1e-5)
    np.testing.assert_allclose(u.T @ u, np.eye(u.shape[1]), atol=1e-5)


@pytest.mark.parametrize("dated", [True, False])
def test_a_bucket_hangs_a_washed_family_under_its_source(dated: bool) -> None:
    """A turned model resembles nobody; it and its child hang together under what it was."""
    draw = np.random.default_rng(7)
    base = published(fresh(70))
    chat = published(trained(base, seed=71, size=0.2))
    turned = published(rotate(chat, draw))
    models = {
        "base": base,
        "chat": chat,
        "first": published(trained(chat, seed=72, size=0.05)),
        "second": published(trained(chat, seed=73, size=0.05)),
        "turned": turned,
        "child": published(trained(turned, seed=74, size=0.05)),
        "stranger": published(fresh(75)),
    }
    found = infer_bucket(specimens_of(models, dated=dated), compute=CPU)
    parents = {edge.child: edge for edge in found.edges}
    assert parents["turned"].parent == "chat"
    assert parents["turned"].relation is Relation.COPY
    unsure = {} if dated else {"direction": "unsure"}
    told = {"method": "laundered", "undone": ["basis-rotation"]}
    assert parents["turned"].detail == told | unsure
    assert parents["child"].parent == "turned"
    assert "stranger" not in parents
    assert "stranger" not in {edge.parent for edge in found.edges}
