"""Declarations that are of the wrong type, crafted, far too many or far too long."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.scanners.cards import parse_card
from modelkin.scanners.declared import MAX_PARENTS, declared_parents
from modelkin.scanners.declared_paths import is_model_id

HUB: Final = "https://huggingface.co"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "   ",
        5,
        4.5,
        True,
        {"name": "org/base"},
        [["org/base"], {"a": "org/base"}, 3, None, "", True],
    ],
)
def test_a_base_model_of_another_type_declares_nothing(value: object) -> None:
    places = {"base_model": value, "base_model_relation": value, "tags": value, "model_link": value}
    assert declared_parents(model="me/child", card=places) == ()
    named = {"_name_or_path": value, "peft": value, "quantization_config": value}
    assert declared_parents(model=None, card={"library_name": value}, config=named) == ()
    assert (
        declared_parents(model="a/b", card={}, adapter_config={"base_model_name_or_path": value})
        == ()
    )


@pytest.mark.parametrize(
    "raw",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example/org/name",
        "https://huggingface.co@evil.example/org/name",
        "https://huggingface.co.evil.example/org/name",
        "file:///etc/passwd",
        "../..",
        "../../etc/passwd",
        "org/../name",
        "org/na..me",
        "org/na--me",
        "org/.name",
        "-org/name",
        "org/name.git",
        "org/name/extra",
        "org/na me",
        "org/n\u202eame",
        "\u043erg/name",
        "org/name\x00",
        "org//name",
        "//org/name",
        "\\\\server\\share",
        "org/" + "n" * 97,
        "a" * 100_000,
        "models--org--na--me",
        "[bold red]org/name",
        "=HYPERLINK(1)",
    ],
)
def test_crafted_names_never_resolve(raw: str) -> None:
    (parent,) = declared_parents(model="me/child", card={"base_model": raw})
    assert parent.name is None
    assert parent.note
    assert len(parent.raw) <= 512
    parent.raw.encode()
    assert "\x00" not in parent.raw


def test_parents_are_capped_and_the_rest_is_counted() -> None:
    text = json.dumps({"base_model": [f"org/b{i}" for i in range(4_000)]})
    card = parse_card(f"---\n{text}\n---\n".encode())
    mergekit = "models:\n" + "".join(f"- model: org/m{i}\n" for i in range(1_000))
    parents = declared_parents(model="me/c", card=card.front_matter, mergekit=mergekit)
    assert len(parents) == MAX_PARENTS
    assert parents[-1].note == "4,936 more claims left out"
    many = declared_parents(model="me/c", card={"base_model": ["org/same"] * 10_000})
    assert [parent.name for parent in many] == ["org/same"]


@pytest.mark.parametrize(
    "body",
    [
        "<!--" * 250_000,
        "```\n" * 250_000,
        "fine-tuned version of " * 50_000,
        "fine-tuned version of [" * 40_000,
        "original model: [a](" * 50_000,
        "merge of the following models\n" * 30_000,
        "merge of the following models\n" + "* org/a [x](y)\n" * 60_000,
        "base model" + " " * 1_000_000,
        "\n" * 1_000_000,
        "#" * 1_000_000,
        "- " * 500_000,
        "```yaml\n" + "\n" * 60_000 + "models:\n  - model: org/a\n```",
        "```yaml\nmodels:\n" + "- " * 30_000 + "model: org/a\n```",
        "```yaml\nmodels:\n  - model: a\n```\n" * 20_000,
        "the the the model the " * 45_000,
        "x" * 10_000_000,
    ],
    ids=range(16),
)
def test_long_bodies_take_bounded_time(body: str) -> None:
    began = time.process_time()
    assert len(declared_parents(model="me/c", card={}, body=body, mergekit=body)) <= MAX_PARENTS
    assert time.process_time() - began < 20


PIECES: Final = st.sampled_from(
    [
        "fine-tuned version of ", "original model: ", "base_model: ", "org/base", "[", "](", ")",
        f"{HUB}/", "models--a--b", "/snapshots/", "___", "\\", "/", "D:", "..", "`", "```yaml\n",
        "```\n", "models:\n", "  - model: ", "---\n", "\n", "+", "@", "<!--", "-->", "\ud800",
        "\x00", "base_model:", "adapter:", "gpt2", "modelscope/hub/",
    ]
)  # fmt: skip
TEXTS: Final = st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join)
VALUES: Final = TEXTS | st.lists(TEXTS, max_size=4) | st.none() | st.integers()


@given(
    card=st.dictionaries(
        st.sampled_from(["base_model", "base_model_relation", "tags", "model_link", "license"]),
        VALUES,
    ),
    tags=st.lists(TEXTS, max_size=4),
    body=TEXTS,
    mergekit=TEXTS | st.none(),
    config=st.dictionaries(st.sampled_from(["_name_or_path", "peft", "base_model"]), VALUES),
)
def test_any_text_gives_claims_that_can_be_kept(
    card: dict[str, Any],
    tags: list[str],
    body: str,
    mergekit: str | None,
    config: dict[str, Any],
) -> None:
    parents = declared_parents(
        model="me/child", card=card, tags=tags, body=body, mergekit=mergekit, config=config
    )
    names = [parent.name for parent in parents if parent.name]
    assert all(is_model_id(name) and name.isascii() for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    for parent in parents:
        assert parent.raw
        (parent.raw + (parent.revision or "") + (parent.note or "")).encode()
