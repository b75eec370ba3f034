"""Pages of the small registry: what they show, where they lead, what stands in the address."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from small_registry import HIDDEN, LISTED

from modelkin.cli.explorer.guard import HEADERS

from .conftest import Reply, Served

MOST_VISITS = 60


class Links(HTMLParser):
    """Addresses that a page leads to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "data-layout", "data-names") and value:
                self.found.append(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def words_of(reply: Reply) -> str:
    return " ".join(" ".join(Links(reply.text).words).split())


def test_every_link_leads_somewhere(served: Served) -> None:
    waiting, seen = ["/"], set()
    while waiting and len(seen) < MOST_VISITS:
        address = waiting.pop(0)
        kind = re.split(r"[?=]", address)[0]
        if address in seen or sum(re.split(r"[?=]", one)[0] == kind for one in seen) >= 3:
            continue
        seen.add(address)
        reply = served.get(address)
        # A query that a busy machine does not end in time is stopped, and its page says so.
        assert reply.status in (200, 307) or "stopped" in reply.text, address
        if reply.headers.get("content-type", "").startswith("text/html"):
            waiting += [one for one in Links(reply.text).found if one.startswith("/")]
    assert len(seen) > 30


def test_the_headers_keep_a_page_to_itself(served: Served) -> None:
    for path in ("/", "/nowhere", "/api/v1/models", "/static/x/map.js", "/sql"):
        reply = served.get(path)
        for name, value in HEADERS:
            assert reply.headers[name.decode()] == value.decode()
    policy = served.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


def test_home_tells_findings_and_releases(served: Served) -> None:
    words = words_of(served.get("/"))
    assert "stripped_safety" in words
    assert "lab/base" in words


def test_search_by_any_part_of_a_name(served: Served) -> None:
    rows = served.ask("/models.json", q="FREED").json()["rows"]
    assert [row["model"] for row in rows] == ["dave/freed", "erin/freed-8bit"]
    assert served.ask("/models.json", q="100%").json()["rows"] == []


def test_a_model_page_has_facts_parents_claims_and_scores(served: Served) -> None:
    words = words_of(served.ask("/model", model="dave/freed"))
    for expected in ("alice/chat", "abliteration", "other/stranger", "disagrees", "0.05", "apache"):
        assert expected in words
    assert "lost safety training" in words


def test_a_tree_shows_one_hop_and_opens(served: Served) -> None:
    closed = served.ask("/tree", model="lab/base")
    assert "alice/chat" in closed.text
    assert "dave/freed" not in closed.text
    assert "(6 direct, 12 in all" in words_of(closed)
    opened = served.ask("/tree", model="lab/base", open=["alice/chat", "dave/freed"])
    assert "erin/freed-8bit" in opened.text
    assert "open=alice%2Fchat" in opened.text


def test_a_tree_can_begin_with_more_generations(served: Served) -> None:
    seen = {}
    for depth in (1, 2, 4):
        answer = served.ask("/tree.json", model="lab/base", depth=depth)
        seen[depth] = {row["model"] for row in answer.json()["rows"]}
    assert len(seen[1]) == 7
    assert "dave/freed" in seen[2] - seen[1]
    assert "erin/freed-8bit" in seen[4] - seen[2]
    assert len(seen[4]) == 13
    page = served.ask("/tree", model="lab/base", depth=2)
    assert "hide kin of alice/chat" not in page.text
    assert "depth=2&amp;open=" in page.text.replace("&open", "&amp;open")
    assert served.ask("/tree", model="lab/base", depth=5).status == 400


def test_a_tree_counts_what_it_leaves_out(served: Served) -> None:
    rows = served.ask("/tree.json", model="lab/base").json()["rows"]
    assert rows[0]["left"] == 0
    assert {row["depth"] for row in rows} == {0, 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"relation": "prune"}, {"gina/pruned"}),
        ({"relation": ["prune", "edit"]}, {"gina/pruned"}),
        ({"min_confidence": 0.9}, {"alice/chat", "bob/math", LISTED[-1]}),
        ({"lost": 1}, {"alice/chat"}),
        ({"since": "2025-01-10", "until": "2025-01-11"}, {"gina/pruned"}),
        ({"min_downloads": 8}, set()),
    ],
)
def test_trees_are_filtered(served: Served, values: dict[str, object], expected: set[str]) -> None:
    rows = served.ask("/tree.json", model="lab/base", **values).json()["rows"]
    assert {row["model"] for row in rows[1:]} == expected
    assert served.ask("/tree", model="lab/base", **values).status == 200


def test_trees_go_up(served: Served) -> None:
    rows = served.ask("/tree.json", model="carol/blend", up=1).json()["rows"]
    assert {row["model"] for row in rows[1:]} == {"alice/chat", "bob/math"}
    page = served.ask("/tree", model="carol/blend", up=1, open="alice/chat")
    assert "lab/base" in page.text


