"""Reading safetensors: the same as the library on good files, at least as strict on bad ones."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hostile_safetensors import entry, hostile_files, pack, valid_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelkin.lineage.errors import FormatError, LimitExceeded, MalformedFile, UnsupportedFormat
from modelkin.scanners.bytes import LocalBytes, Traffic
from modelkin.scanners.formats.base import WeightFile
from modelkin.scanners.formats.safetensors_file import (
    Header,
    SafetensorsFile,
    parse_header,
    read_header,
)

NUMPY = [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64]
NUMPY += [np.int64, np.float16, np.float32, np.float64]
ARRAYS = st.sampled_from(NUMPY).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
MODELS = st.dictionaries(NAMES, ARRAYS, max_size=6)
METADATA = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text("abc é"))


def parse(content: bytes) -> Header:
    """What `read_header` does, without a file."""
    length = int.from_bytes(content[:8], "little")
    header = parse_header(content[8 : 8 + length], path="m", file_size=len(content))
    assert header.data_begin == 8 + length
    return header


def local(tmp_path: Path, content: bytes, traffic: Traffic | None = None) -> LocalBytes:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    return LocalBytes(file, name="sub/model.safetensors", traffic=traffic)


@given(model=MODELS, metadata=METADATA)
def test_tensors_and_bytes_are_those_of_the_library(
    model: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    # Library 0.8.0 writes broken JSON for an empty dict of metadata and no tensor.
    content = safetensors.numpy.save(model, metadata=metadata or None)
    header = parse(content)
    assert header.metadata == metadata
    assert {spec.name for spec in header.tensors} == model.keys()
    for name, described in safetensors.deserialize(content):
        spec = next(spec for spec in header.tensors if spec.name == name)
        assert (spec.dtype, list(spec.shape)) == (described["dtype"], described["shape"])
        assert spec.path == "m"
        assert content[spec.begin : spec.end] == described["data"]
        assert content[spec.begin : spec.end] == model[name].tobytes()


@given(model=MODELS)
def test_tensors_come_in_the_order_of_their_bytes(model: dict[str, np.ndarray]) -> None:
    content = safetensors.numpy.save(model)
    tensors = parse(content).tensors
    ends = [spec.end for spec in tensors]
    assert [spec.begin for spec in tensors] == [parse(content).data_begin, *ends][:-1]
    assert not ends or ends[-1] == len(content)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu]
)
def test_types_that_numpy_lacks(dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 7, dtype=torch.float32).reshape(2, 3).to(dtype)
    content = safetensors.torch.save({"w": tensor})
    (spec,) = parse(content).tensors
    assert spec.shape == (2, 3)
    assert content[spec.begin : spec.end] == bytes(tensor.view(torch.uint8).numpy())


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.sampled_from([2**32, 2**63, 2**64, 1.0, "F32", "BF16", "F4", "C64", "F8", "", "pt"]),
    st.lists(st.integers(-1, 24), max_size=4),
    st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), st.integers(0, 2)),
)


@st.composite
def mutated_headers(draw: st.DrawFn) -> bytes:
    """A valid header with some of its fields replaced, dropped or renamed."""
    second = {"dtype": "BF16", "shape": [2, 4], "data_offsets": [8, 24]}
    document = {"__metadata__": {"format": "pt"}, "a": entry(), "b": second}
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(document)))
        action = draw(st.sampled_from(["field", "entry", "drop", "rename"]))
        if action == "field" and isinstance(document[name], dict):
            key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "format"]))
            document[name] = {**document[name], key: draw(VALUES)}
        elif action == "entry":
            document[name] = draw(VALUES)
        elif action == "drop" and len(document) > 1:
            del document[name]
        elif action == "rename":
            document[draw(NAMES)] = document.pop(name)
    return json.dumps(document).encode()


def hold_against_the_library(content: bytes) -> None:
    try:
        described = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        with pytest.raises(FormatError):
            parse(content)
        return
    try:
        tensors = parse(content).tensors
    except FormatError:
        return
    assert {spec.name: content[spec.begin : spec.end] for spec in tensors} == {
        name: bytes(value["data"]) for name, value in described
    }


@settings(max_examples=400)
@given(header=mutated_headers(), size=st.sampled_from([24, 24, 24, 8, 16, 0, 25]))
def test_what_the_library_rejects_is_rejected(header: bytes, size: int) -> None:
    hold_against_the_library(pack(header, bytes(size)))


@settings(max_examples=400)
@given(
    at=st.integers(0, 160),
    drop=st.integers(0, 3),
    put=st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"{", b"\\ud800", b"-", b".0"])),
)
def test_what_the_library_rejects_is_rejected_after_a_splice(
    at: int, drop: int, put: bytes
) -> None:
    whole = valid_file()
    length = int.from_bytes(whole[:8], "little")
    header, body = whole[8 : 8 + length], whole[8 + length :]
    hold_against_the_library(pack(header[:at] + put + header[at + drop :], body))


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_end_in_a_format_error_or_in_a_header(data: bytes) -> None:
    hold_against_the_library(pack(data))


@pytest.mark.parametrize(
    ("content", "error"),
    [pytest.param(content, error, id=name) for name, content, error in hostile_files()],
)
def test_a_hostile_file_ends_in_its_error(
    tmp_path: Path, content: bytes, error: type[FormatError]
) -> None:
    source = local(tmp_path, content)
    started = time.process_time()
    with pytest.raises(FormatError) as caught:
        asyncio.run(read_header(source))
    assert time.process_time() - started < 20
    assert type(caught.value) is error
    assert caught.value.path == "sub/model.safetensors"
    assert caught.value.offset is not None
    assert len(str(caught.value)) < 1000


def test_every_cut_of_a_file_is_rejected(tmp_path: Path) -> None:
    whole = valid_file()
    for end in range(len(whole)):
        with pytest.raises(FormatError):
            asyncio.run(read_header(local(tmp_path, whole[:end])))


def test_a_short_header_costs_one_read(tmp_path: Path) -> None:
    traffic = Traffic()
    content = valid_file()
    header = asyncio.run(read_header(local(tmp_path, content, traffic)))
    assert [spec.name for spec in header.tensors] == ["a", "b"]
    assert (traffic.requests, traffic.bytes) == (1, len(content))


def test_a_long_header_costs_a_second_read_of_what_is_missing(tmp_path: Path) -> None:
    tensors = {f"layer.{i}.weight": np.zeros(1, np.float32) for i in range(2000)}
    content = safetensors.numpy.save(tensors)
    traffic = Traffic()
    header = asyncio.run(read_header(local(tmp_path, content, traffic)))
    assert len(header.tensors) == 2000
    assert (traffic.requests, traffic.bytes) == (2, header.data_begin)


@pytest.mark.parametrize("first_read", [0, 8, 9, 40, 10_000])
def test_the_first_read_may_have_any_length(tmp_path: Path, first_read: int) -> None:
    header = asyncio.run(read_header(local(tmp_path, valid_file()), first_read=first_read))
    assert header == asyncio.run(read_header(local(tmp_path, valid_file())))


def test_a_length_above_the_bound_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", 30_000_000))
        out.truncate(40_000_000)
    traffic = Traffic()
    with pytest.raises(LimitExceeded) as caught:
        asyncio.run(read_header(LocalBytes(file, name="sparse", traffic=traffic)))
    assert (caught.value.limit, caught.value.actual) == (25_000_000, 30_000_000)
    assert traffic.bytes == 65536


@pytest.mark.parametrize("metadata", [b'"__metadata__":null', b'"__metadata__":{}', b""])
def test_no_metadata_may_be_said_in_three_ways(metadata: bytes) -> None:
    assert parse(pack(b"{" + metadata + b"}   ")).metadata == {}


def test_a_model_of_many_tensors_is_read_in_time() -> None:
    field = '{"dtype":"U8","shape":[1,1],"data_offsets":[%d,%d]}'
    entries = (f'"model.layers.{i}.w":{field % (i, i + 1)}' for i in range(60_000))
    content = pack(("{" + ",".join(entries) + "}").encode(), bytes(60_000))
    started = time.process_time()
    assert len(parse(content).tensors) == 60_000
    assert time.process_time() - started < 20


def test_elements_are_read_by_range(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    content = safetensors.numpy.save({"a": np.ones(3, np.int8), "w": values})

    async def read(begin: int, count: int) -> bytes:
        file: WeightFile = await SafetensorsFile.open(local(tmp_path, content))
        (spec,) = (spec for spec in file.tensors if spec.name == "w")
        return await file.read(spec, begin, count)

    assert asyncio.run(read(0, 24)) == values.tobytes()
    assert asyncio.run(read(7, 3)) == values.reshape(-1)[7:10].tobytes()
    assert asyncio.run(read(24, 0)) == b""
    for begin, count in ((0, 25), (-1, 1), (24, 1), (5, -1)):
        with pytest.raises(MalformedFile):
            asyncio.run(read(begin, count))


def test_packed_elements_are_not_read_by_range(tmp_path: Path) -> None:
    content = pack({"a": entry(dtype="F4", shape=[16])}, bytes(8))

    async def read() -> bytes:
        file = await SafetensorsFile.open(local(tmp_path, content))
        return await file.read(file.tensors[0], 0, 2)

    with pytest.raises(UnsupportedFormat, match="F4"):
        asyncio.run(read())


def test_a_tensor_of_another_file_is_refused(tmp_path: Path) -> None:
    other = parse(valid_file()).tensors[0]

    async def read() -> bytes:
        file = await SafetensorsFile.open(local(tmp_path, valid_file()))
        assert file.metadata == {"format": "pt"}
        return await file.read(other, 0, 1)

    with pytest.raises(MalformedFile):
        asyncio.run(read())
