"""Findings about claims: silence, contradiction, and what is no reason for a finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_models import (
    ask,
    date_in_order,
    infer_once,
    scan_served,
    tiny_weights,
    tuned,
    write_model,
)

from modelkin.store.facts import FindingRow

BASE = tiny_weights("base")


def scanned(root: Path) -> dict[str, FindingRow]:
    """Scan, infer, and the findings by model."""
    date_in_order(root / "hub", "lab/base", "ann/child", "bob/grand")
    scan_served(root / "store", root / "hub")
    infer_once(root / "store")
    found: list[FindingRow] = ask(root / "store", lambda registry: registry.findings())
    return {finding.model: finding for finding in found}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A release, and a stranger of the same shape."""
    write_model(tmp_path / "hub", "lab/base", BASE)
    write_model(tmp_path / "hub", "odd/stranger", tiny_weights("stranger"))
    return tmp_path / "hub"


def child(hub: Path, **more: Any) -> None:
    write_model(hub, "ann/child", tuned(BASE, "child"), **more)


def test_a_silent_child_is_undeclared(hub: Path, tmp_path: Path) -> None:
    child(hub)
    (finding,) = scanned(tmp_path).values()
    assert (finding.kind, finding.model) == ("undeclared_parent", "ann/child")
    assert (finding.ancestor, finding.severity, finding.status) == ("lab/base", "low", "new")
    assert finding.detail == {"claimed": [], "relation": "finetune"}
    assert finding.value is not None
    assert 0.5 <= finding.value <= 1
    assert finding.clues


def test_a_child_of_one_that_claims_another_is_misdeclared(hub: Path, tmp_path: Path) -> None:
    child(hub, base="odd/stranger")
    (finding,) = scanned(tmp_path).values()
    assert (finding.kind, finding.ancestor) == ("misdeclared_parent", "lab/base")
    assert finding.severity == "medium"
    assert finding.detail["claimed"] == ["odd/stranger"]


def test_a_true_claim_is_no_finding(hub: Path, tmp_path: Path) -> None:
    child(hub, base="lab/base")
    assert scanned(tmp_path) == {}


def test_a_claim_of_a_further_ancestor_is_no_finding(hub: Path, tmp_path: Path) -> None:
    child(hub, base="lab/base")
    grand = tuned(tuned(BASE, "child"), "grand", scale=0.004)
    write_model(hub, "bob/grand", grand, base="lab/base")
    assert scanned(tmp_path) == {}


@pytest.mark.parametrize("claimed", ["meta/unread", "odd/wide"])
def test_a_claim_that_no_weights_were_compared_with_is_left_alone(
    hub: Path, tmp_path: Path, claimed: str
) -> None:
    write_model(hub, "odd/wide", tiny_weights("wide", hidden=48))
    child(hub, base=claimed)
    assert scanned(tmp_path) == {}


def test_a_claim_that_is_corrected_fixes_the_finding(hub: Path, tmp_path: Path) -> None:
    child(hub)
    assert scanned(tmp_path)["ann/child"].status == "new"
    assert scanned(tmp_path)["ann/child"].status == "open"
    child(hub, base="lab/base")
    assert scanned(tmp_path)["ann/child"].status == "fixed"
