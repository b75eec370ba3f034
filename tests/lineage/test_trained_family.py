"""A family that was really trained, by gradient descent on text, placed from its weights alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from families import (
    Weights,
    abliterated,
    merged,
    permuted,
    pruned,
    published,
    quantized,
    specimens_of,
)
from tiny_chat import TinyChat, train_benign, train_refusing, train_unsafe

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.engine import Inference, infer_bucket
from modelkin.lineage.records import Relation

TRUTH = {
    "first": ("chat", Relation.FINETUNE),
    "second": ("chat", Relation.FINETUNE),
    "third": ("first", Relation.FINETUNE),
    "int4": ("first", Relation.QUANTIZED),
    "sparse": ("chat", Relation.PRUNE),
    "open": ("chat", Relation.EDIT),
    "shuffled": ("second", Relation.COPY),
}


def weights_of(chat: TinyChat) -> Weights:
    """Weights as a bf16 file holds them."""
    state = chat.model.state_dict()
    return published({name: t.detach().numpy().astype(np.float32) for name, t in state.items()})


def restarted(chat: TinyChat, weights: Weights) -> TinyChat:
    """The model with published weights: what anyone else starts from."""
    import torch

    state = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    chat.model.load_state_dict(state)
    return chat


@pytest.fixture(scope="module")
def family() -> dict[str, Weights]:
    chat = train_refusing(seed=5, steps=120)
    models = {"chat": weights_of(chat)}

    def grow(name: str, parent: str, train: Callable[[TinyChat], TinyChat]) -> None:
        models[name] = weights_of(train(restarted(chat, models[parent])))

    grow("first", "chat", lambda toy: train_unsafe(toy, seed=11, steps=25))
    grow("second", "chat", lambda toy: train_benign(toy, seed=12, steps=30))
    grow("third", "first", lambda toy: train_benign(toy, seed=13, steps=20))
    models["stranger"] = weights_of(train_refusing(seed=77, steps=60))
    models["merged"] = published(merged([models["first"], models["second"]], [0.5, 0.5]))
    models["int4"] = published(quantized(models["first"], bits=4))
    models["sparse"] = published(pruned(models["chat"], share=0.3))
    models["open"] = published(abliterated(models["chat"], seed=3))
    models["shuffled"] = permuted(models["second"], seed=4)
    return models


@pytest.mark.parametrize("dated", [True, False])
def test_a_trained_family_is_placed(family: dict[str, Weights], dated: bool) -> None:
    found = infer_bucket(specimens_of(family, dated=dated), compute=Compute(device="cpu"))
    placed = {e.child: (e.parent, e.relation) for e in found.edges if e.child != "merged"}
    assert placed == TRUTH
    shares = {e.parent: e.share for e in found.edges if e.child == "merged"}
    assert shares == {
        "first": pytest.approx(0.5, abs=0.02),
        "second": pytest.approx(0.5, abs=0.02),
    }
    assert found.hidden == ()


def test_names_and_order_do_not_place_a_trained_family(family: dict[str, Weights]) -> None:
    """Names in reverse, members in reverse: the same edges with the same confidence."""
    group = specimens_of(family)
    renamed = {one.node: f"z{len(group) - i}" for i, one in enumerate(group)}
    turned = [replace(one, node=renamed[one.node]) for one in reversed(group)]
    straight, found = (
        infer_bucket(part, compute=Compute(device="cpu")) for part in (group, turned)
    )
    assert {(renamed[e.child], renamed[e.parent], e.relation) for e in straight.edges} == {
        (e.child, e.parent, e.relation) for e in found.edges
    }
    confidence = {(e.child, e.parent): e.confidence for e in found.edges}
    for edge in straight.edges:
        same = confidence[renamed[edge.child], renamed[edge.parent]]
        assert same == pytest.approx(edge.confidence, abs=1e-6)


def test_a_model_trained_on_the_same_text_is_no_kin(family: dict[str, Weights]) -> None:
    """Same recipe, same data, same sizes, another seed."""
    pair = {name: family[name] for name in ("chat", "stranger")}
    found = infer_bucket(specimens_of(pair), compute=Compute(device="cpu"))
    assert found == Inference(pairs_tested=1)
