"""Fit how often an edge is right: by its log-odds on a path, or decided by an exact rule.

    nice python benchmarks/calibrate.py ZOO [ZOO ...] [--write]

The zoos must not be the ones that accuracy is measured on. Every edge is held against the truth,
with dates and without: those decided by weighing a path give the slope and intercept of Platt's
sigmoid, the others the share that is right. `--write` puts both into
`lineage/infer/likelihood.json`.

References
----------
Platt (1999), "Probabilistic outputs for support vector machines".
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from learn_clues import TARGET
from numpy.typing import NDArray
from peer_methods.blinding import blind
from peer_methods.modelkin_peer import Modelkin
from zoo_scoring import resolve

from modelkin.store import Registry

EDGES = """
SELECT e.child, e.parent, max(v.value) FILTER (
    v.kind = 'geometry' AND v.statistic LIKE 'log-odds of this place%') AS odds
FROM v1.edges e JOIN v1.evidence v USING (evidence_id) WHERE e.inferred GROUP BY ALL
"""


def main() -> None:
    """Infer, compare, fit, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoos", type=Path, nargs="+", metavar="ZOO")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    fitted: dict[str, object] = {"zoos": [zoo.name for zoo in asked.zoos]}
    for name, dated in (("dated", True), ("undated", False)):
        cases = [case for zoo in asked.zoos for case in placed(zoo, dated=dated)]
        fitted[name] = fit(cases)
        print(f"{name}: {fitted[name]}")
    if asked.write:
        learned = json.loads(TARGET.read_text(encoding="utf-8"))
        learned["calibration"] = fitted
        TARGET.write_text(json.dumps(learned, indent=1) + "\n", encoding="utf-8")


def fit(cases: Sequence[tuple[float | None, bool]]) -> dict[str, float]:
    """Sigmoid of the path edges and share of exact edges that are right, with a table of both."""
    on_path = [(odds, right) for odds, right in cases if odds is not None]
    odds = np.array([one for one, _ in on_path])
    right = np.array([one for _, one in on_path], dtype=float)
    slope, intercept = platt(odds, right)
    print("| log-odds | edges | right | said |\n|---|---|---|---|")
    for low, high in ((-9, 0.5), (0.5, 1), (1, 2), (2, 3), (3, 4), (4, 99)):
        inside = (odds >= low) & (odds < high)
        if inside.any():
            said = 1 / (1 + np.exp(-(slope * odds[inside] + intercept)))
            told = f"{right[inside].mean():.2f} | {said.mean():.2f}"
            print(f"| {low} to {high} | {inside.sum()} | {told} |")
    exact = [right for one, right in cases if one is None]
    share = (sum(exact) + 1) / (len(exact) + 2)
    print(f"| exact rules | {len(exact)} | {share:.3f} | |")
    return {
        "slope": round(slope, 4),
        "intercept": round(intercept, 4),
        "exact": round(share, 4),
    }


def placed(zoo: Path, *, dated: bool) -> Iterator[tuple[float | None, bool]]:
    """Log-odds of each edge (None for an exact rule), and whether it is right."""
    with tempfile.TemporaryDirectory() as folder:
        hidden = blind(zoo, Path(folder) / "models")
        store = Path(folder) / "store"
        result = Modelkin(store=store).edges(hidden.models, hidden.dates if dated else None)
        right = {
            (claim.child, claim.parent)
            for edge, claim in resolve(result.claims, hidden.truth.shown).items()
            if edge in hidden.truth.edges
        }
        with Registry.open(store, read_only=True) as registry:
            for child, parent, odds in registry.sql(EDGES).fetchall():
                if child in hidden.truth.shown:
                    yield odds, (child, parent) in right


def platt(
    odds: NDArray[np.float64], right: NDArray[np.float64], *, rounds: int = 200
) -> tuple[float, float]:
    """Slope and intercept of the likeliest sigmoid, with Platt's smoothed targets.

    Newton steps, halved until the loss falls: a full step overshoots where most are right.
    """
    yes, no = right.sum(), (1 - right).sum()
    target = np.where(right > 0, (yes + 1) / (yes + 2), 1 / (no + 2))
    a = np.column_stack([odds, np.ones_like(odds)])

    def loss(w: NDArray[np.float64]) -> float:
        z = a @ w
        return float((np.logaddexp(0, z) - target * z).sum())

    w = np.array([0.0, math.log((yes + 1) / (no + 1))])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-a @ w))
        curvature = (a * (p * (1 - p))[:, None]).T @ a + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, a.T @ (target - p))
        while loss(w + step) > loss(w) and np.abs(step).max() > 1e-9:
            step = step / 2
        w = w + step
    return float(w[0]), float(w[1])


if __name__ == "__main__":
    main()
