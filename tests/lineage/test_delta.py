"""Deltas: what was cast, pruned, adapted or edited, and what was not."""

from __future__ import annotations

import numpy as np
import pytest
from families import (
    SMALL,
    WIDE,
    Size,
    Weights,
    abliterated,
    edited,
    extended,
    fresh,
    lora,
    permuted,
    pruned,
    published,
    quantized,
    specimen_of,
    trained,
)

from modelkin.lineage.infer.delta import (
    Delta,
    DeltaShape,
    compare,
    delta_shape,
    on_grid_share,
    same_rows_permuted,
)
from modelkin.lineage.infer.traits import measure_traits

DOWN = "model.layers.0.mlp.down_proj.weight"


def delta_of(child: Weights, parent: Weights, *, dtypes: tuple[str, str] = ("F32", "F32")) -> Delta:
    return compare(
        specimen_of("child", child, dtype=dtypes[0]), specimen_of("parent", parent, dtype=dtypes[1])
    )


def shape_of(child: Weights, parent: Weights, *, dtype: str = "F32") -> DeltaShape:
    one, other = (specimen_of(n, w, dtype=dtype) for n, w in (("c", child), ("p", parent)))
    return delta_shape(one, other, compare(one, other))


@pytest.mark.parametrize("child", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("parent", ["F32", "F16", "BF16"])
def test_a_cast_changes_nothing(child: str, parent: str) -> None:
    weights = published(fresh(1), parent)
    delta = delta_of(weights, weights, dtypes=(child, parent))
    assert delta.exact
    assert delta.same_elsewhere
    assert delta.frozen_share == 1
    assert delta.changed == ()


def test_a_cast_back_to_the_wider_dtype_keeps_what_the_narrow_one_held() -> None:
    narrow = published(fresh(1), "BF16")
    assert delta_of(narrow, narrow, dtypes=("F32", "BF16")).square == 0


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_smallest_training_step_is_not_a_cast(dtype: str) -> None:
    weights = published(fresh(1), dtype)
    delta = delta_of(published(trained(weights, seed=2, size=0.01), dtype), weights)
    assert not delta.exact
    assert len(delta.changed) == len(delta.matrices)
    assert not delta.same_elsewhere


def test_the_square_is_that_of_the_difference() -> None:
    base = fresh(1)
    child = trained(base, seed=2, size=1e-4)
    delta = delta_of(child, base)
    one, other = specimen_of("c", child, dtype="F32"), specimen_of("p", base, dtype="F32")
    exact = sum(
        float(((one.blocks[b].values.astype("f8") - other.blocks[b].values) ** 2).sum())
        for b in one.matrices()
    )
    assert delta.square == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_the_pruned_share_is_what_vanished(share: float) -> None:
    base = published(fresh(1))
    delta = delta_of(pruned(base, share=share), base)
    assert delta.pruned_share == pytest.approx(share, abs=0.01)
    assert delta.frozen_share == 0
    assert delta.same_elsewhere


def test_what_moved_otherwise_was_not_pruned() -> None:
    base = published(fresh(1))
    tuned = trained(pruned(base, share=0.3), seed=2)
    assert delta_of(tuned, base).pruned_share == 0
    assert delta_of(base, pruned(base, share=0.3)).pruned_share == 0
    assert delta_of(base, base).pruned_share == 0


def test_pruning_twice_is_counted_from_each_parent() -> None:
    base = published(fresh(1))
    once = pruned(base, share=0.3)
    twice = pruned(once, share=0.5)
    assert delta_of(twice, base).pruned_share == pytest.approx(0.5, abs=0.01)
    assert delta_of(twice, once).pruned_share == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("size", [SMALL, WIDE])
@pytest.mark.parametrize("rank", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_merged_adapter_shows_its_rank(rank: int, seed: int, size: Size) -> None:
    base = fresh(seed, size)
    shape = shape_of(lora(base, seed=seed + 9, rank=rank), base)
    assert shape.rank == rank
    assert shape.is_low_rank
    assert not shape.is_edit


@pytest.mark.parametrize("rank", [1, 4])
def test_a_merged_adapter_shows_its_rank_through_rounding(rank: int) -> None:
    base = published(fresh(1, WIDE))
    adapted = published(lora(base, seed=2, rank=rank, size=0.2))
    shape = shape_of(adapted, base, dtype="BF16")
    assert 0 < shape.rank <= rank
    assert shape.is_low_rank
    assert compare(specimen_of("c", adapted), specimen_of("p", base)).frozen_share > 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_an_adapter_is_never_an_edit_even_on_the_writers_alone(rank: int, seed: int) -> None:
    base = fresh(seed)
    for only in (("o_proj", "down_proj"), ("down_proj",), ("o_proj",), ("q_proj", "v_proj")):
        for dtype in ("F32", "BF16"):
            child = lora(base, seed=seed + 50, rank=rank, only=only)
            assert not shape_of(child, base, dtype=dtype).is_edit


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("size", [SMALL, WIDE])
def test_an_abliteration_is_an_edit_along_one_direction(
    strength: float, dtype: str, size: Size
) -> None:
    base = published(fresh(1, size), dtype)
    child = published(abliterated(base, seed=3, strength=strength), dtype)
    shape = shape_of(child, base, dtype=dtype)
    assert shape.is_edit
    assert shape.writers_only
    assert shape.coherence > 0.95
    assert shape.matrices == 2 * size.layers
    assert shape.rank == 1


def test_an_edit_of_a_single_matrix_is_an_edit_and_a_dense_change_of_it_is_not() -> None:
    base = published(fresh(1))
    assert shape_of(edited(base, seed=2, name=DOWN), base).is_edit
    tuned = base | {DOWN: trained(base, seed=2)[DOWN]}
    shape = shape_of(tuned, base)
    assert shape.matrices == 1
    assert shape.full
    assert not shape.is_edit


def test_training_is_neither_an_edit_nor_low_rank() -> None:
    base = published(fresh(1))
    child = published(trained(base, seed=2))
    shape = shape_of(child, base, dtype="BF16")
    assert shape.full
    assert not shape.is_low_rank
    assert not shape.is_edit


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_rounding_alone_has_no_rank(dtype: str) -> None:
    base = fresh(1, WIDE)
    one, other = specimen_of("c", base, dtype=dtype), specimen_of("p", base, dtype="F32")
    noise = delta_shape(one, other, delta_of(base, trained(base, seed=2)))
    assert noise.rank == 0
    assert not noise.full
    assert not noise.is_low_rank
    assert delta_shape(one, other, compare(one, other)).matrices == 0


def test_the_shape_does_not_depend_on_how_the_matrix_is_stored() -> None:
    """GPT-2 stores [in, out]: the shared direction is then found along the columns."""
    draw = np.random.default_rng(3)
    stored: Weights = {"wte.weight": draw.normal(size=(90, 64)).astype("f4")}
    for layer in range(3):
        for name, shape in (("attn.c_attn", (64, 192)), ("attn.c_proj", (64, 64))):
            stored[f"h.{layer}.{name}.weight"] = draw.normal(size=shape).astype("f4")
        for name, shape in (("mlp.c_fc", (64, 256)), ("mlp.c_proj", (256, 64))):
            stored[f"h.{layer}.{name}.weight"] = draw.normal(size=shape).astype("f4")
        stored[f"h.{layer}.ln_1.weight"] = np.ones(64, dtype="f4")
    r = draw.normal(size=64)
    r /= np.linalg.norm(r)
    child = {
        name: (value - np.outer(value @ r, r)).astype("f4") if "c_proj" in name else value
        for name, value in stored.items()
    }
    shape = shape_of(child, stored)
    assert shape.is_edit
    assert shape.coherence == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("bits", "group"), [(2, None), (3, 32), (4, 32), (8, None)])
def test_a_rounded_model_lies_within_half_a_step_of_its_parent_alone(
    bits: int, group: int | None
) -> None:
    base = published(fresh(1))
    sibling = published(trained(base, seed=2, size=0.05))
    child = specimen_of("child", published(quantized(base, bits=bits, group=group)))
    traits = measure_traits(child)
    own = on_grid_share(child, specimen_of("base", base), traits)
    other = on_grid_share(child, specimen_of("sibling", sibling), traits)
    assert own is not None
    assert other is not None
    assert own >= 0.999 > other


def test_without_a_grid_there_is_no_share_on_it() -> None:
    one = specimen_of("one", fresh(1))
    assert on_grid_share(one, one, measure_traits(one)) is None


def test_permuted_units_are_recognised_and_others_are_not() -> None:
    base = published(fresh(1))
    shuffled = specimen_of("child", permuted(base, seed=2))
    assert same_rows_permuted(shuffled, specimen_of("base", base)) == 1
    assert same_rows_permuted(shuffled, specimen_of("tuned", trained(base, seed=3))) == 0
    assert same_rows_permuted(shuffled, specimen_of("other", fresh(9))) == 0
    assert same_rows_permuted(shuffled, shuffled) == 0


def test_an_extended_vocabulary_is_compared_on_the_rows_in_common() -> None:
    base = published(fresh(1, WIDE))
    delta = delta_of(extended(base, rows=9, seed=2), base)
    assert delta.exact
    assert delta.same_elsewhere
    assert "embed" in delta.blocks


def test_models_without_common_blocks_have_an_empty_delta() -> None:
    delta = delta_of(fresh(1), fresh(1, WIDE))
    assert delta.matrices == ()
    assert not delta.exact
    assert delta.frozen_share == 0
    assert delta.pruned_share == 0
    shape = delta_shape(specimen_of("a", fresh(1)), specimen_of("b", fresh(1, WIDE)), delta)
    assert (shape.rank, shape.matrices, shape.is_edit, shape.is_low_rank) == (0, 0, False, False)
