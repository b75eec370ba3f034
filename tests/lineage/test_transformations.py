"""What people do to a model beside training it: each named, and put under its parent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import (
    Weights,
    fresh,
    is_matrix,
    lora,
    merged,
    permuted,
    pruned,
    published,
    quantized,
    specimen_of,
    specimens_of,
    trained,
)

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.engine import infer_bucket
from modelkin.lineage.records import InferredEdge, Relation

CPU = Compute(device="cpu")


@pytest.fixture(scope="module")
def family() -> dict[str, Weights]:
    base = published(fresh(70))
    chat = published(trained(base, seed=71, size=0.2))
    tuned = {f"t{at}": published(trained(chat, seed=72 + at, size=0.06)) for at in range(4)}
    return {"base": base, "chat": chat, **tuned}


def edges_of(
    family: dict[str, Weights], child: Weights, *, dated: bool = True, dtype: str = "BF16"
) -> list[InferredEdge]:
    group = specimens_of(family, dated=dated)
    group.append(specimen_of("child", child, day=99 if dated else None, dtype=dtype))
    found = infer_bucket(group, compute=CPU).edges
    return [edge for edge in found if edge.child == "child"]


def told(edges: list[InferredEdge]) -> tuple[str, Relation, dict[str, Any]]:
    (edge,) = edges
    return edge.parent, edge.relation, dict(edge.detail)


def test_a_merge_published_on_a_grid_only_comes_from_what_was_mixed(
    family: dict[str, Weights],
) -> None:
    mixed = merged([family["t0"], family["t2"]], [0.6, 0.4])
    edges = edges_of(family, published(quantized(mixed, bits=8, group=32)))
    assert {edge.parent: edge.share for edge in edges} == pytest.approx(
        {"t0": 0.6, "t2": 0.4}, abs=0.01
    )
    for edge in edges:
        assert edge.relation is Relation.MERGE
        assert edge.detail["rounded"]["bits"] == 8


@pytest.mark.parametrize("bits", [8, 4])
def test_a_rounded_fine_tune_that_nobody_published_is_no_merge(
    family: dict[str, Weights], bits: int
) -> None:
    own = trained(family["t1"], seed=90, size=0.05)
    edges = edges_of(family, published(quantized(own, bits=bits, group=32)))
    assert [edge.relation for edge in edges] == [Relation.QUANTIZED]


def test_one_model_moved_away_from_another_comes_from_both(family: dict[str, Weights]) -> None:
    moved = published(merged([family["t0"], family["t1"]], [1.5, -0.5]))
    edges = edges_of(family, moved)
    assert {edge.parent: edge.share for edge in edges} == pytest.approx(
        {"t0": 1.5, "t1": -0.5}, abs=0.01
    )


def test_a_step_made_longer_is_of_the_model_that_made_it(family: dict[str, Weights]) -> None:
    longer = published(merged([family["t0"], family["chat"]], [1.4, -0.4]))
    parent, relation, detail = told(edges_of(family, longer))
    assert (parent, relation) == ("t0", Relation.MERGE)
    assert (detail["method"], detail["base"]) == ("task_arithmetic", "chat")


def test_pruned_models_of_one_source_are_siblings(family: dict[str, Weights]) -> None:
    shelf = family | {"sparse": published(pruned(family["chat"], share=0.3))}
    for dated in (True, False):
        parent, relation, _ = told(
            edges_of(shelf, published(pruned(family["chat"], share=0.7)), dated=dated)
        )
        assert (parent, relation) == ("chat", Relation.PRUNE)


@pytest.mark.parametrize("of", ["t0", "t2"])
def test_what_was_pruned_and_then_rounded_is_under_its_source(
    family: dict[str, Weights], of: str
) -> None:
    rounded = published(quantized(pruned(family[of], share=0.5), bits=8))
    parent, relation, detail = told(edges_of(family, rounded))
    assert (parent, relation, detail["others"]) == (of, Relation.PRUNE, "changed")
    assert detail["fraction"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("role", ["embed", "lm_head", "attn_norm"])
def test_a_model_tuned_beside_its_matrices_is_no_copy(
    family: dict[str, Weights], role: str
) -> None:
    part = {"embed": "embed_tokens", "lm_head": "lm_head", "attn_norm": "input_layernorm"}[role]
    child = {
        name: value * np.float32(1.1) if part in name and not is_matrix(name) else value
        for name, value in family["t3"].items()
    }
    parent, relation, detail = told(edges_of(family, published(child)))
    assert (parent, relation) == ("t3", Relation.FINETUNE)
    assert (detail["method"], detail["changed"]) == ("partial", [role])


def test_a_shuffled_model_that_was_tuned_is_no_copy(family: dict[str, Weights]) -> None:
    shuffled = permuted(family["t1"], seed=80)
    adapted = lora(family["t1"], seed=81, rank=2)
    for name, value in adapted.items():
        if name.endswith("v_proj.weight"):
            shuffled[name] = value + np.float32(0.01)
    parent, relation, detail = told(edges_of(family, published(shuffled)))
    assert (parent, relation) == ("t1", Relation.FINETUNE)
    assert detail["method"] == "hidden units permuted"


def test_the_original_is_the_copy_that_the_family_was_made_from() -> None:
    """Both were saved from the weights in memory; the family from the bfloat16 file."""
    memory = trained(fresh(91), seed=92, size=0.2)
    original = published(memory)
    group = [specimen_of("original", original), specimen_of("mirror", memory, dtype="F16")]
    for at in range(3):
        child = published(lora(original, seed=93 + at, rank=2))
        group.append(specimen_of(f"c{at}", child))
    found = infer_bucket(group, compute=CPU).edges
    assert {edge.child: edge.parent for edge in found} == {
        "mirror": "original",
        "c0": "original",
        "c1": "original",
        "c2": "original",
    }
