"""Makers of what goes into a store: models, claims, edges, a first scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelkin.lineage.records import (
    Clue,
    DeclaredParent,
    InferredEdge,
    ModelFile,
    ModelInfo,
    Relation,
)
from modelkin.store import Registry

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def make_info(name: str, **fields: Any) -> ModelInfo:
    """A listed model whose identity, sha and file digest follow from its name."""
    defaults: dict[str, Any] = {
        "source": "hub",
        "source_id": f"id-{name}",
        "name": name,
        "sha": f"sha-{name}",
        "created_at": datetime(2025, 1, 1, tzinfo=UTC),
        "downloads": 7,
        "files": (ModelFile(path="model.safetensors", size=10, sha256=f"d-{name}"),),
    }
    return ModelInfo(**{**defaults, **fields})


def make_edge(child: str, parent: str, **fields: Any) -> InferredEdge:
    """An inferred fine-tune with one clue."""
    defaults: dict[str, Any] = {
        "child": child,
        "parent": parent,
        "relation": Relation.FINETUNE,
        "confidence": 0.9,
        "direction_confidence": 0.8,
        "clues": (Clue(kind="distance", statistic="relative", value=0.01, llr=4.0, n=128),),
    }
    return InferredEdge(**{**defaults, **fields})


def claim(name: str | None, **fields: Any) -> DeclaredParent:
    """A fine-tune claimed in a card; `None` resolves to no model."""
    defaults: dict[str, Any] = {
        "raw": name or "my own base",
        "name": name,
        "relation": Relation.FINETUNE,
        "via": "front_matter",
    }
    return DeclaredParent(**{**defaults, **fields})


def fill(
    registry: Registry,
    names: Sequence[str],
    *,
    declared: Mapping[str, Sequence[DeclaredParent]] | None = None,
) -> int:
    """Start a scan and list models by name (and claims), all on one page."""
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    page = [make_info(name) for name in names]
    registry.add_page(scan, page, next_cursor=None, declared=declared, now=NOW)
    return scan


def infer(registry: Registry, scan: int, *edges: InferredEdge, **fields: Any) -> None:
    """Replace the inference of everything (or of `scope`) by these edges."""
    defaults: dict[str, Any] = {"code_version": "1", "inputs_digest": "x", "now": NOW}
    registry.replace_inference(scan, edges=edges, **{**defaults, **fields})
