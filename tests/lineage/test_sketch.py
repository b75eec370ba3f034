"""Blocks and sketches: exact widening, whole rows, a digest that sees everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from families import WIDE, encode, extended, fresh, published, sketch_of, specimen_of, trained
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.infer.specimen import (
    Specimen,
    comparable,
    comparable_parts,
    shared_matrices,
)
from modelkin.lineage.sketch.plan import PLAN_VERSION
from modelkin.lineage.sketch.sketch import complete_rows


def without(one: Specimen, *parts: str) -> Specimen:
    kept = {n: b for n, b in one.blocks.items() if not any(part in n for part in parts)}
    return replace(one, blocks=kept)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_values_are_the_published_weights_at_the_planned_places(dtype: str) -> None:
    weights = published(fresh(1, WIDE), dtype)
    sketch = sketch_of(weights, dtype=dtype)
    assert sketch.plan == PLAN_VERSION
    for block in sketch:
        name = f"model.layers.{block.key.layer}.mlp.up_proj.weight"
        if block.key.role == "mlp.up":
            whole = weights[name].reshape(-1)
            np.testing.assert_array_equal(
                block.values(), whole[block.start : block.start + block.count]
            )
            assert block.count < whole.size
            assert block.columns == WIDE.hidden
    assert sketch.nbytes == sum(b.count for b in sketch) * (4 if dtype == "F32" else 2)


def test_the_digest_sees_weights_dtypes_and_places() -> None:
    weights = published(fresh(1))
    sketch = sketch_of(weights)
    other = {name: value.copy() for name, value in weights.items()}
    other["model.layers.0.mlp.up_proj.weight"][3, 3] *= 2
    moved = dict(sketch.blocks)
    moved["0.mlp.up"] = replace(moved["0.mlp.up"], start=256)
    fewer = {name: block for name, block in sketch.blocks.items() if name != "embed"}
    digests = [
        sketch.digest(),
        sketch_of(other).digest(),
        sketch_of(weights, dtype="F32").digest(),
        replace(sketch, plan="another").digest(),
        replace(sketch, blocks=moved).digest(),
        replace(sketch, blocks=fewer).digest(),
    ]
    assert len(set(digests)) == len(digests)
    again = dict(reversed(sketch.blocks.items()))
    assert replace(sketch, blocks=again).digest() == sketch.digest()


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), start=st.integers(0, 80), data=st.data())
def test_complete_rows_are_rows_of_the_tensor(
    rows: int, columns: int, start: int, data: st.DataObject
) -> None:
    whole = np.arange(rows * columns, dtype=np.float32)
    start = min(start, whole.size - 1)
    count = data.draw(st.integers(1, whole.size - start))
    first, found = complete_rows(whole[start : start + count], start=start, columns=columns)
    assert found.shape[1] == columns
    np.testing.assert_array_equal(
        found, whole.reshape(rows, columns)[first : first + found.shape[0]]
    )
    rest = count - found.size
    assert rest <= 2 * (columns - 1)


def test_an_extended_vocabulary_stays_comparable_and_a_reshaped_matrix_does_not() -> None:
    weights = published(fresh(1, WIDE))
    one = specimen_of("one", weights)
    other = specimen_of("other", extended(weights, rows=8, seed=2))
    assert comparable(one.blocks["embed"], other.blocks["embed"])
    block = one.blocks["0.mlp.up"]
    assert not comparable(block, replace(block, shape=(block.shape[0] + 1, block.shape[1])))
    assert not comparable(block, replace(block, transposed=True))
    assert not comparable(block, replace(block, start=block.start + 256))
    assert not comparable(block, replace(block, values=block.values[:-1]))


def test_the_rounding_bound_is_half_the_spacing_of_the_published_dtype() -> None:
    weights = fresh(3)
    exact = specimen_of("exact", weights, dtype="F32").blocks["0.mlp.up"].values
    for dtype in ("BF16", "F16"):
        block = specimen_of("cast", weights, dtype=dtype).blocks["0.mlp.up"]
        off = np.abs(block.values - exact)
        assert (off <= block.half_ulp).all()
        assert (off / block.half_ulp).max() > 0.95


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_that_is_not_finite_is_left_out(bad: float) -> None:
    weights = fresh(4)
    weights["model.layers.1.mlp.up_proj.weight"][2, 5] = bad
    one = specimen_of("one", weights)
    assert "1.mlp.up" not in one.blocks
    assert "1.mlp.gate" in one.blocks


def test_bytes_are_those_of_the_format() -> None:
    values = np.array([1.0, -0.5, 3.140625], dtype=np.float32)
    assert encode(values, "BF16").hex() == "803f00bf4940"
    assert encode(values, "F16") == values.astype(np.float16).tobytes()
    assert encode(values, "F32") == values.tobytes()


def test_specimens_that_share_their_blocks_are_one_part() -> None:
    base = published(fresh(5))
    group = [specimen_of(f"m{i}", trained(base, seed=i)) for i in range(4)]
    assert comparable_parts(group) == [group]


def test_a_specimen_without_matrices_is_in_no_part() -> None:
    group = [specimen_of(f"m{i}", fresh(i)) for i in range(3)]
    odd = without(specimen_of("odd", fresh(9)), "attn", "mlp")
    assert odd.blocks
    assert comparable_parts([odd, *group]) == [group]
    assert comparable_parts([odd]) == []
    assert comparable_parts([]) == []


def test_a_shortened_sketch_is_compared_on_what_is_left() -> None:
    group = [specimen_of(f"m{i}", fresh(i)) for i in range(3)]
    short = without(specimen_of("short", fresh(9)), "2.", "3.", "lm_head")
    parts = comparable_parts([*group, short])
    assert parts == [[*group, short]]
    assert shared_matrices(parts[0])
    assert all(name.startswith(("0.", "1.")) for name in shared_matrices(parts[0]))


def test_specimens_that_share_next_to_nothing_are_parts_of_their_own() -> None:
    whole = [specimen_of(f"m{i}", fresh(i)) for i in range(3)]
    few = [
        without(
            specimen_of(f"f{i}", fresh(20 + i)), "mlp", "attn.o", "attn.q", "attn.k", "1.", "2."
        )
        for i in (0, 1)
    ]
    parts = comparable_parts([*few, *whole])
    assert sorted(map(len, parts)) == [2, 3]
    assert whole in parts
    assert few in parts
