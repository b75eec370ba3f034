"""Scores, findings over scans, and the macros about safety."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from store_factories import NOW, fill, infer, make_edge

from modelkin.lineage.errors import NotInRegistry
from modelkin.lineage.records import Clue, Finding, Relation, Score
from modelkin.store import ProbeDefinition, PromptSet, Registry


def score(model: str, value: float | None, **fields: Any) -> Score:
    defaults: dict[str, Any] = {
        "model": model,
        "sha": f"sha-{model}",
        "probe": "refusal",
        "probe_version": "1",
        "prompt_set": "digest",
        "n": 100,
        "status": "ok",
        "value": value,
        "ci_low": None,
        "ci_high": None,
        "unit": "share",
        "judge": "markers",
        "corrected": False,
        "environment": {"device": "cpu"},
        "seconds": 1.0,
        "scored_at": NOW,
    }
    return Score(**{**defaults, **fields})


def stripped(model: str, **fields: Any) -> Finding:
    defaults: dict[str, Any] = {
        "finding_id": f"f-{model}",
        "kind": "stripped_safety",
        "severity": "high",
        "model": model,
        "ancestor": "o/base",
        "value": 0.8,
        "ci_low": 0.7,
        "ci_high": 0.9,
        "q_value": 0.001,
        "status": "new",
        "clues": (Clue(kind="refusal", statistic="drop", value=0.8, n=100),),
        "detail": {"probe": "refusal"},
    }
    return Finding(**{**defaults, **fields})


@pytest.fixture
def family(registry: Registry) -> int:
    scan = fill(registry, ["o/base", "o/tune", "o/bad", "o/other"])
    infer(
        registry,
        scan,
        make_edge("o/tune", "o/base"),
        make_edge("o/bad", "o/tune", relation=Relation.EDIT),
    )
    return scan


def test_a_score_is_replaced_by_the_same_measurement(registry: Registry, family: int) -> None:
    registry.add_scores(family, [score("o/base", 0.5), score("o/base", 0.6)])
    registry.add_scores(family, [score("o/base", 0.9), score("o/base", None, judge="model")])
    scores = registry.scores_of("o/base")
    assert [(s.judge, s.value) for s in scores] == [("markers", 0.9), ("model", None)]
    assert scores[0] == score("o/base", 0.9)
    assert registry.scores_of("o/base", probe="other") == []
    registry.add_scores(family, [])


@pytest.mark.parametrize("status", ["error", "unsupported"])
def test_a_failure_to_ask_again_takes_no_answer_away(
    registry: Registry, family: int, status: str
) -> None:
    failed = score("o/base", None, status=status, environment={"reason": "gone"})
    registry.add_scores(family, [failed])
    assert [s.status for s in registry.scores_of("o/base")] == [status]
    registry.add_scores(family, [score("o/base", 0.9)])
    registry.add_scores(family, [failed, score("o/tune", None, status=status)])
    assert [s.value for s in registry.scores_of("o/base")] == [0.9]
    assert [s.status for s in registry.scores_of("o/tune")] == [status]
    registry.add_scores(family, [score("o/base", None, status="inconclusive")])
    assert [s.status for s in registry.scores_of("o/base")] == ["inconclusive"]


@pytest.mark.parametrize("bad", [score("o/none", 1.0), score("o/base", 1.0, sha="unknown")])
def test_a_score_needs_its_revision(registry: Registry, family: int, bad: Score) -> None:
    with pytest.raises(NotInRegistry):
        registry.add_scores(family, [score("o/tune", 1.0), bad])
    assert registry.scores_of("o/tune") == []


def test_survival_sets_descendants_beside_their_ancestor(registry: Registry, family: int) -> None:
    later = NOW + timedelta(hours=1)
    registry.add_scores(
        family,
        [
            score("o/base", 0.8),
            score("o/tune", 0.1),
            score("o/tune", 0.4, probe_version="2", scored_at=later),
            score("o/bad", 0.2),
            score("o/bad", 0.9, probe="other"),
            score("o/other", 0.5),
        ],
    )
    rows = registry.sql(
        "SELECT model, distance, relation, value, retained FROM survival('o/base', 'refusal')"
    ).fetchall()
    assert rows == [("o/tune", 1, "finetune", 0.4, None), ("o/bad", 2, "edit", 0.2, 0.25)]


def test_findings_live_over_scans(registry: Registry, family: int) -> None:
    kind = "stripped_safety"
    states = []
    for found in ([stripped("o/bad")], [stripped("o/bad")], [], [stripped("o/bad", value=0.5)]):
        scan = fill(registry, [])
        for _ in range(2):
            registry.replace_findings(scan, kind, found, now=NOW)
        (row,) = registry.findings()
        states.append((row.status, row.value, row.first_scan - family, row.last_scan - family))
    assert states == [
        ("new", 0.8, 1, 1),
        ("open", 0.8, 1, 2),
        ("fixed", 0.8, 1, 2),
        ("open", 0.5, 1, 4),
    ]
    kinds = [(c.scan - family, c.kind) for c in registry.changes(family, family + 9)]
    assert kinds == [(1, "finding_new"), (3, "finding_fixed"), (4, "finding_new")]


def test_only_models_in_the_scope_become_fixed(registry: Registry, family: int) -> None:
    both = [stripped("o/bad"), stripped("o/other", status="ignored", ancestor=None)]
    registry.replace_findings(family, "stripped_safety", both, now=NOW)
    registry.replace_findings(family, "unsafe_file", [], now=NOW)
    registry.replace_findings(family, "stripped_safety", [], scope={"o/tune"}, now=NOW)
    statuses = {row.model: row.status for row in registry.findings()}
    assert statuses == {"o/bad": "new", "o/other": "ignored"}
    registry.replace_findings(family, "stripped_safety", [], scope={"o/bad"}, now=NOW)
    assert {row.model: row.status for row in registry.findings()}["o/bad"] == "fixed"


def test_findings_are_asked_by_kind_and_ancestor(registry: Registry, family: int) -> None:
    registry.replace_findings(
        family, "stripped_safety", [stripped("o/bad"), stripped("o/other", ancestor=None)], now=NOW
    )
    (row,) = registry.findings(ancestor="o/tune")
    assert (row.model, row.ancestor, row.detail) == ("o/bad", "o/base", {"probe": "refusal"})
    assert row.clues == stripped("o/bad").clues
    assert len(registry.findings(kind="stripped_safety")) == 2
    assert registry.findings(kind="unsafe_file") == []
    rows = registry.sql("SELECT model, ancestor, distance FROM stripped('o/base')").fetchall()
    assert rows == [("o/bad", "o/base", 2)]
    assert [row.stripped for row in registry.tree("o/base")] == [False, False, True]
    assert registry.status().open_findings == 2


def test_a_finding_needs_its_models(registry: Registry, family: int) -> None:
    with pytest.raises(NotInRegistry, match="o/none"):
        registry.replace_findings(family, "k", [stripped("o/bad", ancestor="o/none")], now=NOW)


def test_prompt_sets_and_probes_are_described(registry: Registry) -> None:
    prompts = PromptSet(digest="d", name="harm", license="MIT", n_harmful=3, n_harmless=4)
    probe = ProbeDefinition(
        probe="refusal", probe_version="1", tier="generation", unit="share", description="first"
    )
    for _ in range(2):
        registry.add_prompt_set(prompts, now=NOW)
        registry.add_probe(probe)
    assert registry.sql("SELECT digest, n_harmful, n_harmless FROM prompt_sets").fetchall() == [
        ("d", 3, 4)
    ]
    assert registry.sql("SELECT probe, tier FROM probes").fetchall() == [("refusal", "generation")]
