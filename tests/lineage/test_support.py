"""Bootstrap support: full where the decision is clear, split where chance decides."""

from __future__ import annotations

import numpy as np
import pytest
from families import fresh, published, specimens_of, trained
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.engine import infer_bucket
from modelkin.lineage.infer.path import Sample
from modelkin.lineage.infer.support import DRAWN, REPLICATES, resampled, support_of


def sample_of(rows: np.ndarray, blocks: int = 4) -> Sample:
    width = rows.shape[1]
    starts = tuple(int(s) for s in np.linspace(0, width, blocks, endpoint=False))
    return Sample(rows=rows.astype(np.float32), starts=starts)


@given(st.integers(40, 9_000), st.integers(1, 6), st.integers(0, 40))
def test_a_replicate_keeps_weights_in_their_blocks(width: int, blocks: int, seed: int) -> None:
    whole = sample_of(np.arange(width, dtype=np.float64)[None], blocks)
    drawn = resampled(whole, replicate=seed)
    columns = drawn.rows[0].astype(int)
    assert columns.size == min(DRAWN, width)
    assert drawn.starts[0] == 0
    block = np.searchsorted(whole.starts, columns, side="right")
    for start, end in zip(drawn.starts, (*drawn.starts[1:], columns.size), strict=True):
        assert len(set(block[start:end].tolist())) == 1
    assert np.array_equal(drawn.rows, resampled(whole, replicate=seed).rows)


def test_what_every_weight_says_has_full_support() -> None:
    sample = sample_of(np.vstack([np.ones(5_000), np.zeros(5_000)]))
    assert support_of(lambda s: int(s.rows.sum(axis=1).argmax()), sample) == 1.0


def test_what_chance_says_has_not() -> None:
    rows = np.random.default_rng(3).normal(size=(8, 5_000))
    rows -= rows.mean(axis=1, keepdims=True)
    share = support_of(lambda s: int(s.rows.sum(axis=1).argmax()), sample_of(rows))
    assert share < 0.8


def test_edges_weighed_by_a_path_carry_their_support() -> None:
    base = published(fresh(80))
    chat = published(trained(base, seed=81, size=0.2))
    family = {
        "base": base,
        "chat": chat,
        "tuned": published(trained(chat, seed=82)),
        "other": published(trained(chat, seed=83)),
    }
    found = infer_bucket(specimens_of(family), compute=Compute(device="cpu"))
    clues = {
        edge.child: clue for edge in found.edges for clue in edge.clues if clue.kind == "bootstrap"
    }
    assert clues.keys() == {"tuned", "other"}
    assert all(clue.value == pytest.approx(1.0) for clue in clues.values())
    assert all(clue.n == REPLICATES and clue.llr == 0 for clue in clues.values())
