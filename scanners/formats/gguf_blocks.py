"""Blocks of GGUF's quantized types: bytes to weights and the step of the grid at each.

Each decoder takes (n, bytes of a block) and gives two (n, weights of a block) float32 arrays:
weights, equal to those of the reference reader, and steps >= 0.

References
----------
ggml `ggml-common.h` and `ggml-quants.c`; the `gguf` package 0.19 for the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codebooks import table

Bytes = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Pair = tuple[Float32, Float32]
Decoder = Callable[[Bytes], Pair]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockType:
    """A quantized type: weights and bytes of a block, nominal bits, decoder where there is one."""

    name: str
    weights: int
    size: int
    bits: int
    decode: Decoder | None = None


def decode_blocks(kind: BlockType, data: bytes) -> Pair:
    """Weights and steps of whole blocks, each flat.

    Parameters
    ----------
    kind : a type with a decoder.
    data : bytes of whole blocks.
    """
    if kind.decode is None:
        raise ValueError(f"{kind.name} has no decoder")
    blocks = np.frombuffer(data, dtype=np.uint8).reshape(-1, kind.size)
    with np.errstate(invalid="ignore", over="ignore"):
        values, steps = kind.decode(blocks)
    return values.reshape(-1), np.abs(steps).reshape(-1)


def _half(raw: Bytes) -> Float32:
    """A float16 of two bytes a row, (n, 1)."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Low nibbles of a row's bytes, then its high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _even(values: Float32, step: Float32) -> Pair:
    """Weights beside a step that holds for the last axis."""
    return values, np.broadcast_to(step, values.shape)


def _q4_0(b: Bytes) -> Pair:
    d = _half(b[:, :2])
    return _even(d * (_nibbles(b[:, 2:]).astype(np.float32) - 8), d)


def _q4_1(b: Bytes) -> Pair:
    d = _half(b[:, :2])
    return _even(d * _nibbles(b[:, 4:]) + _half(b[:, 2:4]), d)


def _fifth_bits(b: Bytes) -> Bytes:
    bits = np.unpackbits(np.ascontiguousarray(b), axis=-1, bitorder="little")
    return np.left_shift(bits, 4, dtype=np.uint8)


def _q5_0(b: Bytes) -> Pair:
    d = _half(b[:, :2])
    q = (_nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6])).astype(np.float32)
    return _even(d * (q - 16), d)


def _q5_1(b: Bytes) -> Pair:
    d = _half(b[:, :2])
    q = (_nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8])).astype(np.float32)
    return _even(d * q + _half(b[:, 2:4]), d)


def _q8_0(b: Bytes) -> Pair:
    d = _half(b[:, :2])
    return _even(d * np.ascontiguousarray(b[:, 2:]).view(np.int8), d)


def _crumbs(raw: Bytes) -> Bytes:
    """Two-bit fields of 64 bytes: four planes of each 32, (n, 16, 16)."""
    planes = raw.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    fields: Bytes = np.bitwise_and(planes, 3, dtype=np.uint8).reshape(-1, 16, 16)
    return fields


def _q2_k(b: Bytes) -> Pair:
    scales = b[:, :16]
    d, least = _half(b[:, 80:82]), _half(b[:, 82:84])
    step = (d * (scales & 15).astype(np.float32))[:, :, None]
    low = (least * (scales >> 4).astype(np.float32))[:, :, None]
    return _even(step * _crumbs(b[:, 16:80]) - low, step)


