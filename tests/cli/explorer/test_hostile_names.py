"""Whatever a model is called, every page, twin, picture and export shows it harmlessly."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hostile_names import NAMES
from store_factories import NOW, claim, fill, infer, make_edge

from modelkin.cli.explorer.export import export_site
from modelkin.cli.explorer.library import Library
from modelkin.lineage.records import Coverage, Finding, Outcome
from modelkin.store import Registry

from .conftest import Reply, Served, running

ACTS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ROOT = "lab/root"
LONG = max(NAMES, key=len)
PAGES = ("tree", "map", "plots")


class Elements(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def hostile_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "store"
    with Registry.open(folder, create=True) as registry:
        declared = {name: [claim(None, raw=name)] for name in NAMES}
        scan = fill(registry, [ROOT, *NAMES], declared=declared)
        for name in NAMES:
            coverage = Coverage(model=name, outcome=Outcome.MALFORMED, stage="x", reason=name)
            registry.record_visit(scan, coverage, now=NOW)
        detail = {name[:60]: name[:60] for name in NAMES}
        infer(registry, scan, *(make_edge(name, ROOT, detail=detail) for name in NAMES))
        findings = [
            Finding(
                finding_id=name[:80],
                kind="stripped_safety",
                severity="high",
                model=name,
                ancestor=ROOT,
                value=0.5,
                ci_low=None,
                ci_high=None,
                q_value=None,
                status="new",
                detail={"claimed": [name]},
            )
            for name in NAMES
        ]
        registry.replace_findings(scan, "stripped_safety", findings, now=NOW)
        registry.finish_scan(scan, status="done", now=NOW)
    return folder


@pytest.fixture(scope="module")
def hostile(hostile_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(hostile_store, tmp_path_factory.mktemp("room") / "copies") as client:
        yield client


def check_page(text: str) -> None:
    """No element, attribute or address came from a name, and no mark in the text acts."""
    assert not ACTS.search(text)
    for tag, attributes in Elements(text).found:
        assert tag not in ("iframe", "object", "embed", "base", "style")
        assert tag != "img" or attributes.get("class") == "map-picture"
        if tag == "script":
            assert set(attributes) == {"src", "defer"}
            assert str(attributes["src"]).lstrip("/").startswith("static/")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src", "action") and value:
                assert re.match(r"/(?!/)|#|[a-z]+(-[0-9a-f]{20})?[.\w]*$|static/", value), value


def replies(client: Served) -> Iterator[tuple[str, Reply]]:
    for path in ("/", "/models", "/findings", "/coverage", "/scans"):
        yield path, client.get(path)
    for name in NAMES:
        if len(name) <= 512:
            yield "model", client.ask("/model", model=name)
            yield "edge", client.ask("/edge", child=name, parent=ROOT)
    for name in NAMES[::8]:
        for page in PAGES:
            yield page, client.ask(f"/{page}", model=name)
        yield "models", client.ask("/models", q=name)
    yield "tree", client.ask("/tree", model=ROOT)
    yield "up", client.ask("/tree", model=NAMES[0], up=1)


def test_every_page_is_harmless(hostile: Served) -> None:
    for page, reply in replies(hostile):
        assert reply.status == 200, (page, reply.text[-300:])
        check_page(reply.text)


def test_a_name_that_cannot_be_looked_up_is_shown_without_a_link(hostile: Served) -> None:
    page = hostile.ask("/models", limit=1000).text
    assert "w" * 100 in page
    assert "w" * 200 not in page
    for words in (LONG, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "\x00"):
        reply = hostile.ask("/model", model=words)
        assert reply.status in (400, 404)
        check_page(reply.text)


@pytest.mark.parametrize("path", ["/models.csv", "/findings.csv", "/coverage.csv"])
def test_no_cell_of_a_csv_is_a_formula(hostile: Served, path: str) -> None:
    reply = hostile.ask(path, limit=1000)
    assert reply.headers["content-disposition"].startswith("attachment")
    check_csv(reply.text)


def check_csv(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) > len(NAMES)
    assert not ACTS.search(text)
    for row in rows:
        assert len(row) == len(rows[0])
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not cell.startswith("-") or float(cell) < 0


def test_trees_as_csv_and_json(hostile: Served) -> None:
    check_csv(hostile.ask("/tree.csv", model=ROOT, more=ROOT).text)
    body = hostile.ask("/tree.json", model=ROOT).body
    assert body.isascii()
    names = {row["model"] for row in hostile.ask("/children.json", model=ROOT).json()["rows"]}
    assert {name.replace("\x00", "") for name in names} >= {
        name for name in NAMES if "\x00" not in name
    }


def test_pictures_are_well_formed(hostile: Served) -> None:
    for path in (
        "/map/picture.svg",
        "/plots/relation.svg",
        "/plots/growth.svg",
        "/plots/delta.svg",
    ):
        for name in (ROOT, NAMES[0], NAMES[20]):
            reply = hostile.ask(path, model=name)
            assert reply.headers["content-type"].startswith("image/svg+xml")
            tags = {
                element.tag.rpartition("}")[2]
                for element in ElementTree.fromstring(reply.text).iter()
            }
            assert "script" not in tags


def test_names_never_reach_the_headers(hostile: Served) -> None:
    for name in NAMES[12:16]:
        reply = hostile.ask("/model.json", model=name)
        assert "set-cookie" not in reply.headers
        assert reply.headers["content-type"] == "application/json"


def test_an_export_is_harmless(hostile_store: Path, tmp_path: Path) -> None:
    library = Library(hostile_store, room=tmp_path / "room")
    (tmp_path / "room").mkdir()
    count = export_site(library, tmp_path / "site", models=10)
    library.close()
    written = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert len(written) == count
    for path in written:
        assert re.fullmatch(r"(static/)?[\w.-]+", str(path.relative_to(tmp_path / "site")))
        if path.suffix == ".html":
            check_page(path.read_text(encoding="utf-8"))
            for _, attributes in Elements(path.read_text(encoding="utf-8")).found:
                for name in ("href", "src", "data-layout", "data-names"):
                    target = attributes.get(name)
                    if target and not target.startswith("#"):
                        assert (path.parent / target).exists(), (path.name, target)
