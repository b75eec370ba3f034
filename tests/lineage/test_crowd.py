"""Placement among neighbours alone, against the same bucket compared whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from families import Weights, fresh, lora, published, specimens_of, trained, whole_family

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.crowd import KnownParent, infer_crowd, resident
from modelkin.lineage.infer.decision import Placement
from modelkin.lineage.infer.engine import Inference, infer_bucket
from modelkin.lineage.infer.hidden import insert_hidden
from modelkin.lineage.infer.specimen import Specimen
from modelkin.lineage.records import Relation

CPU = Compute(device="cpu")


def crowd(
    group: Sequence[Specimen],
    *,
    known: Inference | None = None,
    again: set[str] | None = None,
) -> tuple[Inference, frozenset[str]]:
    """The group as a crowd; `known` are edges believed before."""
    before: dict[str, list[KnownParent]] = {}
    for edge in known.edges if known else ():
        before.setdefault(edge.child, []).append(
            KnownParent(parent=edge.parent, relation=edge.relation)
        )
    named = {one.node: one for one in group}
    residents = [resident(one) for one in group]
    return infer_crowd(residents, named.__getitem__, compute=CPU, known=before, again=again)


def edges(found: Inference) -> set[tuple[str, str, str]]:
    return {(e.child, e.parent, e.relation.value) for e in found.edges}


@pytest.fixture(scope="module")
def family() -> dict[str, Weights]:
    return whole_family(40)[0]


@pytest.fixture(scope="module")
def alone(family: dict[str, Weights]) -> tuple[Inference, frozenset[str]]:
    """The dated family as a crowd of its own."""
    return crowd(specimens_of(family))


@pytest.fixture(scope="module")
def strangers() -> dict[str, Weights]:
    """Two families that share nothing, told apart by the last letter of their names."""
    return {f"{name}-{seed}": w for seed in (1, 2) for name, w in whole_family(seed)[0].items()}


def test_a_dated_family_is_the_one_that_all_pairs_give(
    family: dict[str, Weights], alone: tuple[Inference, frozenset[str]]
) -> None:
    group = specimens_of(family)
    found, decided = alone
    assert decided == set(family)
    assert edges(found) == edges(infer_bucket(group, compute=CPU))
    assert found.rejected
    assert all(edge.clues for edge in found.edges)


def test_order_and_names_do_not_matter(
    family: dict[str, Weights], alone: tuple[Inference, frozenset[str]]
) -> None:
    group = specimens_of(family)
    mixed = random.Random(1).sample(group, len(group))
    assert edges(crowd(mixed)[0]) == edges(alone[0])


def test_an_undated_family_keeps_exact_merges_and_leaves(family: dict[str, Weights]) -> None:
    found, _ = crowd(specimens_of(family, dated=False))
    got = edges(found)
    assert {p for c, p, r in got if c == "merged" and r == "merge"} == {"tuned-0", "tuned-1"}
    assert ("int4", "tuned-1", "quantized") in got
    assert ("open", "chat", "edit") in got
    true = whole_family(40)[1]
    right = sum((child, parent) in {(c, p) for c, p, _ in got} for child, parent in true.items())
    assert right >= 0.7 * len(true)


@pytest.mark.parametrize("dated", [True, False])
def test_no_edge_crosses_between_unrelated_families(
    strangers: dict[str, Weights], dated: bool
) -> None:
    found, _ = crowd(specimens_of(strangers, dated=dated))
    assert found.edges
    assert all(edge.child[-1] == edge.parent[-1] for edge in found.edges)


def test_what_is_added_is_placed_and_nothing_else(
    family: dict[str, Weights], alone: tuple[Inference, frozenset[str]]
) -> None:
    later = {
        "late": published(trained(family["tuned-2"], seed=90, size=0.05)),
        "late-adapter": published(lora(family["second"], seed=91)),
    }
    group = specimens_of(family | later)
    found, decided = crowd(group, known=alone[0], again=set(later))
    assert decided == set(later)
    assert {(c, p) for c, p, _ in edges(found)} == {("late", "tuned-2"), ("late-adapter", "second")}


def test_a_model_found_late_takes_over_the_children_it_is_nearer_to() -> None:
    """The parent was published first and scanned last."""
    base = published(fresh(60))
    chat = published(trained(base, seed=61, size=0.2))
    tuned = {f"tuned-{i}": published(trained(chat, seed=62 + i)) for i in range(3)}
    group = specimens_of({"base": base, "chat": chat, **tuned})
    without = [one for one in group if one.node != "chat"]
    before, _ = crowd(without)
    assert not any(edge.parent == "chat" for edge in before.edges)
    found, decided = crowd(group, known=before, again={"chat"})
    assert decided == {"chat", *tuned}
    assert {(c, p) for c, p, _ in edges(found)} == {
        ("chat", "base"),
        *((name, "chat") for name in tuned),
    }


def test_what_was_believed_and_what_is_new_close_no_circle() -> None:
    base = published(fresh(95))
    group = specimens_of({"base": base, "tuned": published(trained(base, seed=96))})
    believed = replace(infer_bucket(group, compute=CPU).edges[0], child="base", parent="tuned")
    found, decided = crowd(group, known=Inference(edges=(believed,)), again={"tuned"})
    assert decided == {"tuned"}
    assert not found.edges
    assert edges(crowd(group, again={"tuned"})[0]) == {("tuned", "base", "finetune")}


def test_a_new_sibling_behind_an_unpublished_model_leaves_the_old_one_alone() -> None:
    group = specimens_of({name: published(fresh(i)) for i, name in enumerate(("p", "old", "new"))})
    new = {2: Placement(child=2, rule="nearest", parents=(0,), sibling=1)}
    both = new | {1: Placement(child=1, rule="nearest", parents=(0,))}
    assert insert_hidden(group.__getitem__, new, []) == ([], [])
    (_, (node,)) = insert_hidden(group.__getitem__, both, [])
    assert (node.parent, node.children) == ("p", ("new", "old"))


def test_an_adapter_of_queries_and_keys_alone_is_no_copy() -> None:
    base = published(fresh(70))
    tuned = published(trained(base, seed=71))
    adapted = published(lora(tuned, seed=72, rank=2, only=("q_proj", "k_proj")))
    group = specimens_of({"base": base, "tuned": tuned, "adapted": adapted})
    for found in (crowd(group)[0], infer_bucket(group, compute=CPU)):
        edge = next(edge for edge in found.edges if edge.child == "adapted")
        assert (edge.parent, edge.relation) == ("tuned", Relation.FINETUNE)
        assert edge.detail == {"method": "lora", "rank": 2}


def test_one_model_is_no_crowd() -> None:
    found, decided = crowd(specimens_of({"one": published(fresh(3))}))
    assert not found.edges
    assert not decided
