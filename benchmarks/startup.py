"""Whole-process time of the verbs that people run all day.

    python benchmarks/startup.py [--runs 9]

A small store is made from the demo ecosystem, then each command runs as its own process. Beside
them stand a bare interpreter and one that imports DuckDB: the floor.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HUB = Path(__file__).resolve().parent.parent / "dumps" / "demo-hub"
MODEL = "juniper/juniper-chat"


def main() -> None:
    """Time every command and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        store = ["--store", str(Path(folder) / "store")]
        verb = [sys.executable, "-m", "modelkin.cli"]
        scan = [*verb, "scan", "dir", str(HUB), *store]
        subprocess.run(scan, check=True, capture_output=True)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import duckdb'": [sys.executable, "-c", "import duckdb"],
            "modelkin --help": [*verb, "--help"],
            "modelkin sql": [*verb, "sql", "SELECT count(*) FROM v1.edges", *store],
            "modelkin tree": [*verb, "tree", MODEL, *store],
            "modelkin why": [*verb, "why", "plainspoken/helper-plus", *store],
            "modelkin stripped": [*verb, "stripped", MODEL, *store],
            "modelkin status": [*verb, "status", *store],
        }
        print("| command | median ms | min | max |")
        print("|---|---|---|---|")
        for name, command in commands.items():
            taken = sorted(once(command) for _ in range(runs))
            print(
                f"| `{name}` | {statistics.median(taken):.0f} | {taken[0]:.0f} | {taken[-1]:.0f} |"
            )


def once(command: list[str]) -> float:
    """Milliseconds of one whole process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
