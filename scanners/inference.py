"""Run inference over what a store holds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ..lineage.compute import Compute
from ..lineage.errors import MalformedFile, RegistryError
from ..lineage.infer.across import infer_across
from ..lineage.infer.adapters import place_adapters
from ..lineage.infer.circles import without_circles
from ..lineage.infer.engine import CODE_VERSION, Inference, infer_bucket
from ..lineage.infer.packed import is_packed
from ..lineage.infer.specimen import Specimen, specimen
from ..store.facts import HiddenModel, SketchRow
from ..store.registry import Registry
from ..store.sketches import SketchStore
from .formats.adapters import FORMATS as ADAPTER_FORMATS
from .progress import Progress, Silence
from .sketch_records import load_sketch
from .threads import SMALL_BUCKET, one_thread_if

ACROSS_ALL = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceReport:
    """What inference went through: buckets, models compared, pairs tested, edges believed."""

    buckets: int
    models: int
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
) -> InferenceReport:
    """Infer parents in every shape bucket, or in the named ones, and store the edges.

    Of exact copies that nothing else tells apart, `original` and the releases mapped before are
    taken as the originals. A sketch that cannot be read back is named in the report and left out.
    """
    watch = progress or Silence()
    # Among equal weights without dates only the question itself can say which is the original.
    mapped = {scan.target for scan in registry.scans() if scan.kind == "map"}
    originals = frozenset(name for name in {*mapped, original} if name is not None)
    buckets: dict[str, list[SketchRow]] = {}
    for row in registry.sketched():
        if row.shape_key is not None and (shapes is None or row.shape_key in shapes):
            buckets.setdefault(row.shape_key, []).append(row)
    watch.stage("infer", len(buckets))
    found: list[Inference] = []
    everyone: list[Specimen] = []
    unreadable: dict[str, str] = {}
    digest = hashlib.sha256(CODE_VERSION.encode())
    for key in sorted(buckets):
        group = _specimens(buckets[key], registry.sketches, unreadable)
        with one_thread_if(len(group) < SMALL_BUCKET):
            found.append(infer_bucket(group, compute=compute, originals=originals))
        everyone += [one for one in group if not is_packed(one)]
        for row in sorted(buckets[key], key=lambda r: r.sketch_digest or ""):
            digest.update((row.sketch_digest or row.sketch_path).encode())
        watch.step(key)
    found.append(_across_buckets(everyone, found, compute))
    adapters = [row for row in registry.sketched() if row.format in ADAPTER_FORMATS]
    changes = _specimens(adapters, registry.sketches, unreadable)
    found = _with_adapters(found, changes, everyone)
    rows = [*(row for bucket in buckets.values() for row in bucket), *adapters]
    _store(registry, found, rows, scan=scan, now=now, digest=digest.hexdigest())
    return InferenceReport(
        buckets=len(buckets),
        models=len(rows) - len(unreadable),
        pairs=sum(one.pairs_tested for one in found),
        related=sum(one.pairs_related for one in found),
        edges=sum(len(one.edges) for one in found),
        unreadable=unreadable,
    )


def _with_adapters(
    found: Sequence[Inference], adapters: Sequence[Specimen], models: Sequence[Specimen]
) -> list[Inference]:
    """The same results, with the bases of adapters and the adapters named in merged children."""
    if not adapters:
        return list(found)
    edges = [edge for one in found for edge in one.edges]
    placed, again = place_adapters(adapters, {one.node: one for one in models}, edges)
    kept = {(edge.child, edge.parent): edge for edge in again}
    named = [
        replace(one, edges=tuple(kept[edge.child, edge.parent] for edge in one.edges))
        for one in found
    ]
    return [*named, Inference(edges=tuple(placed))]


def _across_buckets(
    everyone: Sequence[Specimen], found: Sequence[Inference], compute: Compute
) -> Inference:
    """Parents of another shape, for models that have none of their own."""
    known = [edge for one in found for edge in one.edges]
    parents = {edge.child: edge.parent for edge in known}
    roots = [one for one in everyone if one.node not in parents]
    # In a large store only models that something descends from are worth the comparison.
    candidates = everyone
    if len(everyone) > ACROSS_ALL:
        used = set(parents.values())
        candidates = [one for one in everyone if one.node in used]
    with one_thread_if(len(roots) < SMALL_BUCKET):
        across = infer_across(roots, candidates, compute=compute, parents=parents)
    return Inference(
        edges=tuple(without_circles(across.edges, known)),
        rejected=across.rejected,
        pairs_tested=across.pairs_tested,
        pairs_related=across.pairs_related,
    )


def _specimens(
    rows: Sequence[SketchRow], sketches: SketchStore, unreadable: dict[str, str]
) -> list[Specimen]:
    group = []
    for row in rows:
        created = row.created_at
        if created is not None and created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        try:
            sketch = load_sketch(sketches, row.sketch_path)
        except (RegistryError, MalformedFile) as error:
            unreadable[row.model] = str(error)
            continue
        group.append(specimen(row.model, sketch, created=created))
    return group


def _store(
    registry: Registry,
    found: Sequence[Inference],
    rows: Sequence[SketchRow],
    *,
    scan: int,
    now: datetime,
    digest: str,
) -> None:
    registry.replace_inference(
        scan,
        edges=[edge for one in found for edge in one.edges],
        rejected=[lost for one in found for lost in one.rejected],
        hidden=[HiddenModel(node=h.node) for one in found for h in one.hidden],
        scope={row.model for row in rows} | {h.node for one in found for h in one.hidden},
        code_version=CODE_VERSION,
        inputs_digest=digest,
        now=now,
    )
