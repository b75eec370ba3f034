"""GGUF files as weights of the plain model: names, row order, decoded spans, what they are.

llama.cpp's converters change some tensors. Rows of query and key are put in another order within
each head where the runtime rotates neighbouring pairs; asked for rows of the plain model, such a
weight reads the stored ones that hold them. Norms of architectures that store them plus one, and
query and key of architectures whose order is not known here, are left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...lineage.errors import MalformedFile
from .base import ByteRange, Decoded, Located, Packing, Weight, WeightFile
from .gguf_blocks import BLOCK_TYPES, PLAIN_TYPES, decode_blocks
from .gguf_header import GgufHeader, GgufTensor, Scalar

Rows = NDArray[np.int64]

PERMUTED = frozenset({"llama", "granite", "granitemoe", "minicpm", "arcee", "nanbeige"})
KEPT_ORDER = frozenset(
    {"qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi2", "phi3"}
    | {"stablelm", "command-r", "cohere2", "olmo2", "starcoder2", "falcon", "gptneox", "bert"}
    | {"gpt-oss", "glm4"}
)
NORMS_PLUS_ONE = frozenset({"gemma", "gemma2", "gemma3", "gemma3n", "nemotron"})
FUSED_UP = frozenset({"phi3", "glm4", "chatglm"})
MAX_SHARDS = 1_000

_QUERY_KEY = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")
_FILE_TYPES: Mapping[int, str] = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K"},
    **{11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S"},
    **{17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS"},
    **{23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S"},
    **{29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0"},
    **{38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufWeight:
    """One tensor of a GGUF file (a `Weight`).

    `heads` is the number of heads whose rows were put in another order, None where the stored
    order is that of the plain model.
    """

    name: str
    shape: tuple[int, ...]
    tensor: GgufTensor
    path: str
    heads: int | None = None

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.tensor.type

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """The span's blocks; with permuted rows, those between the first and last one needed."""
        if self.heads is not None:
            return self._permuted(start, count, budget)
        begin, end, lead = self._stored(start, count)
        if begin < 0 or end - begin > budget:
            return None

        def decode(parts: Sequence[bytes]) -> Decoded:
            return self._decode(parts[0], lead, count)

        return Located(ranges=(ByteRange(self.path, begin, end),), decode=decode)

    def _stored(self, start: int, count: int) -> tuple[int, int, int]:
        """Bytes of the blocks around a stored run, and its place in the first; -1: no decoder."""
        kind = BLOCK_TYPES.get(self.tensor.code)
        plain = PLAIN_TYPES.get(self.tensor.code, "")
        if kind is not None and kind.decode is not None:
            first, last = start // kind.weights, -(-(start + count) // kind.weights)
            size, lead = kind.size, start - first * kind.weights
        elif plain.startswith(("F", "BF")):
            first, last, lead = start, start + count, 0
            size = {"F32": 4, "F64": 8}.get(plain, 2)
        else:
            return -1, -1, 0
        begin, end = self.tensor.begin + first * size, self.tensor.begin + last * size
        if end > self.tensor.end:
            raise MalformedFile(
                f"elements {start}+{count} of {self.name[:200]!r} do not exist",
                path=self.path,
                offset=self.tensor.begin,
            )
        return begin, end, lead

    def _decode(self, data: bytes, lead: int, count: int) -> Decoded:
        kind = BLOCK_TYPES.get(self.tensor.code)
        if kind is None:
            return Decoded(dtype=self.tensor.type, data=data)
        values, steps = decode_blocks(kind, data)
        return Decoded(
            dtype="F32",
            data=values[lead : lead + count].astype("<f4").tobytes(),
            step=np.ascontiguousarray(steps[lead : lead + count], dtype=np.float32),
        )

    def _permuted(self, start: int, count: int, budget: int) -> Located | None:
        columns = self.shape[-1] if len(self.shape) > 1 else 1
        first, last = start // columns, -(-(start + count) // columns)
        rows = stored_rows(np.arange(first, last), rows=self.shape[0], heads=self.heads or 1)
        low, high = int(rows.min()), int(rows.max()) + 1
        begin, end, lead = self._stored(low * columns, (high - low) * columns)
        if begin < 0 or end - begin > budget:
            return None
        offset = start - first * columns

        def decode(parts: Sequence[bytes]) -> Decoded:
            whole = self._decode(parts[0], lead, (high - low) * columns)
            return _pick_rows(whole, rows - low, columns, offset, count)

        return Located(ranges=(ByteRange(self.path, begin, end),), decode=decode)


