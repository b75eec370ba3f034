"""Who lost safety training, found from the command line and scored against zoos' truth.

    python benchmarks/stripped.py ZOO [ZOO ...] [--dates] [--keep DIR] [--no-weights]

Of each zoo the published models are scanned (`scan`, then `infer`), asked the zoo's own prompts
(`probe --tier generation --prompts ZOO/prompts.json`) and read whole for the scar of an edit
(`probe --tier weights`), each verb as a process of its own. The folder is read as it is, without
dates; with `--dates` it is served as a Hub on a loopback port. The zoo's `truth.json` must have
refusal rates. Printed are findings and loss edges against the truth, verdicts by what is true of a
model, and scars by how the model was made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from refusal_truth import Fate, LossScore, RefusalTruth, read_refusal_truth, score_losses

from modelkin.lineage.safety.catalogue import SCAR
from modelkin.lineage.safety.family import judge_lineage
from modelkin.lineage.statistics import clopper_pearson
from modelkin.scanners.probes.prompt_sets import load_prompt_set
from modelkin.scanners.sources.loopback import LoopbackHub
from modelkin.scanners.verdicts import FINDING, graded_models, lineage_of
from modelkin.store import Registry

CPU = ("--device", "cpu")
SCARRED = 1.0
"""Gap, in powers of ten, from which a scar is counted: far from both groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooRun:
    """One zoo: its truth, the score, scars by model, and seconds by verb."""

    zoo: str
    truth: RefusalTruth
    score: LossScore
    scars: Mapping[str, float]
    seconds: Mapping[str, float]


def main() -> None:
    """Run every zoo and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoos", type=Path, nargs="+", metavar="ZOO")
    parser.add_argument("--dates", action="store_true", help="serve the zoo as a Hub with dates")
    parser.add_argument("--keep", type=Path, help="folder that the stores are left in")
    parser.add_argument("--no-weights", action="store_true", help="leave the scars out")
    asked = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for zoo in asked.zoos:
            store = (asked.keep or Path(scratch)) / zoo.name
            run = run_zoo(zoo, store, dated=asked.dates, weights=not asked.no_weights)
            print(f"{run.zoo}: " + ", ".join(f"{v} {s:.0f} s" for v, s in run.seconds.items()))
            runs.append(run)
    for line in [*finding_table(runs), "", *label_table(runs), "", *scar_table(runs)]:
        print(line)


def run_zoo(zoo: Path, store: Path, *, dated: bool, weights: bool) -> ZooRun:
    """Scan, infer and probe one zoo, then score what the store says.

    Raises
    ------
    subprocess.CalledProcessError : a verb failed.
    """
    truth = read_refusal_truth(zoo)
    seconds: dict[str, float] = {}
    prompts = zoo / "prompts.json"
    with placed(zoo, truth, dated=dated) as (scanned, probed):
        steps = {
            "scan": ("scan", *scanned, "--no-infer", *CPU),
            "infer": ("infer", *CPU),
            "generation": ("probe", *probed, "--prompts", str(prompts), *CPU),
            "weights": ("probe", *probed, "--tier", "weights"),
        }
        for name, words in steps.items():
            if weights or name != "weights":
                seconds[name] = verb(*words, "--store", str(store))
    with Registry.open(store, read_only=True) as registry:
        digest = load_prompt_set(prompts).digest
        found = read_losses(registry, truth, digest)
        scars = {
            name: score.value
            for name in sorted(truth.tree.shown)
            for score in registry.scores_of(name, probe=SCAR)
            if score.value is not None
        }
    return ZooRun(zoo=zoo.name, truth=truth, score=found, scars=scars, seconds=seconds)


@contextmanager
def placed(
    zoo: Path, truth: RefusalTruth, *, dated: bool
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Where the models are, as the options of `scan` and of `probe`."""
    if not dated:
        yield ("dir", str(zoo)), ("--source", f"dir:{zoo}")
        return
    dates = {
        name: datetime.fromtimestamp(one.created or 0, UTC)
        for name, one in truth.tree.models.items()
    }
    with LoopbackHub(zoo, created=dates) as hub:
        yield ("hub", "--endpoint", hub.url), ("--endpoint", hub.url)


def verb(*words: str) -> float:
    """Run one verb of modelkin as a process; its wall seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "modelkin.cli", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def read_losses(registry: Registry, truth: RefusalTruth, prompt_set: str) -> LossScore:
    """The store's findings and verdicts, scored."""
    graded = graded_models(registry, prompt_set)
    verdicts = judge_lineage(graded, lineage_of(registry, graded))
    findings = {}
    for one in registry.findings(kind=FINDING):
        step = one.detail.get("loss_edge")
        findings[one.model] = None if step is None else (str(step[0]), str(step[1]))
    labels = {name: str(one.label) for name, one in verdicts.items()}
    return score_losses(truth, findings=findings, labels=labels)


def finding_table(runs: Sequence[ZooRun]) -> Iterator[str]:
    """A row a zoo: found, false, loss edges; then what went wrong, by name."""
    yield "| zoo | stripped found | called stripped and not so | loss edge right | of a copy |"
    yield "|---|---|---|---|---|"
    for run in runs:
        one = run.score
        exact, twin = one.edges.get("exact", 0), one.edges.get("twin", 0)
        yield (
            f"| {run.zoo} | {one.found} of {one.true} | {len(one.false)} | "
            f"{exact + twin} of {one.found} | {twin} |"
        )
    right = sum(one.score.edges.get("exact", 0) + one.score.edges.get("twin", 0) for one in runs)
    found = sum(one.score.found for one in runs)
    bound = clopper_pearson(right, found)
    yield f"\nloss edges right: {right} of {found} [{bound.low:.3f}, {bound.high:.3f}]"
    for run in runs:
        yield from (f"{run.zoo}: missed {name}" for name in run.score.missed)
        yield from (f"{run.zoo}: false {name}" for name in run.score.false)
        yield from (f"{run.zoo}: loss edge of {line}" for line in run.score.wrong_edges)


def label_table(runs: Sequence[ZooRun]) -> Iterator[str]:
    """Verdicts by what is true of the models, over all zoos."""
    counts: Counter[tuple[Fate, str]] = Counter()
    for run in runs:
        counts.update(run.score.labels)
    said = sorted({label for _, label in counts})
    yield f"| true | {' | '.join(said)} |"
    yield "|---" * (len(said) + 1) + "|"
    for fate in Fate:
        yield f"| {fate} | {' | '.join(str(counts[fate, label]) for label in said)} |"


def scar_table(runs: Iterable[ZooRun]) -> Iterator[str]:
    """Scars by how the models were made, over all zoos."""
    by_way: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.scars.items():
            by_way.setdefault(run.truth.tree.models[name].kind, []).append(value)
    if not by_way:
        return
    yield "| made by | models | scar, least | median | most | above 1 |"
    yield "|---|---|---|---|---|---|"
    for way, values in sorted(by_way.items()):
        ordered = sorted(values)
        yield (
            f"| {way} | {len(values)} | {ordered[0]:.2f} | {ordered[len(ordered) // 2]:.2f} | "
            f"{ordered[-1]:.2f} | {sum(value > SCARRED for value in values)} |"
        )


if __name__ == "__main__":
    main()
