"""Sketch arrays on disk: one safetensors file a sketch, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from ..lineage.errors import RegistryError
from .durable import write_whole

MAX_SKETCH_BYTES = 64 * 1024 * 1024

_RELATIVE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}\.safetensors")
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8}
_BITS |= {"F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32}
_BITS |= {"U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}


# The library ships without types for this one.
_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize


class RawArray(NamedTuple):
    """An array as its published bytes: safetensors dtype (`BF16`), shape, little-endian data."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class SketchFile(NamedTuple):
    """Where a sketch was written: path relative to the sketch folder, sha256 of the file."""

    path: str
    sha256: str


def sketch_key(*, source: str, source_id: str, sha: str, plan: str) -> str:
    """The name of a sketch: a digest of the revision's identity and the plan version."""
    identity = "\0".join((source, source_id, sha, plan))
    return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()


class SketchStore:
    """The `sketches/` folder of a store.

    A file is named by what it sketches, lies two folders deep, and appears under its name only
    when it is complete and on the disk, so that a kill leaves at most a temporary file.

    Parameters
    ----------
    folder : the sketch folder; made at the first `save`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def save(
        self, key: str, arrays: Mapping[str, RawArray], *, metadata: Mapping[str, str]
    ) -> SketchFile:
        """Write a sketch, over an older one of the same key.

        Parameters
        ----------
        key : 64 hexadecimal digits, from `sketch_key`.
        arrays : name to array; any `(dtype, shape, bytes)` triple will do.
        metadata : text kept in the header.

        Raises
        ------
        ValueError : the key is no digest, an array's bytes do not fit its dtype and shape, or the
            whole is above 64 MiB.
        RegistryError : the disk refused.
        """
        file, content = pack_sketch(key, arrays, metadata=metadata)
        self.put(file.path, content)
        return file

    def put(self, path: str, content: bytes) -> None:
        """Write a sketch that `pack_sketch` made, over an older one of the same key.

        Raises
        ------
        RegistryError : the disk refused, or it is not the path of a sketch.
        """
        located = self._locate(path)
        try:
            located.parent.mkdir(parents=True, exist_ok=True)
            write_whole(located, content, prefix=".sketch-")
        except OSError as error:
            raise RegistryError(f"cannot write the sketch {located}: {error.strerror}") from error

    def load(self, path: str) -> dict[str, RawArray]:
        """Read a sketch back.

        Raises
        ------
        RegistryError : no such sketch, or the file is damaged.
        """
        content = self._read(path)
        try:
            tensors = _deserialize(content)
        except safetensors.SafetensorError as error:
            raise RegistryError(f"the sketch {path} is damaged: {error}") from error
        return {
            name: RawArray(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
            for name, entry in sorted(tensors)
        }

    def metadata(self, path: str) -> dict[str, str]:
        """The text kept in a sketch's header; `load` has checked the file before.

        Raises
        ------
        RegistryError : no such sketch, or the header is damaged.
        """
        content = self._read(path)
        try:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            return {str(name): str(value) for name, value in header["__metadata__"].items()}
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise RegistryError(f"the sketch {path} is damaged: bad header") from error

    def verify(self, path: str, *, sha256: str) -> bool:
        """Whether the file is there and still has this digest."""
        try:
            return hashlib.sha256(self._read(path)).hexdigest() == sha256
        except RegistryError:
            return False

    def remove(self, path: str) -> None:
        """Delete a sketch; one that is gone already is no error."""
        self._locate(path).unlink(missing_ok=True)

    def _locate(self, path: str) -> Path:
        if not _RELATIVE.fullmatch(path):
            raise RegistryError(f"{path!r} is not the path of a sketch")
        return self._folder / path

    def _read(self, path: str) -> bytes:
        located = self._locate(path)
        try:
            with located.open("rb") as file:
                content = file.read(MAX_SKETCH_BYTES + 1)
        except OSError as error:
            raise RegistryError(f"cannot read the sketch {located}: {error.strerror}") from error
        if len(content) > MAX_SKETCH_BYTES:
            raise RegistryError(f"the sketch {path} is above {MAX_SKETCH_BYTES:,} bytes")
        return content


def pack_sketch(
    key: str, arrays: Mapping[str, RawArray], *, metadata: Mapping[str, str]
) -> tuple[SketchFile, bytes]:
    """A sketch as the file that `SketchStore.save` writes, without writing it.

    Raises
    ------
    ValueError : as `SketchStore.save`.
    """
    relative = f"{key[:2]}/{key[2:4]}/{key}.safetensors"
    if not _RELATIVE.fullmatch(relative):
        raise ValueError(f"a sketch key is 64 hexadecimal digits, not {key!r}")
    content = _serialize(arrays, metadata)
    if len(content) > MAX_SKETCH_BYTES:
        raise ValueError(f"a sketch of {len(content):,} bytes is above {MAX_SKETCH_BYTES:,}")
    return SketchFile(relative, hashlib.sha256(content).hexdigest()), content


def _serialize(arrays: Mapping[str, RawArray], metadata: Mapping[str, str]) -> bytes:
    # Written here because the library's own writer changed its arguments in 0.8 and orders the
    # metadata at random; the same sketch must give the same digest.
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[bytes] = []
    offset = 0
    # Wide types first, by name within a width: every array stays aligned.
    for name in sorted(arrays, key=lambda name: (-_bits(arrays[name][0]), name)):
        dtype, shape, data = arrays[name]
        if math.prod(shape) * _bits(dtype) != 8 * len(data):
            raise ValueError(f"{name}: {len(data)} bytes do not hold {dtype} {tuple(shape)}")
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(bytes(data))
        offset += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def _bits(dtype: str) -> int:
    try:
        return _BITS[dtype]
    except KeyError:
        raise ValueError(f"{dtype!r} is not a safetensors dtype") from None
