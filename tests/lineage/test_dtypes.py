"""Decoding, spacing and rounding of stored numbers, against torch and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelkin.lineage import dtypes
from modelkin.lineage.errors import NotComparable

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
FLOAT32 = hnp.arrays(np.uint32, st.integers(0, 40), elements=st.integers(0, 2**32 - 1)).map(
    lambda bits: bits.view(np.float32)
)


def decoded_by_torch(data: bytes, dtype: str) -> np.ndarray:
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return raw.view(TORCH[dtype]).to(torch.float32).numpy()


def every_code(dtype: str) -> bytes:
    if dtype == "BOOL":
        return b"\0\1\1\0"
    if dtypes.itemsize_bits(dtype) == 8:
        return bytes(range(256))
    if dtypes.itemsize_bits(dtype) == 16:
        return np.arange(65536, dtype="<u2").tobytes()
    width = dtypes.itemsize_bits(dtype) // 8
    return np.random.default_rng(3).bytes(4096 * width)


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_values_are_those_of_torch(dtype: str) -> None:
    data = every_code(dtype)
    values = dtypes.to_float32(data, dtype)
    assert values.dtype == np.float32
    assert values.flags.writeable
    np.testing.assert_array_equal(values, decoded_by_torch(data, dtype))


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_no_bytes_are_no_values(dtype: str) -> None:
    assert dtypes.to_float32(b"", dtype).shape == (0,)


@pytest.mark.parametrize("dtype", ["C64", "F4", "F6_E2M3", "F6_E3M2", "F8", "", "f32", "Q4_K"])
def test_a_type_that_cannot_be_decoded_is_refused(dtype: str) -> None:
    with pytest.raises(NotComparable):
        dtypes.to_float32(b"", dtype)
    with pytest.raises(NotComparable):
        dtypes.ulp(np.ones(1, np.float32), dtype)
    with pytest.raises(NotComparable):
        dtypes.round_to(np.ones(1, np.float32), dtype)


def test_an_unknown_type_has_no_size() -> None:
    assert dtypes.itemsize_bits("F4") == 4
    with pytest.raises(NotComparable, match="F128"):
        dtypes.itemsize_bits("F128")


def test_half_an_element_is_refused() -> None:
    with pytest.raises(NotComparable, match="whole number"):
        dtypes.to_float32(b"\0\0\0", "BF16")


@given(FLOAT32)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_is_that_of_torch(dtype: str, values: np.ndarray) -> None:
    expected = torch.from_numpy(values.copy()).to(TORCH[dtype]).to(torch.float32).numpy()
    np.testing.assert_array_equal(dtypes.round_to(values, dtype), expected)


@given(FLOAT32)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_twice_changes_nothing(dtype: str, values: np.ndarray) -> None:
    once = dtypes.round_to(values, dtype)
    np.testing.assert_array_equal(dtypes.round_to(once, dtype), once)


@given(FLOAT32)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_rounding_moves_a_value_by_half_a_spacing_at_most(dtype: str, values: np.ndarray) -> None:
    rounded = dtypes.round_to(values, dtype)
    inside = np.isfinite(rounded) & np.isfinite(values)
    moved = np.abs(rounded[inside].astype(np.float64) - values[inside].astype(np.float64))
    assert (moved <= dtypes.ulp(values, dtype)[inside].astype(np.float64) / 2).all()


def test_rounding_keeps_the_shape_and_copies() -> None:
    values = np.full((2, 3, 1), 1.001, np.float32)
    for dtype in ("BF16", "F16", "F32"):
        assert dtypes.round_to(values, dtype).shape == (2, 3, 1)
        assert not np.shares_memory(dtypes.round_to(values, dtype), values)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_the_spacing_is_the_gap_to_the_next_code(dtype: str) -> None:
    table = dtypes.to_float32(bytes(range(128)), dtype)
    table = table[np.isfinite(table)]
    np.testing.assert_array_equal(dtypes.ulp(table[:-1], dtype), np.diff(table))
    np.testing.assert_array_equal(dtypes.ulp(-table[:-1], dtype), np.diff(table))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_the_spacing_of_a_half_is_the_gap_to_the_next_code(dtype: str) -> None:
    table = dtypes.to_float32(np.arange(32768, dtype="<u2").tobytes(), dtype)
    table = table[np.isfinite(table)]
    np.testing.assert_array_equal(dtypes.ulp(table[:-1], dtype), np.diff(table))


@given(FLOAT32)
def test_the_spacing_of_float32_is_that_of_numpy(values: np.ndarray) -> None:
    # np.spacing of the largest number looks beyond the range.
    values = values[np.isfinite(values) & (np.abs(values) < np.finfo(np.float32).max)]
    np.testing.assert_array_equal(dtypes.ulp(values, "F32"), np.abs(np.spacing(values)))


def test_the_spacing_has_the_values_of_the_formula() -> None:
    values = np.array([1.0, 1.5, -2.0, 0.0, 1e30, np.inf, np.nan], np.float32)
    expected = np.array([2**-10, 2**-10, 2**-9, 2**-24, 2**5, np.nan, np.nan], np.float32)
    np.testing.assert_array_equal(dtypes.ulp(values, "F16"), expected)
    assert dtypes.ulp(np.float32([3.0]), "BF16")[0] == np.float32(2**-6)
    assert dtypes.ulp(np.float32([3.0]), "I32")[0] == 1
    assert dtypes.ulp(np.float32([8.0]), "F8_E8M0")[0] == 8
    assert dtypes.ulp(np.float32([1.0]), "F64")[0] == np.float32(2**-23)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_the_codes_of_eight_bits_have_their_values_and_spacings(dtype: str) -> None:
    values, spacing = dtypes.f8_codes(dtype)
    stored = dtypes.to_float32(bytes(range(256)), dtype)
    np.testing.assert_array_equal(values, stored)
    np.testing.assert_array_equal(spacing, dtypes.ulp(stored, dtype))


def test_codes_of_a_wider_type_are_refused() -> None:
    with pytest.raises(NotComparable, match="no 8-bit float"):
        dtypes.f8_codes("BF16")
