"""Run inference over what a store holds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ..lineage.compute import Compute
from ..lineage.errors import MalformedFile, RegistryError
from ..lineage.infer.across import infer_across
from ..lineage.infer.across_siblings import doubtful, outweighing
from ..lineage.infer.adapters import place_adapters
from ..lineage.infer.circles import settled_edge, without_circles
from ..lineage.infer.engine import CODE_VERSION, Inference, infer_bucket
from ..lineage.infer.packed import is_packed
from ..lineage.infer.specimen import Specimen, specimen
from ..lineage.records import Relation
from ..store.facts import HiddenModel, SketchRow
from ..store.registry import Registry
from .crowds import LARGE, Believed, infer_large
from .formats.adapters import FORMATS as ADAPTER_FORMATS
from .progress import Progress, Silence
from .sketch_records import load_sketch
from .threads import SMALL_BUCKET, one_thread_if

ACROSS_ALL = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceReport:
    """What inference went through: buckets, models compared, pairs tested, edges believed.

    `placed` counts the models whose parents were decided; in large buckets only what is new.
    """

    buckets: int
    models: int
    placed: int
    pairs: int
    related: int
    edges: int
    unreadable: Mapping[str, str]


def infer_store(
    registry: Registry,
    *,
    scan: int,
    now: datetime,
    compute: Compute,
    shapes: Collection[str] | None = None,
    progress: Progress | None = None,
    original: str | None = None,
    large: int = LARGE,
) -> InferenceReport:
    """Infer parents in every shape bucket, or in the named ones, and store the edges.

    Of a bucket of more than `large` models not all pairs are compared, and only what is new in it
    is placed.
    Of exact copies that nothing else tells apart, `original` and the releases mapped before are
    taken as the originals. A sketch that cannot be read back is named in the report and left out.
    """
    watch = progress or Silence()
    # Among equal weights without dates only the question itself can say which is the original.
    mapped = {scan.target for scan in registry.scans() if scan.kind == "map"}
    originals = frozenset(name for name in {*mapped, original} if name is not None)
    buckets: dict[str, list[SketchRow]] = {}
    for row in registry.sketched(shape_keys=shapes):
        if row.shape_key is not None:
            buckets.setdefault(row.shape_key, []).append(row)
    watch.stage("infer", len(buckets))
    believed = registry.believed_parents()
    work = _Work(registry=registry, compute=compute, large=large, believed=believed)
    for key in sorted(buckets):
        work.infer(buckets[key], originals)
        watch.step(key)
    adapters = work.in_view(registry.sketched(formats=ADAPTER_FORMATS))
    found = work.with_adapters(_with_other_shapes(work), adapters)
    _store(registry, found, work, scan=scan, now=now)
    rows = sum(len(bucket) for bucket in buckets.values()) + len(adapters)
    return InferenceReport(
        buckets=len(buckets),
        models=rows - len(work.unreadable),
        placed=len(work.decided - work.unreadable.keys()),
        pairs=sum(one.pairs_tested for one in found),
        related=sum(one.pairs_related for one in found),
        edges=sum(len(one.edges) for one in found),
        unreadable=work.unreadable,
    )


@dataclass(slots=True, kw_only=True)
class _Work:
    """One run of inference: what was found, about whom, and who is compared across buckets.

    `believed` are the edges of the store; `whole` the models of buckets that were compared whole.
    """

    registry: Registry
    compute: Compute
    large: int
    believed: Sequence[Believed]
    whole: set[str] = field(default_factory=set)
    found: list[Inference] = field(default_factory=list)
    decided: set[str] = field(default_factory=set)
    groups: list[list[Specimen]] = field(default_factory=list)
    orphans: list[Specimen] = field(default_factory=list)
    candidates: list[Specimen] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def infer(self, rows: Sequence[SketchRow], originals: Collection[str]) -> None:
        """One bucket: all its pairs where it is small, else each model among its nearest."""
        self.inputs += sorted(row.sketch_digest or row.sketch_path for row in rows)
        if len(rows) > self.large:
            self._infer_large(rows)
        else:
            self._infer_whole(rows, originals)

    def _infer_whole(self, rows: Sequence[SketchRow], originals: Collection[str]) -> None:
        group = [one for row in rows if (one := self._load(row)) is not None]
        with one_thread_if(len(group) < SMALL_BUCKET):
            inference = infer_bucket(group, compute=self.compute, originals=originals)
        children = {edge.child for edge in inference.edges}
        self.found.append(inference)
        self.decided |= {row.model for row in rows}
        self.whole |= {row.model for row in rows}
        plain = [one for one in group if not is_packed(one)]
        self.orphans += [one for one in plain if one.node not in children]
        self.candidates += plain
        self.groups.append(plain)

    def _infer_large(self, rows: Sequence[SketchRow]) -> None:
        report = infer_large(
            rows,
            self._load,
            registry=self.registry,
            believed=self.believed,
            compute=self.compute,
        )
        self.found.append(report.inference)
        self.decided |= report.decided
        self.orphans += report.roots
        self.candidates += report.hubs

    def _load(self, row: SketchRow) -> Specimen | None:
        """The specimen of a row; one that cannot be read back is noted and left out."""
        created = row.created_at
        if created is not None and created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        try:
            sketch = load_sketch(self.registry.sketches, row.sketch_path)
        except (RegistryError, MalformedFile) as error:
            self.unreadable[row.model] = str(error)
            return None
        return specimen(row.model, sketch, created=created)

    def in_view(self, rows: Sequence[SketchRow]) -> list[SketchRow]:
        """Adapters to place now: without a base so far, or on one whose bucket was compared whole.

        The others keep the base they have: what shows it is not in memory.
        """
        bases = {child: parent for child, parent, _ in self.believed}
        shown = {None, *self.whole}
        return [row for row in rows if bases.get(row.model) in shown]

    def with_adapters(
        self, found: Sequence[Inference], rows: Sequence[SketchRow]
    ) -> list[Inference]:
        """The same results, with the bases of adapters and the adapters named in merged children.

        A base is looked for among the models that are in memory: in a large bucket its hubs.
        """
        adapters = [one for row in rows if (one := self._load(row)) is not None]
        self.inputs += sorted(row.sketch_digest or row.sketch_path for row in rows)
        self.decided |= {row.model for row in rows}
        if not adapters:
            return list(found)
        edges = [edge for one in found for edge in one.edges]
        models = {one.node: one for one in self.candidates}
        placed, again = place_adapters(adapters, models, edges)
        kept = {(edge.child, edge.parent): edge for edge in again}
        named = [
            replace(one, edges=tuple(kept[edge.child, edge.parent] for edge in one.edges))
            for one in found
        ]
        return [*named, Inference(edges=tuple(placed))]


def _with_other_shapes(work: _Work) -> list[Inference]:
    """What was found inside the buckets, and parents of another shape: of models that have none of
    their own, and of those whose own is only a sibling."""
    first = _across_buckets(work, work.orphans)
    inside = [edge for one in work.found for edge in one.edges]
    asked = doubtful(work.groups, inside, first.edges)
    if not asked:
        return [*work.found, first]
    moved = {one.node for one in asked}
    again = _across_buckets(work, asked, without=moved)
    proved = outweighing(again.edges, inside)
    settled = {edge.child for edge in proved}
    kept = [
        replace(
            one,
            edges=tuple(edge for edge in one.edges if edge.child not in settled),
            rejected=tuple(lost for lost in one.rejected if lost.child not in settled),
        )
        for one in work.found
    ]
    lost = tuple(one for one in again.rejected if one.child in settled)
    return [*kept, first, replace(again, edges=tuple(proved), rejected=lost)]


def _across_buckets(
    work: _Work, children: Sequence[Specimen], *, without: Collection[str] = ()
) -> Inference:
    """Parents of another shape; what is believed of the parents of `without` is left aside."""
    known = [e for one in work.found for e in one.edges if e.child not in without]
    settled = [
        settled_edge(child, parent, Relation(relation))
        for child, parent, relation in work.believed
        if child not in work.decided
    ]
    parents = {edge.child: edge.parent for edge in known}
    candidates = work.candidates
    # In a large store only models that something descends from are worth the comparison.
    if len(candidates) > ACROSS_ALL:
        used = set(parents.values())
        candidates = [one for one in candidates if one.node in used]
    with one_thread_if(len(children) < SMALL_BUCKET):
        across = infer_across(children, candidates, compute=work.compute, parents=parents)
    return Inference(
        edges=tuple(without_circles(across.edges, [*settled, *known])),
        rejected=across.rejected,
        pairs_tested=across.pairs_tested,
        pairs_related=across.pairs_related,
    )


def _store(
    registry: Registry, found: Sequence[Inference], work: _Work, *, scan: int, now: datetime
) -> None:
    inputs = "".join([CODE_VERSION, *work.inputs])
    registry.replace_inference(
        scan,
        edges=[edge for one in found for edge in one.edges],
        rejected=[lost for one in found for lost in one.rejected],
        hidden=[HiddenModel(node=h.node) for one in found for h in one.hidden],
        scope=work.decided | {h.node for one in found for h in one.hidden},
        code_version=CODE_VERSION,
        inputs_digest=hashlib.sha256(inputs.encode()).hexdigest(),
        now=now,
    )