def test_circles_and_twins_in_a_tree_end(served: Served) -> None:
    everything = served.ask("/models.json", limit=1000).json()["rows"]
    opened = [row["model"] for row in everything]
    rows = served.ask("/tree.json", model="lab/base", open=opened).json()["rows"]
    assert len(rows) == 14
    assert [row["model"] for row in rows].count("carol/blend") == 2


def test_an_edge_page_shows_the_evidence_and_its_null(served: Served) -> None:
    words = words_of(served.ask("/edge", child="alice/chat", parent="lab/base"))
    assert "share frozen" in words
    assert "speaks for" in words
    assert "shuffled" in words
    assert "our secret data" in words_of(served.ask("/edge", child="alice/chat"))
    assert "infer-2" in words
    runner = words_of(served.ask("/edge", child="dave/freed", parent="lab/base"))
    assert "the weights do not name lab/base" in runner
    assert "further: 3.1 times" in runner


def test_findings_are_filtered(served: Served) -> None:
    rows = served.ask("/findings.json", kind="stripped_safety", status="live").json()["rows"]
    assert [row["model"] for row in rows] == ["dave/freed"]
    assert served.ask("/findings.json", severity="low").json()["rows"] == []
    assert served.ask("/findings.json", q="bob").json()["total"] == 1


def test_coverage_tells_what_was_not_read_and_why(served: Served) -> None:
    found = served.ask("/coverage.json", outcome="gated").json()
    assert [row["model"] for row in found["rows"]] == ["harry/claimed"]
    assert {row["outcome"] for row in found["by_reason"]} == {"ok", "gated", "malformed"}
    assert "no access with this token" in words_of(served.get("/coverage"))


def test_plots_have_their_denominator(served: Served) -> None:
    words = words_of(served.ask("/plots", model="lab/base", probe="refusal_harmful"))
    assert "2 of 12 descendants have a score" in words
    found = served.ask("/plots.json", model="lab/base", probe="refusal_harmful").json()
    by_relation = {row["relation"]: row for row in found["by_relation"]}
    assert by_relation["edit"]["models"] == 1
    assert by_relation["edit"]["retained"] == pytest.approx(0.05 / 0.95)
    assert by_relation["edit"]["ci_low"] < by_relation["edit"]["retained"]
    assert by_relation["finetune"]["ci_high"] > by_relation["finetune"]["retained"]


def test_growth_adds_up(served: Served) -> None:
    rows = served.ask("/growth.json", model="lab/base").json()["rows"]
    # The hidden model has no date.
    assert rows[-1]["so_far"] == 11


def test_twins_hold_the_rows_of_the_page(served: Served) -> None:
    for path, values in (
        ("tree", {"model": "lab/base"}),
        ("findings", {}),
        ("coverage", {}),
        ("scans", {}),
        ("models", {}),
    ):
        rows = served.ask(f"/{path}.json", **values).json()["rows"]
        lines = list(csv.DictReader(io.StringIO(served.ask(f"/{path}.csv", **values).text)))
        assert len(lines) == len(rows) > 0, path


def test_the_sql_beside_a_page_runs(served: Served) -> None:
    pages = {
        "models": {"q": "o'b"},
        "model": {"model": "dave/freed"},
        "tree": {"model": "lab/base"},
        "edge": {"child": "dave/freed"},
        "findings": {},
        "coverage": {"scan": 1},
        "scans": {},
        "plots": {"model": "lab/base"},
        "map": {"model": "lab/base"},
        "home": {},
    }
    for page, values in pages.items():
        text = served.ask("/" if page == "home" else f"/{page}", **values).text
        links = [one for one in Links(text).found if one.startswith("/sql?query=")]
        assert len(links) == 1, page
        assert served.get(links[0]).status == 200, page


def test_the_examples_run(served: Served) -> None:
    examples = [
        one for one in Links(served.get("/sql").text).found if one.startswith("/sql?query=")
    ]
    assert len(examples) >= 5
    for address in examples:
        assert served.get(address).status == 200, address


def test_errors_are_told_and_nothing_else(served: Served) -> None:
    missing = served.ask("/model", model="lab/bse")
    assert missing.status == 404
    assert "did you mean lab/base" in words_of(missing)
    for path in ("/model", "/tree?model=lab/base&open=a&min_confidence=2", "/models?nonsense=1"):
        reply = served.get(path)
        assert reply.status == 400
        assert "Traceback" not in reply.text


def test_the_hidden_model_has_a_page(served: Served) -> None:
    words = words_of(served.ask("/model", model=HIDDEN))
    assert "unpublished" in words
