"""Score inference against a known tree: edges, relations, shares, losses.

    python benchmarks/accuracy.py [--hub dumps/demo-hub --truth benchmarks/demo_truth.json]
        [--release juniper/juniper-chat] [--rename]

The folder is served as a Hub on a loopback port and scanned over HTTP (with dates), then read as a
folder (without). With `--rename` every repository gets a random name first: the figures must not
change. Probes run on the dated scan only.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelkin.scanners.mapping import Mapper
from modelkin.scanners.probes.prompt_sets import load_prompt_set
from modelkin.scanners.sources.base import Source
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.loopback import LoopbackHub
from modelkin.store import Registry

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run measured."""

    edges: int
    right: int
    true: int
    relations: int
    shares: float
    stripped: str
    seconds: float
    bytes: int
    requests: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of directed edges."""
        return 2 * self.right / max(1, self.edges + self.true)


def main() -> None:
    """Run both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hub", type=Path, default=HERE.parent / "dumps" / "demo-hub")
    parser.add_argument("--truth", type=Path, default=HERE / "demo_truth.json")
    parser.add_argument("--release", default="juniper/juniper-chat")
    parser.add_argument("--rename", action="store_true")
    asked = parser.parse_args()
    truth = json.loads(asked.truth.read_text())["models"]
    with tempfile.TemporaryDirectory() as folder:
        hub, release = asked.hub, asked.release
        if asked.rename:
            hub, truth, release = renamed(hub, truth, release, Path(folder) / "hub")
        print(
            "| run | F1 | edges right/inferred/true | relation | share error | stripped |"
            " seconds | MB | requests |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        with LoopbackHub(hub) as server:
            source = HubSource(endpoint=server.url)
            show("dates", run(source, release, truth, Path(folder) / "a", hub / "prompts.json"))
        show("no dates", run(FolderSource(hub), release, truth, Path(folder) / "b", None))


def run(
    source: Source, release: str, truth: Mapping[str, Any], store: Path, prompts: Path | None
) -> Figures:
    """Map the release from one source into a fresh store and score it."""
    began = time.perf_counter()
    with Registry.open(store, create=True) as registry:
        mapper = Mapper(
            registry=registry,
            source=source,
            now=lambda: datetime.now(UTC),
            prompts=load_prompt_set(prompts) if prompts else None,
        )
        report = mapper.map_release(release)
        seconds = time.perf_counter() - began
        got = {
            (child, parent): (relation, share)
            for child, parent, relation, share in registry.sql(
                "SELECT child, parent, relation, share FROM v1.edges WHERE inferred"
            ).fetchall()
        }
        found = {f.model for f in registry.findings(kind="stripped_safety")}
    return score(got, truth, found if prompts else None, seconds, report.scan)


def score(
    got: Mapping[tuple[str, str], tuple[str, float | None]],
    truth: Mapping[str, Any],
    stripped: set[str] | None,
    seconds: float,
    scan: Any,
) -> Figures:
    """Compare edges with the truth file."""
    true = {(m, p): w for m, one in truth.items() for p, w in one["parents"].items()}
    right = set(got) & set(true)
    errors = [abs((got[e][1] or 1.0) - true[e]) for e in right]
    lost = {m for m, one in truth.items() if one["stripped"]}
    told = "-"
    if stripped is not None:
        told = f"{len(stripped & lost)}/{len(lost)}, {len(stripped - lost)} false"
    return Figures(
        edges=len(got),
        right=len(right),
        true=len(true),
        relations=sum(got[e][0] == truth[e[0]]["relation"] for e in right),
        shares=max(errors, default=0.0),
        stripped=told,
        seconds=seconds,
        bytes=scan.bytes,
        requests=scan.requests,
    )


def show(name: str, one: Figures) -> None:
    """One line of the table."""
    print(
        f"| {name} | {one.f1:.3f} | {one.right}/{one.edges}/{one.true} |"
        f" {one.relations}/{one.right} | {one.shares:.3f} | {one.stripped} |"
        f" {one.seconds:.1f} | {one.bytes / 1e6:.2f} | {one.requests} |"
    )


def renamed(
    hub: Path, truth: Mapping[str, Any], release: str, target: Path
) -> tuple[Path, dict[str, Any], str]:
    """A copy of the hub in which every repository has a random name; cards stay as they are."""
    draw = random.Random(0)
    names = {m: f"{draw.randrange(16**8):08x}/{draw.randrange(16**8):08x}" for m in truth}
    for old, new in names.items():
        shutil.copytree(hub / old, target / new)
    dates = json.loads((hub / "hub.json").read_text())
    (target / "hub.json").write_text(json.dumps({names[m]: d for m, d in dates.items()}))
    shutil.copy(hub / "prompts.json", target / "prompts.json")
    moved = {
        names[m]: {**one, "parents": {names[p]: w for p, w in one["parents"].items()}}
        for m, one in truth.items()
    }
    return target, moved, names[release]


if __name__ == "__main__":
    main()
