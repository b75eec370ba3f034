"""modelkin.toml: every key read, every mistake named."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nights import SECRET

from modelkin.lineage.errors import ModelkinError
from modelkin.scanners.nightly_config import BadConfig, parse_config, parse_size, parse_span

ROOT = Path(__file__).resolve().parents[2]


def example() -> str:
    """The configuration that the documentation shows."""
    page = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")
    return page.split("```toml\n")[1].split("```")[0]


def parse(text: str, **environment: str) -> Any:
    return parse_config(tomllib.loads(text), environment=environment.get)


def test_the_documented_configuration_is_read() -> None:
    config = parse(example(), MODELKIN_HOOK="https://h.example/x", MODELKIN_SECRET=SECRET)
    assert config.watch == ("org/release",)
    assert config.limits.max_bytes == 200 * 10**9
    assert config.full_every == timedelta(days=7)
    assert config.receivers[0].url == "https://h.example/x"


def test_an_empty_file_has_sound_defaults() -> None:
    config = parse("")
    assert (config.source, config.engine, config.probe) == ("hub", "local", "none")
    assert config.limits.deadline is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sotre]\n", "no table [sotre]"),
        ("[store]\npaht = 'x'\n", "has no key paht"),
        ("[store]\nkeep_snapshots = 0\n", "at least 1"),
        ("[scan]\nmax_bytes = '7 apples'\n", "a size is like 200GB"),
        ("[scan]\nmax_bytes = true\n", "a size is like 200GB"),
        ("[scan]\ndeadline = 6\n", "a span is like 6h"),
        ("[scan]\nwatch = ['../etc']\n", "is no org/model"),
        ("[scan]\nwatch = 'org/x'\n", "a list of texts"),
        ("[scan]\nengine = 'spark'\n", "one of local, ray"),
        ("[hub]\nsource = 'ftp://x'\n", "hub, or dir:PATH"),
        ("[publish]\nshrink = 1.5\n", "a share from 0 to 1"),
        ("[publish]\ncanary_edges = [['a/b']]\n", "each entry is [child, parent]"),
        ("store = 3\n", "[store] has to be a table"),
        ("[[notify]]\nurl = 'env:NOBODY'\n", "environment variable is not set"),
        ("[[notify]]\nurl = 'http://plain.example'\n", "has to be https"),
        (f"[[notify]]\nurl = 'https://h.example'\nsecret = '{SECRET}'\nevents = ['x']\n", "one of"),
        ("notify = 3\n", "written [[notify]]"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(ModelkinError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_a_secret_is_in_no_error_and_no_repr() -> None:
    text = f"[[notify]]\nname='a'\nurl='https://h.example/{'s' * 9}'\nsecret='{SECRET}'\n"
    config = parse(text)
    assert SECRET not in repr(config)
    assert "sssssssss" not in repr(config)


plain = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)
values = plain | st.lists(plain, max_size=2)
tables = st.sampled_from(["store", "hub", "scan", "probe", "publish", "notify"])
keys = st.sampled_from(["path", "source", "watch", "max_bytes", "deadline", "url", "secret", "x"])


@given(st.dictionaries(tables, values | st.dictionaries(keys, values, max_size=3), max_size=3))
def test_anything_is_a_configuration_or_a_named_mistake(data: dict[str, Any]) -> None:
    with suppress(ModelkinError):
        assert parse_config(data, environment=lambda name: None).keep_snapshots > 0


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("5 kB", 5000), ("2TB", 2 * 10**12)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "-1h", "1w", "1.5h", None, 3])
def test_no_spans(text: Any) -> None:
    with pytest.raises(ValueError, match="a span is like"):
        parse_span(text)
    assert issubclass(BadConfig, ModelkinError)
