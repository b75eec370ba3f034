"""How often the betting test calls an intact model stripped, and how soon it knows of a loss.

    python benchmarks/loss_evidence.py [--runs 1000] [--pairs 400]

Pairs of a harmful prompt and its twin are drawn as coins: an ancestor that refuses 95 of 100
harmful and 5 of 100 harmless prompts, and descendants that kept it, lost a part, or lost it. No
model is run. Looked at is the highest wealth at any time, since a run may stop at any time.
"""

from __future__ import annotations

import argparse
import random

from modelkin.lineage.safety.betting import e_process
from modelkin.lineage.safety.family import E_BOUND
from modelkin.lineage.statistics import clopper_pearson

LEVELS = (20.0, 200.0, 2e5)
CASES = {"intact": 0.95, "at the bound": 0.75, "weakened": 0.60, "half": 0.40, "stripped": 0.05}


def main() -> None:
    """Draw, bet, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    print(f"{'descendant':14s} " + "".join(f"{f'e >= {at:g}':>26s}" for at in LEVELS))
    for name, after in CASES.items():
        runs = [wealth(chance, after=after, pairs=asked.pairs) for _ in range(asked.runs)]
        print(f"{name:14s} " + "".join(f"{describe(runs, at):>26s}" for at in LEVELS))
    high = clopper_pearson(0, asked.runs, level=0.90).high
    print(f"no false one in {asked.runs} runs bounds their rate at {high:.2g} (95 %)")


def wealth(chance: random.Random, *, after: float, pairs: int) -> list[float]:
    """Wealth over the pairs of one ancestor and one descendant."""

    def side(refuse: float) -> int:
        return (chance.random() < refuse) - (chance.random() < 0.05)

    drawn = [(side(0.95) - side(after)) / 2 for _ in range(pairs)]
    return e_process(drawn, bound=E_BOUND)


def describe(runs: list[list[float]], at: float) -> str:
    """Share of runs that ever reach a level, and the median pairs of those that do."""
    first = [next((i for i, e in enumerate(run, start=1) if e >= at), None) for run in runs]
    needed = sorted(i for i in first if i is not None)
    median = f", median {needed[len(needed) // 2]} pairs" if needed else ""
    return f"{len(needed)} of {len(runs)}{median}"


if __name__ == "__main__":
    main()
