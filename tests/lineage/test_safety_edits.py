"""Edits in sampled rows: what is seen, what is not, and how strong it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
from families import (
    Weights,
    abliterated,
    changed,
    edited,
    fresh,
    is_writer,
    lora,
    published,
    quantized,
    specimen_of,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkin.lineage.infer.specimen import Specimen
from modelkin.lineage.safety.bands import Band, bands_of
from modelkin.lineage.safety.catalogue import PROBES, probes_of
from modelkin.lineage.safety.edits import Direction, blind_strength, coherence, strength_along
from modelkin.lineage.safety.protocol import Measurement, Status, Tier, declined
from modelkin.lineage.safety.sketch_probes import probe_sketch, signature

PARENT = published(fresh(1))


def of(weights: Weights) -> Specimen:
    return specimen_of("model", published(weights))


def read(child: Weights, parent: Weights = PARENT) -> dict[str, Measurement]:
    found = probe_sketch(of(child), of(parent), ancestor="lab/parent")
    return {one.probe: one for one in found}


def test_every_sketch_probe_answers_or_says_why() -> None:
    found = read(abliterated(PARENT, seed=3))
    assert set(found) == {spec.probe for spec in probes_of(Tier.SKETCH)}
    assert all(one.detail["ancestor"] == "lab/parent" for one in found.values())
    assert all((one.value is None) == (one.status is not Status.OK) for one in found.values())


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_an_edit_is_seen_through_rounding(bits: int | None) -> None:
    child = abliterated(PARENT, seed=3, strength=0.5)
    child = child if bits is None else quantized(child, bits=bits)
    found = read(child)
    assert found["edit_strength"].value == pytest.approx(0.5, abs=0.03)
    assert signature(found).edited is True
    assert found["touch_mask"].value == (1.0 if bits is None else 0.0)


@pytest.mark.parametrize(
    "child",
    [
        trained(PARENT, seed=5),
        lora(PARENT, seed=6, rank=1),
        lora(PARENT, seed=6, rank=16),
        quantized(PARENT, bits=8),
        quantized(PARENT, bits=4),
        quantized(PARENT, bits=3),
    ],
    ids=["trained", "lora-1", "lora-16", "8-bit", "4-bit", "3-bit"],
)
def test_other_changes_bear_no_signature(child: Weights) -> None:
    assert signature(read(child)).edited is not True


def test_a_copy_has_no_strength_and_no_dose() -> None:
    found = read(PARENT)
    assert found["edit_strength"].value == 0.0
    assert found["delta_size"].value == 0.0
    assert found["edit_coherence"].status is Status.INCONCLUSIVE


def test_one_matrix_by_one_direction_is_told_apart() -> None:
    name = next(name for name in PARENT if is_writer(name))
    found = read(edited(PARENT, seed=4, name=name))
    assert found["single_matrix_edit"].value == 1.0
    assert read(abliterated(PARENT, seed=3))["single_matrix_edit"].value == 0.0


def test_an_adapter_has_a_rank_and_a_fine_tune_has_none() -> None:
    low = read(lora(PARENT, seed=6, rank=2))["adapter_spectrum"]
    assert low.status is Status.OK
    assert low.detail["rank"] <= 2
    assert read(trained(PARENT, seed=5))["adapter_spectrum"].status is Status.UNSUPPORTED


def test_strangers_of_another_shape_are_unalignable() -> None:
    other = {name: w[:, : w.shape[1] // 2] if w.ndim == 2 else w for name, w in PARENT.items()}
    found = probe_sketch(of(other), of(PARENT), ancestor="x")
    assert {one.status for one in found} == {Status.UNALIGNABLE}


def part_of(bands: tuple[Band, ...], rows: int) -> list[Band]:
    return [
        Band(name=b.name, parent=b.parent[:rows], child=b.child[:rows], width=b.width)
        for b in bands
    ]


def test_part_of_the_rows_needs_a_known_direction() -> None:
    rng = np.random.default_rng(0)
    whole = bands_of(of(PARENT), of(PARENT))
    width = whole[0].width
    r = rng.standard_normal(width)
    r /= np.linalg.norm(r)

    def edit(name: str, value: np.ndarray) -> np.ndarray:
        assert is_writer(name)
        return (value - 0.7 * np.outer(r, r @ value)).astype(np.float32)

    bands = bands_of(of(changed(PARENT, edit, only=is_writer)), of(PARENT))
    some = part_of(bands, 8)
    assert blind_strength(some) is None
    filters = {band.name: band.parent.T @ r for band in bands}
    found = strength_along(some, Direction(rows=r, filters=filters))
    assert found is not None
    assert found.value == pytest.approx(0.7, abs=0.02)
    assert found.consistency > 0.95
    assert strength_along(some, Direction(rows=r, filters={})) is None


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(2, 24),
    columns=st.integers(2, 40),
    strength=st.floats(-2.0, 2.0),
)
def test_statistics_stay_in_their_range(
    seed: int, rows: int, columns: int, strength: float
) -> None:
    rng = np.random.default_rng(seed)
    r = rng.standard_normal(rows)
    r /= np.linalg.norm(r)
    bands = []
    for at in range(3):
        parent = rng.standard_normal((rows, columns))
        child = parent - strength * np.outer(r, r @ parent)
        bands.append(Band(name=f"{at}.attn.o", parent=parent, child=child, width=rows))
    shared, blind = coherence(bands), blind_strength(bands)
    if shared is not None:
        assert 0.0 <= shared.low <= shared.high <= 1.0
        assert 1.0 / rows - 1e-9 <= shared.value <= 1.0 + 1e-9
    if blind is not None:
        assert -1.0 - 1e-9 <= blind.strength.consistency <= 1.0 + 1e-9
        assert np.isfinite(blind.strength.value)


def test_an_answer_needs_a_value_and_silence_a_reason() -> None:
    with pytest.raises(ValueError, match="finite value"):
        Measurement(probe="x", status=Status.OK)
    with pytest.raises(ValueError, match="needs a reason"):
        declined("x", Status.ERROR, "")


def test_the_catalogue_is_whole() -> None:
    for name, spec in PROBES.items():
        assert spec.probe == name
        assert spec.needs
        assert spec.description
