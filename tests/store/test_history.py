"""The state at the end of an earlier scan, whatever changed since."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_factories import NOW, claim, infer, make_edge, make_info

from modelkin.lineage.records import Coverage, Finding, Outcome, Relation, Score
from modelkin.store import Registry, RevisionFacts

VIEWS = ("models", "edges", "scores", "findings")
UNSTEADY = {"models": ("downloads", "last_seen_scan"), "edges": ("last_seen_scan", "correction")}


def state(registry: Registry, scan: int | None = None) -> dict[str, list[Any]]:
    """What the four views hold, now or at the end of a scan, without what makes no version."""
    found = {}
    for view in VIEWS:
        source = f"v1.{view}" if scan is None else f"v1.{view}_as_of({scan})"
        without = UNSTEADY.get(view, ())
        rows = registry.sql(f"FROM {source}")
        columns = ", ".join(name for name in rows.columns if name not in without)
        found[view] = registry.sql(f"SELECT {columns} FROM {source} ORDER BY ALL").fetchall()
    return found


def begin(registry: Registry) -> int:
    return registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)


def score_of(model: str, value: float) -> Score:
    return Score(
        model=model, sha=f"sha-{model}", probe="p", probe_version="1", prompt_set="s", n=4,
        status="ok", value=value, ci_low=0, ci_high=1, unit="share", judge="j", corrected=False,
        environment={}, seconds=1.0, scored_at=NOW,
    )  # fmt: skip


def finding_of(model: str) -> Finding:
    return Finding(
        finding_id=f"f-{model}", kind="stripped_safety", severity="high", model=model,
        ancestor=None, value=0.5, ci_low=None, ci_high=None, q_value=None, status="new",
    )  # fmt: skip


def step(registry: Registry, move: tuple[str, int, int]) -> int:
    """One scan that does one thing; models are `o/0` to `o/3`."""
    what, first, second = move
    scan = begin(registry)
    name, other = f"o/{first}", f"o/{second}"
    if what == "list":
        info = make_info(name, sha=f"sha-{name}", license=f"l{second}", downloads=second)
        registry.add_page(scan, [info], next_cursor=None, declared={name: [claim(other)]}, now=NOW)
    elif what == "rename":
        info = make_info(f"new/{first}", source_id=f"id-{name}", sha=f"sha-{name}")
        registry.add_page(scan, [info], next_cursor=None, now=NOW)
        back = make_info(name)
        registry.add_page(begin(registry), [back], next_cursor=None, now=NOW)
    elif what == "gone":
        coverage = Coverage(model=name, outcome=Outcome.NOT_FOUND, stage="list")
        registry.record_visit(scan, coverage, now=NOW)
    elif what == "facts":
        coverage = Coverage(model=name, outcome=Outcome.OK, stage="sketch")
        facts = RevisionFacts(format="safetensors", shape_key="k")
        registry.record_visit(scan, coverage, info=make_info(name), facts=facts, now=NOW)
    elif what == "infer":
        edges = [] if first == second else [make_edge(name, other, relation=Relation.MERGE)]
        infer(registry, scan, *edges, scope=[name])
    elif what == "score":
        registry.add_scores(scan, [score_of(name, second / 4)])
    else:
        registry.replace_findings(
            scan, "stripped_safety", [finding_of(name)] if second % 2 else [], now=NOW
        )
    registry.finish_scan(scan, status="done", now=NOW)
    return int(registry.scans()[0].scan)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["list", "rename", "gone", "facts", "infer", "score", "find"]),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=7,
)


@given(MOVES)
@settings(
    deadline=None,
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_end_of_a_scan_can_be_seen_again(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("history") / "store"
    with Registry.open(folder, create=True) as registry:
        scan = begin(registry)
        page = [make_info(f"o/{number}") for number in range(4)]
        registry.add_page(scan, page, next_cursor=None, now=NOW)
        seen = {scan: state(registry)}
        for move in moves:
            scan = step(registry, move)
            seen[scan] = state(registry)
        for past, expected in seen.items():
            assert state(registry, past) == expected, f"scan {past}"


def test_what_does_not_change_is_kept_once(registry: Registry) -> None:
    for downloads in (1, 2, 3):
        scan = begin(registry)
        page = [make_info(f"o/{n}", downloads=downloads) for n in range(20)]
        registry.add_page(scan, page, next_cursor=None, now=NOW)
    assert registry.sql("FROM internal.model_versions").fetchall() == []


def test_descendants_as_they_were(registry: Registry) -> None:
    scan = begin(registry)
    registry.add_page(scan, [make_info(f"o/{n}") for n in "abcd"], next_cursor=None, now=NOW)
    infer(registry, scan, make_edge("o/b", "o/a"), make_edge("o/c", "o/b"))
    later = begin(registry)
    infer(registry, later, make_edge("o/d", "o/a"))
    before = registry.sql("SELECT * FROM descendants_as_of('o/a', ?)", [scan]).fetchall()
    assert before == [("o/b", 1), ("o/c", 2)]
    now = registry.sql("SELECT * FROM descendants_as_of('o/a', ?)", [later]).fetchall()
    assert now == [("o/d", 1)] == [(kin.model, kin.distance) for kin in registry.descendants("o/a")]
