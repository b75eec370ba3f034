"""The Hub's JSON as records: fields of any type, text no store can hold, times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelkin.scanners.sources.hub_records import parse_body, parse_model, parse_time

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = [
    "_id", "id", "modelId", "sha", "createdAt", "lastModified", "library_name", "gated", "disabled",
    "downloads", "downloadsAllTime", "tags", "cardData", "config", "siblings",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_fields_of_any_type_are_dropped_and_never_crash(item: dict[str, Any]) -> None:
    info = parse_model({"id": "a/b", **item})
    if info is None:
        return
    assert info.downloads is None or info.downloads >= 0
    assert info.gated in {None, "auto", "manual"}
    assert all(isinstance(tag, str) for tag in info.tags)
    assert info.created_at is None or info.created_at.tzinfo is UTC


def test_odd_fields() -> None:
    assert parse_model({"id": "a/b", "gated": True, "downloads": True}) == parse_model(
        {"id": "a/b", "gated": "manual"}
    )
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    files = [{"rfilename": "a"}, {"rfilename": "a", "size": 5}, {"rfilename": 1}, "b", None]
    info = parse_model({"modelId": "a/b", "cardData": {"x": deep}, "siblings": files, "tags": [1]})
    assert info is not None
    assert (info.card, info.tags, len(info.files)) == ({}, (), 1)
    stated = parse_model({"id": "a/b", "cardData": {"license": ["mit", "x"]}})
    tagged = parse_model({"id": "a/b", "tags": ["license:gpl"]})
    assert stated is not None
    assert tagged is not None
    assert (stated.license, tagged.license) == ("mit", "gpl")
    assert parse_model([]) is None
    assert parse_model({}, fallback="a/b") is not None


def test_text_that_no_store_can_hold_is_replaced() -> None:
    body = b'{"id": "a/b", "tags": ["x\\ud800", "y\\u0000"], "n": NaN}'
    info = parse_model(parse_body(body, path="/api"))
    assert info is not None
    assert info.tags == ("x\ufffd", "y\ufffd")


def test_times_are_utc_or_none() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for text in ("2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00"):
        assert parse_time(text) == moment
    for odd in ("0001-01-01T00:00:00+23:00", "soon", 5, None, ""):
        assert parse_time(odd) is None
