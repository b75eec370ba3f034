"""Exports: opened by other tools, and harmless whatever a model is called."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import pyarrow.parquet
import pytest
import spdx_python_model
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from small_registry import HIDDEN
from store_factories import NOW

from modelkin.lineage.errors import NotInRegistry, RegistryError
from modelkin.store import Registry
from modelkin.store.export import FORMATS, Selection
from modelkin.store.export.drawing import dot, gexf, graphml, mermaid
from modelkin.store.export.graph import Graph, Link, Node

BAD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.sampled_from(
    ["<script>alert(1)</script>", '"]; click n1 "javascript:x', "]]>", "=cmd|' /C calc'!A0", "\\",
     '"', "a\x1b[31m", "\u202egpj", "<!ENTITY x>", "${x}", "%%{init}%%", "n1 --> n2", "a\nb"]
)  # fmt: skip


@pytest.fixture(scope="module")
def registry(small_store: Path) -> Iterator[Registry]:
    with Registry.open(small_store, read_only=True) as opened:
        yield opened


@pytest.fixture
def written(registry: Registry, tmp_path: Path) -> Callable[..., str]:
    """The text of an export of `lab/base`, or of another selection."""

    def write(to: str, **fields: Any) -> str:
        out = io.StringIO()
        selection = Selection(**{"now": NOW, "model": "lab/base", **fields})
        registry.export(selection, to=to, out=None, stdout=out)
        return out.getvalue()

    return write


class OneEdge(Graph):
    """Two models and an edge, without a store."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __len__(self) -> int:
        return 2

    def nodes(self) -> Iterator[Node]:
        for number, name in ((1, "lab/base"), (2, self._name)):
            yield Node(
                id=number, name=name, source="hub", sha="s", license=self._name, format=None,
                dtype=None, architecture=self._name, n_params=7, downloads=None, created_at=NOW,
                hidden=False, stripped=number == 2,
            )  # fmt: skip

    def links(self) -> Iterator[Link]:
        yield Link(
            parent=1, child=2, relation="merge", confidence=0.9, declared=True, inferred=True,
            share=0.5,
        )  # fmt: skip


@pytest.mark.parametrize("to", ["graphml", "gexf"])
def test_networkx_opens_the_graph(written: Callable[..., str], to: str) -> None:
    text = written(to)
    read = nx.parse_graphml(text) if to == "graphml" else nx.read_gexf(io.BytesIO(text.encode()))
    labels = nx.get_node_attributes(read, "label")
    assert len(labels) == 13
    assert {"lab/base", "dave/freed", HIDDEN} <= set(labels.values())
    by_name = {label: node for node, label in labels.items()}
    edge = read.edges[by_name["alice/chat"], by_name["carol/blend"]]
    assert (edge["relation"], edge["share"], edge["inferred"]) == ("merge", 0.6, True)
    assert read.nodes[by_name["dave/freed"]]["stripped"] is True
    assert not BAD.search(text)


@given(NAMES)
@settings(deadline=None, max_examples=60)
def test_no_name_breaks_a_drawing(name: str) -> None:
    graph = OneEdge(name)
    for xml in ("".join(graphml(graph)), "".join(gexf(graph))):
        root = ElementTree.fromstring(xml.encode("utf-8"))
        assert len([one for one in root.iter() if one.tag.endswith("}node")]) == 2
    assert len(nx.parse_graphml("".join(graphml(graph))).edges) == 1
    lines = "".join(dot(graph)).splitlines()
    assert len(lines) == 7
    assert re.fullmatch(
        r'n2 \[label="(?:[^"\\]|\\["\\])*", color="#cc0000", penwidth=3\];', lines[4]
    )
    chart = "".join(mermaid(graph)).splitlines()
    assert len(chart) == 5
    assert re.fullmatch(r'  n2\["[A-Za-z0-9 ./:_#;-]*"\]', chart[2])


def test_mermaid_refuses_what_no_page_can_draw(written: Callable[..., str]) -> None:
    assert written("mermaid").startswith("flowchart LR\n")
    with pytest.raises(RegistryError, match="--max-nodes"):
        written("mermaid", max_nodes=12)


def test_depth_and_direction(written: Callable[..., str]) -> None:
    assert written("dot", depth=1).count("label=") == 7 + 6
    up = written("dot", model="erin/freed-8bit", up=True)
    assert re.findall(r'label="([a-z]+/[^"]*)"', up) == [
        "erin/freed-8bit", "dave/freed", "alice/chat", "lab/base",
    ]  # fmt: skip
    assert written("dot", model=None).count("label=") == 14 + 13


