"""Choosing the weight files of a repository, and indexes of shards."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.errors import FormatError, LimitExceeded, MalformedFile, UnsupportedFormat
from modelkin.scanners.formats.safetensors_file import Header, parse_header
from modelkin.scanners.formats.sharded import (
    WeightLayout,
    check_index,
    choose_weight_files,
    parse_index,
)

INDEX = "model.safetensors.index.json"


def shard(number: int, total: int, stem: str = "model") -> str:
    return f"{stem}-{number:05d}-of-{total:05d}.safetensors"


TWO = (shard(1, 2), shard(2, 2))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["config.json", "model.safetensors"], ("single", ("model.safetensors",), None)),
        (["model.safetensors", INDEX, *TWO], ("single", ("model.safetensors",), None)),
        ([INDEX, *TWO, "README.md"], ("sharded", TWO, INDEX)),
        ([INDEX], ("sharded", (), INDEX)),
        ([INDEX, *TWO, shard(1, 3), "tokenizer.json"], ("sharded", TWO, INDEX)),
        ([INDEX, *TWO, *(shard(i, 3) for i in (1, 2, 3))], ("sharded", (), INDEX)),
        (list(reversed(TWO)), ("sharded", TWO, None)),
        ([INDEX, *TWO, "consolidated.safetensors"], ("sharded", TWO, INDEX)),
        (
            ["model.safetensors", "consolidated.safetensors"],
            ("single", ("model.safetensors",), None),
        ),
        (
            ["consolidated.safetensors", "params.json"],
            ("single", ("consolidated.safetensors",), None),
        ),
        (
            ["gptq_model-4bit-128g.safetensors", "pytorch_model.bin"],
            ("single", ("gptq_model-4bit-128g.safetensors",), None),
        ),
        (
            ["model.safetensors", "adapter_model.safetensors", "optimizer.pt"],
            ("single", ("model.safetensors",), None),
        ),
        (
            ["adapter_config.json", "adapter_model.safetensors", "training_args.bin"],
            ("adapter", ("adapter_model.safetensors",), None),
        ),
        (["adapters.safetensors"], ("adapter", ("adapters.safetensors",), None)),
        (
            ["model_00001-of-00001.safetensors"],
            ("single", ("model_00001-of-00001.safetensors",), None),
        ),
    ],
)
def test_the_model_is_found(
    paths: list[str], expected: tuple[str, tuple[str, ...], str | None]
) -> None:
    layout = choose_weight_files(paths)
    assert (layout.kind, layout.files, layout.index) == expected
    assert choose_weight_files(paths[::-1]) == layout


@pytest.mark.parametrize(
    ("paths", "formats"),
    [
        (["mmproj-a-f16.gguf", "a-00001-of-00002.gguf"], ("gguf",)),
        (["a.bin", "b.bin", "training_args.bin"], ("pytorch",)),
        (["pytorch_model-00001-of-00002.bin", "tf_model.h5"], ("pytorch", "tensorflow")),
        (["unet/model.safetensors", "vae/model.safetensors"], ("safetensors",)),
        (["original/consolidated.00.pth", "onnx/model.onnx"], ("onnx", "pytorch")),
        (["a.safetensors", "b.safetensors"], ("safetensors",)),
        ([shard(1, 2)], ("safetensors",)),
        (["flax_model.MSGPACK"], ("flax",)),
    ],
)
def test_what_cannot_be_read_is_named(paths: list[str], formats: tuple[str, ...]) -> None:
    assert choose_weight_files(paths) == WeightLayout(kind="unsupported", formats=formats)


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["README.md", "config.json", ".gitattributes", "Makefile"],
        ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"],
        ["checkpoint-10/optimizer.bin"],
        ["optimizer.safetensors"],
    ],
)
def test_there_may_be_no_weights(paths: list[str]) -> None:
    assert choose_weight_files(paths) == WeightLayout(kind="none")


@given(st.lists(st.sampled_from(["a", "/", "-", "00001", "of", "model", ".safetensors", ".bin"])))
def test_any_listing_gives_a_layout(parts: list[str]) -> None:
    path = "".join(parts)
    layout = choose_weight_files([path])
    assert set(layout.files) <= {path}


def index_of(weight_map: Any, **more: Any) -> bytes:
    return json.dumps(
        {"metadata": {"total_size": 1.5e10}, "weight_map": weight_map, **more}
    ).encode()


@pytest.mark.parametrize(
    ("before", "behind"), [("", "\n"), ("", "\r\n"), ("\n ", "\n\n"), ("", " \t")]
)
def test_an_index_may_have_white_space_around_it(before: str, behind: str) -> None:
    """As `save_pretrained` writes it: with a new line at the end."""
    text = before + json.dumps({"metadata": {}, "weight_map": {"a": TWO[0]}}) + behind
    assert parse_index(text.encode(), path=INDEX) == {"a": TWO[0]}


def test_an_index_names_files_in_its_own_folder() -> None:
    data = index_of({"a": TWO[0], "b": TWO[1]})
    assert parse_index(data, path=INDEX) == {"a": TWO[0], "b": TWO[1]}
    inside = {"a": f"text/{TWO[0]}", "b": f"text/{TWO[1]}"}
    assert parse_index(data, path=f"text/{INDEX}") == inside
    assert parse_index(index_of(inside), path=f"text/{INDEX}") == inside


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "..\\model.safetensors",
        "/etc/model.safetensors",
        "//host/share/model.safetensors",
        "\\\\host\\model.safetensors",
        "C:model.safetensors",
        "C:\\model.safetensors",
        "a/../model.safetensors",
        "text/model.safetensors",
        "other/text/model.safetensors",
        "text/../model.safetensors",
        "text//model.safetensors",
        "a\0.safetensors",
        "a\n.safetensors",
        "a\x1b[31m.safetensors",
        "a\u202e.safetensors",
        ".safetensors",
        "..",
        ".",
        "",
        "~",
        "https://example.org/model.safetensors",
        "model.safetensors?download=true",
        "é" * 130 + ".safetensors",
    ],
)
def test_a_shard_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_index(index_of({"a": name}), path=INDEX)
    assert isinstance(caught.value, (MalformedFile, UnsupportedFormat))
    if "text/" not in name or ".." in name or "//" in name or name.startswith("other"):
        with pytest.raises(FormatError):
            parse_index(index_of({"a": name}), path=f"text/{INDEX}")


@given(st.text(max_size=30).map(lambda name: name + ".safetensors"))
def test_an_accepted_shard_is_one_plain_name(name: str) -> None:
    try:
        data = index_of({"a": name})
        shards = parse_index(data, path=f"sub/{INDEX}")
    except FormatError:
        return
    folder, _, bare = shards["a"].rpartition("/")
    assert folder == "sub"
    assert bare.isprintable()
    assert not set(bare) & set("/\\:\0")
    assert bare not in ("", ".", "..")


def test_shards_of_another_format_are_unsupported() -> None:
    with pytest.raises(UnsupportedFormat, match="no weight file"):
        parse_index(index_of({"a": "tf_model-00001-of-00002.h5"}), path=INDEX)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map":null}',
        b'{"weight_map":[]}',
        b'{"weight_map":{}}',
        b'{"weight_map":{"a":1}}',
        b'{"weight_map":{"a":null}}',
        b'{"weight_map":{"a":["b.safetensors"]}}',
        b'{"weight_map":{"a":"b.safetensors","a":"c.safetensors"}}',
        b'{"weight_map":{"a":"b.safetensors"}',
        b'{"weight_map":{"\\ud800":"b.safetensors"}}',
        b'{"weight_map":{"a":"b.safetensors"},"x":NaN}',
        b'{"weight_map":{"a":"b.safetensors"},"x":1e999}',
        b'{"weight_map":{"a":"b\xff.safetensors"}}',
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_a_broken_index_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedFile) as caught:
        parse_index(data, path=INDEX)
    assert caught.value.path == INDEX


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            index_of({"a": {}})[:-1] + b"," + b'"x":' + b"[" * 20 + b"]" * 20 + b"}", id="deep"
        ),
        pytest.param(index_of({"a": "b"}, x=[{}] * 1001), id="objects"),
        pytest.param(index_of({f"{i}": f"{i}.safetensors" for i in range(10_001)}), id="shards"),
        pytest.param(index_of({f"{i}": "b.safetensors" for i in range(200_001)}), id="tensors"),
        pytest.param(index_of({"a": "b"}, x=[1] * 500_000), id="elements"),
        pytest.param(b'{"x":"' + b" " * 25_000_000 + b'"}', id="bytes"),
        pytest.param(b'{"x":' + b"9" * 5_000 + b"}", id="digits"),
    ],
)
def test_an_index_is_bounded(data: bytes) -> None:
    with pytest.raises(LimitExceeded):
        parse_index(data, path=INDEX)


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_no_index(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_index(data, path=INDEX)


def header(path: str, *names: str) -> Header:
    content = safetensors.numpy.save({name: np.zeros(2, np.float32) for name in names})
    length = int.from_bytes(content[:8], "little")
    return parse_header(content[8 : 8 + length], path=path, file_size=len(content))


def test_an_index_that_fits_its_shards() -> None:
    headers = {TWO[0]: header(TWO[0], "a", "b"), TWO[1]: header(TWO[1], "c", "not in the index")}
    check_index({"a": TWO[0], "b": TWO[0], "c": TWO[1]}, headers)


@pytest.mark.parametrize(
    ("weight_map", "second", "message"),
    [
        ({"a": TWO[0], "c": TWO[1]}, ("b",), "'c' is not in its shard"),
        ({"a": TWO[1]}, ("b",), "'a' is not in its shard"),
        ({"a": TWO[0]}, ("a", "b"), "'a' stands in model-00001-of-00002.safetensors too"),
        ({"a": shard(3, 3)}, ("b",), "shard of tensor 'a' is missing"),
    ],
)
def test_an_index_that_does_not_fit(
    weight_map: dict[str, str], second: tuple[str, ...], message: str
) -> None:
    headers = {TWO[0]: header(TWO[0], "a"), TWO[1]: header(TWO[1], *second)}
    with pytest.raises(MalformedFile, match=message) as caught:
        check_index(weight_map, headers)
    assert caught.value.path.endswith(".safetensors")
