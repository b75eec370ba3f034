"""Measure what the thresholds of lineage/infer/packed.py rest on.

    python benchmarks/packed_null.py ZOO [ZOO...] [--solved DIR...] [--models N] [--formats a,b]

Every packed copy is placed twice: with its source among the candidates, and without it, when only
siblings, ancestors and strangers of the source are there. Printed are

- the ratio of the residual to rounding with the true source, by format, with scales fitted where
  nothing fits as it is: what `ROUNDING_RATIO` and `SOLVED_RATIO` must let pass;
- how far copies are drawn from their true source towards other models, and from the nearest of the
  others where the source is missing: what `PULL` must part;
- how often the parent that is named is right, by confidence, for both settings together: without
  the source, right is the source's own parent, or no parent where that is missing too.

ZOO is a folder that `python -m benchmarks.zoo` wrote; DIR one that solved_copies.py wrote for the
zoo at the same place in the list. Nothing is dated and nothing is declared.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from format_zoo import packed_copies, shape_of, sketched, sources_of

from modelkin.lineage.infer.packed import place_packed, rounding_limit
from modelkin.lineage.infer.packed_fit import fit_sources, pull
from modelkin.lineage.infer.specimen import Specimen
from modelkin.lineage.records import Relation
from modelkin.scanners.sources.folder import FolderSource

FORMATS = (
    *("Q8_0", "Q4_0", "MXFP4", "gptq-act", "nf4", "fp4", "fp8"),
    *("w4a16", "mlx-4", "mlx-3", "mlx-2"),
)
CONFIDENCES = (0.0, 0.5, 0.8, 0.9, 0.97, 1.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One copy against one set of candidates.

    `right` is the node that may be named, None where none may; `nearest` the pull of the nearest
    candidate to any other: the largest share with its standard error; `ratio` that of the source,
    whether it was named or not.
    """

    label: str
    child: str
    present: bool
    right: str | None
    named: str | None
    relation: str | None
    confidence: float
    ratio: float
    drawn: tuple[float, float]


def cases(
    label: str, child: Specimen, source: str, group: Sequence[Specimen], parents: Sequence[str]
) -> Iterator[Case]:
    """A copy placed with its source and without."""
    held = {one.node for one in group}
    known = [one for one in parents if one in held]
    for present in (True, False):
        candidates = [one for one in group if present or one.node != source]
        edges = [e for e in place_packed([child], candidates, []).edges if e.child == child.node]
        edge = edges[0] if edges else None
        fits = fit_sources(child, candidates, rounding=rounding_limit(child))
        if not fits:
            continue
        pulls = [pull(child, fits[0], other) for other in fits[1:]]
        told = [one for one in pulls if one[0] > 3 * one[1]] or [(0.0, 0.0)]
        absent = known[0] if len(known) == 1 else None
        yield Case(
            label=label,
            child=child.node,
            present=present,
            right=source if present else absent,
            named=edge.parent if edge else None,
            relation=str(edge.relation) if edge else None,
            confidence=edge.confidence if edge else 0.0,
            ratio=next((one.ratio for one in fits if one.parent.node == source), math.nan),
            drawn=max(told),
        )


def zoo_cases(
    zoo: Path, formats: Sequence[str], models: int, solved: Path | None
) -> Iterator[Case]:
    """All copies of some of a zoo's models, and those that were packed before."""
    sources = sources_of(zoo)
    names = list(sources)
    plain = {name: sketched(FolderSource(zoo), name) for name in names}

    def group(name: str) -> list[Specimen]:
        return [one for one in plain.values() if shape_of(one) == shape_of(plain[name])]

    with tempfile.TemporaryDirectory(prefix="packed-null-") as folder:
        root = Path(folder)
        for name in names[:: max(1, len(names) // models)][:models]:
            for copy, label, _, _ in packed_copies(zoo, name, formats, root):
                child = sketched(FolderSource(root), copy)
                yield from cases(label, child, name, group(name), sources[name]["parents"])
                shutil.rmtree(root / copy)
    packed_before = json.loads((solved / "sources.json").read_text()) if solved else {}
    for copy, name in packed_before.items():
        if name not in plain:
            continue
        child = sketched(FolderSource(solved), copy)
        label = "solved " + copy.rpartition("--")[2]
        yield from cases(label, child, name, group(name), sources[name]["parents"])


def report(found: Sequence[Case]) -> None:
    """Print the three tables."""
    by_label: dict[str, list[Case]] = defaultdict(list)
    for case in found:
        by_label[case.label].append(case)
    print("| format | copies | parent | median ratio | largest | without: named right | false |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, held in by_label.items():
        there, gone = ([c for c in held if c.present is at] for at in (True, False))
        ratios = [c.ratio for c in there if not math.isnan(c.ratio)]
        false = sum(c.named is not None and c.named != c.right for c in gone)
        right = sum(c.named is not None and c.named == c.right for c in gone)
        exact = sum(c.named == c.right and c.relation == Relation.QUANTIZED for c in there)
        print(
            f"| {label} | {len(there)} | {exact} | {np.median(ratios):.3f} | {max(ratios):.3f} "
            f"| {right} of {len(gone)} | {false} |"
        )
    for present in (True, False):
        shares = [c.drawn[0] for c in found if c.present is present]
        told = ", ".join(f"{q:.0%} {np.quantile(shares, q):.3f}" for q in (0.5, 0.9, 0.99, 1))
        print(f"drawn {'from the source' if present else 'with the source missing'}: {told}")
    print("| confidence | edges | right |")
    print("| --- | --- | --- |")
    for low, high in pairwise(CONFIDENCES):
        inside = [c for c in found if c.named and low <= c.confidence < high]
        if inside:
            share = np.mean([c.named == c.right for c in inside])
            mean = np.mean([c.confidence for c in inside])
            print(f"| {mean:.3f} | {len(inside)} | {share:.3f} |")


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("zoos", type=Path, nargs="+")
    parser.add_argument("--solved", type=Path, nargs="*", default=[])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--list", action="store_true", help="print every false case")
    asked = parser.parse_args()
    found: list[Case] = []
    for at, zoo in enumerate(asked.zoos):
        solved = asked.solved[at] if at < len(asked.solved) else None
        found += zoo_cases(zoo, asked.formats.split(","), asked.models, solved)
    report(found)
    if asked.list:
        for case in found:
            if case.named != case.right:
                print(case)


if __name__ == "__main__":
    main()
