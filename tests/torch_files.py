"""Checkpoints written by torch, and pickles and zips that nobody should trust (all inert here)."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import torch


def saved(value: Any, *, legacy: bool = False) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


class Payload:
    """An object whose pickle names a function and what it would be called with."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.made


def named(module: str, name: str) -> bytes:
    """A protocol 2 pickle that calls `module.name` with nothing: never unpickled here."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n)R."


def torch_zip(
    entries: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED, align: bool = True
) -> bytes:
    """A zip laid out as torch does: data on multiples of 64."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            at = buffer.tell() + 30 + len(name)
            pad = -(at + 4) % 64
            if align:
                info.extra = b"FB" + struct.pack("<H", pad) + bytes(pad)
            archive.writestr(info, data)
    return buffer.getvalue()


def with_pickle(data: bytes, **storages: bytes) -> bytes:
    """A torch zip with this pickle."""
    entries = {"archive/data.pkl": data, "archive/version": b"3\n"}
    return torch_zip(entries | {f"archive/data/{key}": value for key, value in storages.items()})


def tensor_pickle(
    *,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    count: int = 4,
) -> bytes:
    """The pickle of {"w": tensor} over storage "0" of float32, with any numbers."""

    parts = [b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("]
    parts += [
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    ]
    parts += [_long(count), b"tQ", _long(offset)]
    for numbers in (shape, stride):
        parts += [b"(", *(_long(n) for n in numbers), b"t"]
    parts += [b"\x89ccollections\nOrderedDict\n)RtRs."]
    return b"".join(parts)


def _long(number: int) -> bytes:
    raw = pickle.dumps(number, 2)
    return raw[2:-1]