def test_cyclonedx_is_valid_and_names_the_ancestors(written: Callable[..., str]) -> None:
    text = written("cyclonedx", model="carol/blend")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    subject = bill["metadata"]["component"]
    assert (subject["type"], subject["name"]) == ("machine-learning-model", "carol/blend")
    assert subject["purl"].startswith("pkg:huggingface/carol/blend")
    assert subject["licenses"] == [{"license": {"id": "MIT"}}]
    ancestors = {one["name"]: one for one in subject["pedigree"]["ancestors"]}
    shares = {
        name: {p["name"]: p["value"] for p in one["properties"]}["modelkin:edge:share"]
        for name, one in ancestors.items()
    }
    assert shares == {"alice/chat": "0.6", "bob/math": "0.4"}
    scores = [p for one in bill["components"] for p in one["properties"] if "score" in p["name"]]
    assert any('"value": 0.95' in score["value"] for score in scores)


def test_cyclonedx_of_strange_names_is_valid(
    written: Callable[..., str], registry: Registry
) -> None:
    names = registry.sql("SELECT model FROM v1.models").fetchall()
    for (name,) in names:
        text = written("cyclonedx", model=name)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        assert not BAD.search(json.dumps(json.loads(text), ensure_ascii=False))


def test_cyclonedx_wants_one_model(written: Callable[..., str]) -> None:
    with pytest.raises(RegistryError, match="name it"):
        written("cyclonedx", model=None)
    with pytest.raises(NotInRegistry):
        written("cyclonedx", model="no/body")


def test_spdx_has_packages_and_ancestry(written: Callable[..., str]) -> None:
    graph = json.loads(written("spdx", model="alice/chat"))["@graph"]
    packages = {one["spdxId"]: one["name"] for one in graph if one["type"] == "ai_AIPackage"}
    pairs = {
        (packages[one["from"]], packages[one["to"][0]])
        for one in graph
        if one["type"] == "Relationship" and one["relationshipType"] == "ancestorOf"
    }
    assert ("dave/freed", "erin/freed-8bit") in pairs
    (document,) = [one for one in graph if one["type"] == "SpdxDocument"]
    assert packages[document["rootElement"][0]] == "alice/chat"
    ids = [one["spdxId"] for one in graph if "spdxId" in one]
    assert len(set(ids)) == len(ids)
    assert set(document["element"]) == set(ids) - {document["spdxId"]}


def test_spdx_is_what_the_model_of_spdx_3_allows(written: Callable[..., str]) -> None:
    """Read and written again by the bindings that are generated from the official SHACL."""
    raw = json.loads(written("spdx"))
    model, objects = spdx_python_model.load_data(raw)
    again = io.BytesIO()
    model.JSONLDSerializer().write(objects, again)  # refuses what lacks a required property
    assert not objects.missing_ids
    assert _by_id(json.loads(again.getvalue())) == _by_id(raw)
    edge = next(one for one in raw["@graph"] if one["type"] == "Relationship")
    edge["relationshipType"] = "childOf"
    with pytest.raises(ValueError, match="RelationshipType"):
        spdx_python_model.load_data(raw)


def _by_id(document: dict[str, Any]) -> dict[str, Any]:
    """Elements by id, without the name of the one blank node, which is free."""
    blank = next(one["@id"] for one in document["@graph"] if one["type"] == "CreationInfo")
    text = json.dumps(document).replace(json.dumps(blank), '"_:1"')
    return {one.get("spdxId", "_:1"): one for one in json.loads(text)["@graph"]}


def test_sarif_has_stable_fingerprints(written: Callable[..., str]) -> None:
    (run,) = json.loads(written("sarif"))["runs"]
    results = {one["ruleId"]: one for one in run["results"]}
    assert set(results) == {"stripped_safety", "undeclared_parent", "misdeclared_parent"}
    loss = results["stripped_safety"]
    assert (loss["level"], loss["partialFingerprints"]) == (
        "error", {"findingId/v1": "stripped_safety-dave/freed"},
    )  # fmt: skip
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(results)


def test_statements_never_pass_what_did_not_run(written: Callable[..., str]) -> None:
    statements = [json.loads(line) for line in written("intoto").splitlines()]
    results = {one["subject"][0]["name"]: one["predicate"]["result"] for one in statements}
    assert results == {
        "alice/chat": "PASSED", "bob/math": "WARNED", "dave/freed": "FAILED", "lab/base": "PASSED",
    }  # fmt: skip


def test_views_as_parquet_and_lines(
    written: Callable[..., str], registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "it's edges.parquet"
    registry.export(Selection(now=NOW), to="parquet", out=path, stdout=io.StringIO())
    assert pyarrow.parquet.read_table(path).num_rows == 16
    lines = [json.loads(line) for line in written("jsonl", view="changes").splitlines()]
    assert len(lines) == 15
    assert {"scan", "kind", "subject", "before", "after", "changed_at"} == set(lines[0])
    with pytest.raises(RegistryError, match="no view"):
        written("jsonl", view="edges; DROP TABLE x")
    with pytest.raises(RegistryError, match="-o FILE"):
        written("parquet")


@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_export_leaves_no_file(registry: Registry, tmp_path: Path, to: str) -> None:
    path = tmp_path / "out"
    wanted = Selection(now=NOW, model="no/body", view="nothing")
    with pytest.raises(RegistryError):
        registry.export(wanted, to=to, out=path, stdout=io.StringIO())
    assert list(tmp_path.iterdir()) == []
