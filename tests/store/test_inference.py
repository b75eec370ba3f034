"""Edges declared and inferred, runners-up, hidden models, and what the macros make of them."""

from __future__ import annotations

import pytest
from store_factories import claim, fill, infer, make_edge, make_info

from modelkin.lineage.errors import NotInRegistry
from modelkin.lineage.records import Clue, Coverage, Outcome, RejectedParent, Relation
from modelkin.store import HiddenModel, Registry, RevisionFacts, Visit

from store_factories import NOW  # isort: skip


def edges(registry: Registry) -> list[tuple[object, ...]]:
    return registry.sql(
        "SELECT child, parent, declared, inferred, relation, declared_relation FROM v1.edges "
        "ORDER BY child, parent"
    ).fetchall()


def rejected(child: str, parent: str) -> RejectedParent:
    return RejectedParent(
        child=child, parent=parent, rank=1, score=-3.0, rejected_because="farther than its sibling"
    )


def test_declared_and_inferred_meet_in_one_row(registry: Registry) -> None:
    declared = {"o/b": [claim("o/a"), claim("o/x")]}
    scan = fill(registry, ["o/a", "o/b", "o/c"], declared=declared)
    infer(registry, scan, make_edge("o/b", "o/a", relation=Relation.EDIT), make_edge("o/c", "o/b"))
    assert edges(registry) == [
        ("o/b", "o/a", True, True, "edit", "finetune"),
        ("o/b", "o/x", True, False, "finetune", "finetune"),
        ("o/c", "o/b", False, True, "finetune", None),
    ]
    infer(registry, scan)
    assert edges(registry) == [
        ("o/b", "o/a", True, False, "finetune", "finetune"),
        ("o/b", "o/x", True, False, "finetune", "finetune"),
    ]
    assert registry.sql("SELECT count(*) FROM v1.evidence").fetchall() == [(0,)]


