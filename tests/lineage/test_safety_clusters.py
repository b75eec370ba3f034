"""Design effects of prompts that are alike: against disjoint clusters, and by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.safety.clusters import Kin, design_effect, kin_of
from modelkin.lineage.statistics import wilson

BLOCKS: Kin = tuple((at // 6,) for at in range(72))


def test_words_and_categories_make_clusters() -> None:
    asked = ["how do i paint the wall ?", "how do i paint the door ?", "how do i mend the wall ?"]
    asked += [f"how do i do number{at} ?" for at in range(9)]
    found = kin_of(asked)
    assert set(found[0]) & set(found[1])
    assert set(found[0]) & set(found[2])
    assert not set(found[1]) & set(found[2])
    assert all(row == () for row in found[3:])
    named = kin_of(asked, ["a", "b", "b"] + [f"c{at}" for at in range(9)])
    assert set(named[1]) & set(named[2])


def test_disjoint_clusters_agree_with_kish() -> None:
    """Clusters of m that answer alike are worth n / m prompts, up to G / (G - 1)."""
    values = [float(at // 6 % 4 == 0) for at in range(72)]
    assert design_effect(values, BLOCKS) == pytest.approx(6 * 12 / 11 * 71 / 72)


@given(st.lists(st.booleans(), min_size=2, max_size=72))
def test_it_is_at_least_one_and_at_most_the_prompts(values: list[bool]) -> None:
    assert 1.0 <= design_effect(values, BLOCKS[: len(values)]) <= len(values)
    assert design_effect(values, ()) == 1.0
    assert design_effect([True] * 9, BLOCKS[:9]) == 1.0


def test_intervals_of_clustered_prompts_cover() -> None:
    """Twelve topics, each refused or not as a whole but for one prompt in ten."""
    chance = np.random.default_rng(5)
    kept = naive = 0
    for _ in range(400):
        topic = chance.random(12) < 0.3
        values = [bool(topic[at // 6]) ^ (chance.random() < 0.1) for at in range(72)]
        truth = 0.3 * 0.9 + 0.7 * 0.1
        worth = design_effect(values, BLOCKS)
        wide, tight = (wilson(sum(values) / w, 72 / w) for w in (worth, 1.0))
        kept += wide.low <= truth <= wide.high
        naive += tight.low <= truth <= tight.high
    assert kept / 400 > 0.91
    assert naive / 400 < 0.75
