"""Pages of a listing: idempotence, renames, new revisions, hostile values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from store_factories import NOW, claim, fill, make_info

from modelkin.lineage.errors import NotInRegistry
from modelkin.lineage.records import Coverage, ModelFile, Outcome
from modelkin.store import Registry

TABLES = [
    "scans",
    "models",
    "name_index",
    "former_names",
    "revisions",
    "files",
    "listings",
    "coverage",
    "declared",
    "edges",
    "candidates",
    "evidence",
    "closure",
    "closure_up",
    "scores",
    "findings",
    "changes",
]


def everything(registry: Registry) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: sorted(registry.sql(f"SELECT * FROM internal.{table}").fetchall(), key=repr)
        for table in TABLES
    }


def test_the_same_page_twice_changes_nothing(registry: Registry) -> None:
    scan = registry.start_scan(kind="scan", source="hub", parameters={"author": "o"}, now=NOW)
    page = [make_info(f"o/{letter}", tags=("a", "b")) for letter in "abc"]
    declared = {"o/b": [claim("o/a"), claim("x/unlisted"), claim(None)]}
    registry.add_page(scan, page, next_cursor="c1", declared=declared, now=NOW)
    before = everything(registry)
    registry.add_page(scan, page, next_cursor="c1", declared=declared, now=NOW)
    assert everything(registry) == before


def test_a_page_comes_with_its_cursor(registry: Registry) -> None:
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    state = registry.resume_scan(source="hub")
    assert state is not None
    assert (state.scan, state.cursor, state.listing_done, state.listed) == (scan, None, False, 0)
    registry.add_page(scan, [make_info("o/a")], next_cursor="after-a", now=NOW)
    state = registry.resume_scan(source="hub")
    assert state is not None
    assert (state.cursor, state.listing_done, state.listed) == ("after-a", False, 1)
    registry.add_page(scan, [], next_cursor=None, now=NOW)
    state = registry.resume_scan(source="hub")
    assert state is not None
    assert (state.cursor, state.listing_done) == (None, True)


def test_only_an_unfinished_last_scan_of_the_same_target_is_resumed(registry: Registry) -> None:
    first = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    other = registry.start_scan(kind="map", source="hub", target="o/a", parameters={}, now=NOW)
    assert registry.resume_scan(source="dir:/x") is None
    resumed = registry.resume_scan(source="hub", target="o/a")
    assert resumed is not None
    assert resumed.scan == other
    registry.finish_scan(first, status="interrupted", now=NOW)
    resumed = registry.resume_scan(source="hub")
    assert resumed is not None
    assert resumed.scan == first
    second = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    registry.finish_scan(second, status="done", now=NOW)
    assert registry.resume_scan(source="hub") is None
    assert [scan.status for scan in registry.scans()] == ["done", "running", "abandoned"]


def test_a_scan_that_does_not_exist_takes_no_page(registry: Registry) -> None:
    with pytest.raises(NotInRegistry):
        registry.add_page(5, [make_info("o/a")], next_cursor=None, now=NOW)
    assert registry.sql("FROM v1.models").fetchall() == []
    with pytest.raises(NotInRegistry):
        registry.finish_scan(5, status="done", now=NOW)
    with pytest.raises(ValueError, match="ends as one of"):
        registry.finish_scan(5, status="fine", now=NOW)


def test_a_new_name_for_a_known_id_is_a_rename(registry: Registry) -> None:
    fill(registry, ["o/old", "o/child"], declared={"o/child": [claim("o/old")]})
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    registry.add_page(scan, [make_info("o/new", source_id="id-o/old")], next_cursor=None, now=NOW)
    assert registry.resolve_name("o/old") == "o/new"
    assert registry.resolve_name("O/NEW") == "o/new"
    assert registry.sql("SELECT parent FROM v1.edges").fetchall() == [("o/new",)]
    renamed = [change for change in registry.changes(0, scan) if change.kind == "renamed"]
    assert [(c.before, c.after, c.changed_at) for c in renamed] == [("o/old", "o/new", NOW)]


def test_a_claim_of_a_former_name_means_the_renamed_model(registry: Registry) -> None:
    fill(registry, ["o/old"])
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    page = [make_info("o/new", source_id="id-o/old"), make_info("o/child")]
    registry.add_page(scan, page, next_cursor=None, declared={"o/child": [claim("o/old")]}, now=NOW)
    assert registry.sql("SELECT child, parent FROM v1.edges").fetchall() == [("o/child", "o/new")]


def test_a_new_sha_is_a_revision_and_a_change(registry: Registry) -> None:
    fill(registry, ["o/a"])
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    registry.add_page(scan, [make_info("o/a", sha="second")], next_cursor=None, now=NOW)
    assert registry.describe("o/a")["sha"] == "second"
    changes = [(c.kind, c.subject, c.before, c.after) for c in registry.changes(0, scan)]
    assert changes == [("revision", "o/a", "sha-o/a", "second")]
    assert registry.sql("SELECT count(*) FROM internal.revisions").fetchall() == [(2,)]


def test_a_taken_name_retires_the_repository_that_had_it(registry: Registry) -> None:
    fill(registry, ["o/a"])
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    registry.add_page(scan, [make_info("o/a", source_id="other")], next_cursor=None, now=NOW)
    rows = registry.sql("SELECT source_id, tombstone_reason FROM v1.models ORDER BY 1").fetchall()
    assert rows == [("id-o/a", "replaced"), ("other", None)]
    assert registry.describe("o/a")["source_id"] == "other"


def test_swapped_names_are_two_renames(registry: Registry) -> None:
    fill(registry, ["o/a", "o/b"])
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    page = [make_info("o/b", source_id="id-o/a"), make_info("o/a", source_id="id-o/b")]
    registry.add_page(scan, page, next_cursor=None, now=NOW)
    rows = registry.sql(
        "SELECT model, source_id, tombstone_reason FROM v1.models ORDER BY 1"
    ).fetchall()
    assert rows == [("o/a", "id-o/b", None), ("o/b", "id-o/a", None)]


def test_a_model_that_cards_named_keeps_its_edges_when_it_is_listed(registry: Registry) -> None:
    scan = fill(registry, ["o/child"], declared={"o/child": [claim("big/base")]})
    assert registry.describe("big/base")["source"] == "declared"
    registry.add_page(scan, [make_info("big/base")], next_cursor=None, now=NOW)
    assert registry.describe("big/base")["source"] == "hub"
    assert registry.sql("SELECT count(*) FROM v1.models").fetchall() == [(2,)]
    assert registry.sql("SELECT parent FROM v1.edges").fetchall() == [("big/base",)]


def test_files_are_never_replaced_by_poorer_ones(registry: Registry) -> None:
    scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    bare = make_info("o/a", files=(ModelFile(path="model.safetensors"),))
    full = make_info("o/a", files=(ModelFile(path="model.safetensors", size=9, sha256="d"),))
    for info, expected in ((bare, (None, None)), (full, (9, "d")), (bare, (9, "d"))):
        registry.add_page(scan, [info], next_cursor=None, now=NOW)
        assert registry.sql("SELECT size, sha256 FROM v1.files").fetchall() == [expected]


def test_a_listed_model_waits_for_its_visit(registry: Registry) -> None:
    scan = fill(registry, ["o/b", "o/a"])
    waiting = registry.unvisited(scan)
    assert [info.name for info in waiting] == ["o/b", "o/a"]
    assert waiting[0] == make_info("o/b")
    coverage = Coverage(model="o/b", outcome=Outcome.TIMEOUT, stage="header")
    registry.record_visit(scan, coverage, now=NOW)
    assert [info.name for info in registry.unvisited(scan)] == ["o/a"]


@pytest.mark.parametrize(
    "name",
    [
        "o/quote's",
        'o/"double"',
        "o/[bold red]x[/]",
        "o/%s;--",
        "o/\ud800lone",
        "o/\u202eodd",
        "x" * 9,
    ],
)
def test_any_text_is_a_name(registry: Registry, name: str) -> None:
    fill(registry, [name, "o/child"], declared={"o/child": [claim(name, raw=name, note="\udfff")]})
    stored = registry.resolve_name(name)
    assert stored == name.encode("utf-8", "replace").decode()
    assert registry.sql("SELECT parent FROM v1.edges").fetchall() == [(stored,)]


def test_values_that_no_column_can_hold_are_left_out(registry: Registry) -> None:
    scan = registry.start_scan(kind="scan", source="hub", parameters={"x": float("nan")}, now=NOW)
    edge_of_time = datetime.max.replace(tzinfo=UTC) - timedelta(hours=1)
    info = make_info(
        "o/a",
        downloads=1 << 70,
        created_at=edge_of_time.replace(tzinfo=None),
        files=(ModelFile(path="w", size=-(1 << 80)),),
        tags=("\ud800",),
    )
    registry.add_page(scan, [info], next_cursor=None, now=NOW)
    row = registry.describe("o/a")
    assert (row["downloads"], row["tags"]) == (None, ["?"])
    assert registry.scans()[0].parameters == {"x": None}
