"""K-quants of llama.cpp written by hand: the `gguf` package decodes them and does not make them.

Scales and minima of sub-blocks are rounded to what the block can hold, and weights to nearest on
the grid that comes of it, as llama.cpp does after its search for scales.

References
----------
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bytes = NDArray[np.uint8]


def _half(values: Array) -> tuple[Bytes, Array]:
    """(n, 2) bytes of F16 and the values that they hold."""
    half = np.ascontiguousarray(values, dtype=np.float16)
    return half.view(np.uint8).reshape(-1, 2), half.astype(np.float32)


def _with_minima(
    blocks: Array, size: int, bits: int, top: int
) -> tuple[Array, Array, Array, Bytes, Bytes]:
    """Asymmetric sub-blocks of `size`: integers, scales, minima, and the bytes of both factors."""
    parts = blocks.reshape(blocks.shape[0], -1, size)
    low = np.minimum(parts.min(-1), 0)
    scale = (parts.max(-1) - low) / (2**bits - 1)
    first, d = _half(scale.max(1) / top)
    second, dmin = _half(-low.min(1) / top)
    sc = np.clip(np.round(scale / np.maximum(d, 1e-12)[:, None]), 0, top).astype(np.int64)
    m = np.clip(np.round(-low / np.maximum(dmin, 1e-12)[:, None]), 0, top).astype(np.int64)
    step, shift = sc * d[:, None], m * dmin[:, None]
    safe = np.where(step > 0, step, 1)[..., None]
    q = np.where(step[..., None] > 0, np.round((parts + shift[..., None]) / safe), 0)
    return np.clip(q, 0, 2**bits - 1).astype(np.int64), sc, m, first, second


def _symmetric(blocks: Array, bits: int, top: int) -> tuple[Array, Array, Bytes]:
    """Symmetric sub-blocks of 16: integers from 0, signed scales, the bytes of the factor.

    The largest weight is the lowest integer, whatever its sign.
    """
    parts = blocks.reshape(blocks.shape[0], -1, 16)
    half = 2 ** (bits - 1)
    largest = np.take_along_axis(parts, np.abs(parts).argmax(-1)[..., None], -1)[..., 0]
    scale = -largest / half
    raw, d = _half(np.abs(scale).max(1) / top)
    sc = np.clip(np.round(scale / np.maximum(d, 1e-12)[:, None]), -top, top).astype(np.int64)
    step = (sc * d[:, None])[..., None]
    q = np.where(step != 0, np.round(parts / np.where(step != 0, step, 1)), 0)
    return (np.clip(q, -half, half - 1) + half).astype(np.int64), sc, raw


def _six_bit_pairs(sc: Array, m: Array) -> Bytes:
    """Eight scales and eight minima in twelve bytes."""
    packed = np.zeros((sc.shape[0], 12), dtype=np.int64)
    packed[:, :4] = sc[:, :4] | sc[:, 4:] >> 4 << 6
    packed[:, 4:8] = m[:, :4] | m[:, 4:] >> 4 << 6
    packed[:, 8:] = (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return packed.astype(np.uint8)


def _crumbs(q: Array) -> Bytes:
    """Two bits of 256 weights: four weights 32 apart to a byte, 128 weights after another."""
    four = q.reshape(q.shape[0], 2, 4, 32)
    joined = four[:, :, 0] | four[:, :, 1] << 2 | four[:, :, 2] << 4 | four[:, :, 3] << 6
    return joined.reshape(q.shape[0], -1).astype(np.uint8)


def _nibbles(q: Array) -> Bytes:
    """Four bits of 256 weights: two sub-blocks of 32 to 32 bytes."""
    pairs = q.reshape(q.shape[0], 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(q.shape[0], -1).astype(np.uint8)


def q2_k(blocks: Array) -> Bytes:
    """Q2_K: 84 bytes of 256 weights."""
    q, sc, m, d, dmin = _with_minima(blocks, 16, 2, 15)
    return np.hstack([(sc | m << 4).astype(np.uint8), _crumbs(q.reshape(-1, 256)), d, dmin])


def q3_k(blocks: Array) -> Bytes:
    """Q3_K: 110 bytes; the third bits first, scales of six bits plus 32."""
    q, sc, d = _symmetric(blocks, 3, 31)
    flat, scales = q.reshape(-1, 256), sc + 32
    high = (flat >> 2).reshape(-1, 8, 32)
    mask = (high << np.arange(8)[None, :, None]).sum(1).astype(np.uint8)
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    upper = (scales >> 4).reshape(-1, 4, 4)
    upper = (upper << (2 * np.arange(4))[None, :, None]).sum(1)
    return np.hstack([mask, _crumbs(flat & 3), low.astype(np.uint8), upper.astype(np.uint8), d])


def q4_k(blocks: Array) -> Bytes:
    """Q4_K: 144 bytes."""
    q, sc, m, d, dmin = _with_minima(blocks, 32, 4, 63)
    return np.hstack([d, dmin, _six_bit_pairs(sc, m), _nibbles(q.reshape(-1, 256))])


def q5_k(blocks: Array) -> Bytes:
    """Q5_K: 176 bytes; the fifth bits before the others."""
    q, sc, m, d, dmin = _with_minima(blocks, 32, 5, 63)
    high = ((q >> 4) << np.arange(8)[None, :, None]).sum(1).astype(np.uint8)
    return np.hstack([d, dmin, _six_bit_pairs(sc, m), high, _nibbles(q.reshape(-1, 256) & 15)])


def q6_k(blocks: Array) -> Bytes:
    """Q6_K: 210 bytes."""
    q, sc, d = _symmetric(blocks, 6, 127)
    flat = q.reshape(-1, 2, 4, 32)
    low = flat & 15
    four = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    return np.hstack(
        [
            four.reshape(-1, 128).astype(np.uint8),
            _crumbs((flat >> 4).reshape(-1, 256)),
            sc.astype(np.int8).view(np.uint8),
            d,
        ]
    )


K_QUANTS: dict[str, Callable[[Array], Bytes]] = {
    **{"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
}


def quantize_k(weights: Array, kind: str) -> Bytes:
    """Rows of a matrix as blocks: (rows, bytes of a row)."""
    rows = weights.shape[0]
    return K_QUANTS[kind](weights.reshape(-1, 256)).reshape(rows, -1)