def stored_rows(wanted: Rows, *, rows: int, heads: int) -> Rows:
    """Stored rows that hold rows of the plain model, for the order of llama.cpp's converters.

    Within a head of h rows, row a h/2 + b of the plain model (a 0 or 1) is stored as row 2 b + a.
    """
    size = rows // heads
    head, inside = wanted // size, wanted % size
    half = size // 2
    return np.asarray(head * size + 2 * (inside % half) + inside // half, dtype=np.int64)


def _pick_rows(whole: Decoded, rows: Rows, columns: int, offset: int, count: int) -> Decoded:
    item = len(whole.data) // max(1, (len(whole.data) // _itemsize(whole.dtype)))
    table = np.frombuffer(whole.data, dtype=f"V{item}").reshape(-1, columns)[rows].reshape(-1)
    step = None
    if whole.step is not None:
        step = whole.step.reshape(-1, columns)[rows].reshape(-1)[offset : offset + count]
    return Decoded(dtype=whole.dtype, data=table[offset : offset + count].tobytes(), step=step)


def _itemsize(dtype: str) -> int:
    return {"F32": 4, "F64": 8}.get(dtype, 2)


def gguf_weights(headers: Mapping[str, GgufHeader]) -> WeightFile:
    """The weights of a GGUF model.

    Parameters
    ----------
    headers : by path; several for a model in shards, the first of which holds the metadata.

    Raises
    ------
    MalformedFile : a tensor stands in two shards, or a head count does not divide its rows.
    """
    pairs: dict[str, Scalar] = {}
    for header in headers.values():
        pairs |= {key: value for key, value in header.pairs.items() if key not in pairs}
    reader = _Naming(pairs=pairs)
    weights: dict[str, Weight] = {}
    skipped: Counter[str] = Counter()
    for path, header in headers.items():
        for tensor in header.tensors:
            if not _is_decodable(tensor):
                skipped[tensor.type] += 1
            for weight in reader.weights_of(tensor, path):
                if weight.name in weights:
                    raise MalformedFile(
                        f"tensor {tensor.name[:80]!r} stands in two shards", path=path
                    )
                weights[weight.name] = weight
    metadata = {k: v for k, v in pairs.items() if isinstance(v, str) and k.startswith("general.")}
    return WeightFile(
        weights=weights,
        packing=_packing(pairs, [t for h in headers.values() for t in h.tensors]),
        metadata=metadata,
        skipped=skipped,
    )


def declared_bases(pairs: Mapping[str, str]) -> list[str]:
    """Parents that the metadata names: `general.base_model.N.*`, else a source repository."""
    found = []
    for at in range(64):
        stem = f"general.base_model.{at}."
        if not any(key.startswith(stem) for key in pairs):
            break
        url = pairs.get(stem + "repo_url")
        organization, name = pairs.get(stem + "organization"), pairs.get(stem + "name")
        if url:
            found.append(url)
        elif organization and name:
            found.append(f"{organization}/{name}".replace(" ", "-"))
        elif name:
            found.append(name)
    return found


def _is_decodable(tensor: GgufTensor) -> bool:
    kind = BLOCK_TYPES.get(tensor.code)
    return tensor.code in PLAIN_TYPES if kind is None else kind.decode is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Naming:
    """What the metadata says of names and orders."""

    pairs: Mapping[str, Scalar]

    @property
    def architecture(self) -> str:
        return str(self.pairs.get("general.architecture", ""))

    def weights_of(self, tensor: GgufTensor, path: str) -> list[GgufWeight]:
        """The plain model's tensors that one stored tensor holds: one, or one an expert."""
        name = tensor.name
        if self.architecture in NORMS_PLUS_ONE and "norm" in name:
            return []
        if self.architecture in FUSED_UP:
            name = name.replace(".ffn_up.", ".ffn_gate_up.")
        heads = None
        if found := _QUERY_KEY.fullmatch(name):
            if self.architecture not in PERMUTED | KEPT_ORDER:
                return []
            if self.architecture in PERMUTED:
                heads = self._heads(tensor, found[1], path)
                if heads is None:
                    return []
        shape = tensor.shape
        if len(shape) == 3 and name.endswith("_exps.weight"):
            # The first expert stands for the stack.
            name, shape = name.removesuffix(".weight") + ".0.weight", shape[1:]
        return [GgufWeight(name=name, shape=shape, tensor=tensor, path=path, heads=heads)]

    def _heads(self, tensor: GgufTensor, which: str, path: str) -> int | None:
        stem = f"{self.architecture}.attention.head_count"
        heads = self.pairs.get(stem)
        if which == "k":
            heads = self.pairs.get(stem + "_kv", heads)
        if not isinstance(heads, int) or isinstance(heads, bool) or heads <= 0:
            return None
        if tensor.shape[0] % (2 * heads):
            raise MalformedFile(
                f"{heads} heads do not divide the {tensor.shape[0]} rows of {tensor.name[:80]!r}",
                path=path,
            )
        return heads


def _packing(pairs: Mapping[str, Scalar], tensors: Sequence[GgufTensor]) -> Packing | None:
    """The type of most weights of matrices, under the name that the file gives the mixture."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        if len(tensor.shape) > 1 and tensor.name.startswith("blk."):
            weights[tensor.type] += math.prod(tensor.shape)
    if not weights:
        return None
    bits = {kind.name: kind.bits for kind in BLOCK_TYPES.values()}
    most = max(sorted(weights), key=lambda name: weights[name])
    stated = pairs.get("general.file_type")
    named = _FILE_TYPES.get(stated) if isinstance(stated, int) else None
    # The file may say anything: its word is taken only where the tensors bear it out.
    used = {bits.get(name) for name in weights} - {None}
    if named is None or most not in bits or _first_bits(named) not in used:
        named = most
    return Packing(format="gguf", type=named, bits=_nominal(named, bits, most))


def _nominal(named: str, bits: Mapping[str, int], most: str) -> int:
    """Bits by the name of a mixture; of most weights' type where the name is not one."""
    if most not in bits:
        return {"F32": 32, "F64": 64}.get(most, 16)
    return (_first_bits(named) if named != most else None) or bits[most]


def _first_bits(name: str) -> int | None:
    found = re.search(r"\d", name)
    return int(found[0]) if found else None
