"""Cards, YAML and JSON from strangers: what is read, and what is refused where."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.errors import FormatError, LimitExceeded, MalformedFile
from modelkin.scanners.bounded_json import MAX_JSON_DEPTH, clean_text, parse_json_object
from modelkin.scanners.bounded_yaml import MAX_YAML_BYTES, MAX_YAML_DEPTH, parse_yaml_mapping
from modelkin.scanners.cards import MAX_CARD_BYTES, Card, parse_card

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: round(number, 3))
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=6)


def parse_text(text: str) -> Card:
    return parse_card(text.encode())


@pytest.mark.parametrize(
    ("data", "front_matter", "body"),
    [
        (b"", {}, ""),
        (b"# no front matter\n", {}, "# no front matter\n"),
        (b"---\nlicense: mit\n---\n\n# Title\n", {"license": "mit"}, "# Title\n"),
        (b"---\r\nlicense: mit\r\n---\r\nbody\r\n", {"license": "mit"}, "body\r\n"),
        (b"\xef\xbb\xbf---\nlicense: mit\n---\n", {"license": "mit"}, ""),
        (b"--- \t\nlicense: mit\n---\t\nbody", {"license": "mit"}, "body"),
        (b"---\n---\nbody", {}, "body"),
        (b"---\n# only a comment\n---\nbody", {}, "body"),
        (b"\n---\nlicense: mit\n---\n", {}, "\n---\nlicense: mit\n---\n"),
        (b"---\nlicense: mit\n", {}, "---\nlicense: mit\n"),
        (b"----\nlicense: mit\n----\n", {}, "----\nlicense: mit\n----\n"),
        (b"---\na: 1\n---\nbase_model: b/c\n---\n", {"a": 1}, "base_model: b/c\n---\n"),
        (b"---\ntitle: caf\xff\n---\nna\xefve", {"title": "caf\ufffd"}, "na\ufffdve"),
    ],
)
def test_a_card_is_split_at_its_first_two_rules(
    data: bytes, front_matter: dict[str, object], body: str
) -> None:
    assert parse_card(data) == Card(front_matter=front_matter, body=body)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-04-18", "2024-04-18"),
        ("2024-04-18T10:00:00Z", "2024-04-18T10:00:00Z"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("'null'", "null"),
        ("12", 12),
        ("010", 10),
        ("0x1F", "0x1F"),
        ("1e-5", 1e-5),
        (".5", 0.5),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("1_000", "1_000"),
        ("9" * 18, int("9" * 18)),
        ("9" * 19, "9" * 19),
        ("9" * 10_000, "9" * 10_000),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!int '12'", 12),
        ("!!float 1", 1),
        ("!!seq [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
        (">-\n  org/long-name\n", "org/long-name"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ('"\\0 \\u202E"', "\ufffd \u202e"),
    ],
)
def test_scalars_are_json_able_and_follow_the_core_schema(text: str, value: object) -> None:
    assert parse_yaml_mapping(f"key: {text}", path="f") == {"key": value}


def test_keys_are_text_as_written_and_the_later_of_two_wins() -> None:
    text = "1: a\ntrue: b\n~: c\n2024-01-01: d\n<<: e\nbase_model: x\nbase_model: y\n"
    assert parse_yaml_mapping(text, path="f") == {
        "1": "a",
        "true": "b",
        "~": "c",
        "2024-01-01": "d",
        "<<": "e",
        "base_model": "y",
    }


@pytest.mark.parametrize(
    "front",
    [
        "a: &x 1",
        "a: *x",
        "a: &x [1]\nb: *x",
        "a: &x {b: *x}",
        "a: !!python/object/apply:os.system [id]",
        "a: !!python/name:os.system",
        "a: !custom 1",
        "a: !!binary aGk=",
        "a: !!timestamp 2024-01-01",
        "a: !!set {x, y}",
        "a: !!omap [x: 1]",
        "a: !!int true",
        "a: !!bool 1",
        "a: !!float x",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        "- a\n- b",
        "just text",
        "42",
        "a: 1\n...\nb: 2",
        "a: [1, 2",
        "a: 'open",
        "a:\n\tb: 1",
        "a: b: c",
        "a: \x00",
        "a: \x07",
        'a: "\\ud800"',
        'a: "\\UFFFFFFFF"',
        "%YAML 9.9\na: 1",
        "@",
    ],
)
def test_front_matter_that_is_no_plain_mapping_is_malformed(front: str) -> None:
    with pytest.raises(MalformedFile) as caught:
        parse_card(f"---\n{front}\n---\nbody".encode(), path="sub/README.md")
    assert caught.value.path == "sub/README.md"
    assert caught.value.offset is not None
    assert 4 <= caught.value.offset <= 5 + len(front.encode())


def test_an_error_points_at_the_byte() -> None:
    data = "---\nname: 日本語\nbase: *alias\n---\n".encode()
    with pytest.raises(MalformedFile) as caught:
        parse_card(data)
    assert caught.value.offset == data.index(b"*alias")


def test_aliases_that_would_explode_are_refused_before_they_are_expanded() -> None:
    levels = ["a: &a [lol, lol, lol]"]
    levels += [f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]" for a, b in pairwise("abcdefghi")]
    with pytest.raises(MalformedFile, match="anchors"):
        parse_card(("---\n" + "\n".join(levels) + "\n---\n").encode())


@pytest.mark.parametrize(
    "deep",
    ["a: " + "[" * 60_000, "a: " + "{b: " * 15_000, "- " * 30_000, "? " * 30_000, "a: - " * 9_000],
)
def test_nesting_is_cut_off_early(deep: str) -> None:
    began = time.process_time()
    with pytest.raises(FormatError):
        parse_text(f"---\n{deep}\n---\n")
    assert time.process_time() - began < 20


def test_sixteen_levels_are_read_and_seventeen_are_not() -> None:
    within = "a: " + "[" * (MAX_YAML_DEPTH - 1) + "]" * (MAX_YAML_DEPTH - 1)
    assert parse_yaml_mapping(within, path="f")["a"] is not None
    beyond = "a: " + "[" * MAX_YAML_DEPTH + "]" * MAX_YAML_DEPTH
    with pytest.raises(LimitExceeded) as caught:
        parse_yaml_mapping(beyond, path="f")
    assert (caught.value.limit, caught.value.actual) == (16, 17)


def test_sizes_are_bounded() -> None:
    with pytest.raises(LimitExceeded) as card:
        parse_card(b"x" * 10_000_000)
    assert (card.value.limit, card.value.actual) == (MAX_CARD_BYTES, 10_000_000)
    with pytest.raises(LimitExceeded) as front:
        parse_card(b"---\na: " + b"x" * MAX_YAML_BYTES + b"\n---\n")
    assert front.value.limit == MAX_YAML_BYTES
    assert front.value.offset == 4
    full = parse_card(b"---\na: " + b"x" * (MAX_YAML_BYTES - 4) + b"\n---\n")
    assert len(full.front_matter["a"]) == MAX_YAML_BYTES - 4


@given(MAPPINGS, st.sampled_from([None, '"']), st.booleans())
def test_what_a_yaml_writer_quotes_comes_back(
    mapping: dict[str, object], style: str | None, flow: bool
) -> None:
    if style is None:
        text = json.dumps(mapping).replace("\x7f", "\\u007f")
    else:
        text = yaml.safe_dump(mapping, default_style=style, default_flow_style=flow)
    expected = json.loads(json.dumps(mapping))
    try:
        assert parse_yaml_mapping(text, path="f") == expected
    except MalformedFile:
        # JSON writes a character beyond U+FFFF as two escapes; YAML has none for surrogates.
        assert style is None


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8")))
def test_any_bytes_give_a_card_or_a_format_error(data: bytes) -> None:
    for card in (data, b"---\n" + data + b"\n---\n" + data, b"---\nkey: " + data + b"\n---\n"):
        try:
            read = parse_card(card)
        except FormatError:
            continue
        json.dumps(read.front_matter, allow_nan=False).encode()
        read.body.encode()


@given(st.text("-?:,[]{}#&*!|>'\"%@`\n\t ab01.~", max_size=60))
def test_any_yaml_like_text_gives_json_able_values_or_a_format_error(text: str) -> None:
    try:
        value = parse_yaml_mapping(text, path="f")
    except FormatError:
        return
    json.dumps(value, allow_nan=False)


def test_json_is_read_as_the_libraries_write_it() -> None:
    data = b'\xef\xbb\xbf{"a": [1, 2.5, true, null], "b": {"c": "d"}, "a": 3, "n": -7}'
    assert parse_json_object(data, path="config.json") == {"a": 3, "b": {"c": "d"}, "n": -7}


def test_json_numbers_and_strings_that_no_store_could_hold_become_text() -> None:
    data = b'{"i": Infinity, "m": -Infinity, "n": NaN, "e": 1e999, "s": "\\ud800x\\u0000"}'
    value = parse_json_object(data, path="config.json")
    assert value == {
        "i": "Infinity",
        "m": "-Infinity",
        "n": "NaN",
        "e": "1e999",
        "s": "\ufffdx\ufffd",
    }
    assert parse_json_object(b'{"k\\u0000": ["\\ud83d\\ude00"]}', path="f") == {"k\ufffd": ["😀"]}
    assert parse_json_object(b'{"big": 1000000000000000019884624838656}', path="f")["big"] > 10**29


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (b"[1]", 0),
        (b'"text"', 0),
        (b"null", 0),
        (b'{"a": }', 6),
        ('{"é": }'.encode(), 7),
        (b'\xef\xbb\xbf{"a": }', 9),
        (b'{"a": "\xff"}', 7),
        (b'{"a": 1', 7),
        (b"{'a': 1}", 1),
        (b'{"a": "\x01"}', 7),
        (b'{"a": 1} {"b": 2}', 9),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
        (b"\x00" * 100, 0),
        ('{"a": 1}'.encode("utf-16"), 0),
    ],
)
def test_json_that_is_no_object_is_malformed(data: bytes, offset: int | None) -> None:
    with pytest.raises(MalformedFile) as caught:
        parse_json_object(data, path="config.json")
    assert (caught.value.path, caught.value.offset) == ("config.json", offset)


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b'{"a": ' + b"[" * 500_000, MAX_JSON_DEPTH),
        (b'{"a": ' * 100_000, MAX_JSON_DEPTH),
        (b"{" + b'"' + b'\\"' * 500_000, None),
        (b'{"a": [' + b"[]," * 1_100_000 + b"0]}", 1_000_000),
        (b'{"a": [' + b"0," * 1_100_000 + b"0]}", 1_000_000),
    ],
)
def test_json_bombs_are_refused_before_they_are_built(data: bytes, limit: int | None) -> None:
    began = time.process_time()
    with pytest.raises(FormatError) as caught:
        parse_json_object(data, path="f", limit=1 << 25)
    assert getattr(caught.value, "limit", None) == limit
    assert time.process_time() - began < 20


def test_brackets_inside_strings_do_not_count_as_depth() -> None:
    data = json.dumps({"a": "[{" * 500, "b": '"[' * 500}).encode()
    assert len(parse_json_object(data, path="f")) == 2


def test_json_longer_than_its_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded) as caught:
        parse_json_object(b'{"a": 1}', path="f", limit=7)
    assert (caught.value.limit, caught.value.actual) == (7, 8)


@given(MAPPINGS)
def test_json_round_trip(mapping: dict[str, object]) -> None:
    assert parse_json_object(json.dumps(mapping).encode(), path="f") == mapping
    assert parse_json_object(json.dumps(mapping, ensure_ascii=False).encode(), path="f") == mapping


@given(st.binary(max_size=200) | st.text('{}[]",:\\u0d8 1e9.-\n', max_size=80).map(str.encode))
def test_any_bytes_give_an_object_or_a_format_error(data: bytes) -> None:
    for blob in (data, b'{"a": ' + data + b"}"):
        try:
            value = parse_json_object(blob, path="f")
        except FormatError:
            continue
        json.dumps(value, allow_nan=False).encode()


@given(st.text(st.characters()))
def test_clean_text_can_always_be_stored(text: str) -> None:
    clean = clean_text(text)
    clean.encode("utf-8")
    assert "\x00" not in clean
    assert len(clean) == len(text)
