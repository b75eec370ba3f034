"""Sketch files: round trips, damage, crafted paths, interrupted writes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkin.lineage.errors import RegistryError
from modelkin.store.sketches import RawArray, SketchStore, sketch_key

KEY = sketch_key(source="hub", source_id="1", sha="abc", plan="p1")
WIDTH = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I64": 8, "F8_E4M3": 1}


@st.composite
def raw_arrays(draw: st.DrawFn) -> RawArray:
    dtype = draw(st.sampled_from(sorted(WIDTH)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = WIDTH[dtype]
    for side in shape:
        size *= side
    return RawArray(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@given(
    arrays=st.dictionaries(
        st.text("abc.0 é", min_size=1, max_size=8), raw_arrays(), min_size=1, max_size=5
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
)
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_saved_is_loaded(
    tmp_path: Path, arrays: dict[str, RawArray], metadata: dict[str, str]
) -> None:
    store = SketchStore(tmp_path)
    saved = store.save(KEY, arrays, metadata=metadata)
    assert store.load(saved.path) == arrays
    assert store.metadata(saved.path) == metadata
    assert store.verify(saved.path, sha256=saved.sha256)


def test_other_tools_read_the_file(tmp_path: Path) -> None:
    store = SketchStore(tmp_path)
    arrays = {
        "b": RawArray("U8", (2,), b"\x01\x02"),
        "a": RawArray("F32", (1,), b"\0\0\x80?"),
    }
    path = store.save(KEY, arrays, metadata={"plan": "p1"}).path
    loaded = safetensors.numpy.load_file(tmp_path / path)
    assert loaded["a"].tolist() == [1.0]
    assert loaded["b"].tolist() == [1, 2]


def test_the_same_sketch_has_the_same_digest(tmp_path: Path) -> None:
    arrays = {name: RawArray("U8", (1,), name.encode()) for name in "abcdef"}
    metadata = {str(number): "x" for number in range(10)}
    first = SketchStore(tmp_path / "1").save(KEY, arrays, metadata=metadata)
    second = SketchStore(tmp_path / "2").save(
        KEY, dict(reversed(arrays.items())), metadata=dict(reversed(metadata.items()))
    )
    assert first == second
    content = (tmp_path / "1" / first.path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == first.sha256


@pytest.mark.parametrize(
    "array", [RawArray("F32", (2,), b"123"), RawArray("F7", (1,), b"1"), RawArray("F4", (1,), b"1")]
)
def test_bytes_that_do_not_fit_are_refused(tmp_path: Path, array: RawArray) -> None:
    with pytest.raises(ValueError, match=r"bytes do not hold|not a safetensors dtype"):
        SketchStore(tmp_path).save(KEY, {"a": array}, metadata={})


@pytest.mark.parametrize("key", ["", "ab", "../" + KEY, KEY.upper() + "!", KEY + "\n", "é" * 64])
def test_a_key_is_a_digest(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        SketchStore(tmp_path).save(key, {}, metadata={})


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", f"../{KEY}", f"aa/../{KEY}.safetensors", f"aa/bb/{KEY}.pt", "a\0b"]
)
def test_a_crafted_path_is_not_followed(tmp_path: Path, path: str) -> None:
    store = SketchStore(tmp_path)
    for call in (store.load, store.remove, store.metadata):
        with pytest.raises(RegistryError, match="not the path"):
            call(path)
    assert not store.verify(path, sha256="x")


def test_damage_is_told(tmp_path: Path) -> None:
    store = SketchStore(tmp_path)
    saved = store.save(KEY, {"a": RawArray("U8", (4,), b"abcd")}, metadata={})
    whole = (tmp_path / saved.path).read_bytes()
    for damaged in (b"", whole[:5], whole[:-1], b"\xff" * 8 + whole[8:], b"\0" * len(whole)):
        (tmp_path / saved.path).write_bytes(damaged)
        with pytest.raises(RegistryError, match="damaged"):
            store.load(saved.path)
        assert not store.verify(saved.path, sha256=saved.sha256)
    (tmp_path / saved.path).write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    with pytest.raises(RegistryError, match="damaged"):
        store.metadata(saved.path)


def test_a_removed_sketch_is_gone(tmp_path: Path) -> None:
    store = SketchStore(tmp_path)
    saved = store.save(KEY, {}, metadata={})
    store.remove(saved.path)
    store.remove(saved.path)
    with pytest.raises(RegistryError, match="cannot read"):
        store.load(saved.path)


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    store = SketchStore(tmp_path)
    saved = store.save(KEY, {}, metadata={"a": "1"})
    store.save(KEY, {}, metadata={"a": "2"})
    assert os.listdir((tmp_path / saved.path).parent) == [Path(saved.path).name]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RegistryError, match="cannot write"):
        SketchStore(tmp_path / "file").save(KEY, {}, metadata={})
