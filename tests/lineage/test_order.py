"""Who came first: by date, by the drift of weights, and by both."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from families import (
    Weights,
    abliterated,
    fresh,
    lora,
    published,
    quantized,
    specimen_of,
    specimens_of,
    trained,
    whole_family,
)

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.family import assemble
from modelkin.lineage.infer.geometry import Geometry, measure_geometry
from modelkin.lineage.infer.order import (
    DRIFT_BOUND,
    arrow_llr,
    drift_llr,
    family_order,
    later_copies,
)
from modelkin.lineage.infer.specimen import Specimen

CPU = Compute(device="cpu")


def measured(group: Sequence[Specimen]) -> Geometry:
    return measure_geometry(group, compute=CPU)


def ordered(group: Sequence[Specimen], last: Sequence[int] = ()) -> list[str]:
    return [group[i].node for i in family_order(group, measured(group), last=last)]


def chain(seed: int, length: int = 4) -> dict[str, Weights]:
    models = {"0": published(fresh(seed))}
    for i in range(1, length):
        models[str(i)] = published(trained(models[str(i - 1)], seed=seed + i))
    return models


def test_dates_decide_where_they_are_known() -> None:
    models = chain(1)
    days = {"0": 5.0, "1": 3.0, "2": 9.0, "3": 1.0}
    group = [specimen_of(name, models[name], day=day) for name, day in days.items()]
    assert ordered(group) == ["3", "1", "0", "2"]


def test_one_date_for_all_leaves_the_order_to_the_weights() -> None:
    """The Hub gives every repository from before March 2022 the same date."""
    for seed in range(4):
        group = [specimen_of(name, one, day=0) for name, one in chain(seed).items()]
        assert ordered(list(reversed(group))) == ["0", "1", "2", "3"]


def test_equal_dates_inside_a_family_keep_the_other_dates() -> None:
    models = chain(2)
    days = {"3": 2.0, "2": 2.0, "1": 1.0, "0": 1.0}
    assert ordered([specimen_of(name, models[name], day=d) for name, d in days.items()]) == [
        *("0", "1"),
        *("2", "3"),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_the_root_of_an_undated_star_and_of_a_chain_is_found(seed: int) -> None:
    base = published(fresh(seed))
    star = {"child0": published(trained(base, seed=seed + 1)), "root": base}
    star |= {f"child{i}": published(trained(base, seed=seed + 1 + i)) for i in range(1, 5)}
    assert ordered(specimens_of(star, dated=False))[0] == "root"
    backwards = dict(reversed(chain(seed, 5).items()))
    assert ordered(specimens_of(backwards, dated=False)) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("seed", [0, 20])
def test_parents_precede_children_in_a_whole_family_without_dates(seed: int) -> None:
    weights, parents = whole_family(seed)
    backwards = dict(reversed(weights.items()))
    family = assemble(specimens_of(backwards, dated=False), compute=CPU)
    place = {family.members[i].node: rank for i, rank in family.rank.items()}
    assert not family.dated
    assert place["base"] == 0
    # Of two equal models either may be the original.
    parents = {c: p for c, p in parents.items() if c != "mirror" and p != "mirror"}
    assert all(min(place[p], place["mirror"]) < place[c] for c, p in parents.items())
    assert place["merged"] > max(place["tuned-0"], place["tuned-1"])
    assert {family.members[i].node for i in family.mixtures} >= {"merged", "arithmetic"}


def test_dated_members_keep_their_dates_among_undated_ones() -> None:
    weights, _ = whole_family(60)
    days = {"tuned-2": 1.0, "base": 0.0, "second": 2.0}
    group = [specimen_of(name, w, day=days.get(name)) for name, w in weights.items()]
    order = ordered(group)
    assert order.index("base") < order.index("tuned-2") < order.index("second")
    assert sorted(order) == sorted(weights)


def test_leaves_come_after_the_rest_without_dates() -> None:
    group = specimens_of(chain(3), dated=False)
    assert ordered(group, last=[1])[-1] == "1"
    assert sorted(ordered(group, last=[0, 1, 2, 3])) == ["0", "1", "2", "3"]


def test_the_earlier_of_two_copies_is_the_original() -> None:
    base = published(fresh(1))
    group = [specimen_of("late", base, day=3), specimen_of("early", base, day=1)]
    assert later_copies(group, measured(group)) == {0}
    assert later_copies(group[::-1], measured(group[::-1])) == {1}


def test_of_many_copies_one_is_the_original() -> None:
    base = published(fresh(1))
    group = [specimen_of(f"c{i}", base, day=i) for i in (4, 2, 5, 3)]
    group.append(specimen_of("wide", base, day=6, dtype="F32"))
    assert later_copies(group, measured(group)) == {0, 2, 3, 4}


def test_a_cast_that_cost_precision_is_later_whoever_agrees_with_it() -> None:
    """Children are published in the coarse type, too, and share bits with the cast."""
    base = fresh(3)
    children = [specimen_of(f"c{i}", published(lora(published(base), seed=i))) for i in range(2)]
    fine, cast = specimen_of("fine", base, dtype="F32"), specimen_of("cast", published(base))
    for group in ([fine, cast, *children], [cast, fine, *children]):
        later = later_copies(group, measured(group))
        assert {group[i].node for i in later} == {"cast"}


def test_a_tuned_model_is_not_a_copy() -> None:
    base = published(fresh(1))
    group = specimens_of({"base": base, "tuned": published(trained(base, seed=2, size=0.003))})
    assert later_copies(group, measured(group)) == set()


@pytest.mark.parametrize("seed", range(5))
def test_drift_points_from_parent_to_child(seed: int) -> None:
    base = published(fresh(seed))
    group = specimens_of({"base": base, "tuned": published(trained(base, seed=seed))})
    geometry = measured(group)
    assert drift_llr(1, 0, geometry) == pytest.approx(-drift_llr(0, 1, geometry))
    assert 1 < drift_llr(1, 0, geometry) <= DRIFT_BOUND
    assert arrow_llr(group, 1, 0, geometry=geometry) == drift_llr(1, 0, geometry)


def test_equal_models_have_no_drift() -> None:
    base = published(fresh(1))
    assert drift_llr(1, 0, measured(specimens_of({"a": base, "b": base}))) == 0


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_an_edit_points_to_the_model_that_lost_a_direction(strength: float) -> None:
    base = published(fresh(1))
    child = published(abliterated(base, seed=2, strength=strength))
    group = specimens_of({"base": base, "open": child})
    geometry = measured(group)
    assert arrow_llr(group, 1, 0, geometry=geometry) > DRIFT_BOUND
    assert arrow_llr(group, 0, 1, geometry=geometry) < -DRIFT_BOUND


def test_a_single_member_is_an_order() -> None:
    group = [specimen_of("one", quantized(fresh(1), bits=4))]
    assert ordered(group, last=[0]) == ["one"]
