"""Visits: facts, coverage, what needs another look, tombstones."""

from __future__ import annotations

import pytest
from store_factories import NOW, claim, fill, make_info

from modelkin.lineage.errors import NotInRegistry
from modelkin.lineage.records import Coverage, Outcome
from modelkin.store import Registry, RevisionFacts, Visit

PLAN = "plan-1"


def facts(**fields: str | int) -> RevisionFacts:
    defaults: dict[str, str | int] = {
        "format": "safetensors",
        "dtype": "BF16",
        "architecture": "LlamaForCausalLM",
        "shape_key": "shape",
        "n_params": 1000,
        "sketch_plan": PLAN,
        "sketch_digest": "d" * 64,
        "sketch_path": "aa/bb/x.safetensors",
        "weights_digest": "w",
    }
    return RevisionFacts(config={"hidden_size": 8}, **{**defaults, **fields})  # type: ignore[arg-type]


def ok(model: str, **fields: int) -> Coverage:
    return Coverage(model=model, outcome=Outcome.OK, stage="sketch", **fields)  # type: ignore[arg-type]


def test_a_visit_brings_facts_and_coverage(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b"])
    for _ in range(2):
        registry.record_visit(
            scan,
            ok("o/a", requests=3, bytes_read=99),
            info=make_info("o/a"),
            facts=facts(),
            now=NOW,
        )
    rows = registry.sql("SELECT model, outcome, requests, bytes FROM v1.coverage").fetchall()
    assert rows == [("o/a", "ok", 3, 99)]
    (row,) = registry.sketched()
    assert (row.model, row.sha, row.current, row.shape_key) == ("o/a", "sha-o/a", True, "shape")
    assert row.created_at == make_info("o/a").created_at
    assert registry.sketched(shape_keys=["other"]) == []
    assert registry.sketched(names=["o/b"]) == []
    assert registry.sketched(names=["o/a"], shape_keys=["shape"]) == [row]
    totals = registry.sql(
        "SELECT listed, visited, ok, not_read, requests, bytes FROM v1.scans"
    ).fetchall()
    assert totals == [(2, 1, 1, 0, 3, 99)]


def test_what_needs_a_visit(registry: Registry) -> None:
    scan = fill(registry, ["o/sketched", "o/empty", "o/slow", "o/new"])
    registry.record_visits(
        scan,
        [
            Visit(coverage=ok("o/sketched"), facts=facts()),
            Visit(
                coverage=Coverage(model="o/empty", outcome=Outcome.NO_WEIGHTS, stage="files"),
                plan=PLAN,
            ),
            Visit(coverage=Coverage(model="o/slow", outcome=Outcome.TIMEOUT, stage="header")),
        ],
        now=NOW,
    )
    infos = [make_info(f"o/{name}") for name in ("sketched", "empty", "slow", "new", "unknown")]
    assert registry.needs_visits(infos, plan=PLAN) == [False, False, True, True, True]
    assert registry.needs_visits(infos, plan="plan-2") == [True] * 5
    assert registry.needs_visit(make_info("o/sketched", sha="newer"), plan=PLAN)
    assert registry.needs_visits([], plan=PLAN) == []


def test_unchanged_does_not_hide_how_the_sha_was_last_seen(registry: Registry) -> None:
    scan = fill(registry, ["o/a"])
    bad = Coverage(model="o/a", outcome=Outcome.MALFORMED, stage="header", path="w", offset=8)
    registry.record_visit(scan, bad, plan=PLAN, now=NOW)
    later = fill(registry, ["o/a"])
    same = Coverage(model="o/a", outcome=Outcome.UNCHANGED, stage="list")
    registry.record_visit(later, same, now=NOW)
    assert not registry.needs_visit(make_info("o/a"), plan=PLAN)
    outcomes = registry.sql("SELECT scan, outcome, byte_offset FROM v1.coverage ORDER BY 1")
    assert outcomes.fetchall() == [(scan, "malformed", 8), (later, "unchanged", None)]


def test_a_newer_commit_keeps_the_older_sketch_until_it_is_visited(registry: Registry) -> None:
    scan = fill(registry, ["o/a"])
    registry.record_visit(scan, ok("o/a"), facts=facts(), now=NOW)
    registry.add_page(scan, [make_info("o/a", sha="newer")], next_cursor=None, now=NOW)
    (row,) = registry.sketched()
    assert (row.sha, row.current) == ("sha-o/a", False)
    described = registry.describe("o/a")
    assert (described["sha"], described["facts_sha"]) == ("newer", "sha-o/a")


def test_a_model_that_is_gone_gets_a_tombstone_and_may_return(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/file"])
    gone = Coverage(model="o/a", outcome=Outcome.NOT_FOUND, stage="info")
    file_gone = Coverage(model="o/file", outcome=Outcome.NOT_FOUND, stage="header", path="w")
    registry.record_visits(scan, [Visit(coverage=gone), Visit(coverage=file_gone)], now=NOW)
    assert registry.describe("o/a")["tombstone_reason"] == "not_found"
    assert registry.describe("o/file")["tombstone_reason"] is None
    assert registry.unvisited(scan) == []
    later = fill(registry, ["o/a"])
    assert registry.describe("o/a")["tombstone_reason"] is None
    kinds = [(c.scan, c.kind, c.subject) for c in registry.changes(0, later)]
    assert kinds == [(scan, "removed", "o/a"), (later, "returned", "o/a")]


def test_a_name_that_the_store_does_not_hold_still_counts(registry: Registry) -> None:
    scan = fill(registry, [])
    gone = Coverage(model="o/never", outcome=Outcome.NOT_FOUND, stage="info", reason="404")
    registry.record_visit(scan, gone, now=NOW)
    registry.record_visit(scan, gone, now=NOW)
    assert registry.sql("SELECT model, reason FROM v1.coverage").fetchall() == [("o/never", "404")]
    with pytest.raises(NotInRegistry, match="o/never"):
        registry.record_visit(scan, ok("o/never"), facts=facts(), now=NOW)


def test_claims_are_replaced_by_the_newer_reading(registry: Registry) -> None:
    fill(registry, ["o/a", "o/b", "o/c"], declared={"o/c": [claim("o/a")]})
    scan = fill(registry, [])
    registry.record_visit(
        scan,
        ok("o/c"),
        info=make_info("o/c"),
        declared=[claim("o/b"), claim(None), claim("o/c")],
        now=NOW,
    )
    assert registry.sql("SELECT parent FROM v1.edges").fetchall() == [("o/b",)]
    assert [(c.raw, c.parent) for c in registry.why("o/c").claims] == [
        ("o/b", "o/b"),
        ("my own base", None),
        ("o/c", "o/c"),
    ]
    registry.record_visit(scan, ok("o/c"), info=make_info("o/c"), declared=None, now=NOW)
    assert len(registry.why("o/c").claims) == 3
    changes = [(c.kind, c.subject) for c in registry.changes(0, scan)]
    assert changes == [("claim_added", "o/c <- o/b"), ("claim_removed", "o/c <- o/a")]


def test_config_is_kept_within_bounds(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b"])
    deep: dict[str, object] = {}
    for _ in range(200):
        deep = {"x": deep}
    configs = {"o/a": {"text": "\ud800" + "y" * 300_000}, "o/b": {"deep": deep, "n": float("inf")}}
    for name, config in configs.items():
        registry.record_visit(scan, ok(name), facts=RevisionFacts(config=config), now=NOW)
    stored = registry.sql(
        "SELECT config->>'truncated', config->>'n' FROM internal.revisions ORDER BY id"
    ).fetchall()
    assert stored[0][0] is not None
    assert stored[1] == (None, None)


def test_status_counts_by_outcome_and_reason(registry: Registry) -> None:
    scan = fill(registry, ["o/a", "o/b", "o/c"], declared={"o/a": [claim("big/base")]})
    gated = [
        Visit(coverage=Coverage(model=name, outcome=Outcome.GATED, stage="info", reason="manual"))
        for name in ("o/a", "o/b")
    ]
    registry.record_visits(scan, gated, now=NOW)
    status = registry.status()
    assert status.last_scan is not None
    assert (status.last_scan.scan, status.last_scan.listed, status.last_scan.visited) == (
        scan,
        3,
        2,
    )
    assert [(o.outcome, o.reason, o.models) for o in status.outcomes] == [("gated", "manual", 2)]
    assert [unfinished.scan for unfinished in status.unfinished] == [scan]
    assert (status.models, status.named_only, status.backlog) == (3, 1, 1)
    assert (status.declared_edges, status.inferred_edges) == (1, 0)
