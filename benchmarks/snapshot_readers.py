"""Who can read a snapshot: DuckDB of several versions, each installed on its own.

    python benchmarks/snapshot_readers.py SNAPSHOT [--duckdb 1.2.* --duckdb 1.4.* ...]

Installs each DuckDB into a temporary folder and, in a process of its own, counts every view of
schema v1 in `registry.duckdb` and in the Parquet files, against the manifest, and calls the macros.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("1.2.*", "1.3.*", "1.4.*", "1.5.*", "2.*")

READER = """
import json, sys
from pathlib import Path
import duckdb

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
with duckdb.connect(str(folder / "registry.duckdb"), read_only=True) as connection:
    for table in manifest["tables"]:
        name, rows = table["name"], table["rows"]
        parquet = f"read_parquet('{folder}/tables/{name}/*.parquet')"
        for source in (f"v1.{name}", parquet):
            found = connection.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0]
            assert found == rows, (source, found, rows)
    (root, most), = connection.execute(
        "SELECT ancestor, count(*) FROM v1.closure GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
    ).fetchall()
    quoted = root.replace("'", "''")
    for macro, expected in (("descendants", most), ("stripped", None), ("undeclared", None)):
        found = connection.execute(f"SELECT count(*) FROM {macro}('{quoted}')").fetchall()[0][0]
        assert expected in (None, found), (macro, found, expected)
    connection.execute("SELECT count(*) FROM disagreements()").fetchall()
    connection.execute(f"SELECT count(*) FROM edges_as_of({manifest['scan']})").fetchall()
print(duckdb.__version__, len(manifest["tables"]), most)
"""


def main() -> None:
    """Install, read, print a row a version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--duckdb", action="append", help="a version to install")
    options = parser.parse_args()
    print("| DuckDB | views and Parquet counted | descendants of the largest root |\n|---|---|---|")
    failed = False
    for version in options.duckdb or VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
            subprocess.run(
                [*install, folder, f"duckdb=={version}"], check=True, capture_output=True
            )
            done = subprocess.run(
                [sys.executable, "-c", READER, str(options.snapshot.resolve())],
                env={"PYTHONPATH": folder},
                capture_output=True,
                text=True,
            )
        said = done.stdout.split() or [version, "failed", done.stderr.strip().splitlines()[-1]]
        print(f"| {' | '.join(said)} |", flush=True)
        failed |= done.returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
