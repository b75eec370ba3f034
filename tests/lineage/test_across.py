"""Parents of another shape: layers or hidden units taken out, layers repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from families import (
    SMALL,
    Size,
    Weights,
    fresh,
    lora,
    permuted,
    published,
    specimen_of,
    specimens_of,
    trained,
)
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.across import AcrossShapes, infer_across
from modelkin.lineage.infer.across_siblings import doubtful, outweighing
from modelkin.lineage.infer.alignment import longest_rise, match_units
from modelkin.lineage.infer.engine import infer_bucket
from modelkin.lineage.infer.specimen import Specimen
from modelkin.lineage.records import InferredEdge, Relation

HEAD = 16
CPU = Compute(device="cpu")


def restacked(weights: Weights, layers: Sequence[int]) -> Weights:
    """The given layers in that order, renumbered."""
    return stacked([weights], [(0, layer) for layer in layers])


def stacked(parents: Sequence[Weights], layers: Sequence[tuple[int, int]]) -> Weights:
    """Layers of several models; what stands outside comes from the first."""
    out = {name: value for name, value in parents[0].items() if ".layers." not in name}
    for at, (which, layer) in enumerate(layers):
        start = f"model.layers.{layer}."
        for name, value in parents[which].items():
            if name.startswith(start):
                out[f"model.layers.{at}.{name.removeprefix(start)}"] = value
    return out


def narrowed(weights: Weights, *, share: float) -> Weights:
    """The hidden units with the smallest gate rows taken out of every MLP."""
    out = dict(weights)
    for name, gate in weights.items():
        if name.endswith("gate_proj.weight"):
            order = np.argsort(np.linalg.norm(gate, axis=1))
            kept = np.sort(order[round(share * len(order)) :])
            up, down = name.replace("gate_proj", "up_proj"), name.replace("gate_proj", "down_proj")
            out |= {name: gate[kept], up: weights[up][kept], down: weights[down][:, kept].copy()}
    return out


def beheaded(weights: Weights, *, gone: int) -> Weights:
    """One key-value head taken out with the queries that it serves."""
    out = {}
    for name, value in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            value = np.delete(value, np.s_[gone * HEAD : (gone + 1) * HEAD], axis=0)
        wide = 2 * HEAD
        if name.endswith("q_proj.weight"):
            value = np.delete(value, np.s_[gone * wide : (gone + 1) * wide], axis=0)
        if name.endswith("o_proj.weight"):
            value = np.delete(value, np.s_[gone * wide : (gone + 1) * wide], axis=1)
        out[name] = np.ascontiguousarray(value)
    return out


CUTS = {
    "last but one layer": lambda w: restacked(w, [0, 1, 3]),
    "two layers": lambda w: restacked(w, [0, 3]),
    "neurons": lambda w: narrowed(w, share=0.3),
    "head": lambda w: beheaded(w, gone=1),
    "neurons and head": lambda w: beheaded(narrowed(w, share=0.2), gone=0),
    "neurons and layer": lambda w: restacked(narrowed(w, share=0.2), [0, 2, 3]),
}
DETAILS = {
    "last but one layer": {"kind": "depth", "layers": [0, 1, 3]},
    "two layers": {"kind": "depth", "layers": [0, 3]},
    "neurons": {"kind": "width", "removed": {"mlp": 48}},
    "head": {"kind": "width", "removed": {"value_rows": 16}},
    "neurons and head": {"kind": "width", "removed": {"mlp": 32, "value_rows": 16}},
    "neurons and layer": {
        "kind": "depth and width",
        "layers": [0, 2, 3],
        "removed": {"mlp": 32},
    },
}


@pytest.fixture(scope="module")
def family() -> dict[str, Weights]:
    base = published(fresh(40))
    chat = published(trained(base, seed=41, size=0.2))
    first, second = (published(trained(chat, seed=42 + i, size=0.06)) for i in range(2))
    return {
        "base": base,
        "chat": chat,
        "first": first,
        "second": second,
        "adapted": published(lora(first, seed=45)),
        "shuffled": permuted(first, seed=46),
        "stranger": published(fresh(47)),
    }


@pytest.fixture(scope="module")
def members(family: dict[str, Weights]) -> list[Specimen]:
    return [specimen_of(node, weights) for node, weights in family.items()]


def ask(child: Weights, candidates: Sequence[Specimen], **more: object) -> AcrossShapes:
    one = specimen_of("child", child, **more)  # type: ignore[arg-type]
    return infer_across([one], candidates, compute=CPU)


def only(found: AcrossShapes) -> InferredEdge:
    (edge,) = found.edges
    return edge


@pytest.mark.parametrize("parent", ["chat", "first", "adapted"])
@pytest.mark.parametrize("cut", CUTS)
def test_what_was_cut_is_under_its_parent(
    family: dict[str, Weights], members: list[Specimen], cut: str, parent: str
) -> None:
    edge = only(ask(CUTS[cut](family[parent]), members))
    assert (edge.parent, edge.relation, dict(edge.detail)) == (parent, Relation.PRUNE, DETAILS[cut])
    assert edge.confidence > 0.95
    assert edge.direction_confidence > 0.95


@pytest.mark.parametrize("cut", CUTS)
def test_what_was_healed_is_under_its_parent(
    family: dict[str, Weights], members: list[Specimen], cut: str
) -> None:
    healed = published(trained(CUTS[cut](family["first"]), seed=60, size=0.04))
    edge = only(ask(healed, members))
    assert (edge.parent, edge.relation) == ("first", Relation.PRUNE)
    assert {c.kind: c.p_value for c in edge.clues}["family"] < 1e-6


def test_a_cast_on_the_way_does_not_hide_the_parent(
    family: dict[str, Weights], members: list[Specimen]
) -> None:
    for cut in ("two layers", "neurons"):
        assert only(ask(CUTS[cut](family["second"]), members, dtype="F16")).parent == "second"


def test_a_nearer_sibling_is_left(family: dict[str, Weights]) -> None:
    """Two models taught the same are nearer to each other than to what they were made from."""
    chat = family["chat"]
    sibling = published(trained(chat, seed=71, data=5, common=0.8, size=0.08))
    group = [specimen_of("chat", chat), specimen_of("sibling", sibling)]
    taught = trained(chat, seed=72, data=5, common=0.8, size=0.08)
    child = specimen_of("child", published(restacked(taught, [0, 1, 3])))
    assert only(infer_across([child], group, compute=CPU)).parent == "sibling"
    told = infer_across([child], group, compute=CPU, parents={"sibling": "chat"})
    assert only(told).parent == "chat"
    assert [lost.parent for lost in told.rejected] == ["sibling"]
    assert "sibling" in told.rejected[0].rejected_because


def test_a_child_keeps_the_way_of_its_parent(family: dict[str, Weights]) -> None:
    group = [specimen_of(node, family[node]) for node in ("base", "chat", "first")]
    healed = published(trained(restacked(family["first"], [0, 1, 3]), seed=74, size=0.05))
    child = specimen_of("child", healed)
    known = {"first": "chat", "chat": "base"}
    assert only(infer_across([child], group, compute=CPU, parents=known)).parent == "first"


def test_repeated_layers_are_a_passthrough(
    family: dict[str, Weights], members: list[Specimen]
) -> None:
    edge = only(ask(restacked(family["second"], [0, 1, 2, 1, 2, 3]), members))
    assert (edge.parent, edge.relation) == ("second", Relation.MERGE)
    assert dict(edge.detail) == {"method": "passthrough", "layers": [0, 2, 1, 3]}
    assert edge.share is None


def test_layers_of_two_models_are_a_passthrough_of_both(
    family: dict[str, Weights], members: list[Specimen]
) -> None:
    layers = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    child = stacked([family["first"], family["second"]], layers)
    found = ask(child, members)
    assert {e.parent: e.share for e in found.edges} == {"first": 0.5, "second": 0.5}
    assert {e.relation for e in found.edges} == {Relation.MERGE}


def test_the_larger_is_not_the_child(family: dict[str, Weights]) -> None:
    for cut in ("two layers", "neurons", "head"):
        small = specimen_of("small", CUTS[cut](family["chat"]))
        found = ask(family["chat"], [small])
        assert found.pairs_related == 1
        assert found.edges == ()
        assert [lost.parent for lost in found.rejected] == ["small"]


def test_without_dates_a_stack_is_no_parent_of_what_it_repeats(family: dict[str, Weights]) -> None:
    stack = restacked(family["chat"], [0, 1, 2, 1, 2, 3])
    assert ask(family["chat"], [specimen_of("stack", stack)]).edges == ()
    edge = only(ask(stack, [specimen_of("chat", family["chat"])]))
    assert (edge.parent, edge.relation) == ("chat", Relation.MERGE)


def test_dates_bind(family: dict[str, Weights]) -> None:
    parent = specimen_of("parent", family["chat"], day=5)
    cut = CUTS["two layers"](family["chat"])
    assert ask(cut, [parent], day=1).edges == ()
    assert only(ask(cut, [parent], day=9)).parent == "parent"
    grown = restacked(family["chat"], [0, 1, 2, 2, 3])
    assert only(ask(grown, [parent], day=9)).relation is Relation.MERGE


def test_models_of_its_own_shape_are_passed_over(members: list[Specimen]) -> None:
    found = infer_across(members, members, compute=CPU)
    assert found == AcrossShapes()
    assert infer_across([], members, compute=CPU) == AcrossShapes()
    assert infer_across(members, [], compute=CPU) == AcrossShapes()


def test_independent_models_of_other_shapes_are_no_kin() -> None:
    sizes = [
        SMALL,
        replace(SMALL, layers=3),
        replace(SMALL, layers=6),
        replace(SMALL, inner=112),
        replace(SMALL, kv=16),
        replace(SMALL, inner=128, kv=16),
        Size(hidden=32, inner=160, kv=32),
    ]
    group = [
        specimen_of(f"m{at}-{seed}", published(fresh(100 * at + seed, size)))
        for at, size in enumerate(sizes)
        for seed in range(6)
    ]
    found = infer_across(group, group, compute=CPU)
    assert found.pairs_tested > 1000
    assert found.pairs_related == 0
    assert found.edges == ()


def test_another_architecture_is_no_kin(members: list[Specimen]) -> None:
    gateless = {n: v for n, v in published(fresh(3)).items() if "gate_proj" not in n}
    assert ask(restacked(gateless, [0, 1, 3]), members).pairs_tested == 0


@given(st.lists(st.integers(0, 30), max_size=40))
def test_a_longest_rise_rises_and_none_is_longer(numbers: list[int]) -> None:
    places = longest_rise(np.array(numbers, dtype=np.int64))
    picked = [numbers[at] for at in places]
    assert list(places) == sorted(set(places.tolist()))
    assert all(a < b for a, b in pairwise(picked))
    longest = [0] * len(numbers)
    for at, number in enumerate(numbers):
        longest[at] = 1 + max((longest[k] for k in range(at) if numbers[k] < number), default=0)
    assert len(picked) == max(longest, default=0)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(0, 30))
def test_units_are_found_again_in_any_order(seed: int, kept: int, more: int) -> None:
    draw = np.random.default_rng(seed)
    whole = draw.normal(size=(kept + more, 64)).astype(np.float32)
    order = draw.permutation(kept + more)[:kept]
    pairs = match_units(whole[order], whole)
    assert pairs.tolist() == [[at, int(row)] for at, row in enumerate(order)]


def with_experts(weights: Weights, *, experts: int) -> Weights:
    """Every MLP as several experts, in the names of Mixtral, with a router of its own."""
    out = {name: value for name, value in weights.items() if ".mlp." not in name}
    named = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    for name, value in weights.items():
        if ".mlp." not in name:
            continue
        layer, _, part = name.removesuffix(".weight").partition(".mlp.")
        moe = f"{layer}.block_sparse_moe"
        out |= {f"{moe}.experts.{at}.{named[part]}.weight": value for at in range(experts)}
        out[f"{moe}.gate.weight"] = np.ones((experts, value.shape[-1]), np.float32)
    return out


def fused(weights: Weights) -> Weights:
    """Projections that read the same input in one matrix, in the names of Phi-3."""
    out = {}
    for name, value in weights.items():
        if name.endswith("q_proj.weight"):
            keys = [weights[name.replace("q_proj", part)] for part in ("k_proj", "v_proj")]
            out[name.replace("q_proj", "qkv_proj")] = np.concatenate([value, *keys])
        elif name.endswith("gate_proj.weight"):
            up = weights[name.replace("gate_proj", "up_proj")]
            out[name.replace("gate_proj", "gate_up_proj")] = np.concatenate([value, up])
        elif not name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            out[name] = value
    return out


@pytest.mark.parametrize("day", [None, 30])
def test_experts_made_from_one_mlp_are_under_it(
    family: dict[str, Weights], day: int | None
) -> None:
    members = specimens_of(family, dated=day is not None)
    edge = only(ask(with_experts(family["first"], experts=4), members, day=day))
    told = (edge.parent, edge.relation, dict(edge.detail))
    assert told == ("first", Relation.FINETUNE, {"layout": "experts from one MLP"})
    assert edge.direction_confidence > 0.95


def test_fused_projections_are_a_copy(family: dict[str, Weights], members: list[Specimen]) -> None:
    edge = only(ask(fused(family["second"]), members))
    told = (edge.parent, edge.relation, dict(edge.detail))
    assert told == ("second", Relation.COPY, {"layout": "projections fused"})
    assert edge.direction_confidence == pytest.approx(0.5)


def test_undated_only_equal_weights_tell_a_layout(family: dict[str, Weights]) -> None:
    """Which of two tuned models was written down anew cannot be told from their weights."""
    moved = published(trained(family["second"], seed=63, size=0.02))
    assert ask(fused(moved), [specimen_of("second", family["second"])]).edges == ()
    edge = only(ask(fused(moved), [specimen_of("second", family["second"], day=0)], day=1))
    assert edge.relation is Relation.FINETUNE


def test_two_cuts_of_one_model_are_no_parent_and_child(family: dict[str, Weights]) -> None:
    cuts = {
        "a": restacked(family["first"], [0, 1, 3]),
        "b": restacked(family["first"], [0, 2, 3]),
    }
    group = [specimen_of(node, weights) for node, weights in cuts.items()]
    source = specimen_of("first", family["first"])
    inside = infer_bucket(group, compute=CPU).edges
    assert len(inside) == 1
    orphan = next(one for one in group if one.node != inside[0].child)
    across = infer_across([orphan], [*group, source], compute=CPU)
    asked = doubtful([group], inside, across.edges)
    assert [one.node for one in asked] == [inside[0].child]
    again = infer_across(asked, [*group, source], compute=CPU)
    assert [edge.parent for edge in outweighing(again.edges, inside)] == ["first"]
    assert doubtful([group], inside, ()) == []


def test_of_equals_the_larger_is_the_parent(family: dict[str, Weights]) -> None:
    cut = specimen_of("cut", restacked(family["first"], [0, 1, 3]))
    whole = specimen_of("first", family["first"])
    child = restacked(family["first"], [0, 3])
    for candidates in ([cut, whole], [whole, cut]):
        assert only(ask(child, candidates)).parent == "first"
