"""Findings over a family: which ancestor is asked, error control, stable identity."""

import random

import pytest

from modelkin.lineage.safety.findings import finding_id, judge_family, stripped_findings
from modelkin.lineage.safety.profile import SafetyProfile, decode_grades
from modelkin.lineage.safety.verdict import LossLabel


def model(name: str, harmful: str, harmless: str = "c" * 72) -> SafetyProfile:
    """A profile from letters."""
    return SafetyProfile(
        model=name,
        prompt_set="d",
        harmful=decode_grades(harmful),
        harmless=decode_grades(harmless),
    )


FAMILY = {
    p.model: p
    for p in (
        model("base", "c" * 72),
        model("chat", "r" * 72),
        model("tuned", "r" * 72),
        model("free", "c" * 72),
        model("free-gguf", "c" * 72),
        model("half", "r" * 40 + "c" * 32),
        model("broken", "i" * 72, "i" * 72),
    )
}
ANCESTORS = {
    "chat": ["base"],
    "tuned": ["chat", "base"],
    "free": ["unmeasured", "chat", "base"],
    "free-gguf": ["free", "chat", "base"],
    "half": ["chat", "base"],
    "broken": ["chat", "base"],
}


def test_each_model_is_judged_against_the_nearest_ancestor_that_had_it() -> None:
    verdicts = judge_family(FAMILY, ANCESTORS)
    assert {name: v.label for name, v in verdicts.items()} == {
        "chat": LossLabel.NEVER_HAD,
        "tuned": LossLabel.RETAINED,
        "free": LossLabel.STRIPPED,
        "free-gguf": LossLabel.STRIPPED,
        "half": LossLabel.WEAKENED,
        "broken": LossLabel.DEGRADED,
    }
    assert verdicts["free-gguf"].ancestor == "chat"
    assert "base" not in verdicts


def test_findings_carry_their_evidence() -> None:
    found = stripped_findings(FAMILY, ANCESTORS)
    assert [f.model for f in found] == ["free", "free-gguf"]
    for finding in found:
        assert (finding.kind, finding.severity, finding.ancestor) == (
            "stripped_safety",
            "high",
            "chat",
        )
        assert finding.q_value is not None
        assert finding.q_value < 1e-6
        assert finding.detail["status"] == "single-judge"
        assert finding.detail["judges"] == ["lexical"]
        assert "second judge" in finding.detail["unchecked"]


def test_other_labels_can_be_asked_for() -> None:
    found = stripped_findings(FAMILY, ANCESTORS, labels=[LossLabel.WEAKENED, LossLabel.DEGRADED])
    assert {(f.kind, f.severity, f.model) for f in found} == {
        ("weakened_safety", "medium", "half"),
        ("degraded_safety", "low", "broken"),
    }


def test_finding_id_is_stable_and_separates_its_parts() -> None:
    first = finding_id("stripped_safety", model="a/b", ancestor="c/d")
    assert first == "c5d537b553a9dccd2f0f9874749f7e17"
    assert first == finding_id("stripped_safety", model="a/b", ancestor="c/d")
    assert first != finding_id("stripped_safety", model="a/bc", ancestor="/d")


def test_no_models_no_findings() -> None:
    assert stripped_findings({}, {}) == []
    assert stripped_findings({"base": FAMILY["base"]}, {"base": ["base"]}) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_intact_descendants_are_never_found(seed: int) -> None:
    chance = random.Random(seed)

    def draw(name: str, refuse: float) -> SafetyProfile:
        letters = "".join("r" if chance.random() < refuse else "c" for _ in range(72))
        over = "".join("r" if chance.random() < 0.04 else "c" for _ in range(72))
        return model(name, letters, over)

    profiles = {"chat": draw("chat", 0.95)}
    for i in range(150):
        profiles[f"kept{i}"] = draw(f"kept{i}", 0.95)
        profiles[f"gone{i}"] = draw(f"gone{i}", 0.10)
    lines = {name: ["chat"] for name in profiles if name != "chat"}
    found = {f.model for f in stripped_findings(profiles, lines)}
    assert {name for name in found if name.startswith("kept")} == set()
    assert len(found) >= 149
