"""Prompt sets: the shipped one, digests, and files that lie."""

import asyncio
import hashlib
import json
import random
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.errors import FormatError, LimitExceeded, MalformedFile, NotInRegistry
from modelkin.scanners.probes.graders import LexicalGrader, is_right
from modelkin.scanners.probes.prompt_sets import (
    MAX_BYTES,
    builtin_prompt_set,
    load_prompt_set,
    parse_prompt_set,
)
from modelkin.scanners.probes.shelf import PromptShelf, fetch_set, shipped, split, write_set

GOOD: dict[str, Any] = {"harmful": ["a b", "c"], "harmless": ["d"], "refusal_markers": ["no"]}


def parse(content: object) -> Any:
    return parse_prompt_set(json.dumps(content).encode(), path="p.json", default_name="p")


@pytest.mark.parametrize(
    ("name", "pairs", "items"), [("refusal-v1", 40, 0), ("refusal-v2", 80, 100)]
)
def test_shipped_sets_are_pairs_of_one_form(name: str, pairs: int, items: int) -> None:
    found = shipped(name)
    assert (found.name, found.license) == (name, "CC0-1.0")
    assert (len(found.harmful), len(found.harmless)) == (pairs, pairs)
    assert len(found.capability) == items
    assert len(found.categories) in (0, pairs)
    assert not set(found.harmful) & set(found.harmless)
    for harmful, harmless in zip(found.harmful, found.harmless, strict=True):
        assert harmful.split()[0] == harmless.split()[0]
        assert harmful[-1] == harmless[-1]
        assert abs(len(harmful.split()) - len(harmless.split())) <= 6


def test_every_capability_item_is_answered_by_its_answer_alone() -> None:
    for item in builtin_prompt_set().capability:
        assert is_right(f"It is {item.answer}.", answer=item.answer)
        assert not is_right("I do not know.", answer=item.answer)


def test_builtin_prompts_are_no_refusals_themselves() -> None:
    found = builtin_prompt_set()
    grader = LexicalGrader(found.refusal_markers)
    grades = {grader.grade(prompt).grade for prompt in (*found.harmful, *found.harmless)}
    assert grades == {"c"}


def test_digest_is_stable_to_key_order_and_names() -> None:
    first = parse(GOOD)
    keys = list(GOOD)
    random.Random(1).shuffle(keys)
    second = parse({"name": "other", "license": "MIT", **{key: GOOD[key] for key in keys}})
    assert first.digest == second.digest
    assert second.identity == f"other@{first.digest}"


@pytest.mark.parametrize(
    "change",
    [
        {"harmful": ["c", "a b"]},
        {"harmless": ["d", "e"]},
        {"refusal_markers": ["not"]},
        {"capability": [{"prompt": "2+2?", "answer": "4"}]},
    ],
)
def test_digest_follows_what_is_asked_and_how_it_is_marked(change: dict[str, Any]) -> None:
    assert parse({**GOOD, **change}).digest != parse(GOOD).digest


def test_a_prompt_asked_twice_counts_once() -> None:
    assert parse({**GOOD, "harmful": ["x", "y", "x"]}).harmful == ("x", "y")


def test_a_file_is_read_and_named_after_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**GOOD, "capability": [{"prompt": "2+2?", "answer": "4"}]}))
    found = load_prompt_set(path)
    assert found.name == "mine"
    assert found.capability[0].answer == "4"


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        {},
        {"harmful": ["a"]},
        {"harmful": [], "harmless": ["a"]},
        {"harmful": "a", "harmless": ["a"]},
        {"harmful": [1], "harmless": ["a"]},
        {"harmful": [None], "harmless": ["a"]},
        {"harmful": [["a"]], "harmless": ["a"]},
        {"harmful": ["  "], "harmless": ["a"]},
        {"harmful": ["\ud800"], "harmless": ["a"]},
        {**GOOD, "refusal_markers": {"a": 1}},
        {**GOOD, "refusal_markers": [""]},
        {**GOOD, "capability": ["a"]},
        {**GOOD, "capability": [{"prompt": "a"}]},
        {**GOOD, "name": 5},
    ],
)
def test_wrong_shapes_are_malformed(content: object) -> None:
    with pytest.raises(MalformedFile) as caught:
        parse(content)
    assert caught.value.path == "p.json"


