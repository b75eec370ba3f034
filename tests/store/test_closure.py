"""The closure against networkx, with cycles, repeats and thresholds."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkin.store.closing import maintain_closure, rebuild_closure
from modelkin.store.closure import Closure, compute_closure
from modelkin.store.migrate import migrate
from modelkin.store.staging import staged

TABLES = ("closure", "closure_up", "closure_edges")
Edge = tuple[int, int, float]

EDGES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    max_size=40,
)


def closure_of(edges: list[Edge], *, max_depth: int = 64) -> Closure:
    parents, children, confidences = zip(*edges, strict=True) if edges else ((), (), ())
    return compute_closure(
        np.array(parents, dtype=np.int64),
        np.array(children, dtype=np.int64),
        np.array(confidences, dtype=np.float64),
        max_depth=max_depth,
    )


def reference(edges: list[Edge]) -> dict[tuple[int, int], tuple[int, float]]:
    """Distance and surest confidence by networkx, one threshold at a time."""
    graph = nx.DiGraph((parent, child) for parent, child, _ in edges)
    pairs = {
        (a, d): (distance, 0.0)
        for a, reached in nx.all_pairs_shortest_path_length(graph)
        for d, distance in reached.items()
        if a != d
    }
    for threshold in sorted({confidence for *_, confidence in edges}):
        kept = nx.DiGraph((p, c) for p, c, confidence in edges if confidence >= threshold)
        for ancestor in kept:
            for descendant in nx.descendants(kept, ancestor):
                pairs[ancestor, descendant] = (pairs[ancestor, descendant][0], threshold)
    return pairs


def as_mapping(closure: Closure) -> dict[tuple[int, int], tuple[int, float]]:
    rows = zip(*(column.tolist() for column in closure), strict=True)
    return {(a, d): (distance, confidence) for a, d, distance, confidence in rows}


@given(EDGES)
@settings(deadline=None, max_examples=150)
def test_any_graph_agrees_with_networkx(edges: list[Edge]) -> None:
    assert as_mapping(closure_of(edges)) == reference(edges)


@given(EDGES)
@settings(deadline=None, max_examples=50)
def test_pairs_come_once_and_in_order(edges: list[Edge]) -> None:
    closure = closure_of(edges)
    pairs = list(zip(closure.ancestor.tolist(), closure.descendant.tolist(), strict=True))
    assert pairs == sorted(set(pairs))


def test_a_cycle_of_claims_ends() -> None:
    ring = [(node, (node + 1) % 5, 0.0) for node in range(5)]
    assert len(closure_of(ring).ancestor) == 20


def test_a_crafted_chain_costs_no_more_than_its_depth_cap() -> None:
    chain = [(node, node + 1, 0.5) for node in range(20_000)]
    closure = closure_of(chain, max_depth=8)
    assert closure.distance.max() == 8
    assert len(closure.ancestor) <= 8 * len(chain)


@pytest.mark.parametrize("edges", [[], [(3, 3, 1.0)]])
def test_no_edges_no_pairs(edges: list[Edge]) -> None:
    assert all(len(column) == 0 for column in closure_of(edges))


BALLAST = [(1000 + 2 * pair, 1001 + 2 * pair, 0.5) for pair in range(200)]


@pytest.fixture(scope="module")
def schema() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        migrate(connection)
        yield connection


def believe(connection: duckdb.DuckDBPyConnection, edges: list[Edge]) -> None:
    unique = {(parent, child): sure for parent, child, sure in [*edges, *BALLAST]}
    rows = [(parent, child, sure) for (parent, child), sure in unique.items()]
    connection.execute("DELETE FROM internal.edges")
    with staged(
        connection, "rows_in", {"parent": "int64", "child": "int64", "confidence": "double"}, rows
    ):
        connection.execute(
            "INSERT INTO internal.edges BY NAME SELECT *, true AS inferred, false AS declared, "
            "1 AS first_seen_scan, 1 AS last_seen_scan FROM rows_in"
        )


@given(EDGES, EDGES)
@settings(deadline=None, max_examples=12)
def test_maintained_is_what_a_rebuild_gives(
    schema: duckdb.DuckDBPyConnection, before: list[Edge], after: list[Edge]
) -> None:
    believe(schema, before)
    rebuild_closure(schema)
    believe(schema, after)
    maintain_closure(schema)
    maintained = [schema.execute(f"FROM internal.{t} ORDER BY ALL").fetchall() for t in TABLES]
    rebuild_closure(schema)
    rebuilt = [schema.execute(f"FROM internal.{t} ORDER BY ALL").fetchall() for t in TABLES]
    assert maintained == rebuilt
    for table in ("closure", "closure_up"):
        stored = schema.execute(f"SELECT * FROM internal.{table}").fetchall()
        assert stored == sorted(stored)
