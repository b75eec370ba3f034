"""Learned weights of the path clues: from what is measured to a log-likelihood ratio.

The curves stand in `likelihood.json` beside this module: an additive logistic model (Hastie &
Tibshirani 1986) whose parts are piecewise linear, fitted on families trained for that purpose
(`benchmarks/learn_clues.py` writes the file and says how well it does on families it has not
seen); nothing here is fitted at run time. Each clue contributes the height of its curve, so that
contributions add up to the decision, and a value beyond all that was seen counts as the last seen.
"""

from __future__ import annotations

import json
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
    """One clue's curve, by its knots, and how often the clue alone would err, in [0, 0.5].

    `knots` ascend; `parts` are the log-likelihood ratios there, zero on average over what was
    learned from.
    """

    name: str
    knots: tuple[float, ...]
    parts: tuple[float, ...]
    error: float

    def part(self, value: float) -> float:
        """What a value contributes."""
        return float(np.interp(value, self.knots, self.parts))


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
        total = self.intercept + sum(f.part(values[f.name]) for f in self.features)
        return float(np.clip(total, -BOUND, BOUND))

    def explain(self, clues: PathClues, *, kind: str = "geometry", most: int = 5) -> list[Clue]:
        """The features that weigh most, each with its share of the log-likelihood ratio."""
        values = featurise(clues)
        parts = [(f.name, values[f.name], f.part(values[f.name])) for f in self.features]
        parts.sort(key=lambda part: -abs(part[2]))
        return [
            Clue(kind=kind, statistic=STATISTICS[n], value=v, llr=w) for n, v, w in parts[:most]
        ]


STATISTICS = {
    "beta": "log of the share of the path kept",
    "low": "share of the path kept in the least faithful tenth of the blocks",
    "spread": "log spread of that share over the blocks",
    "back": "share of the child's way that leads along the path",
    "along": "cosine of the child's own step with the path",
    "step": "log length of the child's own step against the path",
    "tails": "log kurtosis of the child's own step against that of its whole way",
    "own": "share kept of what only this model learned",
    "own_left": "log of what is left of its own largest moves",
    "own_low": "share kept where only this model moved, the lowest tenth",
    "shared": "cosine of the path with what the other members learned",
    "edge_bits": "log ratio of norm and embedding weights equal to this model's and its origin's",
}
"""Feature name -> what it says, in words; the keys are the features of a scorer."""


def featurise(clues: PathClues) -> dict[str, float]:
    """The clues on the scale they are weighed on: ratios as logarithms."""
    return {
        "beta": _log(clues.beta),
        "low": clues.low,
        "spread": float(np.log(clues.spread + 0.01)),
        "back": clues.back,
        "along": clues.along,
        "step": clues.step,
        "tails": clues.tails,
        "own": clues.own,
        "own_left": clues.own_left,
        "own_low": clues.own_low,
        "shared": clues.shared,
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


@cache
def _learned() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("likelihood.json").read_text(encoding="utf-8")
    learned: dict[str, Any] = json.loads(text)
    return learned


@cache
def _scorers() -> dict[str, Scorer]:
    return {name: _read(one) for name, one in _learned()["scorers"].items()}


def _read(one: dict[str, Any]) -> Scorer:
    features = [
        Feature(name=f["name"], knots=(*f["knots"],), parts=(*f["parts"],), error=f["error"])
        for f in one["features"]
    ]
    return Scorer(features=tuple(features), intercept=one["intercept"])
