"""Hostile weight files over all formats, generated: cut, overlapping, absurd, and none of it live.

Payloads name functions and are never unpickled; every file is small.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from gguf_files import pair, raw_gguf, tensor, text
from packers import PACKINGS, pack
from safetensors.torch import save
from small_models import tiny_weights
from torch_files import named, saved, tensor_pickle, torch_zip, with_pickle

HUGE = (1 << 63, (1 << 63) - 1, 1 << 40, (1 << 64) - 1)
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
DANGEROUS = (
    *(("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec")),
    *(("builtins", "getattr"), ("subprocess", "Popen"), ("runpy", "run_code"), ("pty", "spawn")),
    *(("socket", "socket"), ("importlib", "import_module"), ("pickle", "loads")),
    *(("torch", "load"), ("torch.hub", "load"), ("numpy", "load"), ("operator", "attrgetter")),
    *(("functools", "partial"), ("webbrowser", "open"), ("shutil", "rmtree"), ("sys", "exit")),
    *(("ctypes", "CDLL"), ("asyncio", "run"), ("code", "interact"), ("mystery", "thing")),
)


class Hostile(NamedTuple):
    """One repository: its files by name."""

    name: str
    files: dict[str, bytes]


def hostile_repositories() -> Iterator[Hostile]:
    """Every case, each under a name of its own."""
    for at, (label, files) in enumerate(_cases()):
        yield Hostile(f"bad/{at:03}-{label}", {"config.json": CONFIG.encode(), **files})


def _cases() -> Iterator[tuple[str, dict[str, bytes]]]:
    for label, data in _gguf():
        yield f"gguf-{label}", {"model.gguf": data}
    for label, data in _torch():
        yield f"torch-{label}", {"pytorch_model.bin": data}
    for label, data in _safetensors():
        yield f"safetensors-{label}", {"model.safetensors": data}
    for label, data in packed_cuts():
        yield f"packed-{label}", {"model.safetensors": data[0], "config.json": data[1]}
    for label, data in _adapters():
        yield f"adapter-{label}", {"adapter_model.safetensors": data}
    yield from _text()


def _cuts(data: bytes, end: int, count: int) -> Iterator[tuple[str, bytes]]:
    """A file cut at places spread over its first `end` bytes."""
    for at in sorted({end * n // count for n in range(1, count)}):
        yield f"cut-{at}", data[:at]


def good_gguf() -> tuple[bytes, int]:
    """A whole GGUF file of raw parts, and the length of its header."""
    pairs = [
        pair("general.architecture", 8, text("llama")),
        pair("general.alignment", 4, struct.pack("<I", 32)),
        pair("tokens", 9, struct.pack("<IQ", 8, 3) + text("a") * 3),
        pair("scores", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
    ]
    tensors = [
        tensor("blk.0.attn_v.weight", [32, 32], 8, 0),
        tensor("blk.0.ffn_down.weight", [32, 32], 0, 1088),
        tensor("output_norm.weight", [32], 0, 1088 + 4096),
    ]
    data = raw_gguf(pairs=pairs, tensors=tensors, data=bytes(1088 + 4096 + 128))
    return data, len(data) - (1088 + 4096 + 128)


def _gguf() -> Iterator[tuple[str, bytes]]:
    data, head = good_gguf()
    yield from _cuts(data, head, 40)
    yield from _cuts(data, len(data), 12)
    # Every count and length of the header in turn is made absurd.
    for at in range(8, head - 8):
        value = int.from_bytes(data[at : at + 8], "little")
        if 0 < value < 5000 and data[at + 2 : at + 8] == bytes(6):
            for number in HUGE[:2]:
                changed = data[:at] + struct.pack("<Q", number) + data[at + 8 :]
                yield f"field-{at}-{number:x}", changed
    bomb = pair("bomb", 9, struct.pack("<IQ", 8, 1 << 63))
    yield "strings-2-63", raw_gguf(pairs=[bomb])[:49]
    yield "nested", raw_gguf(pairs=[pair("k", 9, struct.pack("<IQ", 9, 1) * 5000)])
    yield "twice", raw_gguf(pairs=[pair("k", 0, b"1")] * 2)
    yield "same-tensor", raw_gguf(tensors=[tensor("t", [8], 0, 0)] * 2, data=bytes(99))
    yield "not-gguf", b"GGUX" + data[4:]
    yield "big-endian", raw_gguf(version=3 << 24)
    yield (
        "nan",
        raw_gguf(tensors=[tensor("blk.0.attn_v.weight", [32, 4], 0, 0)], data=b"\xff" * 512),
    )
    yield (
        "nan-scale",
        raw_gguf(tensors=[tensor("blk.0.attn_v.weight", [32, 4], 8, 0)], data=b"\xff" * 136),
    )


def _torch() -> Iterator[tuple[str, bytes]]:
    tensors = {n: torch.from_numpy(v) for n, v in tiny_weights("hostile").items()}
    zipped, legacy = saved(tensors), saved(tensors, legacy=True)
    yield from _cuts(zipped, len(zipped), 16)
    for label, data in _cuts(legacy, len(legacy), 16):
        yield f"legacy-{label}", data
    for module, name in DANGEROUS:
        yield f"zip-{module}.{name}", with_pickle(named(module, name))
        yield f"bare-{module}.{name}", named(module, name)
    deflated = zipfile.ZIP_DEFLATED
    yield "bomb", torch_zip({"a/data.pkl": bytes(4 << 20)}, compression=deflated)
    yield "compressed", torch_zip({"a/data.pkl": tensor_pickle()}, compression=deflated)
    yield "two-pickles", torch_zip({"a/data.pkl": b".", "b/data.pkl": b"."})
    yield "no-storage", with_pickle(tensor_pickle())
    for number in HUGE:
        for what in ("offset", "count"):
            made = tensor_pickle(**{what: number >> 1})
            yield f"{what}-{number:x}", with_pickle(made, **{"0": bytes(8)})
        shaped = tensor_pickle(shape=(number >> 1,))
        yield f"shape-{number:x}", with_pickle(shaped, **{"0": bytes(16)})
    yield "deep", with_pickle(b"\x80\x02" + b"(" * 200_002 + b".")
    yield "recursive", with_pickle(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    yield "text-2-63", with_pickle(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b".")
    yield "opcodes", with_pickle(b"\x80\x02" + b"N0" * 310_000 + b".")


def _safetensors() -> Iterator[tuple[str, bytes]]:
    weights = {"model.layers.0.self_attn.v_proj.weight": torch.zeros(16, 16)}
    data = save(weights)
    yield from _cuts(data, len(data), 24)
    body = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    ((name, entry),) = ((k, v) for k, v in body.items() if k != "__metadata__")
    for number in HUGE:
        for change in (
            {"shape": [number, 1]},
            {"data_offsets": [0, number]},
            {"data_offsets": [number, number]},
            {"shape": [16, 16, number]},
        ):
            yield f"{next(iter(change))}-{number:x}", _header({name: {**entry, **change}})
    yield "length-2-63", struct.pack("<Q", 1 << 63) + data[8:]
    yield "deep", struct.pack("<Q", 100_000) + b"[" * 100_000
    yield "deep-objects", struct.pack("<Q", 600_000) + b'{"a":' * 100_000 + bytes(100_000)
    yield "overlap", _header({name: entry, "b": entry})
    yield "dtype", _header({name: {**entry, "dtype": "F31"}})
    yield "negative", _header({name: {**entry, "shape": [-16, -16]}})


def _header(entries: dict[str, object]) -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(1024)


def packed_cuts(role: str = "v_proj") -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """Packed models one part of which is cut, so that the parts contradict each other."""
    weight = np.random.default_rng(0).normal(0, 0.1, (32, 64)).astype(np.float32)
    for kind in ("gptq", "awq", "nf4-double", "int8", "fp8-block", "w4a16-zero", "mlx-4"):
        parts = pack({f"model.layers.0.self_attn.{role}.weight": weight}, kind)
        config = json.dumps({**json.loads(CONFIG), **PACKINGS[kind][1]}).encode()
        for name in parts:
            if parts[name].dim() == 0 or name.endswith(("weight_shape", "g_idx", "qzeros")):
                continue
            cut = {n: t.contiguous() for n, t in parts.items()}
            cut[name] = parts[name][: parts[name].shape[0] // 3].contiguous()
            yield f"{kind}-{name.rpartition('.')[2]}", (save(cut), config)


def _adapters() -> Iterator[tuple[str, bytes]]:
    stem = "base_model.model.model.layers.0.self_attn.v_proj.lora_"
    for down, up in (((4, 16), (16, 5)), ((0, 16), (16, 0)), ((4, 16), (16, 4, 1))):
        pair_of = {f"{stem}A.weight": torch.zeros(down), f"{stem}B.weight": torch.zeros(up)}
        yield "x".join(map(str, down + up)), save(pair_of)
    yield (
        "nan",
        save(
            {
                f"{stem}A.weight": torch.full((4, 16), torch.nan),
                f"{stem}B.weight": torch.ones(16, 4),
            }
        ),
    )


def _text() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Configs, cards and indexes that are too deep, too long or refer to themselves."""
    plain = save({"model.layers.0.self_attn.v_proj.weight": torch.ones(16, 16)})
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    yield "config-deep", {"model.safetensors": plain, "config.json": deep}
    yield "config-list", {"model.safetensors": plain, "config.json": b"[" * 50_000}
    aliases = b"---\na: &a [x]\n" + b"".join(
        b"%c: &%c [*%c,*%c,*%c,*%c]\n" % (n, n, n - 1, n - 1, n - 1, n - 1) for n in range(98, 115)
    )
    yield "yaml-aliases", {"model.safetensors": plain, "README.md": aliases + b"---\n"}
    for label, text_of in (("index-path", "../../x.safetensors"), ("index-lost", "y.safetensors")):
        index = json.dumps({"weight_map": {"a": text_of}}).encode()
        yield label, {"model.safetensors.index.json": index}
    yield "index-deep", {"model.safetensors.index.json": deep}
