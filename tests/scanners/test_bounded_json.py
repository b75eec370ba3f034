"""JSON from strangers: what `json` reads, within bounds and without ambiguity."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.errors import FormatError, LimitExceeded, MalformedFile
from modelkin.scanners.formats.bounded_json import JsonLimits, parse_object

LIMITS = JsonLimits(size=10_000, depth=6, objects=50, elements=200)
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\{}[],:'), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT
DOCUMENTS = st.dictionaries(
    TEXT,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(DOCUMENTS, st.booleans(), st.integers(1, 6))
def test_a_document_within_the_bounds_is_read(
    document: dict[str, Any], ascii_only: bool, allowed: int
) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only).encode()
    limits = JsonLimits(size=10_000, depth=allowed, objects=50, elements=200)
    if depth(document) > allowed:
        with pytest.raises(LimitExceeded, match="nested"):
            parse_object(data, path="x", limits=limits)
    else:
        assert parse_object(data + b"  ", path="x", limits=limits) == document


@given(st.text(st.sampled_from('{}[]",:\\ab1u'), max_size=20))
def test_what_json_rejects_is_rejected(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        assert parse_object(text.encode(), path="x", limits=LIMITS) == expected
    except FormatError:
        return


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (b'{"a":1}' + b" " * 10, JsonLimits(size=16, depth=9, objects=9, elements=9)),
        (b'{"a":{}}', JsonLimits(size=99, depth=9, objects=1, elements=9)),
        (b'{"a":[1,2]}', JsonLimits(size=99, depth=9, objects=9, elements=1)),
        (b'{"a":[1,2]}', JsonLimits(size=99, depth=9, objects=9, elements=0, per_object=1)),
        (b'{"a":[[1]]}', JsonLimits(size=99, depth=2, objects=9, elements=9)),
    ],
)
def test_every_bound_holds(data: bytes, limits: JsonLimits) -> None:
    with pytest.raises(LimitExceeded):
        parse_object(data, path="x", limits=limits)
    assert parse_object(data, path="x", limits=LIMITS)


def test_brackets_inside_strings_do_not_count() -> None:
    limits = JsonLimits(size=99, depth=1, objects=1, elements=1)
    document = {"[[[{{{,,,:::": '\\"{[,\\\\'}
    data = json.dumps(document).encode()
    assert parse_object(data, path="x", limits=limits) == document


def test_fractions_are_read_where_they_are_expected() -> None:
    assert parse_object(b'{"a":1.5e3}', path="x", limits=LIMITS, floats=True) == {"a": 1500.0}
    with pytest.raises(MalformedFile, match="no integer"):
        parse_object(b'{"a":1.5e3}', path="x", limits=LIMITS)
    with pytest.raises(MalformedFile):
        parse_object(b'{"a":1e999}', path="x", limits=LIMITS, floats=True)


def test_an_error_names_the_place() -> None:
    with pytest.raises(MalformedFile) as caught:
        parse_object('{"é":?}'.encode(), path="x.json", limits=LIMITS, offset=8)
    assert (caught.value.path, caught.value.offset) == ("x.json", 8 + 6)
