"""The prior of a branch, against the process that it comes from."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.infer.attachment import WEIGHT, attachment, children_of


def grown(size: int, seed: int) -> dict[int, tuple[int, ...]]:
    """A tree by linear preferential attachment: parents by member."""
    draw = random.Random(seed)
    parents: dict[int, tuple[int, ...]] = {0: ()}
    chances = [0]
    for member in range(1, size):
        parent = draw.choice(chances)
        parents[member] = (parent,)
        chances += [parent, member]
    return parents


def test_children_are_listed_under_each_of_their_parents() -> None:
    children = children_of({0: (), 1: (0,), 2: (0,), 3: (1, 2)})
    assert {parent: sorted(below) for parent, below in children.items()} == {
        0: [1, 2],
        1: [3],
        2: [3],
    }


def test_a_leaf_beside_many_draws_little_and_a_large_branch_much() -> None:
    star = children_of({0: (), **dict.fromkeys(range(1, 11), (0,))})
    assert attachment(99, via=1, origin=0, children=star) == pytest.approx(
        WEIGHT * math.log(1 / 11)
    )
    chain = children_of({0: (), **{i: (i - 1,) for i in range(1, 11)}})
    assert attachment(99, via=1, origin=0, children=chain) == pytest.approx(
        WEIGHT * math.log(19 / 2)
    )


def test_the_model_in_question_and_what_comes_from_it_are_not_counted() -> None:
    parents = {0: (), 1: (0,), 2: (1,), 3: (2,), 4: (0,)}
    with_it = attachment(2, via=1, origin=0, children=children_of(parents))
    without = {i: above for i, above in parents.items() if i not in (2, 3)}
    assert with_it == attachment(2, via=1, origin=0, children=children_of(without))
    beside = attachment(4, via=1, origin=0, children=children_of(parents))
    assert beside == pytest.approx(WEIGHT * math.log(5 / 2))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(3, 60))
def test_branches_and_origin_share_all_of_the_chance(seed: int, size: int) -> None:
    """What a branch of m and an origin of k draw are their weights in the process."""
    children = children_of(grown(size, seed))
    beside = len(children[0])
    shares = [
        math.exp(attachment(size, via=one, origin=0, children=children) / WEIGHT) * (beside + 1)
        for one in children[0]
    ]
    assert sum(shares) + beside + 1 == pytest.approx(2 * size - 1)


def test_a_circle_of_claims_ends() -> None:
    circle = children_of({0: (2,), 1: (0,), 2: (1,)})
    assert math.isfinite(attachment(9, via=1, origin=0, children=circle))
