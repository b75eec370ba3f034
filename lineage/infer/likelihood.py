"""Learned weights of the path clues: from what is measured to a log-likelihood ratio.

The weights stand in `likelihood.json` beside this module. They were fitted by ridge logistic
regression on families trained for that purpose (`benchmarks/learn_clues.py` writes the file and
says how well it does on families it has not seen); nothing here is fitted at run time. A clue's
contribution is its weight times its standardised value, so contributions add up to the decision.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import Clue
from .path import PathClues

Float64 = NDArray[np.float64]

BOUND = 6.0
_SMALLEST = 0.05
_LARGEST = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One standardised clue with its weight and how often it alone would err, in [0, 0.5]."""

    name: str
    mean: float
    scale: float
    weight: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A log-likelihood ratio as a sum over features.

    `intercept` is fitted to classes of equal weight, so that 0 means "as likely as not".
    """

    features: tuple[Feature, ...]
    intercept: float

    def log_odds(self, clues: PathClues) -> float:
        """Natural log-likelihood ratio, bounded by +-`BOUND`: no few numbers prove more."""
        values = featurise(clues)
        total = self.intercept + sum(_part(f, values[f.name]) for f in self.features)
        return float(np.clip(total, -BOUND, BOUND))

    def explain(self, clues: PathClues, *, kind: str = "geometry", most: int = 5) -> list[Clue]:
        """The features that weigh most, each with its share of the log-likelihood ratio."""
        values = featurise(clues)
        parts = [(f.name, values[f.name], _part(f, values[f.name])) for f in self.features]
        parts.sort(key=lambda part: -abs(part[2]))
        return [
            Clue(kind=kind, statistic=STATISTICS[n], value=v, llr=w) for n, v, w in parts[:most]
        ]


STATISTICS = {
    "beta": "log of the share of the path kept",
    "beta_off": "distance of that share from one",
    "far": "log of the share kept of the largest moves",
    "low": "share of the path kept in the least faithful tenth of the blocks",
    "spread": "log spread of that share over the blocks",
    "back": "share of the child's way that leads along the path",
    "along": "cosine of the child's own step with the path",
    "step": "log length of the child's own step against the path",
    "own": "share kept of what only this model learned",
    "own_left": "log of what is left of its own largest moves",
    "own_back": "share of the child's way along what only this model learned",
    "excess": "share kept beyond what all members have in common",
    "excess_back": "share of the child's way beyond what all members have in common",
    "own_low": "share kept where only this model moved, the lowest tenth",
    "edge_bits": "log ratio of norm and embedding weights equal to this model's and its origin's",
}
"""Feature name -> what it says, in words; the keys are the features of a scorer."""


def featurise(clues: PathClues) -> dict[str, float]:
    """The clues on the scale they are weighed on: ratios as logarithms, the rest clipped."""
    beta, far = _log(clues.beta), _log(clues.far)
    return {
        "beta": beta,
        "beta_off": abs(beta),
        "far": far,
        "low": float(np.clip(clues.low, -1.0, 2.0)),
        "spread": float(np.log(clues.spread + 0.01)),
        "back": float(np.clip(clues.back, -0.2, 1.2)),
        "along": clues.along,
        "step": clues.step,
        "own": float(np.clip(clues.own, -1.0, 2.0)),
        "own_left": clues.own_left,
        "own_back": float(np.clip(clues.own_back, -0.2, 1.2)),
        "excess": float(np.clip(clues.excess, -1.0, 2.0)),
        "excess_back": float(np.clip(clues.excess_back, -1.0, 2.0)),
        "own_low": float(np.clip(clues.own_low, -1.5, 2.0)),
        "edge_bits": clues.edge_bits,
    }


def child_scorer() -> Scorer:
    """Child of the model at the end of a path, against any kin that branched off before it."""
    return _scorers()["child"]


def hidden_scorer() -> Scorer:
    """Siblings that share an unpublished parent, against siblings trained apart."""
    return _scorers()["hidden"]


def path_confidence(odds: float, *, dated: bool) -> float:
    """How often a place on a path with these log-odds was right in the zoos learned from.

    Platt's sigmoid; slope and intercept stand in `likelihood.json`, with and without dates.
    """
    fitted = _calibration(dated)
    return float(1 / (1 + np.exp(-(fitted["slope"] * odds + fitted["intercept"]))))


def exact_share(*, dated: bool) -> float:
    """How often an edge that an exact rule decided was right there: equality is not descent."""
    return float(_calibration(dated)["exact"])


def _calibration(dated: bool) -> dict[str, float]:
    fitted: dict[str, float] = _learned()["calibration"]["dated" if dated else "undated"]
    return fitted


def error_rates() -> dict[str, float]:
    """Statistic -> how often its best single threshold errs between a child and other kin."""
    return {STATISTICS[f.name]: f.error for f in child_scorer().features}


def _log(ratio: float) -> float:
    return float(np.log(np.clip(ratio, _SMALLEST, _LARGEST)))


def _part(feature: Feature, value: float) -> float:
    return feature.weight * (value - feature.mean) / feature.scale


@cache
def _learned() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("likelihood.json").read_text(encoding="utf-8")
    learned: dict[str, Any] = json.loads(text)
    return learned


@cache
def _scorers() -> dict[str, Scorer]:
    return {name: _read(one) for name, one in _learned()["scorers"].items()}


def _read(one: dict[str, Any]) -> Scorer:
    features: Sequence[dict[str, Any]] = one["features"]
    return Scorer(features=tuple(Feature(**f) for f in features), intercept=one["intercept"])