def _q3_k(b: Bytes) -> Pair:
    packed = b[:, 96:108]
    low = _nibbles(packed[:, :8])
    high = (packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    scales = (low | (high.reshape(-1, 16) << 4)).astype(np.float32) - 32
    step = (_half(b[:, 108:110]) * scales)[:, :, None]
    mask = b[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None]
    third = (~mask & 1).reshape(-1, 16, 16)
    q = _crumbs(b[:, 32:96]).astype(np.float32) - 4 * third.astype(np.float32)
    return _even(step * q, step)


def _six_bit_scales(raw: Bytes) -> tuple[Float32, Float32]:
    """Eight scales and eight minima of Q4_K and Q5_K, (n, 8) each."""
    a, m, both = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    scales = np.concatenate([a & 63, (both & 15) | ((a >> 2) & 48)], axis=1)
    minima = np.concatenate([m & 63, (both >> 4) | ((m >> 2) & 48)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _k_grid(b: Bytes, q: NDArray[Any]) -> Pair:
    """Q4_K and Q5_K: eight grids of 32 weights each with its own step and minimum."""
    scales, minima = _six_bit_scales(b[:, 4:16])
    step = (_half(b[:, :2]) * scales)[:, :, None]
    low = (_half(b[:, 2:4]) * minima)[:, :, None]
    return _even(step * q.astype(np.float32) - low, step)


def _q4_k(b: Bytes) -> Pair:
    return _k_grid(b, _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(b: Bytes) -> Pair:
    low = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = (b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _k_grid(b, low | (high << 4))


def _q6_k(b: Bytes) -> Pair:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = (low | ((high & 3) << 4).reshape(-1, 8, 32)).astype(np.float32) - 32
    scales = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32)
    step = (_half(b[:, 208:210]) * scales)[:, :, None]
    return _even(step * q.reshape(-1, 16, 16), step)


def _coded(codes: Bytes, scale: Float32, name: str) -> Pair:
    values, widths = table(name)
    return scale * values[codes], scale * widths[codes]


def _iq4_nl(b: Bytes) -> Pair:
    return _coded(_nibbles(b[:, 2:]), _half(b[:, :2]), "IQ4_NL")


def _iq4_xs(b: Bytes) -> Pair:
    two = np.ascontiguousarray(b[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    four = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    scales = (four | ((two & 3).astype(np.uint8) << 4)).astype(np.float32) - 32
    scale = (_half(b[:, :2]) * scales)[:, :, None]
    return _coded(_nibbles(b[:, 8:].reshape(-1, 8, 16)), scale, "IQ4_NL")


def _mxfp4(b: Bytes) -> Pair:
    # Half the scale and twice the codes, so that the largest exponent stays a number.
    half = np.ldexp(np.float32(1), b[:, :1].astype(np.int32) - 128).astype(np.float32)
    values, widths = table("FP4")
    codes = _nibbles(b[:, 1:])
    return half * (2 * values)[codes], half * (2 * widths)[codes]


def _types() -> dict[int, BlockType]:
    rows: tuple[tuple[int, str, int, int, int, Decoder | None], ...] = (
        (2, "Q4_0", 32, 18, 4, _q4_0),
        (3, "Q4_1", 32, 20, 4, _q4_1),
        (6, "Q5_0", 32, 22, 5, _q5_0),
        (7, "Q5_1", 32, 24, 5, _q5_1),
        (8, "Q8_0", 32, 34, 8, _q8_0),
        (9, "Q8_1", 32, 36, 8, None),
        (10, "Q2_K", 256, 84, 2, _q2_k),
        (11, "Q3_K", 256, 110, 3, _q3_k),
        (12, "Q4_K", 256, 144, 4, _q4_k),
        (13, "Q5_K", 256, 176, 5, _q5_k),
        (14, "Q6_K", 256, 210, 6, _q6_k),
        (15, "Q8_K", 256, 292, 8, None),
        (16, "IQ2_XXS", 256, 66, 2, None),
        (17, "IQ2_XS", 256, 74, 2, None),
        (18, "IQ3_XXS", 256, 98, 3, None),
        (19, "IQ1_S", 256, 50, 1, None),
        (20, "IQ4_NL", 32, 18, 4, _iq4_nl),
        (21, "IQ3_S", 256, 110, 3, None),
        (22, "IQ2_S", 256, 82, 2, None),
        (23, "IQ4_XS", 256, 136, 4, _iq4_xs),
        (29, "IQ1_M", 256, 56, 1, None),
        (34, "TQ1_0", 256, 54, 2, None),
        (35, "TQ2_0", 256, 66, 2, None),
        (39, "MXFP4", 32, 17, 4, _mxfp4),
        (40, "NVFP4", 64, 36, 4, None),
        (41, "Q1_0", 128, 18, 1, None),
    )
    return {
        code: BlockType(name=name, weights=n, size=size, bits=bits, decode=decode)
        for code, name, n, size, bits, decode in rows
    }


BLOCK_TYPES: Mapping[int, BlockType] = _types()
PLAIN_TYPES: Mapping[int, str] = {
    **{0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"},
}
