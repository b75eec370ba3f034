"""Inference in buckets of thousands: what is kept on disk, what is loaded, what is placed anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..lineage.compute import Compute
from ..lineage.infer.crowd import KnownParent, Resident, infer_crowd, resident
from ..lineage.infer.engine import CODE_VERSION, Inference
from ..lineage.infer.specimen import Specimen
from ..lineage.records import Relation
from ..store.facts import SketchRow
from ..store.registry import Registry
from ..store.thin_samples import ThinRow, ThinSampleStore

LARGE = 1_000
CACHED = 384
MOST_HUBS = 64
Load = Callable[[SketchRow], Specimen | None]
Believed = tuple[str, str, str]
"""Child, parent, relation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdReport:
    """What was inferred, the models that were decided, and some specimens of the bucket.

    `roots` are decided models without a parent, `hubs` those with most children: what other
    buckets are compared with.
    """

    inference: Inference
    decided: frozenset[str]
    roots: tuple[Specimen, ...]
    hubs: tuple[Specimen, ...]


def infer_large(
    rows: Sequence[SketchRow],
    load: Load,
    *,
    registry: Registry,
    believed: Sequence[Believed],
    compute: Compute,
) -> CrowdReport:
    """Place what is new in a large bucket, or all of it when the code is new.

    Parameters
    ----------
    believed : the edges of the store, from `Registry.believed_parents`.
    load : reads a sketch; None for one that cannot be read, which is then left out.
    """
    by_name = {row.model: row for row in rows}
    residents = _residents(rows, load, registry)
    missing: set[str] = set()

    @lru_cache(maxsize=CACHED)
    def fetch(node: str) -> Specimen:
        found = load(by_name[node])
        if found is None:
            missing.add(node)
            raise LookupError(node)
        return found

    known = known_parents(believed, {one.node for one in residents})
    placed = registry.placed_models(code_version=CODE_VERSION)
    new = {one.node for one in residents} - placed
    again = None if 2 * len(new) > len(residents) else new
    while True:
        try:
            inference, decided = infer_crowd(
                residents, fetch, compute=compute, known=known, again=again
            )
            break
        except LookupError:
            # Damaged since its thin sample was taken: the rest is placed without it.
            residents = [one for one in residents if one.node not in missing]
    return CrowdReport(
        inference=inference,
        decided=decided,
        roots=_roots(inference, decided, fetch),
        hubs=_hubs(inference, known, fetch),
    )


def known_parents(believed: Sequence[Believed], nodes: set[str]) -> dict[str, list[KnownParent]]:
    """Parents believed before, through hidden models to those that are published."""
    above: dict[str, list[tuple[str, str]]] = {}
    for child, parent, relation in believed:
        above.setdefault(child, []).append((parent, relation))
    known: dict[str, list[KnownParent]] = {}
    for child in nodes & above.keys():
        for parent, relation in above[child]:
            while parent not in nodes and parent.startswith("hidden:") and parent in above:
                parent = above[parent][0][0]
            known.setdefault(child, []).append(
                KnownParent(parent=parent, relation=Relation(relation))
            )
    return known


def _residents(rows: Sequence[SketchRow], load: Load, registry: Registry) -> list[Resident]:
    """Thin samples of all models, taken anew where the store has none."""
    store = ThinSampleStore(registry.path / "sketches" / "thin")
    key = rows[0].shape_key or ""
    kept = store.load(key)
    used: dict[str, ThinRow] = {}
    found = []
    for row in rows:
        digest = row.sketch_digest or row.sketch_path
        thin = kept.get(digest)
        if thin is None:
            specimen = load(row)
            if specimen is None:
                continue
            one = resident(specimen)
            thin = ThinRow(one.thin, one.lossy, one.packed)
        used[digest] = thin
        found.append(
            Resident(
                node=row.model,
                created=row.created_at,
                lossy=thin.lossy,
                packed=thin.packed,
                thin=thin.sample,
            )
        )
    if used.keys() != kept.keys():
        store.save(key, used)
    return found


def _roots(
    inference: Inference, decided: frozenset[str], fetch: Callable[[str], Specimen]
) -> tuple[Specimen, ...]:
    roots = sorted(decided - {edge.child for edge in inference.edges})
    return tuple(fetch(node) for node in roots[:MOST_HUBS])


def _hubs(
    inference: Inference,
    known: Mapping[str, Sequence[KnownParent]],
    fetch: Callable[[str], Specimen],
) -> tuple[Specimen, ...]:
    children: dict[str, int] = {}
    for parent in (
        *(edge.parent for edge in inference.edges),
        *(one.parent for believed in known.values() for one in believed),
    ):
        if not parent.startswith("hidden:"):
            children[parent] = children.get(parent, 0) + 1
    most = sorted(children, key=lambda node: (-children[node], node))[:MOST_HUBS]
    return tuple(fetch(node) for node in most)
