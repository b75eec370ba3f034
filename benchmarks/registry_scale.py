"""The registry at the size of the Hub: what each question costs, beside other ways to ask it.

    python benchmarks/registry_scale.py OUT [--models 3500000] [--runs 9] [--keep] [--step make]

Writes a store of synthetic models (ids, names, edges, scores, evidence, findings; no weights) to
OUT, then times look-ups in a warm connection, whole processes, the closure, a night's changes, a
snapshot, and the ingest of others' edges. In the same run the same descendants are asked of a
recursive query, networkx and rustworkx (if installed), and every answer is compared.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelkin.store import Registry
from modelkin.store.closing import maintain_closure, rebuild_closure
from modelkin.store.findings import refresh_flagged
from modelkin.store.snapshots import fresh_database
from modelkin.store.staging import registered

NOW = datetime(2026, 11, 24, tzinfo=UTC)
BIGGEST = 0.046  # of all models descend from the largest release
CHANGES = 10_000
STEPS = ("make", "ask", "peers", "processes", "change", "snapshot")

RECURSIVE = """
WITH RECURSIVE reached AS (
    SELECT ?::INTEGER AS id UNION
    SELECT e.child FROM reached r JOIN internal.edges e ON e.parent = r.id
) SELECT id FROM reached WHERE id <> ?
"""

MODELS = """
INSERT INTO internal.models BY NAME
SELECT id, hash(id) AS key, 'hub' AS source, printf('%024x', id) AS source_id, name,
    md5_number_lower(name) AS name_key, split_part(name, '/', 1) AS author, id AS revision,
    id AS facts_revision, TIMESTAMP '2022-03-02' + to_minutes(id::INTEGER // 2) AS created_at,
    'transformers' AS library,
    ['apache-2.0', 'mit', 'llama3', NULL][(1 + hash(id) % 4)::BIGINT] AS license,
    false AS disabled, (1e7 / (1 + hash(id, 1) % 1000000))::BIGINT AS downloads, false AS hidden,
    1 AS first_seen_scan, 1 AS last_seen_scan
FROM (SELECT i::INTEGER AS id, printf('author-%d/model-%d', hash(i) % 400000, i) AS name
      FROM range(1, $models + 1) t(i))
"""
REVISIONS = """
INSERT INTO internal.revisions BY NAME
SELECT id, id AS model, md5(id::VARCHAR) AS sha, 1 AS first_seen_scan,
    TIMESTAMP '2026-11-23' AS seen_at, 'safetensors' AS format, 'BF16' AS dtype,
    'LlamaForCausalLM' AS architecture, 'shape-' || hash(id) % 20000 AS shape_key,
    7000000000 AS n_params, 'ok' AS outcome
FROM internal.models
"""
EDGES = """
INSERT INTO internal.edges BY NAME
SELECT child, child AS child_revision, parent, parent AS parent_revision,
    ['finetune', 'adapter', 'quantized', 'merge'][(1 + hash(child) % 4)::BIGINT] AS relation,
    hash(child, 2) % 3 > 0 AS declared, true AS inferred,
    0.5 + (hash(child, parent) % 500) / 1000 AS confidence, 0.9 AS direction_confidence,
    md5(concat(child, '-', parent))[:16] AS evidence_id, 1 AS first_seen_scan,
    1 AS last_seen_scan
FROM edges_in
"""
EVIDENCE = """
INSERT INTO internal.evidence BY NAME
SELECT e.evidence_id, k.kind, 'relative' AS statistic,
    (hash(e.child, k.kind) % 1000) / 1e5 AS value, 2.0 AS llr, 128 AS n,
    'infer-2' AS code_version, 'x' AS inputs_digest
FROM internal.edges e, (VALUES ('distance'), ('time'), ('geometry')) k(kind)
"""
SCORES = """
INSERT INTO internal.scores BY NAME
SELECT m.id AS model, m.id AS revision, p.probe, 'refusal-1' AS probe_version,
    'refusal-v1@0123abcd' AS prompt_set, 200 AS n, 'ok' AS status, v AS value,
    greatest(v - 0.05, 0) AS ci_low, least(v + 0.05, 1) AS ci_high, 'proportion' AS unit,
    'lexical' AS judge, false AS corrected, '{}' AS environment, 3.5 AS seconds,
    TIMESTAMP '2026-11-23' AS scored_at, 1 AS scan
FROM (SELECT id, (hash(id, probe) % 1000) / 1000 AS v, probe
      FROM internal.models, (VALUES ('selective_refusal'), ('harmful_refusal'),
          ('harmless_answer'), ('sense'), ('perplexity')) p(probe) ORDER BY probe, id
) p JOIN internal.models m ON m.id = p.id WHERE m.id <= $scored
"""
FINDINGS = """
INSERT INTO internal.findings BY NAME
SELECT md5(concat('f', e.child)) AS finding_id, 'stripped_safety' AS kind, 'high' AS severity,
    e.child AS model, any_value(e.parent) AS ancestor, 0.8 AS value, 0.7 AS ci_low, 0.9 AS ci_high,
    0.001 AS q_value, 'open' AS status, 1 AS first_scan, 1 AS last_scan
FROM internal.edges e WHERE hash(e.child, 7) % 80 = 0 GROUP BY e.child
"""
NIGHT = """
CREATE OR REPLACE TEMP TABLE night AS
SELECT child, parent, 1 + hash(child, 9) % $models AS other
FROM internal.edges WHERE hash(child, $salt) % 1000003 < 1000003.0 * $changes / $edges
"""


class Peak(threading.Thread):
    """The largest resident size of this process while a block runs, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look ten times a second."""
        while not self._over.wait(0.1):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.peak = max(self.peak, pages * resource.getpagesize() / 1e6)


def main() -> None:
    """Make the store, ask it, print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=int, default=3_500_000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--keep", action="store_true", help="leave OUT as it is afterwards")
    parser.add_argument(
        "--step", action="append", choices=STEPS, help="one part of it; all but `make` need OUT"
    )
    options = parser.parse_args()
    store = options.out / "store"
    steps = options.step or STEPS
    edges = make_edges(options.models, seed=20261124)
    try:
        if "make" in steps:
            make_store(store, edges, models=options.models)
        with Registry.open(store, read_only=True) as registry:
            roots = choose_roots(registry)
            if "ask" in steps:
                ask(registry, roots, runs=options.runs)
            if "peers" in steps:
                # Nights may have moved edges since they were made.
                held = registry.sql("SELECT parent, child FROM internal.edges").fetchnumpy()
                ask_peers(registry, (held["parent"], held["child"]), roots, runs=options.runs)
        if "processes" in steps:
            processes(store, roots["small"][1], runs=options.runs)
        if "change" in steps:
            change(store, models=options.models)
        if "snapshot" in steps:
            snapshot(store)
    finally:
        if not options.keep:
            shutil.rmtree(options.out, ignore_errors=True)


def make_edges(models: int, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(m,) parents and children: families of skewed sizes, 3.5 % of the children merges."""
    rng = np.random.default_rng(seed)
    families = models // 35
    sizes = rng.zipf(1.7, families).clip(2, models // 120)
    sizes = (sizes * (0.53 * models / sizes.sum())).astype(np.int64).clip(2)
    sizes[0], sizes[1], sizes[2] = int(BIGGEST * models), models // 700, 50
    first = np.cumsum(sizes) - sizes + 1  # ids from 1
    local = np.arange(sizes.sum()) - np.repeat(first - 1, sizes)
    base = np.repeat(first, sizes)
    nodes = base + local
    derived = local > 0
    # Children prefer older members of their family: depths stay near those of the Hub.
    parents = base + (local * rng.random(len(local)) ** 1.6).astype(np.int64)
    merged = derived & (rng.random(len(local)) < 0.035) & (local > 2)
    others = base + (local * rng.random(len(local))).astype(np.int64)
    parent = np.concatenate([parents[derived], others[merged]])
    child = np.concatenate([nodes[derived], nodes[merged]])
    pairs = np.unique(np.stack([child, parent], axis=1), axis=0)
    return pairs[:, 1], pairs[:, 0]


def make_store(
    store: Path, edges: tuple[NDArray[np.int64], NDArray[np.int64]], *, models: int
) -> None:
    """Fill every large table in bulk, and the closure."""
    store.mkdir(parents=True)
    fresh_database(store / "registry.duckdb")
    with duckdb.connect(store / "registry.duckdb") as connection:
        connection.execute("SET memory_limit = '2500MB'")
        connection.execute(
            "INSERT INTO internal.scans BY NAME SELECT 1 AS scan, 'scan' AS kind, "
            "'hub' AS source, '{}' AS parameters, "
            "'done' AS status, true AS listing_done, "
            "?::TIMESTAMP AS started_at",
            [NOW.replace(tzinfo=None)],
        )
        print("\n| table | rows | s | rows/s |\n|---|---|---|---|")
        view = pa.table({"parent": edges[0], "child": edges[1]})
        for name, query, parameters in (
            ("models", MODELS, {"models": models}),
            ("revisions", REVISIONS, {}),
            ("edges", EDGES, {}),
            ("evidence", EVIDENCE, {}),
            ("scores", SCORES, {"scored": int(models * 6 / 7)}),
            ("findings", FINDINGS, {}),
        ):
            began = time.perf_counter()
            with registered(connection, "edges_in", view):
                ((rows,),) = connection.execute(query, parameters).fetchall()
            taken = time.perf_counter() - began
            print(f"| {name} | {rows:,} | {taken:.1f} | {rows / taken:,.0f} |", flush=True)
        connection.execute(
            "INSERT INTO internal.name_index SELECT name_key, id FROM internal.models"
        )
        refresh_flagged(connection)
        connection.execute("CHECKPOINT")
        with Peak() as memory:
            began, spent = time.perf_counter(), time.process_time()
            connection.execute("BEGIN")
            rebuild_closure(connection)
            connection.execute("COMMIT")
            taken, spent = time.perf_counter() - began, time.process_time() - spent
        ((pairs,),) = connection.execute("SELECT count(*) FROM internal.closure").fetchall()
        print(
            f"\nclosure rebuilt: {pairs:,} pairs in {taken:.1f} s ({spent:.1f} s of CPU), "
            f"peak {memory.peak:,.0f} MB"
        )


def choose_roots(registry: Registry) -> dict[str, tuple[int, str]]:
    """The id and name of the largest release, of a medium and of a small one."""
    ranked = registry.sql(
        "SELECT k.ancestor, m.name, k.n FROM (SELECT ancestor, count(*) AS n FROM internal.closure "
        "GROUP BY ancestor) k JOIN internal.models m ON m.id = k.ancestor ORDER BY k.n DESC"
    ).fetchall()
    medium, small = (
        min(ranked, key=lambda row, n=wanted: abs(row[2] - n)) for wanted in (5_000, 50)
    )
    return {"large": ranked[0][:2], "medium": medium[:2], "small": small[:2]}


def ask(registry: Registry, roots: dict[str, tuple[int, str]], *, runs: int) -> None:
    """Time look-ups in a warm connection, the closure against the recursive query."""
    cursor = registry._database.cursor()
    print("\n| warm connection, ms: median (min; CPU min) | large | medium | small |")
    print("|---|---|---|---|")
    sizes = [f"{len(registry.descendant_ids(name)):,}" for _, name in roots.values()]
    print(f"| descendants | {' | '.join(sizes)} |")

    def row(label: str, question: Callable[[int, str], object]) -> None:
        cells = [timed(lambda r=root: question(*r), runs=runs) for root in roots.values()]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)

    row("ids of all descendants (closure, name resolved)", lambda _, n: registry.descendant_ids(n))
    row(
        "ids, recursive query",
        lambda i, _: cursor.execute(RECURSIVE, [i, i]).fetchnumpy()["id"],
    )
    row("a page of 100 with names", lambda _, n: registry.page(n))
    row(
        "first 100 by name",
        lambda _, n: registry.sql("FROM descendants(?) LIMIT 100", [n]).fetchall(),
    )
    row(
        "all with names, to Arrow",
        lambda _, n: registry.sql("FROM descendants(?)", [n]).to_arrow_table(),
    )
    row("stripped descendants", lambda _, n: registry.sql("FROM stripped(?)", [n]).fetchall())
    row("a model by its name", lambda _, n: registry.resolve_name(n))
    for root, name in roots.values():
        known = set(registry.descendant_ids(name).tolist())
        found = cursor.execute(RECURSIVE, [root, root]).fetchnumpy()["id"]
        assert known == set(found.tolist())


def ask_peers(
    registry: Registry,
    edges: tuple[NDArray[np.int64], NDArray[np.int64]],
    roots: dict[str, tuple[int, str]],
    *,
    runs: int,
) -> None:
    """The same descendants of graphs held in memory."""
    import networkx

    pairs = list(zip(edges[0].tolist(), edges[1].tolist(), strict=True))
    graph = networkx.DiGraph(pairs)
    cells = [
        timed(lambda i=i, g=graph: networkx.descendants(g, i), runs=min(runs, 3))
        for i, _ in roots.values()
    ]
    print(f"| ids, networkx in memory | {' | '.join(cells)} |", flush=True)
    for root, name in roots.values():
        assert networkx.descendants(graph, root) == set(registry.descendant_ids(name).tolist())
    del graph
    try:
        import rustworkx
    except ImportError:
        print("| ids, rustworkx | not installed | | |")
        return
    fast = rustworkx.PyDiGraph(multigraph=True)
    fast.add_nodes_from(range(1 + int(max(edges[0].max(), edges[1].max()))))
    fast.add_edges_from_no_data(pairs)
    cells = [
        timed(lambda i=i: rustworkx.descendants(fast, i), runs=runs) for i, _ in roots.values()
    ]
    print(f"| ids, rustworkx in memory | {' | '.join(cells)} |", flush=True)


def processes(store: Path, small: str, *, runs: int) -> None:
    """Whole processes of the command line."""
    verb = [sys.executable, "-m", "modelkin.cli", "sql", "--store", str(store), "--format", "json"]
    query = "SELECT license, downloads FROM models WHERE model = 'author-1/none' LIMIT 1"
    print("\n| whole process, ms | median (min; CPU min) |\n|---|---|")
    for label, text in (
        ("sql, one row", "SELECT count(*) FROM v1.findings"),
        ("sql, ten descendants", f"SELECT model FROM descendants('{small}') LIMIT 10"),
        ("sql, a scan of all names", query),
    ):
        command = [*verb, text]
        taken = timed(
            lambda c=command: subprocess.run(c, check=True, capture_output=True), runs=runs
        )
        print(f"| {label} | {taken} |", flush=True)


def change(store: Path, *, models: int) -> None:
    """A night: ten thousand edges move to another parent; the closure follows."""
    with duckdb.connect(store / "registry.duckdb") as connection, Peak() as memory:
        connection.execute("SET memory_limit = '2500MB'")
        ((edges,),) = connection.execute("SELECT count(*) FROM internal.edges").fetchall()
        for night in range(2):
            connection.execute("BEGIN")
            connection.execute(
                NIGHT,
                {"models": models, "salt": 100 + night, "changes": CHANGES, "edges": float(edges)},
            )
            ((moved,),) = connection.execute(
                "UPDATE internal.edges e SET parent = n.other FROM night n "
                "WHERE n.child = e.child AND n.parent = e.parent AND n.other <> e.child"
            ).fetchall()
            began, spent = time.perf_counter(), time.process_time()
            maintain_closure(connection)
            taken, spent = time.perf_counter() - began, time.process_time() - spent
            connection.execute("COMMIT")
            print(f"\nclosure after {moved:,} edges moved: {taken:.2f} s ({spent:.2f} s of CPU)")
        maintained = connection.execute(
            "SELECT count(*), sum(hash(ancestor, descendant, distance, confidence)) "
            "FROM internal.closure"
        ).fetchall()
        connection.execute("BEGIN")
        began, spent = time.perf_counter(), time.process_time()
        rebuild_closure(connection)
        taken, spent = time.perf_counter() - began, time.process_time() - spent
        print(f"\nclosure rebuilt: {taken:.1f} s ({spent:.1f} s of CPU)")
        rebuilt = connection.execute(
            "SELECT count(*), sum(hash(ancestor, descendant, distance, confidence)) "
            "FROM internal.closure"
        ).fetchall()
        connection.execute("COMMIT")
        assert maintained == rebuilt
    print(f"the same as a rebuild; peak {memory.peak:,.0f} MB")


def snapshot(store: Path) -> None:
    """Everything written and hashed."""
    with Registry.open(store) as registry, Peak() as memory:
        began, spent = time.perf_counter(), time.process_time()
        manifest = registry.write_snapshot(now=NOW)
        taken, spent = time.perf_counter() - began, time.process_time() - spent
    size = sum(file.bytes for file in manifest.files()) / 1e9
    print(
        f"\nsnapshot: {size:.2f} GB in {taken:.0f} s ({spent:.0f} s of CPU), "
        f"peak {memory.peak:,.0f} MB"
    )
    for table in manifest.tables:
        if table.rows > 100_000:
            held = sum(file.bytes for file in table.files) / 1e6
            print(f"  {table.name}: {table.rows:,} rows, {held:,.0f} MB of Parquet")


def timed(question: Callable[[], object], *, runs: int) -> str:
    """Milliseconds of a question after one that warms: median, least, and least of processor time.

    Processor time counts every thread and every child; on a machine that others use it says what
    the question costs, and a clock on the wall what they do.
    """
    question()
    taken, spent = [], []
    for _ in range(runs):
        began, used = time.perf_counter(), processor_seconds()
        question()
        taken.append(1000 * (time.perf_counter() - began))
        spent.append(1000 * (processor_seconds() - used))
    return f"{statistics.median(taken):.1f} ({min(taken):.1f}; CPU {min(spent):.1f})"


def processor_seconds() -> float:
    """What this process and the children it waited for have used."""
    own, children = (
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
