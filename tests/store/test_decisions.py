"""What people decide and what others publish, on top of what is inferred."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factories import NOW, claim, infer, make_edge, make_info

from modelkin.lineage.errors import FormatError, MalformedFile, NotInRegistry
from modelkin.lineage.records import Coverage, Outcome, Relation
from modelkin.store import Registry
from modelkin.store.corrections import Correction, read_corrections
from modelkin.store.facts import RevisionFacts
from modelkin.store.restoring import restore_snapshot

# The small registry calls its findings after models, which stored findings never are.
SECRET = re.compile(r"(?<![\w-])dave/")

FILE = """
[[edge]]
child = "gina/pruned"
parent = "lab/base"
verdict = "denied"
reason = "pruned from another release of the lab, says its author"
by = "reviewer"
date = 2026-11-24

[[edge]]
child = "other/stranger"
parent = "lab/base"
verdict = "asserted"
relation = "finetune"
reason = "training log seen"
"""


@pytest.fixture
def registry(small_store: Path, folder: Path) -> Iterator[Registry]:
    shutil.copytree(small_store, folder)
    with Registry.open(folder) as opened:
        yield opened


def begin(registry: Registry) -> int:
    return registry.start_scan(kind="correct", source="store", parameters={}, now=NOW)


def kin(registry: Registry) -> set[str]:
    return {one.model for one in registry.descendants("lab/base")}


def test_decisions_stand_on_top_of_inference(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "corrections.toml"
    path.write_text(FILE)
    assert "gina/pruned" in kin(registry)
    assert registry.replace_corrections(begin(registry), read_corrections(path)) == []
    for _ in range(2):
        assert "gina/pruned" not in kin(registry)
        assert "other/stranger" in kin(registry)
        rows = registry.sql(
            "SELECT child, inferred, relation, correction FROM edges "
            "WHERE correction IS NOT NULL ORDER BY child"
        ).fetchall()
        assert rows == [
            ("gina/pruned", True, "prune", "denied"),
            ("other/stranger", False, "finetune", "asserted"),
        ]
        # Inference that says the same again changes nothing of the decisions.
        edge = make_edge("gina/pruned", "lab/base", relation=Relation.PRUNE)
        infer(registry, begin(registry), edge, scope=["gina/pruned", "other/stranger"])
    registry.replace_corrections(begin(registry), [])
    assert "gina/pruned" in kin(registry)
    assert "other/stranger" not in kin(registry)


def test_a_denied_parent_lets_the_claims_count(registry: Registry) -> None:
    denied = Correction(
        child="frank/one", parent="hidden:5eed", verdict="denied", reason="it was published"
    )
    registry.replace_corrections(begin(registry), [denied])
    found = {one.model: one.distance for one in registry.descendants("lab/base")}
    assert (found["frank/one"], found["frank/two"]) == (1, 2)


def test_names_that_the_store_lacks_are_told(registry: Registry) -> None:
    asserted = Correction(child="no/one", parent="lab/base", verdict="asserted", reason="r")
    assert registry.replace_corrections(begin(registry), [asserted]) == ["no/one"]
    assert registry.sql("SELECT applied FROM corrections").fetchall() == [(False,)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("denied", "perhaps"), "asserted or denied"),
        (('parent = "lab/base"', 'parent = "gina/pruned"'), "its own parent"),
        (('reason = "training log seen"', ""), "'reason' must be text"),
        (('"finetune"', '"cousin"'), "cousin"),
        (("by =", "buy ="), "unknown key 'buy'"),
        (("2026-11-24", "7"), "a date is written"),
        (('"other/stranger"', '"gina/pruned"'), "decided twice"),
        (("[[edge]]", "[[egde]]"), "egde"),
        (("[[edge]]", "[[edge"), "Expected"),
    ],
)
def test_a_bad_file_is_told_where(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "corrections.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(MalformedFile, match=said):
        read_corrections(path)


@given(st.text(max_size=60) | st.binary(max_size=60))
@settings(deadline=None, max_examples=40)
def test_any_file_ends_in_decisions_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with suppress(FormatError):
        assert read_corrections(path) == ()


def everything(folder: Path) -> str:
    """All that a store holds, as one text."""
    with Registry.open(folder, read_only=True) as registry:
        tables = registry.sql(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'internal' "
            "AND table_name <> 'redactions'"
        ).fetchall()
        return "\n".join(
            str(registry.sql(f'FROM internal."{table}"').fetchall()) for (table,) in tables
        )


def test_a_redacted_model_is_nowhere_and_does_not_come_back(
    registry: Registry, folder: Path
) -> None:
    secret = "dave/freed"
    (sketch,) = registry.sql(
        "SELECT r.sketch_path FROM internal.revisions r JOIN internal.models m "
        "ON m.facts_revision = r.id WHERE m.name = ?", [secret]
    ).fetchall()  # fmt: skip
    before = len(kin(registry))
    mask = registry.redact(secret, reason="asked for by its author", now=NOW)
    assert not (folder / "sketches" / sketch[0]).exists()
    scan = begin(registry)
    again = make_info(secret, source_id="id-dave/freed")
    renamed = make_info("dave/other", source_id="id-dave/freed")
    same_name = make_info(secret, source_id="id-new")
    child = make_info("new/child")
    registry.add_page(
        scan, [again, renamed, same_name, child], next_cursor=None,
        declared={"new/child": [claim(secret)]}, now=NOW,
    )  # fmt: skip
    for info in (again, same_name):
        coverage = Coverage(model=secret, outcome=Outcome.OK, stage="card")
        registry.record_visit(scan, coverage, info=info, declared=(), now=NOW)
    with pytest.raises(NotInRegistry):
        registry.resolve_name(secret)
    assert len(kin(registry)) == before
    assert [one.model for one in registry.descendants(mask)] == ["erin/freed-8bit"]
    name = registry.write_snapshot(now=NOW).name
    registry.close()
    assert not SECRET.search(everything(folder))
    copy = folder / "snapshots" / name
    assert not SECRET.search(everything(copy))
    with Registry.open(copy, read_only=True) as published:
        assert published.sql("FROM internal.redactions").fetchall() == []
    for path in (copy / "tables").rglob("*.parquet"):
        assert not SECRET.search(str(pyarrow.parquet.read_table(path).to_pylist()))


def test_an_older_snapshot_does_not_bring_a_redacted_model_back(
    registry: Registry, folder: Path
) -> None:
    name = registry.write_snapshot(now=NOW).name
    registry.redact("dave/freed", reason="asked for", now=NOW)
    registry.close()
    restore_snapshot(folder / "snapshots" / name, folder, replace=True)
    assert not SECRET.search(everything(folder))
    with Registry.open(folder) as again:
        again.add_page(begin(again), [make_info("dave/freed")], next_cursor=None, now=NOW)
        with pytest.raises(NotInRegistry):
            again.resolve_name("dave/freed")


def test_a_longer_name_is_left_alone(registry: Registry) -> None:
    registry.add_page(
        begin(registry), [make_info("alice/chat2"), make_info("x-alice/chat")],
        next_cursor=None, now=NOW,
    )  # fmt: skip
    registry.redact("alice/chat", reason="r", now=NOW)
    for name in ("alice/chat2", "x-alice/chat", "alice/chat-4bit"):
        assert registry.resolve_name(name) == name


MENTIONS = {
    "made/again": "dave/freed dave/freed",
    "made/told": "tuned from dave/freed.",
    "made/linked": "https://huggingface.co/dave/freed/tree/main",
    "made/spelled": "DAVE/Freed",
    "made/lined": "merged from\ndave/freed and others",
    "made/beside": "not dave/freed-2 and not dave/freed.5, but (dave/freed)",
}


def mention(registry: Registry, *, suffix: str = "") -> None:
    """Models whose cards, tags, configs and visits mention another in many ways."""
    scan, words = begin(registry), {f"{name}{suffix}": text for name, text in MENTIONS.items()}
    claims = {name: [claim("lab/base", raw=text, note=text)] for name, text in words.items()}
    infos = [
        make_info(name, tags=("en", "base_model:finetune:dave/freed", text))
        for name, text in words.items()
    ]
    registry.add_page(scan, infos, next_cursor=None, declared=claims, now=NOW)
    for info in infos:
        text = words[info.name]
        coverage = Coverage(model=info.name, outcome=Outcome.OK, stage="card", reason=text)
        facts = RevisionFacts(config={"_name_or_path": text, "merged": [text], text: 1})
        registry.record_visit(
            scan, coverage, info=info, facts=facts, declared=claims[info.name], now=NOW
        )


def test_no_spelling_of_a_redacted_name_stays_or_comes_back(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    mention(registry)
    registry.redact("dave/freed", reason="asked for", now=NOW)
    mention(registry, suffix="-later")
    registry.start_scan(
        kind="map", source="hub", target="dave/freed", parameters={"of": "dave/freed"}, now=NOW
    )
    told = registry.ingest(
        begin(registry), write(tmp_path / "e.jsonl", EDGES), kind="edges", provenance="a paper"
    )
    assert (told.taken, told.left_out) == (3, 3)
    denied = Correction(
        child="Dave/freed", parent="alice/chat", verdict="denied", reason="says dave/freed"
    )
    assert registry.replace_corrections(begin(registry), [denied]) == []
    assert registry.sql("SELECT applied FROM corrections").fetchall() == [(True,)]
    registry.close()
    held = everything(folder)
    left = {found.lower() for found in re.findall(r"(?<![\w-])dave/[\w.-]+", held, re.IGNORECASE)}
    assert left == {"dave/freed-2", "dave/freed.5"}
    assert "base_model:finetune:" in held


def test_a_decision_about_a_name_of_two_redacted_models_lands_on_the_one_asked_for(
    registry: Registry,
) -> None:
    """A card named it in another spelling before it was listed."""
    scan = begin(registry)
    said = {"card/one": [claim("ORG/Real", raw="ORG/Real")]}
    registry.add_page(scan, [make_info("card/one")], next_cursor=None, declared=said, now=NOW)
    infos = [make_info("org/real"), make_info("c/kid")]
    registry.add_page(scan, infos, next_cursor=None, now=NOW)
    infer(registry, scan, make_edge("c/kid", "org/real"), scope=["c/kid"])
    mask = registry.redact("org/real", reason="r", now=NOW)
    denied = Correction(
        child="c/kid", parent="org/real", verdict="denied", reason="r", by="org/real"
    )
    assert registry.replace_corrections(begin(registry), [denied]) == []
    assert registry.sql("SELECT child, parent, applied FROM corrections").fetchall() == [
        ("c/kid", mask, True)
    ]
    assert registry.descendants(mask) == []


def test_a_former_name_that_another_publisher_has_now_stays_theirs(registry: Registry) -> None:
    scan = begin(registry)
    registry.add_page(scan, [make_info("org/old", source_id="1")], next_cursor=None, now=NOW)
    infos = [make_info("org/new", source_id="1"), make_info("org/old", source_id="2")]
    registry.add_page(begin(registry), infos, next_cursor=None, now=NOW)
    registry.redact("org/new", reason="r", now=NOW)
    assert registry.describe("org/old")["source_id"] == "2"
    assert registry.describe("org/old")["tombstone_reason"] is None


def test_a_name_that_is_a_word_of_the_registry_takes_no_other_with_it(
    registry: Registry,
) -> None:
    scan = begin(registry)
    infos = [
        make_info(name, source="dir", source_id=name, tags=("finetune", "base_model:merge:merge"))
        for name in ("merge", "finetune", "bits")
    ]
    registry.add_page(scan, infos, next_cursor=None, now=NOW)
    edge = make_edge("finetune", "merge", detail={"method": "merge", "bits": 4, "from": "merge"})
    infer(registry, scan, edge, scope=["finetune"])
    before = registry.sql("SELECT relation, declared_relation FROM edges ORDER BY ALL").fetchall()
    masks = {name: registry.redact(name, reason="r", now=NOW) for name in ("merge", "bits")}
    mask = masks["merge"]
    assert (
        before
        == registry.sql("SELECT relation, declared_relation FROM edges ORDER BY ALL").fetchall()
    )
    (found,) = registry.why("finetune").edges
    assert found.parent == mask
    assert found.detail == {"method": "merge", "bits": 4, "from": mask}
    assert registry.describe("finetune")["tags"] == ["finetune", f"base_model:merge:{mask}"]
    assert len(registry.descendants("lab/base")) > 5


EDGES = [
    {"child": "dave/freed", "parent": "other/stranger", "relation": "finetune", "confidence": 0.9},
    {"child": "alice/chat", "parent": "lab/base", "relation": "merge", "confidence": 7.0},
    {"child": "bob/math", "parent": "lab/base", "relation": "guess", "confidence": None},
    {"child": "no/one", "parent": "lab/base", "relation": None, "confidence": None},
    {"child": "", "parent": "lab/base", "relation": None, "confidence": None},
    {"child": None, "parent": "lab/base", "relation": None, "confidence": None},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(rows[0])]
        lines += [mark.join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_edges_of_others_are_kept_apart_and_compared(
    registry: Registry, tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"it's{suffix}", EDGES)
    known = kin(registry)
    for _ in range(2):
        found = registry.ingest(begin(registry), path, kind="edges", provenance="a paper")
        assert (found.taken, found.left_out, found.unknown) == (4, 2, 1)
    assert kin(registry) == known
    assert registry.sql(
        "SELECT child, relation, confidence, believed FROM other_edges ORDER BY child"
    ).fetchall() == [
        ("alice/chat", "merge", None, True),
        ("bob/math", None, None, True),
        ("dave/freed", "finetune", 0.9, False),
        ("no/one", None, None, False),
    ]
    conflicts = registry.sql(
        "SELECT child, declared_parent, verdict FROM disagreements() "
        "WHERE according_to = 'a paper' ORDER BY child"
    ).fetchall()
    assert conflicts == [
        ("alice/chat", "lab/base", "relation"),
        ("dave/freed", "other/stranger", "parent"),
    ]


def test_scores_of_others_meet_our_own(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(
        "model,probe,value,n\nlab/base,refusal_harmful,0.96,100\n"
        "dave/freed,refusal_harmful,0.9,100\nlab/base,truth,high,1\n"
    )
    found = registry.ingest(begin(registry), path, kind="scores", provenance="a board")
    assert (found.taken, found.left_out, found.unknown) == (2, 1, 0)
    assert registry.sql(
        "SELECT model, own_value, conflict FROM other_scores ORDER BY model"
    ).fetchall() == [("dave/freed", 0.05, True), ("lab/base", 0.95, False)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xlsx", b"x"), ("a.parquet", b"PAR1"), ("a.csv", b"child\nx\n"), ("a.csv", b"\xff\xfe,"),
        ("a.jsonl", b"{"), ("a.csv", b""),
    ],
)  # fmt: skip
def test_files_that_cannot_be_taken_in_change_nothing(
    registry: Registry, tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MalformedFile):
        registry.ingest(begin(registry), path, kind="edges", provenance="p")
    assert registry.sql("FROM other_edges").fetchall() == []
