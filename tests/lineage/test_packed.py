"""Packed copies: their source by the rounding, kin where the source is missing, folded scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from modelkin.lineage.infer.packed import place_packed
from modelkin.lineage.infer.packed_fit import fit_sources, fitted_scales
from modelkin.lineage.infer.specimen import Block, Specimen
from modelkin.lineage.records import InferredEdge, Relation, RoleKey

Weights = Mapping[str, NDArray[np.float32]]
ROLES = ("attn.v", "attn.o", "mlp.down", "mlp.up")
ROWS, COLUMNS = 24, 64


def draw(seed: int, scale: float = 0.1) -> dict[str, NDArray[np.float32]]:
    chance = np.random.default_rng(seed)
    return {role: chance.normal(0, scale, (ROWS, COLUMNS)).astype(np.float32) for role in ROLES}


def moved(weights: Weights, seed: int, scale: float = 0.01) -> dict[str, NDArray[np.float32]]:
    step = draw(seed, scale)
    return {role: value + step[role] for role, value in weights.items()}


def plain(node: str, weights: Weights) -> Specimen:
    blocks = {}
    for role, value in weights.items():
        key = RoleKey(role=role, layer=0)
        blocks[str(key)] = Block(
            key=key,
            shape=value.shape,
            transposed=False,
            start=0,
            dtype="F32",
            values=value.reshape(-1),
        )
    return Specimen(node=node, created=None, blocks=blocks)


def packed(weights: Weights, *, bits: int = 4, form: str = "mlx") -> Specimen:
    """Rounded to nearest on a grid of each row."""
    blocks = {}
    for role, value in weights.items():
        step = np.ptp(value, axis=1, keepdims=True) / (2**bits - 1)
        low = value.min(axis=1, keepdims=True)
        rounded = np.round((value - low) / step) * step + low
        key = RoleKey(role=role, layer=0)
        blocks[str(key)] = Block(
            key=key,
            shape=value.shape,
            transposed=False,
            start=0,
            dtype="F32",
            values=rounded.reshape(-1).astype(np.float32),
            step=np.broadcast_to(step, value.shape).reshape(-1).astype(np.float32),
        )
    packing = {"format": form, "type": f"int{bits}", "bits": str(bits)}
    return Specimen(node="q/copy", created=None, blocks=blocks, packing=packing)


BASE = draw(0)
CHAT = moved(BASE, 1)
SIBLING = moved(BASE, 2)
THIRD = moved(BASE, 3)
STRANGER = draw(9)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_the_source_is_the_parent(bits: int) -> None:
    family = [plain("base", BASE), plain("chat", CHAT), plain("sibling", SIBLING)]
    found = place_packed([packed(CHAT, bits=bits)], [*family, plain("stranger", STRANGER)], [])
    (edge,) = found.edges
    assert (edge.parent, edge.relation) == ("chat", Relation.QUANTIZED)
    assert edge.confidence > 0.9
    assert "stranger" not in {lost.parent for lost in found.rejected}


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_siblings_alone_are_kin_and_no_parents(bits: int) -> None:
    siblings = [plain("sibling", SIBLING), plain("third", THIRD)]
    found = place_packed([packed(CHAT, bits=bits)], siblings, [])
    assert found.edges == ()
    assert {lost.parent for lost in found.rejected} == {"sibling", "third"}
    assert all(lost.rejected_because.startswith("kin: ") for lost in found.rejected)


def test_the_base_of_an_unpublished_source_is_its_parent_without_certainty() -> None:
    found = place_packed([packed(CHAT)], [plain("base", BASE), plain("sibling", SIBLING)], [])
    (edge,) = found.edges
    assert (edge.parent, edge.relation) == ("base", Relation.FINETUNE)
    assert edge.detail["source"] == "unpublished"
    assert edge.confidence < 0.6


def test_strangers_are_nothing() -> None:
    found = place_packed([packed(CHAT)], [plain("stranger", STRANGER)], [])
    assert found.edges == ()
    assert found.rejected == ()


def folded(weights: Weights) -> dict[str, NDArray[np.float32]]:
    chance = np.random.default_rng(5)
    return {
        role: (
            value
            * np.exp(chance.normal(0, 0.4, COLUMNS))
            / np.exp(chance.normal(0, 0.3, (ROWS, 1)))
        ).astype(np.float32)
        for role, value in weights.items()
    }


def test_scales_folded_into_neighbours_are_found() -> None:
    family = [plain("base", BASE), plain("chat", CHAT), plain("sibling", SIBLING)]
    child = packed(folded(CHAT), form="awq")
    assert min(f.ratio for f in fit_sources(child, family, rounding=np.inf)) > 20
    (edge,) = place_packed([child], family, []).edges
    assert (edge.parent, edge.relation) == ("chat", Relation.QUANTIZED)
    assert edge.detail["scales"] == "folded"
    siblings = [plain("sibling", SIBLING), plain("third", THIRD)]
    assert place_packed([child], siblings, []).edges == ()


def test_fitted_scales_are_those_that_were_put_in() -> None:
    source = draw(1)["attn.v"].astype(np.float64)
    down, across = np.linspace(0.5, 2, ROWS)[:, None], np.linspace(2, 0.5, COLUMNS)
    rows = source * down * across
    found = fitted_scales(rows, source, np.ones_like(source))
    assert np.allclose(found, rows, rtol=1e-3)
    nothing = fitted_scales(rows, np.zeros_like(source), np.ones_like(source))
    assert np.array_equal(nothing, np.zeros_like(source))


def with_norm(one: Specimen, seed: int) -> Specimen:
    """A model with a norm of its own, which no format packs."""
    key = RoleKey(role="final_norm", layer=None)
    values = np.random.default_rng(seed).uniform(0.8, 1.2, COLUMNS).astype(np.float32)
    norm = Block(key=key, shape=(COLUMNS,), transposed=False, start=0, dtype="F32", values=values)
    return replace(one, blocks={**one.blocks, str(key): norm})


def on_a_grid_with_zero(weights: Weights) -> Specimen:
    """Two bits: minus one, zero or one step."""
    copy = packed(weights, bits=2)
    blocks = {}
    for name, block in copy.blocks.items():
        values = weights[block.key.role].reshape(-1)
        step = np.full(values.size, np.abs(values).max() / 1.5, np.float32)
        blocks[name] = replace(block, values=(np.round(values / step) * step), step=step)
    return replace(copy, blocks=blocks)


def test_a_pruned_sibling_with_a_smaller_residual_is_not_the_source() -> None:
    cut = {role: np.where(np.abs(value) < 0.09, 0, value) for role, value in SIBLING.items()}
    pruned = with_norm(plain("pruned", cut), 2)
    edge = InferredEdge(
        child="pruned",
        parent="sibling",
        relation=Relation.PRUNE,
        confidence=1.0,
        direction_confidence=1.0,
        detail={},
        clues=(),
    )
    copy = with_norm(on_a_grid_with_zero(CHAT), 1)
    family = [with_norm(plain("chat", CHAT), 1), with_norm(plain("sibling", SIBLING), 2), pruned]
    fits = fit_sources(copy, family, rounding=1.25)
    assert fits[0].parent.node == "pruned"
    (found,) = place_packed([copy], family, [edge]).edges
    assert (found.parent, found.relation) == ("chat", Relation.QUANTIZED)
