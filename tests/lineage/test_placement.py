"""The rule that decides each kind of child, with and without dates, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from families import (
    Weights,
    edited,
    fresh,
    lora,
    merged,
    permuted,
    pruned,
    published,
    quantized,
    specimen_of,
    specimens_of,
    trained,
    whole_family,
)
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.decision import Placement, descends
from modelkin.lineage.infer.family import Family, assemble, mixture_of
from modelkin.lineage.infer.likelihood import child_scorer
from modelkin.lineage.infer.path_steps import most_likely_stop
from modelkin.lineage.infer.placement import place, place_again

CPU = Compute(device="cpu")
RULES = {
    "chat": "nearest",
    "tuned-0": "nearest",
    "tuned-1": "nearest",
    "tuned-2": "nearest",
    "second": "nearest",
    "adapted": "frozen",
    "int8": "quantized",
    "int4": "quantized",
    "int2": "quantized",
    "sparse": "pruned",
    "open": "frozen",
    "open-1": "frozen",
    "mirror": "copy",
    "shuffled": "shuffled",
    "longer": "nearest",
    "merged": "merge",
    "arithmetic": "merge",
    "base": "root",
}


def placed(
    models: dict[str, Weights], *, dated: bool = True
) -> tuple[Family, dict[str, Placement]]:
    family = assemble(specimens_of(models, dated=dated), compute=CPU)
    decisions: dict[int, Placement] = {}
    for child in family.order:
        decisions[child] = place(family, child, decisions)
    for child in family.order:
        decisions[child] = place_again(family, child, decisions)
    return family, {family.members[i].node: one for i, one in decisions.items()}


def parents(family: Family, decision: Placement) -> set[str]:
    return {family.members[i].node for i in decision.parents}


@pytest.mark.parametrize("dated", [True, False])
def test_each_kind_of_child_is_placed_by_its_rule(dated: bool) -> None:
    weights, truth = whole_family(10)
    if not dated:
        # Which of two equal undated models is the original cannot be known.
        del weights["mirror"]
    family, decisions = placed(weights, dated=dated)
    assert {name: one.rule for name, one in decisions.items()} == {n: RULES[n] for n in weights}
    for child in truth.keys() & weights.keys():
        assert parents(family, decisions[child]) == {truth[child]}, child
    assert parents(family, decisions["merged"]) == {"tuned-0", "tuned-1"}
    assert parents(family, decisions["arithmetic"]) == {"chat", "tuned-1", "tuned-2"}


def test_a_sibling_that_is_nearer_than_the_parent_is_passed_over() -> None:
    """Shared data brings siblings together; the large moves of the other are still missing."""
    base = published(fresh(1))
    models = {"base": base}
    models |= {
        f"s{i}": published(trained(base, seed=5 + i, data=4, common=0.75, size=0.05))
        for i in range(5)
    }
    family, decisions = placed(models)
    squares = family.geometry.square_distances()
    assert squares[5, 4] < squares[5, 0]
    for i in range(1, 5):
        assert parents(family, decisions[f"s{i}"]) == {"base"}
        assert decisions[f"s{i}"].passed_over or i == 0


def test_a_long_chain_is_followed_step_by_step() -> None:
    models = {"0": published(fresh(2))}
    for i in range(1, 7):
        models[str(i)] = published(trained(models[str(i - 1)], seed=30 + i, size=0.04))
    for dated in (True, False):
        family, decisions = placed(models, dated=dated)
        for i in range(1, 7):
            assert parents(family, decisions[str(i)]) == {str(i - 1)}


def test_a_quantized_model_of_a_quantized_model_s_source_is_not_its_child() -> None:
    base = published(fresh(3))
    models = {
        "base": base,
        "int8": published(quantized(base, bits=8)),
        "int4": published(quantized(base, bits=4)),
        "sparse": published(pruned(base, share=0.2)),
    }
    for dated in (True, False):
        family, decisions = placed(models, dated=dated)
        assert all(parents(family, decisions[n]) == {"base"} for n in ("int8", "int4", "sparse"))


def test_a_quantized_merge_comes_from_the_merge() -> None:
    base = published(fresh(4))
    tuned = [published(trained(base, seed=5 + i)) for i in range(2)]
    half = published(merged(tuned, [0.5, 0.5]))
    models = {"base": base, "a": tuned[0], "b": tuned[1], "half": half}
    models["int4"] = published(quantized(half, bits=4))
    family, decisions = placed(models)
    assert parents(family, decisions["int4"]) == {"half"}


def test_an_adapter_of_a_sibling_is_told_by_what_it_left_alone() -> None:
    base = published(fresh(5))
    tuned = published(trained(base, seed=6, size=0.02))
    models = {"base": base, "tuned": tuned, "adapted": published(lora(tuned, seed=7, size=0.3))}
    family, decisions = placed(models)
    assert decisions["adapted"].rule == "frozen"
    assert parents(family, decisions["adapted"]) == {"tuned"}


def test_a_shuffled_copy_of_one_of_several_is_the_right_one_s() -> None:
    base = published(fresh(6))
    tuned = [published(trained(base, seed=7 + i, size=0.01)) for i in range(3)]
    models = {"base": base} | {f"t{i}": one for i, one in enumerate(tuned)}
    models["shuffled"] = permuted(tuned[1], seed=20)
    family, decisions = placed(models)
    assert decisions["shuffled"].rule == "shuffled"
    assert parents(family, decisions["shuffled"]) == {"t1"}


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_without_dates_a_merge_is_the_child_of_its_parents_and_never_one_of_theirs(
    seed: int, share: float
) -> None:
    """a = m / 0.9 - b / 9 holds as exactly as m = 0.9 a + 0.1 b does."""
    base = published(fresh(seed))
    a, b = (published(trained(base, seed=seed + i)) for i in (50, 60))
    m = published(merged([a, b], [share, 1 - share]))
    family, decisions = placed({"base": base, "a": a, "b": b, "m": m}, dated=False)
    assert parents(family, decisions["m"]) == {"a", "b"}
    assert parents(family, decisions["a"]) == {"base"}
    assert parents(family, decisions["b"]) == {"base"}


def test_merges_of_the_same_two_are_not_made_of_each_other() -> None:
    base = published(fresh(8))
    a, b = (published(trained(base, seed=i)) for i in (50, 60))
    models = {"base": base, "a": a, "b": b}
    models |= {f"m{s}": published(merged([a, b], [s / 10, 1 - s / 10])) for s in (2, 4, 5, 7, 9)}
    family, decisions = placed(models, dated=False)
    for name, one in decisions.items():
        child = next(i for i, member in enumerate(family.members) if member.node == name)
        assert all(family.rank[parent] < family.rank[child] for parent in one.parents), name
    assert all(one.rule == "merge" for name, one in decisions.items() if name[0] == "m")


def test_a_merge_layer_by_layer_comes_after_its_parents_without_dates() -> None:
    base = published(fresh(8))
    a, b = (published(trained(base, seed=i)) for i in (50, 60))
    mixed = {}
    for at, name in enumerate(sorted(base)):
        share = 0.3 + 0.4 * (at % 5) / 4
        mixed[name] = merged([a, b], [share, 1 - share])[name]
    family, decisions = placed({"base": base, "a": a, "b": b, "m": published(mixed)}, dated=False)
    assert decisions["m"].rule == "blend"
    assert parents(family, decisions["m"]) == {"a", "b"}
    assert parents(family, decisions["a"]) == parents(family, decisions["b"]) == {"base"}


def test_a_model_is_no_merge_of_its_shuffled_copy_and_a_near_model_without_dates() -> None:
    base = published(fresh(8))
    near, far = (trained(base, seed=50, size=size) for size in (0.001, 0.6))
    tuned = published({name: (near if "mlp" in name else far)[name] for name in base})
    models = {"base": base, "tuned": tuned, "shuffled": permuted(tuned, seed=20)}
    models["other"] = published(trained(base, seed=60))
    family, decisions = placed(models, dated=False)
    assert "shuffled" not in parents(family, decisions["tuned"])
    assert parents(family, decisions["shuffled"]) == {"tuned"}


def test_a_merge_dated_before_its_parents_is_no_merge_of_theirs() -> None:
    base = published(fresh(9))
    a, b = (published(trained(base, seed=i)) for i in (50, 60))
    m = published(merged([a, b], [0.5, 0.5]))
    days = {"base": 0.0, "m": 1.0, "a": 2.0, "b": None}
    weights = {"base": base, "m": m, "a": a, "b": b}
    group = [specimen_of(name, weights[name], day=day) for name, day in days.items()]
    family = assemble(group, compute=CPU)
    assert mixture_of(family, 1) is None


def test_a_rank_one_edit_is_placed_under_what_it_edited() -> None:
    base = published(fresh(11))
    tuned = published(trained(base, seed=12, size=0.02))
    name = "model.layers.1.mlp.down_proj.weight"
    models = {"base": base, "tuned": tuned, "fact": published(edited(tuned, seed=2, name=name))}
    family, decisions = placed(models)
    assert parents(family, decisions["fact"]) == {"tuned"}
    assert decisions["fact"].measure == pytest.approx(0.93, abs=0.05)


def test_the_first_of_a_family_is_its_root() -> None:
    _, decisions = placed({"base": published(fresh(13)), "other": published(fresh(14))})
    assert decisions["base"].rule == "root"
    assert decisions["base"].parents == ()


# The path to the nearest member


def chances(odds: Sequence[float]) -> list[float]:
    """Likelihood of each number of steps kept, from the probability of every step."""
    kept = [1 / (1 + math.exp(-x)) for x in odds]
    return [math.prod([*kept[:j], *(1 - p for p in kept[j:])]) for j in range(len(odds) + 1)]


@given(odds=st.lists(st.floats(-6, 6), max_size=12))
def test_the_most_likely_stop_is_the_one_of_the_highest_chance(odds: list[float]) -> None:
    stop, sure = most_likely_stop(odds)
    every = chances(odds)
    assert every[stop] == pytest.approx(max(every), rel=1e-9)
    second = sorted(every)[-2] if odds else every[stop]
    assert sure == pytest.approx(math.log(every[stop] / second), abs=1e-9)


@given(odds=st.lists(st.floats(0.01, 6), max_size=12))
def test_a_path_of_which_every_step_is_kept_is_followed_to_its_end(odds: list[float]) -> None:
    assert most_likely_stop(odds)[0] == len(odds)


@given(
    before=st.lists(st.floats(1, 6), max_size=4),
    after=st.lists(st.floats(-6, -0.01), min_size=1, max_size=4),
)
def test_steps_that_are_not_kept_end_the_path(before: list[float], after: list[float]) -> None:
    assert most_likely_stop([*before, *after])[0] == len(before)


def test_a_doubtful_step_is_taken_when_later_ones_are_surely_kept() -> None:
    """A child of the end of a path keeps all of it: each step bears witness for those before."""
    assert most_likely_stop([-0.1])[0] == 0
    assert most_likely_stop([-0.1, 5.0])[0] == 2
    assert most_likely_stop([5.0, -0.1, 5.0])[0] == 3
    assert most_likely_stop([5.0, -4.0, 1.0]) == (1, pytest.approx(3.0))


@pytest.mark.parametrize("dated", [True, False])
def test_placing_again_keeps_exact_decisions_and_the_order_of_descent(dated: bool) -> None:
    weights, _ = whole_family(20)
    family = assemble(specimens_of(weights, dated=dated), compute=CPU)
    first: dict[int, Placement] = {}
    for child in family.order:
        first[child] = place(family, child, first)
    for child, one in first.items():
        again = place_again(family, child, first)
        assert again.child == child
        assert all(family.rank[parent] < family.rank[child] for parent in again.parents)
        if one.rule != "nearest":
            assert again is one
        else:
            assert again.rule == "nearest"
            assert again.parents == one.parents


def test_later_siblings_tell_what_an_early_one_has_in_common_with_the_first() -> None:
    """The second of six children knows nobody but the first when it is placed."""
    base = published(fresh(2))
    models = {"base": base}
    models |= {
        f"s{i}": published(trained(base, seed=5 + i, data=4, common=0.75, size=0.05))
        for i in range(6)
    }
    family = assemble(specimens_of(models), compute=CPU)
    alone: dict[int, Placement] = {}
    for child in family.order:
        alone[child] = place(family, child, alone)
    again = place_again(family, 2, alone)
    assert again.parents == (0,)
    assert again.clues is not None
    assert alone[2].clues is not None
    assert again.clues.own < alone[2].clues.own
    assert again.clues.shared > alone[2].clues.shared == 0


def test_the_step_that_decided_is_kept_with_the_decision() -> None:
    base = published(fresh(3))
    tuned = published(trained(base, seed=4, size=0.06))
    models = {"base": base, "tuned": tuned, "next": published(trained(tuned, seed=5, size=0.04))}
    family, decisions = placed(models)
    told = decisions["next"]
    assert parents(family, told) == {"tuned"}
    assert told.kept
    assert told.odds is not None
    assert told.odds > 0
    assert told.clues is not None
    assert told.clues.own == pytest.approx(1, abs=0.05)
    assert told.sibling is None
    assert not told.passed_over
    first = decisions["tuned"]
    assert (first.odds, first.clues, first.kept) == (None, None, True)


@pytest.mark.parametrize("seed", range(3))
def test_a_branch_that_is_kept_is_found_behind_a_nearer_one_that_is_not(seed: int) -> None:
    """A child can learn so much like a sibling of its parent that it ends up nearer to that."""
    base = published(fresh(seed))
    true = published(trained(base, seed=50 * seed + 1, size=0.02))
    alike, *rest = (published(trained(base, seed=50 * seed + 2 + i, size=0.05)) for i in range(3))
    child = merged([true, alike, base], [1, 0.6, -0.6])
    models = {"base": base, "a": rest[0], "b": rest[1], "true": true, "alike": alike}
    models["child"] = published(trained(child, seed=50 * seed + 30, size=0.01))
    family, decisions = placed(models)
    assert [family.members[i].node for i in family.nearest(5)[:2]] == ["alike", "true"]
    told = decisions["child"]
    assert parents(family, told) == {"true"}
    assert told.kept
    assert told.sibling is None
    assert told.odds is not None
    assert told.odds > 0
    assert [family.members[i].node for i in told.passed_over] == ["alike"]
    # The clues are those of the step that was kept, and speak for it.
    assert told.clues is not None
    assert child_scorer().log_odds(told.clues) == pytest.approx(told.odds)


def line(*parents: tuple[int, ...]) -> dict[int, Placement]:
    return {
        i: Placement(child=i, rule="nearest" if above else "root", parents=above)
        for i, above in enumerate(parents)
    }


def test_descent_goes_through_every_parent_and_never_to_oneself() -> None:
    tree = line((), (0,), (0,), (1, 2), (3,), ())
    assert all(descends(i, 0, tree) for i in (1, 2, 3, 4))
    assert descends(4, 1, tree)
    assert descends(4, 2, tree)
    assert not descends(1, 2, tree)
    assert not descends(0, 4, tree)
    assert not descends(3, 3, tree)
    assert not descends(5, 0, tree)
    assert not descends(9, 0, tree)


def test_descent_ends_in_a_circle_of_parents() -> None:
    ring = line((2,), (0,), (1,), ())
    assert descends(2, 0, ring)
    assert not descends(2, 3, ring)