def test_a_withdrawn_claim_leaves_the_inferred_edge(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b"], declared={"o/b": [claim("o/a")]})
    infer(registry, scan, make_edge("o/b", "o/a"))
    fill(registry, ["o/b"], declared={"o/b": []})
    assert edges(registry) == [("o/b", "o/a", False, True, "finetune", None)]
    fill(registry, ["o/b"], declared={"o/b": [claim("o/a", relation=None)]})
    assert edges(registry) == [("o/b", "o/a", True, True, "finetune", None)]


def test_inference_twice_changes_nothing(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b", "o/c"])
    results = (make_edge("o/b", "hidden:1"), make_edge("o/c", "hidden:1"), make_edge("o/c", "o/b"))
    fields = {
        "hidden": [HiddenModel(node="hidden:1", shape_key="s")],
        "rejected": [rejected("o/b", "o/a")],
    }
    infer(registry, scan, *results, *results, **fields)
    tables = ("models", "edges", "evidence", "candidates", "closure", "changes", "revisions")
    before = {t: registry.sql(f"FROM internal.{t} ORDER BY ALL").fetchall() for t in tables}
    infer(registry, scan, *results, **fields)
    assert {t: registry.sql(f"FROM internal.{t} ORDER BY ALL").fetchall() for t in tables} == before


def test_only_the_scope_is_replaced_and_changes_are_noted(registry: Registry) -> None:
    first = fill(registry, ["o/a", "o/b", "o/c", "o/d"])
    infer(registry, first, make_edge("o/b", "o/a"), make_edge("o/c", "o/a"))
    second = fill(registry, [])
    infer(
        registry,
        second,
        make_edge("o/b", "o/a", relation=Relation.PRUNE),
        make_edge("o/d", "o/c"),
        scope={"o/b", "o/d"},
    )
    rows = registry.sql(
        "SELECT child, parent, first_seen_scan, last_seen_scan FROM v1.edges ORDER BY ALL"
    ).fetchall()
    assert rows == [
        ("o/b", "o/a", first, second),
        ("o/c", "o/a", first, first),
        ("o/d", "o/c", second, second),
    ]
    infer(registry, second, scope={"o/c"})
    changes = [(c.kind, c.subject) for c in registry.changes(first, second)]
    assert changes == [
        ("edge_added", "o/d <- o/c"),
        ("edge_changed", "o/b <- o/a"),
        ("edge_removed", "o/c <- o/a"),
    ]


def test_hidden_models_come_and_go(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b", "o/c"])
    hidden = [HiddenModel(node="hidden:1", shape_key="s"), HiddenModel(node="hidden:2")]
    infer(
        registry,
        scan,
        make_edge("hidden:2", "o/a"),
        make_edge("hidden:1", "hidden:2"),
        make_edge("o/b", "hidden:1"),
        make_edge("o/c", "hidden:1"),
        hidden=hidden,
    )
    row = registry.describe("hidden:1")
    assert (row["hidden"], row["source"], row["shape_key"]) == (True, "inferred", "s")
    assert row["sha"] is None
    assert [kin.model for kin in registry.ancestors("o/b")] == ["hidden:1", "hidden:2", "o/a"]
    infer(registry, scan, make_edge("o/b", "o/a"), make_edge("o/c", "o/b"), scope={"o/b", "o/c"})
    assert registry.describe("hidden:1")["tombstone_reason"] == "not_inferred"
    assert registry.describe("hidden:2")["tombstone_reason"] == "not_inferred"
    assert [row[:2] for row in edges(registry)] == [("o/b", "o/a"), ("o/c", "o/b")]
    assert registry.status().hidden == 0


def test_a_name_that_the_store_does_not_hold_stops_the_whole(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b"])
    infer(registry, scan, make_edge("o/b", "o/a"))
    with pytest.raises(NotInRegistry, match="o/nowhere"):
        infer(registry, scan, make_edge("o/a", "o/nowhere"))
    assert [row[:2] for row in edges(registry)] == [("o/b", "o/a")]


def test_why_has_everything_for_and_against(registry: Registry) -> None:
    declared = {"o/c": [claim("o/b", relation=Relation.MERGE), claim(None)]}
    scan = fill(registry, ["o/a", "o/b", "o/c"], declared=declared)
    clues = (
        Clue(kind="time", statistic="days", value=3.0, llr=0.5),
        Clue(kind="grid", statistic="chi2", value=1.02, llr=-6.0, ci_low=0.9, ci_high=1.1, n=99),
    )
    infer(
        registry,
        scan,
        make_edge("o/c", "o/a", clues=clues, detail={"method": "lora", "rank": 8}, share=0.5),
        rejected=[rejected("o/c", "o/b")],
    )
    why = registry.why("o/c")
    edge, claimed = why.edges
    assert (edge.parent, edge.inferred, edge.declared, edge.share) == ("o/a", True, False, 0.5)
    assert edge.detail == {"method": "lora", "rank": 8}
    assert edge.clues == (clues[1], clues[0])
    assert (edge.code_version, edge.inputs_digest) == ("1", "x")
    assert (claimed.parent, claimed.inferred, claimed.declared_relation) == ("o/b", False, "merge")
    assert [c.parent for c in why.candidates] == ["o/b"]
    assert [(c.raw, c.parent) for c in why.claims] == [("o/b", "o/b"), ("my own base", None)]
    assert registry.why("o/c", "o/a").candidates == ()
    assert [e.parent for e in registry.why("O/C", "o/b").edges] == ["o/b"]


def test_claims_count_in_the_closure_until_the_weights_speak(registry: Registry) -> None:
    declared = {"o/b": [claim("o/a")], "o/c": [claim("o/b")], "o/d": [claim("o/a")]}
    scan = fill(registry, ["o/a", "o/b", "o/c", "o/d"], declared=declared)
    registry.rebuild_closure()
    assert [k.model for k in registry.descendants("o/a")] == ["o/b", "o/d", "o/c"]
    infer(registry, scan, make_edge("o/d", "o/c"), rejected=[rejected("o/b", "o/a")])
    assert registry.descendants("o/a") == []
    kin = registry.descendants("o/b")
    assert [(k.model, k.distance, k.confidence) for k in kin] == [("o/c", 1, 0.0), ("o/d", 2, 0.0)]
    assert registry.descendants("o/b", max_depth=1) == kin[:1]
    assert registry.descendants("o/b", min_confidence=0.1) == []
    assert [k.model for k in registry.descendants("o/c", min_confidence=0.9)] == ["o/d"]


def test_cycles_of_claims_do_not_hang(registry: Registry) -> None:
    declared = {"o/a": [claim("o/c")], "o/b": [claim("o/a")], "o/c": [claim("o/b"), claim("o/c")]}
    fill(registry, ["o/a", "o/b", "o/c"], declared=declared)
    registry.rebuild_closure()
    for name in ("o/a", "o/b", "o/c"):
        assert len(registry.descendants(name)) == 2
        assert len(registry.tree(name)) == 3
        assert len(registry.tree(name, up=True)) == 3


def test_the_tree_counts_the_whole_store_and_prints_each_node_once(registry: Registry) -> None:
    scan = fill(registry, ["o/root", "o/small", "o/big", "o/x", "o/y", "o/merged"])
    infer(
        registry,
        scan,
        make_edge("o/small", "o/root"),
        make_edge("o/big", "o/root"),
        make_edge("o/x", "o/big"),
        make_edge("o/y", "o/big", relation=Relation.QUANTIZED),
        make_edge("o/merged", "o/small", relation=Relation.MERGE, share=0.3),
        make_edge("o/merged", "o/x", relation=Relation.MERGE, share=0.7),
    )
    rows = registry.tree("o/root")
    assert [(r.model, r.under, r.depth, r.direct, r.total) for r in rows] == [
        ("o/root", None, 0, 2, 5),
        ("o/big", "o/root", 1, 2, 3),
        ("o/x", "o/big", 2, 1, 1),
        ("o/y", "o/big", 2, 0, 0),
        ("o/small", "o/root", 1, 1, 1),
        ("o/merged", "o/small", 2, 0, 0),
    ]
    assert rows[-1].others == ("o/x",)
    assert rows[3].relation == "quantized"
    assert [r.model for r in registry.tree("o/root", depth=1)] == ["o/root", "o/big", "o/small"]
    up = registry.tree("o/merged", up=True)
    assert (up[0].model, up[0].under, up[0].direct, up[0].total) == ("o/merged", None, 2, 4)
    assert {r.model for r in up} == {"o/merged", "o/small", "o/x", "o/big", "o/root"}
    assert len(registry.descendant_ids("o/root")) == 5


def test_path_lists_the_steps_down(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b", "o/c", "o/d"])
    infer(
        registry,
        scan,
        make_edge("o/b", "o/a"),
        make_edge("o/c", "o/b"),
        make_edge("o/d", "o/c"),
        make_edge("o/d", "o/b"),
    )
    steps = registry.sql("SELECT step, parent, child FROM path('o/a', 'o/d')").fetchall()
    assert steps == [(1, "o/a", "o/b"), (2, "o/b", "o/d")]
    assert registry.sql("FROM path('o/d', 'o/a')").fetchall() == []


def test_disagreements_have_a_verdict(registry: Registry) -> None:
    declared = {
        "o/right": [claim("o/base")],
        "o/far": [claim("o/base")],
        "o/wrong": [claim("o/other")],
        "o/kind": [claim("o/base")],
        "o/none": [claim("o/base")],
        "o/unread": [claim("big/unread")],
    }
    scan = fill(registry, ["o/base", "o/other", *declared], declared=declared)
    sketch = RevisionFacts(sketch_path="aa/bb/x.safetensors", sketch_plan="p")
    registry.record_visits(
        scan,
        [
            Visit(coverage=Coverage(model=name, outcome=Outcome.OK, stage="sketch"), facts=sketch)
            for name in ("o/base", "o/other", *declared)
        ],
        now=NOW,
    )
    infer(
        registry,
        scan,
        make_edge("o/right", "o/base"),
        make_edge("o/far", "o/right"),
        make_edge("o/wrong", "o/base"),
        make_edge("o/kind", "o/base", relation=Relation.EDIT),
        make_edge("o/unread", "o/base"),
        rejected=[rejected("o/none", "o/base")],
    )
    rows = registry.sql("SELECT child, verdict, inferred_parents FROM disagreements()").fetchall()
    assert rows == [
        ("o/far", "ancestor", ["o/right"]),
        ("o/kind", "relation", ["o/base"]),
        ("o/none", "rejected", None),
        ("o/unread", "parent_not_read", ["o/base"]),
        ("o/wrong", "parent", ["o/base"]),
    ]
    undeclared = registry.sql("SELECT model, declared_parents FROM undeclared('o/base')").fetchall()
    assert undeclared == [("o/unread", ["big/unread"]), ("o/wrong", ["o/other"])]


def test_macros_know_former_names_and_refuse_unknown_ones(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b"])
    infer(registry, scan, make_edge("o/b", "o/a"))
    registry.add_page(scan, [make_info("o/new", source_id="id-o/a")], next_cursor=None, now=NOW)
    assert registry.sql("SELECT model FROM descendants('o/a')").fetchall() == [("o/b",)]
    assert registry.sql("SELECT model FROM v1.ancestors('o/b')").fetchall() == [("o/new",)]
    with pytest.raises(Exception, match="no model named o/typo"):
        registry.sql("FROM descendants('o/typo')").fetchall()


def test_an_unknown_name_is_met_with_the_closest(registry: Registry) -> None:
    fill(registry, ["meta/Llama-3-8B", "other/thing", "other/Thing"])
    with pytest.raises(NotInRegistry, match=r"did you mean meta/Llama-3-8B\?") as caught:
        registry.resolve_name("meta/Llama3-8B")
    assert caught.value.name == "meta/Llama3-8B"
    assert registry.resolve_name("META/llama-3-8b") == "meta/Llama-3-8B"
    with pytest.raises(NotInRegistry, match="did you mean meta/Llama-3-8B"):
        registry.resolve_name("llama-3")
    with pytest.raises(NotInRegistry):
        registry.resolve_name("OTHER/THING")
    for name in ("", "x" * 10_000, "'; DROP TABLE", "\ud800"):
        with pytest.raises(NotInRegistry):
            registry.resolve_name(name)


def test_pages_hold_all_descendants_once(registry: Registry) -> None:
    names = [f"o/{number}" for number in range(9)]
    scan = fill(registry, names)
    infer(registry, scan, *(make_edge(name, "o/0") for name in names[1:]))
    pages = [registry.page("o/0", limit=3, offset=start) for start in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 2, 0]
    assert {kin.model for page in pages for kin in page} == set(names[1:])
    (up,) = registry.page("o/8", up=True)
    assert (up.model, up.distance, up.confidence) == ("o/0", 1, 0.9)
