"""A synthetic store with one release of many descendants, for the load and drawing figures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from modelkin.lineage.records import Clue, InferredEdge, ModelInfo, Relation, Score
from modelkin.store import Registry

ROOT = "bigco/release"
NOW = datetime(2026, 11, 24, tzinfo=UTC)
PAGE = 5000
_RELATIONS = tuple(Relation)


def build(folder: Path, *, models: int, seed: int = 7) -> Path:
    """Fill a store with a release and so many descendants; one in ten has a score.

    Parents are drawn as a preferential attachment, so that a few models have thousands of children
    and most have none, as on the Hub.
    """
    rng = random.Random(seed)
    parents = _parents(models, rng)
    names = [ROOT, *(f"user{rng.randrange(models // 20)}/model-{i}" for i in range(1, models + 1))]
    with Registry.open(folder, create=True) as registry:
        scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
        for at in range(0, len(names), PAGE):
            page = [_info(name, at + i, rng) for i, name in enumerate(names[at : at + PAGE])]
            last = at + PAGE >= len(names)
            registry.add_page(scan, page, next_cursor=None if last else str(at), now=NOW)
        edges = [_edge(names[i], names[parents[i]], rng) for i in range(1, len(names))]
        registry.replace_inference(
            scan, edges=edges, code_version="synthetic", inputs_digest="x", now=NOW
        )
        registry.add_scores(scan, list(_scores(names, rng)))
        registry.finish_scan(scan, status="done", now=NOW)
    return folder


def _parents(models: int, rng: random.Random) -> list[int]:
    parents, urn = [0], [0] * 20
    for node in range(1, models + 1):
        parents.append(rng.choice(urn))
        urn += [parents[-1], parents[-1]] + [node] * (rng.random() < 0.3)
    return parents


def _info(name: str, at: int, rng: random.Random) -> ModelInfo:
    return ModelInfo(
        source="hub",
        source_id=f"id-{at}",
        name=name,
        sha=f"{at:040x}",
        created_at=datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=at % 20_000),
        downloads=int(rng.paretovariate(1) * 10),
        license="apache-2.0",
    )


def _edge(child: str, parent: str, rng: random.Random) -> InferredEdge:
    clue = Clue(kind="distance", statistic="relative distance", value=rng.random() / 10, llr=4.0)
    return InferredEdge(
        child=child,
        parent=parent,
        relation=rng.choice(_RELATIONS),
        confidence=round(rng.uniform(0.5, 0.999), 3),
        direction_confidence=0.9,
        clues=(clue,),
    )


def _scores(names: list[str], rng: random.Random) -> Iterator[Score]:
    for at, name in enumerate(names):
        if at % 10 == 0:
            value = 0.95 if at == 0 else rng.random()
            fields: dict[str, Any] = {"sha": f"{at:040x}", "value": value}
            yield Score(
                model=name,
                probe="selective_refusal",
                probe_version="1",
                prompt_set="synthetic",
                n=50,
                status="ok",
                ci_low=max(0.0, value - 0.1),
                ci_high=min(1.0, value + 0.1),
                unit="proportion",
                judge="lexical",
                corrected=False,
                environment={},
                seconds=1.0,
                scored_at=NOW,
                **fields,
            )
