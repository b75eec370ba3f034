"""GGUF: what the reference library writes is read alike; what nobody should write is refused."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import gguf_name, pair, permuted, raw_gguf, tensor, text, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from k_quants import K_QUANTS, quantize_k
from small_models import tiny_weights
from weight_files import BUDGET, MemoryBytes, span

from modelkin.lineage.errors import (
    FormatError,
    LimitExceeded,
    MalformedFile,
    TruncatedRead,
    UnsupportedFormat,
)
from modelkin.scanners.bytes import LocalBytes, Traffic
from modelkin.scanners.formats.choosing import choose_gguf
from modelkin.scanners.formats.gguf_blocks import BLOCK_TYPES, BlockType, decode_blocks
from modelkin.scanners.formats.gguf_file import declared_bases, gguf_weights
from modelkin.scanners.formats.gguf_header import GgufHeader, read_gguf_header

DECODED = [kind for kind in BLOCK_TYPES.values() if kind.decode is not None]


def header_of(data: bytes, first_read: int = 262_144) -> GgufHeader:
    return asyncio.run(read_gguf_header(MemoryBytes(data), first_read=first_read))


@pytest.mark.parametrize("kind", DECODED, ids=lambda kind: kind.name)
def test_blocks_decode_as_the_reference_does(kind: BlockType) -> None:
    chance = np.random.default_rng(3)
    raw = chance.integers(0, 256, (64, kind.size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind.name])
    values, steps = decode_blocks(kind, raw.tobytes())
    assert np.array_equal(values, expected.reshape(-1), equal_nan=True)
    assert not (steps < 0).any()


def test_every_type_of_the_reference_is_known_by_its_size() -> None:
    for of, (weights, size) in gguf.GGML_QUANT_SIZES.items():
        kind = BLOCK_TYPES.get(int(of))
        # The reference gives Q8_1 the size that it had before 2023; no file holds it.
        if kind is not None and kind.name != "Q8_1":
            assert (kind.name, kind.weights, kind.size) == (of.name, weights, size)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_the_step_bounds_what_rounding_moved(kind: str) -> None:
    weights = np.random.default_rng(1).normal(0, 0.1, (8, 256)).astype(np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
    code = int(gguf.GGMLQuantizationType[kind])
    values, steps = decode_blocks(BLOCK_TYPES[code], packed.tobytes())
    off = np.abs(values - weights.reshape(-1))
    assert np.mean(off <= 0.51 * steps + 1e-4) > 0.93
    ratio = float(np.mean(12 * (off / steps) ** 2))
    assert 0.7 < ratio < 3


@pytest.mark.parametrize("kind", K_QUANTS)
def test_k_quants_are_rounding_on_their_grid(kind: str) -> None:
    weights = np.random.default_rng(2).standard_t(5, (8, 512)).astype(np.float32) * 0.05
    packed = quantize_k(weights, kind)
    of = gguf.GGMLQuantizationType[kind]
    values, steps = decode_blocks(BLOCK_TYPES[int(of)], packed.tobytes())
    assert np.array_equal(values, gguf.quants.dequantize(packed, of).reshape(-1))
    off = values - weights.reshape(-1)
    assert 0.85 < float(np.mean(12 * (off / np.maximum(steps, steps.max() * 1e-3)) ** 2)) < 1.15


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_spans_are_those_of_the_plain_model(tmp_path: Path, kind: str) -> None:
    weights = tiny_weights("spans", hidden=64)
    path = tmp_path / "m.gguf"
    write_gguf(path, weights, kind)
    data = path.read_bytes()
    file = gguf_weights({"m.gguf": header_of(data)})
    of = gguf.GGMLQuantizationType[kind]
    for name, value in weights.items():
        weight = file.weights[gguf_name(name)]
        assert weight.shape == value.shape
        plain = value
        if value.ndim > 1:
            plain = gguf.quants.dequantize(gguf.quants.quantize(value, of), of)
        count = min(value.size, 1000)
        for start in (0, min(value.size - count, 300)):
            decoded = span(weight, data, start, count)
            width = {"F16": "<f2", "BF16": "<u2"}.get(decoded.dtype, "<f4")
            found = np.frombuffer(decoded.data, dtype=width)
            if decoded.dtype == "BF16":
                found = (found.astype(np.uint32) << 16).view(np.float32)
            expected = plain.reshape(-1)[start : start + count]
            assert np.array_equal(found.astype(np.float32), expected), name
            assert decoded.step is None or decoded.step.shape == (count,)


def test_what_is_read_is_the_span_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, tiny_weights("span", hidden=64), "Q8_0")
    file = gguf_weights({"m.gguf": header_of(path.read_bytes())})
    located = file.weights["blk.1.attn_v.weight"].locate(0, 256, budget=BUDGET)
    assert located is not None
    assert located.size == 8 * 34


def test_a_header_is_read_in_few_growing_steps(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, tiny_weights("steps"), "F16")
    whole = header_of(path.read_bytes())
    source = MemoryBytes(path.read_bytes())
    small = asyncio.run(read_gguf_header(source, first_read=64))
    assert small == whole
    assert len(source.reads) < 12
    traffic = Traffic()
    local = LocalBytes(path, name="m.gguf", traffic=traffic)
    assert asyncio.run(read_gguf_header(local)).tensors == whole.tensors
    assert traffic.requests == 1


@given(heads=st.sampled_from([1, 2, 4]), half=st.integers(1, 4))
def test_permuted_rows_are_found_again(heads: int, half: int) -> None:
    from modelkin.scanners.formats.gguf_file import stored_rows

    rows = heads * 2 * half
    plain = np.arange(rows)
    stored = permuted(plain, heads)
    assert np.array_equal(stored[stored_rows(plain, rows=rows, heads=heads)], plain)


def test_query_and_key_of_an_unknown_architecture_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, tiny_weights("x"), "F16", architecture="mystery")
    names = set(gguf_weights({"m.gguf": header_of(path.read_bytes())}).weights)
    assert "blk.0.attn_v.weight" in names
    assert not {"blk.0.attn_q.weight", "blk.0.attn_k.weight"} & names


def test_parents_stand_in_the_metadata(tmp_path: Path) -> None:
    pairs = {
        "general.base_model.0.repo_url": "https://huggingface.co/lab/base",
        "general.base_model.1.name": "Other Base",
        "general.base_model.1.organization": "Lab",
    }
    path = tmp_path / "m.gguf"
    write_gguf(path, tiny_weights("x"), "F16", pairs=pairs)
    file = gguf_weights({"m.gguf": header_of(path.read_bytes())})
    assert declared_bases(file.metadata) == ["https://huggingface.co/lab/base", "Lab/Other-Base"]


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["a.Q4_K_M.gguf", "a.Q8_0.gguf"], ("a.Q8_0.gguf",)),
        (["a-Q8_0.gguf", "a-BF16.gguf"], ("a-BF16.gguf",)),
        (["mmproj-f16.gguf", "a-IQ2_XS.gguf"], ("a-IQ2_XS.gguf",)),
        (
            ["q/a-00002-of-00002.gguf", "q/a-00001-of-00002.gguf"],
            ("q/a-00001-of-00002.gguf", "q/a-00002-of-00002.gguf"),
        ),
        (["a-00001-of-00002.gguf"], ()),
        (["imatrix.gguf"], ()),
    ],
)
def test_the_most_precise_copy_is_read(paths: list[str], chosen: tuple[str, ...]) -> None:
    assert choose_gguf(paths) == chosen


GOOD = tensor("blk.0.attn_v.weight", [32, 4], 0, 0)
HOSTILE: dict[str, tuple[bytes, type[FormatError]]] = {
    "no magic": (raw_gguf(magic=b"GGML"), MalformedFile),
    "empty": (b"", TruncatedRead),
    "version 1": (raw_gguf(version=1), UnsupportedFormat),
    "big endian": (raw_gguf(version=3 << 24), UnsupportedFormat),
    "version 9": (raw_gguf(version=9), MalformedFile),
    "2^63 strings in 49 bytes": (
        raw_gguf(pairs=[pair("k", 9, struct.pack("<IQ", 8, 1 << 63))])[:49],
        TruncatedRead,
    ),
    "2^63 numbers": (raw_gguf(pairs=[pair("k", 9, struct.pack("<IQ", 4, 1 << 63))]), TruncatedRead),
    "2^63 pairs": (raw_gguf(counts=(0, 1 << 63)), LimitExceeded),
    "2^63 tensors": (raw_gguf(counts=(1 << 63, 0)), LimitExceeded),
    "more tensors than fit": (raw_gguf(counts=(100_000, 0)), TruncatedRead),
    "key of 2^62": (raw_gguf(pairs=[struct.pack("<Q", 1 << 62)]), TruncatedRead),
    "key not UTF-8": (
        raw_gguf(pairs=[text(b"\xff\xfe") + struct.pack("<IB", 0, 1)]),
        MalformedFile,
    ),
    "key twice": (raw_gguf(pairs=[pair("k", 0, b"\1")] * 2), MalformedFile),
    "unknown value type": (raw_gguf(pairs=[pair("k", 99, b"\1")]), MalformedFile),
    "unknown element type": (
        raw_gguf(pairs=[pair("k", 9, struct.pack("<IQ", 77, 1))]),
        MalformedFile,
    ),
    "arrays in arrays": (
        raw_gguf(pairs=[pair("k", 9, struct.pack("<IQ", 9, 1) * 40)]),
        MalformedFile,
    ),
    "five dimensions": (raw_gguf(tensors=[tensor("t", [1] * 5, 0, 0)]), LimitExceeded),
    "shape of 2^63": (raw_gguf(tensors=[tensor("t", [1 << 63], 0, 0)]), LimitExceeded),
    "shape of 2^40 squared": (
        raw_gguf(tensors=[tensor("t", [1 << 40, 1 << 40], 0, 0)]),
        TruncatedRead,
    ),
    "beyond the end": (raw_gguf(tensors=[GOOD], data=bytes(100)), TruncatedRead),
    "offset of 2^63": (
        raw_gguf(tensors=[tensor("t", [4], 0, 1 << 63)], data=bytes(99)),
        TruncatedRead,
    ),
    "half a block": (raw_gguf(tensors=[tensor("t", [33], 2, 0)], data=bytes(99)), MalformedFile),
    "name twice": (raw_gguf(tensors=[GOOD, GOOD], data=bytes(9999)), MalformedFile),
    "overlap": (
        raw_gguf(tensors=[tensor("a", [8], 0, 0), tensor("b", [8], 0, 16)], data=bytes(99)),
        MalformedFile,
    ),
    "alignment 3": (
        raw_gguf(
            pairs=[pair("general.alignment", 4, struct.pack("<I", 3))],
            tensors=[GOOD],
            data=bytes(999),
        ),
        MalformedFile,
    ),
    "alignment 0": (
        raw_gguf(
            pairs=[pair("general.alignment", 4, struct.pack("<I", 0))],
            tensors=[GOOD],
            data=bytes(999),
        ),
        MalformedFile,
    ),
    "name of 300 bytes": (
        raw_gguf(tensors=[tensor("n" * 300, [8], 0, 0)], data=bytes(99)),
        LimitExceeded,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(case: str) -> None:
    data, error = HOSTILE[case]
    with pytest.raises(error) as caught:
        header_of(data)
    assert caught.value.path == "m.gguf"


def test_a_tensor_in_two_shards_is_refused() -> None:
    data = raw_gguf(tensors=[GOOD], data=bytes(512))
    header = header_of(data)
    with pytest.raises(MalformedFile, match="two shards"):
        gguf_weights({"a": header, "b": header})


def test_a_type_without_a_decoder_is_named() -> None:
    tensors = [GOOD, tensor("blk.0.attn_o.weight", [256], 16, 512), tensor("z", [8], 333, 1024)]
    file = gguf_weights({"m.gguf": header_of(raw_gguf(tensors=tensors, data=bytes(2000)))})
    assert file.skipped == {"IQ2_XXS": 1, "type 333": 1}
    assert file.weights["z"].locate(0, 8, budget=999) is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_header_gives_a_typed_error_or_a_header(data: st.DataObject) -> None:
    whole = bytearray(
        raw_gguf(
            pairs=[
                pair("general.architecture", 8, text("llama")),
                pair("list", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
                pair("n", 4, struct.pack("<I", 7)),
            ],
            tensors=[GOOD, tensor("output.weight", [32], 8, 512)],
            data=bytes(600),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        header = header_of(bytes(whole[:cut]), first_read=40)
    except FormatError:
        return
    assert all(t.end <= cut for t in header.tensors)
