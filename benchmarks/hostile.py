"""How long the slowest hostile file takes, and how much memory the whole corpus.

    python benchmarks/hostile.py

The corpus is that of the tests. Each repository is visited by itself; the bar is 5 seconds and
512 MiB a file.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile_corpus import hostile_repositories

from modelkin.lineage.records import Outcome
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.visiting import Visitor
from modelkin.store.sketches import SketchStore


def main() -> None:
    """Visit every repository and print the extremes."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        root = Path(folder)
        for hostile in hostile_repositories():
            place = root / "models" / hostile.name
            place.mkdir(parents=True)
            for name, data in hostile.files.items():
                (place / name).write_bytes(data)
        source = FolderSource(root / "models")
        visitor = Visitor(source=source, sketches=SketchStore(root / "sketches"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took: dict[str, float] = {}
        clean = 0
        for place in sorted((root / "models" / "bad").iterdir()):
            name = f"bad/{place.name}"
            started = time.monotonic()
            visit = asyncio.run(visitor.visit(source.info(name, traffic=Traffic())))
            took[name] = time.monotonic() - started
            clean += visit.coverage.outcome is Outcome.OK
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    slowest = max(took, key=lambda name: took[name])
    print(f"files {len(took)}, reported clean {clean}")
    print(f"slowest {slowest}: {took[slowest]:.2f} s, in all {sum(took.values()):.1f} s")
    print(f"memory above the start: {peak / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
