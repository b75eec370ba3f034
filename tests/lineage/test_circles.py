"""Edges of separate searches put together: never a circle."""

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.infer.circles import without_circles
from modelkin.lineage.records import InferredEdge, Relation

Pairs = list[tuple[str, str]]
PAIRS = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=12)


def edges_of(pairs: Pairs) -> list[InferredEdge]:
    return [
        InferredEdge(
            child=child,
            parent=parent,
            relation=Relation.COPY,
            confidence=0.5,
            direction_confidence=0.5,
        )
        for child, parent in pairs
    ]


@given(added=PAIRS, ranks=PAIRS)
def test_what_is_kept_closes_no_circle_and_what_is_dropped_would(
    added: Pairs, ranks: Pairs
) -> None:
    known = edges_of([(child, parent) for child, parent in ranks if parent < child])
    kept = without_circles(edges_of(added), known)
    graph = nx.DiGraph([(e.child, e.parent) for e in (*known, *kept)])
    assert nx.is_directed_acyclic_graph(graph)
    chosen = {(e.child, e.parent) for e in kept}
    for pair in set(added) - chosen:
        assert not nx.is_directed_acyclic_graph(nx.DiGraph([*graph.edges, pair]))


def test_the_first_of_two_that_contradict_each_other_is_kept() -> None:
    first, second = edges_of([("a", "b"), ("b", "a")])
    assert without_circles([first, second], []) == [first]
    assert without_circles([first], [second]) == []
