"""Which models of a store lie nearest to one of them, by their sampled weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..lineage.compute import Compute
from ..lineage.errors import MalformedFile, NotComparable, RegistryError
from ..lineage.infer.neighbours import ThinSample, comparable_rows, thin_sample
from ..lineage.infer.specimen import specimen
from ..lineage.similarity.search import nearest
from ..store.facts import SketchRow
from ..store.registry import Registry
from ..store.thin_samples import ThinSampleStore
from .sketch_records import load_sketch

WIDER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """The models nearest to one on thinned weights, nearest first.

    `compared` models of its shape hold the same blocks; `unreadable` names those whose sketch
    cannot be read back, with the reason.
    """

    row: SketchRow
    near: tuple[SketchRow, ...]
    compared: int
    unreadable: Mapping[str, str]


def find_similar(registry: Registry, model: str, *, count: int, compute: Compute) -> Similar:
    """The nearest models of the same shape, twice as many as are wanted.

    What is thinned can order near ones wrongly: hold the whole sketches against each other.

    Raises
    ------
    NotInRegistry : the store does not hold the name.
    NotComparable : the model has no sketch that can be compared.
    """
    name = registry.resolve_name(model)
    row = next(iter(registry.sketched(names=[name])), None)
    if row is None or row.shape_key is None:
        raise NotComparable(f"the weights of {name} were not sketched: scan it first")
    rows = registry.sketched(shape_keys=[row.shape_key])
    samples, unreadable = _samples(registry, rows)
    held = [one for one in rows if one.model in samples]
    at = next((i for i, one in enumerate(held) if one.model == name), None)
    if at is None:
        raise NotComparable(f"the sketch of {name} cannot be read: {unreadable[name]}")
    parts = comparable_rows([samples[one.model] for one in held])
    part = next((one for one in parts if at in one.numbers), None)
    if part is None:
        raise NotComparable(f"the sketch of {name} holds no matrix")
    place = part.numbers.index(at)
    found = nearest(
        part.rows[place : place + 1],
        part.rows,
        count=min(WIDER * count, len(part.numbers)),
        compute=compute,
        itself=np.array([place]),
    )
    near = tuple(held[part.numbers[i]] for i in found.index[0] if i >= 0)
    return Similar(row=row, near=near, compared=len(part.numbers) - 1, unreadable=unreadable)


def _samples(
    registry: Registry, rows: Sequence[SketchRow]
) -> tuple[dict[str, ThinSample], dict[str, str]]:
    """Thin samples by model, from the store's cache where it has them; and what cannot be read."""
    kept = ThinSampleStore(registry.path / "sketches" / "thin").load(rows[0].shape_key or "")
    samples: dict[str, ThinSample] = {}
    unreadable: dict[str, str] = {}
    for row in rows:
        thin = kept.get(row.sketch_digest or row.sketch_path)
        if thin is not None:
            samples[row.model] = thin.sample
            continue
        try:
            sketch = load_sketch(registry.sketches, row.sketch_path)
        except (RegistryError, MalformedFile) as error:
            unreadable[row.model] = str(error)
            continue
        samples[row.model] = thin_sample(specimen(row.model, sketch, created=row.created_at))
    return samples, unreadable
