"""modelDNA as published (PyPI `modeldna`, Apache-2.0): fingerprints of sampled weights.

Adil (2026), "modelDNA: Calibrated Lineage Verification and Merge Decomposition from Sampled Weight
Fingerprints", arXiv 2607.10617. Direction is out of its scope, by its own account: it is asked
which model is the likeliest base, and told which models are earlier where dates are known. Its
decomposition of merges wants the candidates named by its user and is not run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from zoo_scoring import Claim

from .protocol import Dates, PeerResult, may_be_parent

Likeness = tuple[float, float]
"""(probability of descent, sampled cosine): the second breaks ties of the first."""


def is_installed() -> bool:
    """Whether the package can be imported."""
    return find_spec("modeldna") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDna:
    """Every pair is judged; the best candidate at or above the tool's own threshold is the parent.

    Without dates every other model is a candidate.
    """

    @property
    def label(self) -> str:
        """Name in tables."""
        return "modelDNA"

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Name parents; see `protocol.Peer`."""
        from modeldna.verdict import Thresholds

        began = time.perf_counter()
        prints, bytes_read = _fingerprints(models)
        likeness = dict(_judged(prints))
        positive = Thresholds().positive
        claims = []
        for child in prints:
            likely = [
                (likeness[frozenset((child, other))], other)
                for other in prints
                if may_be_parent(other, child, dates) and frozenset((child, other)) in likeness
            ]
            best, parent = max(likely, default=((0.0, 0.0), ""))
            if best[0] >= positive:
                claims.append(Claim(child=child, parent=parent, confidence=best[0]))
        return PeerResult(
            claims=tuple(claims),
            related=frozenset(pair for pair, (p, _) in likeness.items() if p >= positive),
            bytes_read=bytes_read,
            seconds=time.perf_counter() - began,
            unread=tuple(name for name in models if name not in prints),
        )


def _fingerprints(models: Mapping[str, Path]) -> tuple[dict[str, Any], int]:
    """Fingerprint by model, without those the tool refuses, and the bytes read."""
    from modeldna.fingerprint.extract import extract_fingerprint
    from modeldna.io.source import open_source

    found: dict[str, Any] = {}
    total = 0
    for name, folder in models.items():
        try:
            source = open_source(str(folder))
            one = extract_fingerprint(source, model_id=name)
        except (LookupError, RuntimeError, ValueError, OSError):
            continue
        total += source.bytes_read
        # Lists of Python floats are turned into arrays at every comparison otherwise.
        for field in ("pcs_samples", "vector_samples"):
            held = {role: np.array(values) for role, values in getattr(one, field).items()}
            setattr(one, field, held)
        found[name] = one
    return found, total


def _judged(prints: Mapping[str, Any]) -> Iterator[tuple[frozenset[str], Likeness]]:
    """Likeness of every pair that the tool can compare."""
    from modeldna.compare import compare_fingerprints
    from modeldna.verdict import judge

    names: Sequence[str] = list(prints)
    for at, one in enumerate(names):
        for other in names[:at]:
            if not prints[one].arch.shape_compatible(prints[other].arch):
                continue
            evidence = compare_fingerprints(prints[one], prints[other])
            verdict = judge([(evidence, other)], suspect_dtype=prints[one].arch.torch_dtype)
            if verdict.probability is not None:
                cosine = evidence.pcs_cos_mean
                yield frozenset((one, other)), (verdict.probability, cosine or 0.0)
