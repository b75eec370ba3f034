"""The probes of tier `sketch`: sampled weights of a model against those of an ancestor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..infer.specimen import Block, Specimen, comparable
from ..sketch.plan import is_matrix, is_writer
from ..sketch.sketch import complete_rows
from .bands import Band, bands_of
from .edits import Direction, Strength, blind_strength, coherence, strength_along
from .protocol import Measurement, Status, declined, fact

MASK, COHERENCE, STRENGTH = "touch_mask", "edit_coherence", "edit_strength"
CONSISTENCY, DOSE = "projection_consistency", "delta_size"
SINGLE, SPECTRUM = "single_matrix_edit", "adapter_spectrum"

MIN_ROWS = 8
"""Rows below which the agreement of left factors says too little to be read alone."""
_SINGLE_ENERGY = 0.95
_LOW_RANK_ENERGY = 0.95
_LOW_RANK = 32
_FIRST = 4
"""Changed matrices looked at before it is known that the change is of no low rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Whether a model bears the mark of a closed-form edit against an ancestor.

    `edited` None: the sample cannot tell. `p_bound` is the largest false-positive rate that the
    measured null allows for the threshold, at 95 % confidence.
    """

    edited: bool | None
    statistic: str
    value: float | None
    threshold: float
    p_bound: float


def probe_sketch(
    child: Specimen, parent: Specimen, *, ancestor: str, direction: Direction | None = None
) -> list[Measurement]:
    """Put all sketch probes to a model and one of its ancestors.

    Parameters
    ----------
    direction : the ancestor's refusal direction where it is known.

    Returns
    -------
    One measurement a probe. Where the two cannot be laid side by side all are `unalignable`.
    """
    names = [n for n, b in child.blocks.items() if _shared(b, parent.blocks.get(n))]
    against = {"ancestor": ancestor}
    if not any(is_matrix(child.blocks[name].key) for name in names):
        reason = "no matrix was sampled at the same place in both"
        return [declined(probe, Status.UNALIGNABLE, reason, **against) for probe in SKETCH_PROBES]
    bands = bands_of(child, parent)
    blind = None if direction is not None else blind_strength(bands)
    strength = strength_along(bands, direction) if direction is not None else None
    strength = blind.strength if blind is not None else strength
    known = direction is not None
    found = [
        _mask(child, parent, names),
        _coherence(bands),
        _strength(strength, bands, known=known),
        _consistency(strength, bands, known=known),
        _dose(child, parent, names),
        _single(child, parent, names),
        _spectrum(child, parent, names),
    ]
    return [_against(one, ancestor) for one in found]


SKETCH_PROBES: Mapping[str, tuple[str, str]] = {
    MASK: ("flag", "1 where only matrices that write to the residual stream changed"),
    COHERENCE: ("eigenvalue", "agreement of the changes' leading residual directions, 0 to 1"),
    STRENGTH: ("strength", "share of one residual direction taken out of the writing matrices"),
    CONSISTENCY: ("cosine", "1 where the change is a projection of the ancestor's own weights"),
    DOSE: ("proportion", "norm of the change relative to the ancestor's weights"),
    SINGLE: ("flag", "1 where one matrix alone changed, by one direction"),
    SPECTRUM: ("proportion", "energy share of the first direction of a low-rank change"),
}
"""Unit and description of each probe."""


def signature(measured: Mapping[str, Measurement]) -> Signature:
    """The verdict of the sketch probes, at the threshold published with the measured null.

    Projection consistency decides where a strength could be estimated, coherence where whole rows
    of enough matrices were sampled and nothing but them changed.
    """
    null = measured_null()
    one = measured.get(CONSISTENCY)
    size = measured.get(STRENGTH)
    if one is not None and size is not None and one.value is not None and size.value is not None:
        limit = null[CONSISTENCY]
        edited = one.value > limit["threshold"] and abs(size.value) > null[STRENGTH]["threshold"]
        return Signature(
            edited=edited,
            statistic=CONSISTENCY,
            value=one.value,
            threshold=limit["threshold"],
            p_bound=limit["rate_bound"],
        )
    shared, mask = measured.get(COHERENCE), measured.get(MASK)
    limit = null[COHERENCE]
    value = None if shared is None else shared.value
    # Ordinary training moves the writing matrices together as well: without the mask it is no mark.
    clear = shared is not None and shared.status is Status.OK
    told: bool | None = None
    if clear and value is not None and mask is not None and mask.value == 1.0:
        told = value > limit["threshold"]
    return Signature(
        edited=told,
        statistic=COHERENCE,
        value=value,
        threshold=limit["threshold"],
        p_bound=limit["rate_bound"],
    )


@cache
def measured_null() -> Mapping[str, Mapping[str, float]]:
    """Thresholds and false-positive bounds, as `benchmarks/edit_detection.py` measured them."""
    data = files(__package__).joinpath("edit_null.json").read_text("utf-8")
    loaded: dict[str, dict[str, float]] = json.loads(data)["statistics"]
    return loaded


def _against(found: Measurement, ancestor: str) -> Measurement:
    return replace(found, detail={"ancestor": ancestor, **found.detail})


def _shared(block: Block, other: Block | None) -> bool:
    return other is not None and comparable(block, other)


def _touch(block: Block, other: Block) -> str:
    if np.array_equal(block.values, other.values):
        return "identical" if block.dtype == other.dtype else "resaved"
    apart = np.abs(block.values - other.values)
    if block.dtype != other.dtype and bool((apart <= block.half_ulp + other.half_ulp).all()):
        return "resaved"
    return "changed"


def _mask(child: Specimen, parent: Specimen, names: Sequence[str]) -> Measurement:
    """Which kinds of tensors changed: the methods known edit writers alone, training all."""
    states: dict[str, set[str]] = {}
    writers: set[str] = set()
    for name in names:
        block = child.blocks[name]
        states.setdefault(block.key.role, set()).add(_touch(block, parent.blocks[name]))
        if is_writer(block.key):
            writers.add(block.key.role)
    changed = {role for role, seen in states.items() if "changed" in seen}
    still = set(states) - changed - writers
    detail = {"classes": {role: sorted(seen) for role, seen in sorted(states.items())}}
    # The input embedding is a writer too; some methods edit it as well.
    only = bool(changed & writers) and changed <= writers | {"embed"}
    if only and not still:
        reason = "nothing but writing matrices was sampled"
        return declined(MASK, Status.INCONCLUSIVE, reason, **detail)
    return fact(MASK, float(only), n=len(names), detail=detail)


def _coherence(bands: Sequence[Band]) -> Measurement:
    found = coherence(bands)
    if found is None:
        changed = sum(band.changed for band in bands)
        return declined(
            COHERENCE, Status.INCONCLUSIVE, f"{changed} changed writing matrices; two are needed"
        )
    detail = {"null": found.null, "energy": found.energy, "rows": found.rows}
    if found.rows < MIN_ROWS:
        reason = f"{found.rows} shared rows of each matrix; {MIN_ROWS} are needed"
        return declined(COHERENCE, Status.INCONCLUSIVE, reason, value=found.value, **detail)
    return Measurement(
        probe=COHERENCE,
        status=Status.OK,
        n=found.matrices,
        value=found.value,
        ci_low=found.low,
        ci_high=found.high,
        detail=detail,
    )


def _no_strength(probe: str, bands: Sequence[Band]) -> Measurement:
    if not bands:
        return declined(probe, Status.UNALIGNABLE, "no writing matrix was sampled in both")
    if not any(band.changed for band in bands):
        return fact(probe, 0.0, n=len(bands), detail={"changed": 0})
    reason = "the sample holds part of the rows, and no direction of the ancestor is known"
    return declined(probe, Status.UNSUPPORTED, reason, rows=bands[0].rows, width=bands[0].width)


def _strength(found: Strength | None, bands: Sequence[Band], *, known: bool) -> Measurement:
    if found is None or not math.isfinite(found.se):
        return _no_strength(STRENGTH, bands)
    low, high = found.limits()
    return Measurement(
        probe=STRENGTH,
        status=Status.OK,
        n=len(found.per_matrix),
        value=found.value,
        ci_low=low,
        ci_high=high,
        detail={"known_direction": known, "per_matrix": dict(found.per_matrix)},
    )


def _consistency(found: Strength | None, bands: Sequence[Band], *, known: bool) -> Measurement:
    if found is None or not math.isfinite(found.se):
        return _no_strength(CONSISTENCY, bands)
    return Measurement(
        probe=CONSISTENCY,
        status=Status.OK,
        n=len(found.per_matrix),
        value=found.consistency,
        ci_low=max(-1.0, found.consistency - found.spread),
        ci_high=min(1.0, found.consistency + found.spread),
        detail={"known_direction": known},
    )


def _dose(child: Specimen, parent: Specimen, names: Sequence[str]) -> Measurement:
    """Size of the change, over all sampled matrices and by role."""
    moved: dict[str, list[float]] = {}
    for name in names:
        if is_matrix(child.blocks[name].key):
            mine = child.blocks[name].values.astype(np.float64)
            theirs = parent.blocks[name].values.astype(np.float64)
            sums = moved.setdefault(child.blocks[name].key.role, [0.0, 0.0])
            sums[0] += float(((mine - theirs) ** 2).sum())
            sums[1] += float((theirs**2).sum())
    total = [sum(part) for part in zip(*moved.values(), strict=True)]
    if total[1] == 0:
        return declined(DOSE, Status.INCONCLUSIVE, "the ancestor's sampled weights are all zero")
    roles = {role: math.sqrt(d / w) for role, (d, w) in sorted(moved.items()) if w > 0}
    return fact(DOSE, math.sqrt(total[0] / total[1]), n=len(names), detail={"by_role": roles})


def _single(child: Specimen, parent: Specimen, names: Sequence[str]) -> Measurement:
    """A change of one matrix by one direction, everything else as it was: a rewritten fact."""
    matrices = [name for name in names if is_matrix(child.blocks[name].key)]
    changed = [n for n in matrices if _touch(child.blocks[n], parent.blocks[n]) == "changed"]
    detail: dict[str, Any] = {"changed": len(changed), "of": len(matrices)}
    if len(changed) != 1 or len(matrices) < 4:
        return fact(SINGLE, 0.0, n=len(matrices), detail=detail)
    energies = _energies(child.blocks[changed[0]], parent.blocks[changed[0]])
    first = float(energies[0]) if energies is not None else 0.0
    detail |= {"matrix": changed[0], "energy": first}
    return fact(SINGLE, float(first >= _SINGLE_ENERGY), n=len(matrices), detail=detail)


def _energies(block: Block, other: Block) -> NDArray[np.float64] | None:
    """Shares of a difference's energy by direction, largest first; None for a single row."""
    _, mine = complete_rows(block.values, start=block.start, columns=block.columns)
    _, theirs = complete_rows(other.values, start=other.start, columns=other.columns)
    if min(mine.shape) < 2:
        return None
    d = (mine - theirs).astype(np.float64)
    gram = d @ d.T if d.shape[0] <= d.shape[1] else d.T @ d
    values = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)
    total = float(values.sum())
    shares: NDArray[np.float64] | None = values / total if total > 0 else None
    return shares


