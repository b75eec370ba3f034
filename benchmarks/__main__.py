"""`python -m benchmarks`: the measurements of RESULTS.md that take minutes, one after another.

Training scripts (`make_demo_hub.py`, `learn_clues.py`, `zoo`) and what takes a zoo (`lineage.py`,
`peers.py`, `calibrate.py`, `independence.py`) are run by hand.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNS = (
    ("accuracy.py",),
    ("accuracy.py", "--rename"),
    ("sketch_budget.py",),
    ("startup.py",),
)


def main() -> None:
    """Run each script and print what it prints under its own command."""
    print(f"{platform.platform()}, {platform.processor() or platform.machine()}")
    for script, *options in RUNS:
        print(f"\n### python benchmarks/{' '.join((script, *options))}\n", flush=True)
        subprocess.run([sys.executable, str(HERE / script), *options], check=True)


if __name__ == "__main__":
    main()
