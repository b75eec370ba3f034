"""Whole weights in memory, grouped so that models of a group compare tensor by tensor."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_IN_LAYER = re.compile(r"\.\d+\.")
WEIGHTS = "model*.safetensors"
SMALLEST_CAST = 2.0**-13
"""Below 2^-14 float16 loses digits; one binade of room for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Models whose layer matrices have the same names and shapes.

    `matrices` (n, rows, columns) float32 by tensor name, models in the order of `names`;
    embeddings, heads and vectors are left out.
    """

    names: tuple[str, ...]
    matrices: Mapping[str, Float32]

    def named(self, pattern: str) -> list[str]:
        """Tensors whose name matches, in the order of their layers."""
        found = [name for name in self.matrices if re.search(pattern, name)]
        return sorted(found, key=lambda name: (int(re.findall(r"\.(\d+)\.", name)[0]), name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """All buckets of a zoo, the bytes of the files, and the models without whole weights."""

    buckets: tuple[Bucket, ...]
    bytes_read: int
    unread: tuple[str, ...]


def load(models: Mapping[str, Path]) -> Loaded:
    """Read every model whole; O(sum of sizes) memory."""
    groups: dict[object, dict[str, dict[str, Float32]]] = defaultdict(dict)
    total, unread = 0, []
    for name, folder in models.items():
        files = sorted(folder.glob(WEIGHTS))
        if not files:
            unread.append(name)
            continue
        total += sum(file.stat().st_size for file in files)
        found = _layer_matrices(files)
        key = frozenset((tensor, value.shape) for tensor, value in found.items())
        groups[key][name] = found
    buckets = tuple(_stack(group) for group in groups.values())
    return Loaded(buckets=buckets, bytes_read=total, unread=tuple(unread))


def _layer_matrices(files: Sequence[Path]) -> dict[str, Float32]:
    return {
        name: value.float().numpy()
        for file in files
        for name, value in load_file(file).items()
        if value.ndim == 2 and _IN_LAYER.search(name)
    }


def _stack(group: Mapping[str, Mapping[str, Float32]]) -> Bucket:
    names = tuple(group)
    tensors = sorted(group[names[0]])
    return Bucket(
        names=names, matrices={t: np.stack([group[name][t] for name in names]) for t in tensors}
    )


def weight_digests(models: Mapping[str, Path]) -> dict[str, str]:
    """sha256 of all tensors' names, shapes and bfloat16 values: equal for copies and casts.

    Sharding plays no part; values that float16 holds with fewer digits than bfloat16 count as
    zero. Models without whole weights are left out.
    """
    digests = {}
    for name, folder in models.items():
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob(WEIGHTS)):
            tensors |= load_file(file)
        if not tensors:
            continue
        found = hashlib.sha256()
        for key in sorted(tensors):
            rounded = tensors[key].to(torch.bfloat16).float().numpy()
            kept = np.where(np.abs(rounded) < SMALLEST_CAST, np.float32(0), rounded)
            found.update(f"{key}|{kept.shape}|".encode())
            found.update(np.ascontiguousarray(kept, dtype=np.float32).tobytes())
        digests[name] = found.hexdigest()
    return digests


def square_distances(bucket: Bucket, tensors: Sequence[str] | None = None) -> Float64:
    """(n, n) squared l2 distances over all layer matrices, or over `tensors`.

    Products are taken of differences to the first model: those of the weights themselves would
    lose small distances in rounding.
    """
    n = len(bucket.names)
    gram = np.zeros((n, n))
    for name in tensors if tensors is not None else bucket.matrices:
        stack = bucket.matrices[name]
        delta = (stack - stack[0]).reshape(n, -1).astype(np.float64)
        gram += delta @ delta.T
    size = np.diag(gram)
    distances: Float64 = np.maximum(size[:, None] + size[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def mean_cosines(bucket: Bucket) -> Float64:
    """(n, n) cosine of two models' weights, averaged over tensors."""
    n = len(bucket.names)
    total = np.zeros((n, n))
    for stack in bucket.matrices.values():
        flat = stack.reshape(n, -1).astype(np.float64)
        unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
        total += unit @ unit.T
    return total / max(1, len(bucket.matrices))