def _spectra(
    child: Specimen, parent: Specimen, names: Sequence[str]
) -> Iterator[NDArray[np.float64]]:
    for name in names:
        block, other = child.blocks[name], parent.blocks[name]
        if is_matrix(block.key) and not np.array_equal(block.values, other.values):
            shares = _energies(block, other)
            if shares is not None:
                yield shares


def _spectrum(child: Specimen, parent: Specimen, names: Sequence[str]) -> Measurement:
    """The spectrum of a low-rank change; a place among others' is given where they are known.

    Across training methods such spectra do not compare (arXiv:2604.08844), so that no verdict is
    drawn from one.
    """
    spectra = list(islice(_spectra(child, parent, names), _FIRST))
    if any(_is_low(shares) for shares in spectra):
        spectra = list(_spectra(child, parent, names))
    low = [s for s in spectra if s.size > _LOW_RANK // 2 and _is_low(s)]
    if not spectra or len(low) < len(spectra) / 2:
        reason = f"{len(low)} of {len(spectra)} changed matrices are of low rank: no adapter"
        return declined(SPECTRUM, Status.UNSUPPORTED, reason)
    first = [float(s[0]) for s in low]
    entropy = [float(-(s[s > 0] * np.log(s[s > 0])).sum()) for s in low]
    return Measurement(
        probe=SPECTRUM,
        status=Status.OK,
        n=len(low),
        value=float(np.mean(first)),
        ci_low=float(np.min(first)),
        ci_high=float(np.max(first)),
        detail={"rank": max(map(_rank, low)), "entropy": float(np.mean(entropy))},
    )


def _is_low(shares: NDArray[np.float64]) -> bool:
    return _rank(shares) <= min(_LOW_RANK, shares.size // 2)


def _rank(shares: NDArray[np.float64]) -> int:
    """Directions that hold `_LOW_RANK_ENERGY` of the energy."""
    return int(np.searchsorted(np.cumsum(shares), _LOW_RANK_ENERGY)) + 1
