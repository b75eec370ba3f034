"""Related or not: no false kin among independent models, no true kin missed."""

from __future__ import annotations

import numpy as np
import pytest
from families import (
    abliterated,
    fresh,
    lora,
    permuted,
    pruned,
    published,
    quantized,
    specimen_of,
    trained,
)

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.kinship import FDR, Kinship, families, measure_kinship

CPU = Compute(device="cpu")
MODELS = 40


@pytest.fixture(scope="module")
def unrelated() -> Kinship:
    group = [specimen_of(f"m{i}", published(fresh(1000 + i))) for i in range(MODELS)]
    return measure_kinship(group, compute=CPU)


def test_no_pair_of_independent_models_is_related(unrelated: Kinship) -> None:
    pairs = MODELS * (MODELS - 1) // 2
    assert unrelated.pairs == pairs
    assert not any(unrelated.related(a, b) for a in range(MODELS) for b in range(a))
    assert families(unrelated, MODELS) == [[i] for i in range(MODELS)]


def test_p_values_of_independent_models_are_uniform(unrelated: Kinship) -> None:
    p = np.sort(unrelated.p_value[np.triu_indices(MODELS, 1)])
    steps = np.arange(1, p.size + 1) / p.size
    distance = max(np.max(steps - p), np.max(p - steps + 1 / p.size))
    # Kolmogorov's 1 % point; the pairs share models, which widens it a little.
    assert distance < 1.3 * 1.63 / np.sqrt(p.size)
    assert p.min() > FDR / p.size


def test_a_common_recipe_is_not_kinship() -> None:
    """Models that agree in the scale of every layer and unit, and in nothing else."""
    scales = np.random.default_rng(5).uniform(0.3, 3, size=160).astype(np.float32)

    def recipe(seed: int) -> dict[str, np.ndarray]:
        return {
            name: value * scales[: value.shape[0], None] if value.ndim == 2 else value
            for name, value in fresh(seed).items()
            if value.shape[0] <= 160
        }

    group = [specimen_of(f"m{i}", recipe(2000 + i)) for i in range(20)]
    kinship = measure_kinship(group, compute=CPU)
    assert families(kinship, 20) == [[i] for i in range(20)]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_kind_of_descendant_is_related(seed: int) -> None:
    base = published(fresh(seed))
    made = {
        "tuned": trained(base, seed=1),
        "far": trained(base, seed=2, size=1.5),
        "adapted": lora(base, seed=3),
        "shuffled": permuted(base, seed=4),
        "int2": quantized(base, bits=2),
        "int2 of far": quantized(trained(base, seed=2, size=1.5), bits=2),
        "sparse": pruned(base, share=0.8),
        "open": abliterated(base, seed=5),
    }
    group = [specimen_of("base", base), *(specimen_of(n, w) for n, w in made.items())]
    group += [specimen_of(f"other{i}", published(fresh(300 + i))) for i in range(6)]
    kinship = measure_kinship(group, compute=CPU)
    missed = [one.node for at, one in enumerate(group[:9]) if at and not kinship.related(0, at)]
    assert missed == []
    assert sorted(families(kinship, len(group)), key=len)[-1] == list(range(9))
    assert len(families(kinship, len(group))) == 7


def test_families_partition_the_bucket() -> None:
    group = []
    for family in range(4):
        base = published(fresh(family))
        group += [specimen_of(f"{family}.{i}", trained(base, seed=i)) for i in range(family + 1)]
    kinship = measure_kinship(group, compute=CPU)
    parts = families(kinship, len(group))
    assert sorted(i for part in parts for i in part) == list(range(len(group)))
    named = {frozenset(group[i].node[0] for i in part) for part in parts}
    assert named == {frozenset(str(family)) for family in range(4)}


def test_agreement_is_symmetric_and_one_with_oneself() -> None:
    group = [specimen_of(f"m{i}", fresh(i)) for i in range(4)]
    kinship = measure_kinship(group, compute=CPU)
    np.testing.assert_allclose(kinship.agreement, kinship.agreement.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(kinship.agreement), 1, atol=1e-5)
    assert ((kinship.q_value >= 0) & (kinship.q_value <= 1)).all()


def test_models_without_common_matrices_are_not_related() -> None:
    one, other = specimen_of("a", fresh(0)), specimen_of("b", {"norm.weight": np.ones(64, "f4")})
    kinship = measure_kinship([one, other], compute=CPU)
    assert kinship.pairs == 0
    assert not kinship.related(0, 1)
    assert families(kinship, 2) == [[0], [1]]


def test_a_model_of_zeros_is_nobody_s_kin() -> None:
    zeros = {name: np.zeros_like(value) for name, value in fresh(0).items()}
    base = published(fresh(1))
    group = [specimen_of("zeros", zeros), specimen_of("a", base)]
    group.append(specimen_of("b", trained(base, seed=2)))
    kinship = measure_kinship(group, compute=CPU)
    assert not kinship.related(0, 1)
    assert kinship.related(1, 2)
