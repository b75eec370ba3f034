"""Steps of paths as placement meets them in a zoo, with what is true of each.

Every model that placement would weigh a path for is held against the paths to its nearest kin, as
they run in truth: all relations and architectures, merges and quantized copies on the way, children
of unpublished models. A step (origin, via) is kept if the child descends from `via` or is a twin of
what does. Steps behind one that is not kept say nothing and are left out.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zoo_scoring import Truth, read_truth

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.decision import Placement, path_to
from modelkin.lineage.infer.family import Family, assemble
from modelkin.lineage.infer.kinship import families, measure_kinship
from modelkin.lineage.infer.likelihood import featurise
from modelkin.lineage.infer.packed import is_packed
from modelkin.lineage.infer.path_steps import path_steps
from modelkin.lineage.infer.placement import place
from modelkin.lineage.infer.specimen import Specimen, comparable_parts, specimen
from modelkin.scanners.inference import load_sketch
from modelkin.scanners.scan import Scanner, ScanPlan
from modelkin.scanners.sources.folder import FolderSource
from modelkin.store import Registry

NEAREST = 4
"""How many of the nearest that are no descendants of the child lend their paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One pair measured: is C a descendant of S, or its sibling through an unpublished model?"""

    group: str
    features: Mapping[str, float]
    child: bool
    hidden: bool


def zoo_cases(zoo: Path) -> Iterator[Case]:
    """All cases of a zoo, family by family."""
    truth = read_truth(zoo)
    compute = Compute(device="cpu")
    for group in specimens(zoo, truth):
        open_ones = [one for one in group if not is_packed(one)]
        for part in comparable_parts(open_ones):
            kinship = measure_kinship(part, compute=compute)
            for members in families(kinship, len(part)):
                family = assemble([part[i] for i in members], compute=compute)
                yield from family_cases(family, truth)


def specimens(zoo: Path, truth: Truth) -> list[list[Specimen]]:
    """The models of a zoo by shape, dated as in truth, from a scan into a store of its own."""
    groups: dict[str, list[Specimen]] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Registry.open(Path(scratch), create=True) as registry,
    ):
        scanner = Scanner(
            registry=registry, source=FolderSource(zoo), now=lambda: datetime.now(UTC)
        )
        asyncio.run(scanner.run(ScanPlan()))
        for row in registry.sketched():
            created = datetime.fromtimestamp(truth.models[row.model].created or 0, UTC)
            sketch = load_sketch(registry.sketches, row.sketch_path)
            one = specimen(row.model, sketch, created=created)
            groups.setdefault(row.shape_key, []).append(one)
    return [sorted(group, key=lambda one: one.node) for group in groups.values()]


def family_cases(family: Family, truth: Truth) -> Iterator[Case]:
    """The cases of one family, its members placed as in truth."""
    names = [one.node for one in family.members]
    placed = {i: true_placement(i, names, truth) for i in range(len(names))}
    for child, name in enumerate(names):
        if truth.parents(name) and place(family, child, placed).rule == "nearest":
            yield from child_cases(family, child, placed, truth)


def child_cases(
    family: Family, child: int, placed: Mapping[int, Placement], truth: Truth
) -> Iterator[Case]:
    """The steps of the paths to a child's nearest kin, each once."""
    names = [one.node for one in family.members]
    name, own = names[child], twin_of(names[child], truth)
    line = {twin_of(one, truth) for one in (name, *ancestors(name, truth))}
    kin = [
        i
        for i, other in enumerate(names)
        if twin_of(other, truth) != own and name not in ancestors(other, truth)
    ]
    kin.sort(key=lambda i: family.geometry.square_distance(child, i))
    seen: set[tuple[int, int]] = set()
    for near in kin[:NEAREST]:
        path = path_to(near, placed)
        kept = [twin_of(names[i], truth) in line for i in path]
        reach = path[: kept.index(False) + 1] if False in kept else path
        for step in path_steps(family, child, reach, placed):
            if (step.origin, step.via) not in seen:
                seen.add((step.origin, step.via))
                yield Case(
                    group=truth.family(name),
                    features=featurise(step.clues),
                    child=twin_of(names[step.via], truth) in line,
                    hidden=share_hidden(name, names[step.via], truth),
                )


def true_placement(member: int, names: list[str], truth: Truth) -> Placement:
    """A member where it belongs; its parents of another shape are left out."""
    number = {name: i for i, name in enumerate(names)}
    true = [p for p in truth.models[names[member]].parents if p in truth.shown]
    above = [number[p] for p in true or sorted(truth.parents(names[member])) if p in number]
    trained = truth.models[names[member]].relation == "finetune"
    return Placement(child=member, rule="nearest" if trained else "other", parents=tuple(above))


def ancestors(name: str, truth: Truth) -> frozenset[str]:
    """Everything that a model comes from, unpublished models too."""
    found: set[str] = set()
    pending = [*truth.models[name].parents]
    while pending:
        above = pending.pop()
        if above not in found:
            found.add(above)
            pending += truth.models[above].parents
    return frozenset(found)


def twin_of(name: str, truth: Truth) -> str:
    """The first of all that hold the same weights: no weights tell copies apart."""
    one = truth.models[name]
    return twin_of(one.parents[0], truth) if one.kind == "copy" else name


def share_hidden(name: str, other: str, truth: Truth) -> bool:
    """Whether both come from one unpublished model."""
    both = {*truth.models[name].parents} & {*truth.models[other].parents}
    return any(one not in truth.shown for one in both)
