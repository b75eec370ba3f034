"""Claims, traces, templates and kin, from words alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.safety.metadata import (
    ChatFiles,
    KinRecord,
    ModelText,
    claim_class,
    kin_stripped,
    template_change,
    tool_traces,
)
from modelkin.lineage.safety.protocol import Status


@pytest.mark.parametrize(
    ("text", "value", "name_free"),
    [
        (ModelText(name="x/Llama-abliterated"), 1.0, 0.0),
        (ModelText(name="x/y", tags=("uncensored",)), 1.0, 1.0),
        (ModelText(name="x/y", body="All refusals removed."), 1.0, 1.0),
        (ModelText(name="x/y", body="This model is not uncensored."), 0.0, 0.0),
        (ModelText(name="x/y", body="It declines requests that would do harm."), -1.0, -1.0),
        (ModelText(name="x/y", body="A model for cooks."), 0.0, 0.0),
        (ModelText(name="x/y", front_matter={"base_model": "a/B-Heretic"}), 1.0, 1.0),
    ],
)
def test_claims(text: ModelText, value: float, name_free: float) -> None:
    found = claim_class(text)
    assert found.value == value
    assert found.detail["name_free"] == name_free


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=5))
def test_no_card_breaks_the_reader(body: str, tags: list[str]) -> None:
    text = ModelText(name=body[:40], tags=tags, front_matter={"x": body}, body=body)
    assert claim_class(text).value in (-1.0, 0.0, 1.0)
    assert tool_traces(text).status is Status.OK


@pytest.mark.parametrize(
    ("fields", "value", "tools"),
    [
        ({"tags": ("Heretic",)}, 1.0, {"heretic"}),
        ({"files": ("reproduce/reproduce.json",)}, 1.0, {"heretic"}),
        ({"files": ("mergekit_config.yml", "adapter_config.json")}, 0.0, {"mergekit", "peft"}),
        ({}, 0.0, set()),
    ],
)
def test_traces_of_tools(fields: dict[str, Any], value: float, tools: set[str]) -> None:
    found = tool_traces(ModelText(name="a/b", **fields))
    assert found.value == value
    assert set(found.detail["tools"]) == tools


def test_a_template_is_compared_without_its_white_space() -> None:
    mine = ChatFiles(template="{{ a }}\n  {{ b }}", generation={"temperature": 0.7})
    theirs = ChatFiles(template="{{ a }} {{ b }}", system_prompt="be safe")
    found = template_change(mine, theirs, ancestor="lab/base")
    assert found.value == 0.0
    assert found.detail["system_prompt"] is True
    assert found.detail["generation"] == ["temperature"]
    gone = template_change(ChatFiles(), theirs, ancestor="lab/base")
    assert gone.value == 1.0
    assert template_change(ChatFiles(), ChatFiles(), ancestor="x").status is Status.UNALIGNABLE


def test_kin_speaks_only_when_measured() -> None:
    unknown = KinRecord(model="a", confidence=0.9, stripped=None)
    lost = KinRecord(model="b", confidence=0.8, stripped=True)
    kept = KinRecord(model="c", confidence=1.0, stripped=False)
    assert kin_stripped([unknown]).status is Status.INCONCLUSIVE
    assert kin_stripped([unknown, kept]).value == 0.0
    assert kin_stripped([unknown, kept, lost]).value == 0.8
