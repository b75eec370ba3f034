"""Findings about what cards claim: parents left out, parents that the weights do not bear out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from ..lineage.errors import MalformedFile, RegistryError
from ..lineage.records import Clue, Finding
from ..lineage.safety.findings import finding_id
from ..lineage.sketch.sketch import Sketch, SketchBlock
from ..store.gaps import ClaimGap
from ..store.registry import Registry
from .formats.adapters import FORMATS as ADAPTER_FORMATS
from .sketch_records import load_sketch

UNDECLARED = "undeclared_parent"
MISDECLARED = "misdeclared_parent"
MIN_CONFIDENCE = 0.5
BASES = 16


def judge_claims(registry: Registry, *, scan: int, now: datetime) -> list[Finding]:
    """Compare every inferred parent with the claims of its child, and store the findings.

    A claim is contradicted only by weights that were compared: one that names a model which was
    not read, or has another shape, is left alone.
    """
    shapes = {row.model: row.shape_key for row in registry.sketched()}
    gaps = registry.claim_gaps(min_confidence=MIN_CONFIDENCE)
    findings = [_finding(gap) for gap in gaps if _is_compared(gap, shapes)]
    findings += adapter_gaps(registry)
    for kind in (UNDECLARED, MISDECLARED):
        found = [f for f in findings if f.kind == kind]
        registry.replace_findings(scan, kind, found, now=now)
    return findings


def adapter_gaps(registry: Registry) -> list[Finding]:
    """Adapters that cannot be applied to the base they name: a weight has another shape there.

    A sketch that cannot be read back says nothing; `verify` finds it.
    """
    adapters = registry.sketched(formats=ADAPTER_FORMATS)
    named = {
        row.model: sorted({c.parent for c in registry.why(row.model).claims if c.parent})
        for row in adapters
    }
    wanted = {parent for parents in named.values() for parent in parents}
    rows = {row.model: row for row in (*adapters, *registry.sketched(names=wanted))}

    @lru_cache(maxsize=BASES)
    def read(model: str) -> Sketch | None:
        try:
            return load_sketch(registry.sketches, rows[model].sketch_path)
        except (RegistryError, MalformedFile):
            return None

    pairs = [
        (model, parent)
        for model, parents in sorted(named.items(), key=lambda item: item[1])
        for parent in parents
        if parent in rows and rows[parent].format not in ADAPTER_FORMATS
    ]
    found = []
    for model, parent in pairs:
        adapter, base = read(model), read(parent)
        odd = _other_shapes(adapter, base) if adapter and base else []
        if odd:
            found.append(_misfit(model, parent, odd))
    return found


def _other_shapes(adapter: Sketch, base: Sketch) -> list[str]:
    return [
        f"{block.name}: {_shape(block)} and {_shape(base.blocks[block.name])} there"
        for block in adapter
        if block.name in base.blocks and block.shape != base.blocks[block.name].shape
    ]


def _shape(block: SketchBlock) -> str:
    return "x".join(map(str, block.shape))


def _misfit(model: str, parent: str, odd: Sequence[str]) -> Finding:
    told = "weights of another shape in the named base"
    return Finding(
        finding_id=finding_id(MISDECLARED, model=model, ancestor=parent),
        kind=MISDECLARED,
        severity="medium",
        model=model,
        ancestor=parent,
        value=float(len(odd)),
        ci_low=None,
        ci_high=None,
        q_value=None,
        status="new",
        clues=(Clue(kind="shape", statistic=told, value=float(len(odd))),),
        detail={"relation": "adapter", "claimed": [parent], "shapes": list(odd[:8])},
    )


def _is_compared(gap: ClaimGap, shapes: Mapping[str, str | None]) -> bool:
    mine = shapes.get(gap.model)
    return all(claim in shapes and shapes[claim] == mine for claim in gap.claimed)


def _finding(gap: ClaimGap) -> Finding:
    kind = MISDECLARED if gap.claimed else UNDECLARED
    return Finding(
        finding_id=finding_id(kind, model=gap.model, ancestor=gap.parent),
        kind=kind,
        severity="medium" if gap.claimed else "low",
        model=gap.model,
        ancestor=gap.parent,
        value=gap.confidence,
        ci_low=None,
        ci_high=None,
        q_value=None,
        status="new",
        clues=tuple(_clues(gap)),
        detail={"relation": gap.relation, "claimed": list(gap.claimed)},
    )


def _clues(gap: ClaimGap) -> Iterable[Clue]:
    yield Clue(kind="family", statistic="confidence of the inferred parent", value=gap.confidence)
