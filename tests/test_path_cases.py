"""What is true of a step of a path, from a zoo's truth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from families import fresh, published, specimens_of, trained
from path_cases import (
    ancestors,
    family_cases,
    share_hidden,
    true_placement,
    twin_of,
)
from zoo_scoring import Truth, TruthModel

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.family import assemble
from modelkin.lineage.infer.likelihood import STATISTICS

PARENTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "S": ("base",),
    "C": ("S",),
    "T": ("base",),
    "lost": ("base",),
    "X": ("lost",),
    "Y": ("lost",),
}


@pytest.fixture
def truth() -> Truth:
    models = {
        name: TruthModel(
            parents=above,
            kind="finetune",
            hidden=name == "lost",
            relation="finetune" if above else None,
            family="base",
        )
        for name, above in PARENTS.items()
    }
    models["twin"] = TruthModel(parents=("S",), kind="copy", hidden=False, relation="copy")
    return Truth(models=models)


def test_descent_goes_through_unpublished_models_and_copies_are_one(truth: Truth) -> None:
    assert ancestors("X", truth) == {"lost", "base"}
    assert twin_of("twin", truth) == "S"
    assert share_hidden("X", "Y", truth)
    assert not share_hidden("X", "C", truth)
    placed = true_placement(1, ["base", "X", "S"], truth)
    assert (placed.parents, placed.rule) == ((0,), "nearest")


def test_steps_are_labelled_by_descent(truth: Truth) -> None:
    weights = {"base": published(fresh(1))}
    for seed, (name, above) in enumerate(PARENTS.items()):
        if above:
            weights[name] = published(trained(weights[above[0]], seed=seed + 2, size=0.05))
    del weights["lost"]
    family = assemble(specimens_of(weights), compute=Compute(device="cpu"))
    cases = list(family_cases(family, truth))
    assert {case.group for case in cases} == {"base"}
    assert all(case.features.keys() == STATISTICS.keys() for case in cases)
    # C keeps S; nobody else keeps a step: X and Y share one that is not published.
    assert sum(case.child for case in cases) == 1
    assert sum(case.hidden for case in cases) == 2
    assert not any(case.child and case.hidden for case in cases)
