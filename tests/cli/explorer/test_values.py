"""Addresses: read, bounded, and written back the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.cli.explorer.cache import Bodies, Body, pack
from modelkin.cli.explorer.questions import QUESTIONS
from modelkin.cli.explorer.values import read_values, seal, text_values, unseal
from modelkin.lineage.errors import BadRequest

TREE = QUESTIONS["tree"].parameters


texts = st.lists(st.text(max_size=40), max_size=3)
names = st.one_of(st.sampled_from([one.name for one in TREE]), st.text(max_size=20))


@given(st.dictionaries(names, texts, max_size=5))
def test_any_query_is_read_or_refused(asked: dict[str, list[str]]) -> None:
    try:
        values = read_values(TREE, {"model": ["a/b"], **asked})
    except BadRequest:
        return
    assert set(values) == {one.name for one in TREE}


@given(
    st.text(min_size=1, max_size=60),
    st.floats(0, 1),
    st.lists(st.text(min_size=1, max_size=20), max_size=4),
    st.booleans(),
)
def test_values_are_written_as_they_were_read(
    model: str, confidence: float, opened: list[str], up: bool
) -> None:
    values = {
        **read_values(TREE, {"model": ["x"]}),
        "model": model,
        "min_confidence": round(confidence, 3),
        "open": tuple(opened),
        "up": up,
        "since": datetime(2026, 2, 3, tzinfo=UTC),
    }
    assert read_values(TREE, text_values(TREE, values)) == values


@given(st.integers(0, (1 << 40) - 1))
def test_tokens_come_back(position: int) -> None:
    assert unseal(seal({"at": position}), "at") == position


@given(st.text(max_size=60))
def test_no_other_text_is_a_token(text: str) -> None:
    try:
        found = unseal(text, "at")
    except BadRequest:
        return
    assert isinstance(found, int)
    assert 0 <= found < 1 << 40


def test_bodies_stay_within_their_bytes() -> None:
    bodies = Bodies(most=1000)
    made: list[str] = []

    def make(name: str, size: int) -> Body:
        made.append(name)
        return Body(content=b"x" * size, media_type="text/plain")

    for name in ("a", "b", "a", "c", "b"):
        bodies.get(name, lambda name=name: make(name, 400))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    for _ in range(2):
        bodies.get("large", lambda: make("large", 2000))
    assert made.count("large") == 2


def test_an_error_is_not_kept() -> None:
    bodies = Bodies(most=1000)

    def fail() -> Body:
        raise BadRequest("no", parameter="x")

    with pytest.raises(BadRequest):
        bodies.get("a", fail)
    assert bodies.get("a", lambda: pack(b"yes", "text/plain")).content == b"yes"
