"""PyTorch checkpoints: read without unpickling, refused where unpickling would call something."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    coverage,
    infer_once,
    rows_of,
    scan_once,
    tiny_weights,
    tuned,
    write_model,
)
from torch_files import Payload, named, saved, tensor_pickle, torch_zip, with_pickle
from weight_files import MemoryBytes

from modelkin.lineage.errors import (
    FormatError,
    LimitExceeded,
    MalformedFile,
    TruncatedRead,
    UnsafePickle,
    UnsupportedFormat,
)
from modelkin.scanners.formats.choosing import choose_torch, pickles_of
from modelkin.scanners.formats.pickle_ops import Walker
from modelkin.scanners.formats.pickle_values import flatten
from modelkin.scanners.formats.safetensors_file import Header
from modelkin.scanners.formats.torch_file import read_torch_header
from modelkin.scanners.sources.folder import FolderSource

TENSORS = {name: torch.from_numpy(value) for name, value in tiny_weights("torch").items()}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def header_of(data: bytes, *, lenient: bool = False) -> Header:
    return asyncio.run(read_torch_header(MemoryBytes(data), lenient=lenient))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_tensors_lie_where_torch_put_them(legacy: bool, dtype: str) -> None:
    tensors = {name: tensor.to(FLOATS[dtype]) for name, tensor in TENSORS.items()}
    data = saved(tensors, legacy=legacy)
    found = {spec.name: spec for spec in header_of(data).tensors}
    assert found.keys() == tensors.keys()
    for name, spec in found.items():
        assert (spec.dtype, spec.shape) == (dtype, tuple(tensors[name].shape))
        assert data[spec.begin : spec.end] == bytes(
            tensors[name].view(torch.uint8).numpy().tobytes()
        )


@pytest.mark.parametrize("legacy", [False, True])
def test_parameters_trainers_and_ties_are_understood(legacy: bool) -> None:
    held = {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()}
    held["tied"] = held["lm_head.weight"]
    value = {"state_dict": held, "epoch": 3, "lr": 1e-3, "optimizer": {"m": torch.ones(4)}}
    specs = {spec.name: spec for spec in header_of(saved(value, legacy=legacy)).tensors}
    assert specs.keys() == held.keys()
    assert specs["tied"].begin == specs["lm_head.weight"].begin


def test_views_that_are_no_rows_are_left_out() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    data = saved({"t": whole.t(), "columns": whole[:, :2], "rows": whole[1:3]})
    (spec,) = header_of(data).tensors
    assert spec.name == "rows"
    assert data[spec.begin : spec.end] == whole[1:3].numpy().tobytes()


def test_of_a_large_file_little_is_read() -> None:
    source = MemoryBytes(saved({"w": torch.zeros(1 << 20)}))
    asyncio.run(read_torch_header(source))
    assert sum(end - begin for begin, end in source.reads) < 100_000
    assert len(source.reads) <= 3


CALLS: dict[str, Any] = {
    "os.system": Payload(os.system, "true"),
    "eval": Payload(eval, "1"),
    "inside a state dict": {"w": torch.ones(2), "x": Payload(os.getcwd)},
}
PICKLES = {
    "builtins.exec": named("builtins", "exec"),
    "unknown package": named("mystery", "thing"),
    "torch.load": named("torch", "load"),
    "a name of torch that is no type": named("torch.hub", "load"),
    "getattr": named("builtins", "getattr"),
    "INST": b"\x80\x02(ios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "NEWOBJ_EX": b"\x80\x04)}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "behind a pop": b"\x80\x02cos\nsystem\n0}.",
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_a_payload_is_named_and_never_called(case: str, legacy: bool) -> None:
    with pytest.raises(UnsafePickle) as caught:
        header_of(saved(CALLS[case], legacy=legacy))
    assert caught.value.opcode in ("GLOBAL", "STACK_GLOBAL")
    assert caught.value.offset is not None


@pytest.mark.parametrize("case", PICKLES)
def test_whatever_could_call_is_refused(case: str) -> None:
    for data in (with_pickle(PICKLES[case]), PICKLES[case]):
        with pytest.raises(UnsafePickle) as caught:
            header_of(data)
        assert caught.value.path == "m.gguf"


def test_lenient_walks_pass_over_what_is_strange_and_not_what_is_dangerous() -> None:
    strange = named("transformers.training_args", "TrainingArguments")
    with pytest.raises(UnsafePickle):
        header_of(with_pickle(strange))
    assert header_of(with_pickle(strange), lenient=True).tensors == ()
    with pytest.raises(UnsafePickle):
        header_of(with_pickle(strange[:-1] + b"0" + named("os", "system")[2:]), lenient=True)


GOOD = with_pickle(tensor_pickle(), **{"0": bytes(16)})
HOSTILE: dict[str, tuple[bytes, type[FormatError]]] = {
    "empty": (b"", UnsupportedFormat),
    "text": (b"hello", UnsupportedFormat),
    "no end of a zip": (GOOD[:-30], MalformedFile),
    "only the first half": (GOOD[: len(GOOD) // 2], MalformedFile),
    "no data.pkl": (torch_zip({"a/version": b"3"}), UnsupportedFormat),
    "two data.pkl": (torch_zip({"a/data.pkl": b".", "b/data.pkl": b"."}), UnsupportedFormat),
    "compressed": (
        torch_zip({"a/data.pkl": tensor_pickle()}, compression=zipfile.ZIP_DEFLATED),
        MalformedFile,
    ),
    "bomb": (
        torch_zip({"a/data.pkl": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED),
        MalformedFile,
    ),
    "not aligned": (torch_zip({"a/data.pkl": b"."}, align=False), UnsupportedFormat),
    "name of another entry": (
        GOOD.replace(b"archive/data.pkl", b"archive/dat4.pkl", 1),
        MalformedFile,
    ),
    "storage missing": (with_pickle(tensor_pickle()), MalformedFile),
    "storage too short": (with_pickle(tensor_pickle(), **{"0": bytes(8)}), MalformedFile),
    "offset of 2^62": (
        with_pickle(tensor_pickle(offset=1 << 62), **{"0": bytes(16)}),
        MalformedFile,
    ),
    "shape of 2^62": (
        with_pickle(tensor_pickle(shape=(1 << 62,)), **{"0": bytes(16)}),
        MalformedFile,
    ),
    "negative shape": (with_pickle(tensor_pickle(shape=(-4,)), **{"0": bytes(16)}), MalformedFile),
    "shape and stride differ": (
        with_pickle(tensor_pickle(shape=(2, 2)), **{"0": bytes(16)}),
        MalformedFile,
    ),
    "cut pickle": (with_pickle(tensor_pickle()[:-4]), TruncatedRead),
    "text of 2^31": (with_pickle(b"\x80\x02X\xff\xff\xff\x7f."), TruncatedRead),
    "text of 2^63": (
        with_pickle(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"."),
        TruncatedRead,
    ),
    "empty stack": (with_pickle(b"\x80\x02."), MalformedFile),
    "no mark": (with_pickle(b"\x80\x02t."), MalformedFile),
    "unknown opcode": (with_pickle(b"\x80\x02\xfe."), MalformedFile),
    "text opcode": (with_pickle(b"\x80\x00I1\n."), MalformedFile),
    "forgotten memo": (with_pickle(b"\x80\x02h\x09."), MalformedFile),
    "call of a number": (with_pickle(b"\x80\x02K\x01)R."), MalformedFile),
    "persistent id of text": (with_pickle(b"\x80\x02X\x01\x00\x00\x00aQ."), MalformedFile),
    "deep stack": (with_pickle(b"\x80\x02" + b"N" * 200_002 + b"."), LimitExceeded),
    "many opcodes": (with_pickle(b"\x80\x02" + b"N0" * 310_000 + b"."), LimitExceeded),
    "legacy cut": (saved(TENSORS, legacy=True)[:-100], TruncatedRead),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints_are_refused(case: str) -> None:
    data, error = HOSTILE[case]
    with pytest.raises(error) as caught:
        header_of(data)
    assert caught.value.path == "m.gguf"


def test_what_refers_to_itself_ends() -> None:
    walker = Walker(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", path="x")
    assert flatten(walker.walk(), path="x") == {}
    doubled = b"\x80\x02]q\x00" + b"".join(
        b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 40)
    )
    assert flatten(Walker(doubled + b".", path="x").walk(), path="x") == {}


@settings(max_examples=200, deadline=None)
@given(data=st.data(), whole=st.sampled_from([GOOD, saved(TENSORS, legacy=True)[:3000]]))
def test_a_damaged_checkpoint_gives_a_typed_error_or_a_header(
    data: st.DataObject, whole: bytes
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = header_of(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    except FormatError:
        return
    assert all(spec.end <= len(damaged) for spec in header.tensors)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_a_walk(data: bytes) -> None:
    try:
        Walker(data, path="x").walk()
    except FormatError:
        return


def test_which_checkpoint_is_the_model() -> None:
    assert choose_torch(["pytorch_model.bin", "training_args.bin"]) == (
        ("pytorch_model.bin",),
        None,
    )
    shards = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    index = "pytorch_model.bin.index.json"
    assert choose_torch([*shards, index]) == (tuple(shards), index)
    assert choose_torch([*shards]) == (tuple(shards), None)
    assert choose_torch(shards[:1]) == ((), None)
    assert choose_torch(["a.pt", "b.pt"]) == ((), None)
    assert choose_torch(["last.ckpt", "optimizer.pt"]) == (("last.ckpt",), None)
    assert pickles_of(["b.pkl", "training_args.bin", "a.bin", "x.json"]) == [
        "a.bin",
        "b.pkl",
        "training_args.bin",
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store") / "s"
    base = tiny_weights("base")
    chat = tuned(base, "chat")
    write_model(root, "lab/base", base)
    for name, value, legacy in (
        ("ann/chat", chat, False),
        ("old/copy", base, True),
        ("bad/model", None, False),
    ):
        folder = write_model(root, name)
        (folder / "model.safetensors").unlink()
        tensors = {n: torch.from_numpy(v) for n, v in (value or base).items()}
        held = tensors if value else {**tensors, "x": Payload(os.system, "true")}
        (folder / "pytorch_model.bin").write_bytes(saved(held, legacy=legacy))
    beside = write_model(root, "two/files", base)
    (beside / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(os.system, "true")))
    (beside / "training_args.bin").write_bytes(with_pickle(named("transformers.x", "Args")))
    scan_once(store, FolderSource(root))
    infer_once(store)
    return store


def test_checkpoints_are_placed_as_any_model(store: Path) -> None:
    found = rows_of(
        store, "SELECT child, parent, relation FROM edges WHERE inferred ORDER BY child"
    )
    assert ("ann/chat", "lab/base", "finetune") in found
    assert ("old/copy", "lab/base", "copy") in found or ("lab/base", "old/copy", "copy") in found
    formats = dict(rows_of(store, "SELECT model, format FROM models"))
    assert formats["ann/chat"] == "pytorch"


def test_a_payload_leads_to_a_finding_and_not_to_a_sketch(store: Path) -> None:
    row = coverage(store, 1)["bad/model"]
    assert (row.outcome, row.stage, row.path) == ("malformed", "header", "pytorch_model.bin")
    found = rows_of(
        store,
        "SELECT model, severity, detail->>'opcode', detail->>'name', detail->>'file' "
        "FROM findings WHERE kind = 'unsafe_file' ORDER BY model",
    )
    assert found == [
        ("bad/model", "high", "GLOBAL", "posix.system", "pytorch_model.bin"),
        ("two/files", "high", "STACK_GLOBAL", "posix.system", "pytorch_model.bin"),
    ]


def test_a_repository_with_a_safe_copy_is_read_all_the_same(store: Path) -> None:
    assert coverage(store, 1)["two/files"].outcome == "ok"


def test_a_finding_is_fixed_when_the_file_is_gone(store: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bad/model", tiny_weights("clean"))
    assert folder.is_dir()
    scan_once(store, FolderSource(tmp_path))
    found = dict(rows_of(store, "SELECT model, status FROM findings WHERE kind = 'unsafe_file'"))
    assert found["bad/model"] == "fixed"
    assert found["two/files"] != "fixed"