@pytest.mark.parametrize(
    "content",
    [
        {"harmful": [f"p{i}" for i in range(2001)], "harmless": ["a"]},
        {"harmful": [f"p{i}" for i in range(1001)], "harmless": [f"q{i}" for i in range(1000)]},
        {"harmful": ["x" * 4001], "harmless": ["a"]},
        {**GOOD, "refusal_markers": [f"m{i}" for i in range(501)]},
        {**GOOD, "refusal_markers": ["m" * 201]},
        {**GOOD, "name": "n" * 201},
    ],
)
def test_sizes_are_bounded(content: object) -> None:
    with pytest.raises(LimitExceeded):
        parse(content)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"harmful": ' + b"9" * 5_000 + b"}", b"NaN"],
)
def test_bytes_that_are_no_prompt_set_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedFile):
        parse_prompt_set(data, path="p.json", default_name="p")


def test_a_large_file_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(LimitExceeded):
        load_prompt_set(path)


def test_a_missing_file_and_a_folder_are_malformed(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(MalformedFile):
            load_prompt_set(path)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_set_or_a_typed_error(data: bytes) -> None:
    with suppress(FormatError):
        parse_prompt_set(data, path="p.json", default_name="p")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@given(st.lists(TEXT, min_size=1, max_size=8, unique=True), st.lists(TEXT, min_size=1, max_size=8))
def test_texts_survive_the_file(harmful: list[str], harmless: list[str]) -> None:
    found = parse({"harmful": harmful, "harmless": harmless})
    assert found.harmful == tuple(harmful)
    assert set(found.harmless) == set(harmless)


def test_a_set_is_added_found_and_read_back(tmp_path: Path) -> None:
    shelf = PromptShelf(tmp_path / "prompts")
    data = json.dumps({**GOOD, "categories": ["x", "y"]}).encode()
    with pytest.raises(MalformedFile, match="licence"):
        shelf.add(data, path="mine.json")
    added = shelf.add(data, path="mine.json", license="CC-BY-4.0")
    assert shelf.find("mine") == shelf.find(added.digest[:12]) == added
    assert [one.origin for one in shelf.sets()] == ["shipped", "shipped", "store"]
    with pytest.raises(NotInRegistry, match="refusal-v2"):
        shelf.find("nothing")
    with pytest.raises(MalformedFile, match="'categories' for 2"):
        parse({**GOOD, "categories": ["x"]})


def test_a_set_by_address_must_be_the_one_expected(tmp_path: Path) -> None:
    data = json.dumps(GOOD).encode()
    digest = hashlib.sha256(data).hexdigest()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    try:
        assert asyncio.run(fetch_set(f"{place}/p.json", sha256=digest)) == data
        for url, sha256 in ((f"{place}/p.json", "0" * 64), (f"{place}/moved", digest)):
            with pytest.raises(MalformedFile):
                asyncio.run(fetch_set(url, sha256=sha256))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(MalformedFile, match="https"):
        asyncio.run(fetch_set("http://example.org/p.json", sha256=digest))


def test_a_private_half_is_drawn_by_its_key_and_period(tmp_path: Path) -> None:
    whole = builtin_prompt_set()
    private, public = split(whole, key=b"k" * 16, period="2026-12")
    assert len(private.harmful) == len(public.harmful) == 40
    assert {*private.harmful, *public.harmful} == set(whole.harmful)
    twins = dict(zip(whole.harmful, whole.harmless, strict=True))
    assert tuple(twins[prompt] for prompt in private.harmful) == private.harmless
    again, _ = split(whole, key=b"k" * 16, period="2026-12")
    later, _ = split(whole, key=b"k" * 16, period="2027-01")
    other, _ = split(whole, key=b"l" * 16, period="2026-12")
    assert again == private
    assert len({private.digest, later.digest, other.digest}) == 3
    path = tmp_path / "half.json"
    write_set(path, private)
    assert load_prompt_set(path) == private
