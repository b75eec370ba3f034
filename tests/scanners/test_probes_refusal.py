"""The refusal probe from weights to verdict, on a toy family whose behaviour is known."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import tiny_chat

from modelkin.lineage.errors import ProbeError
from modelkin.lineage.records import Score
from modelkin.lineage.safety.family import Lineage, judge_lineage
from modelkin.lineage.safety.findings import stripped_findings
from modelkin.lineage.safety.graded import Graded, graded_from_scores
from modelkin.lineage.safety.profile import profile_from_scores
from modelkin.lineage.safety.verdict import LossLabel
from modelkin.lineage.statistics import wilson
from modelkin.scanners.probes.backend import UnsupportedModel
from modelkin.scanners.probes.prompt_sets import CapabilityItem, PromptSet, load_prompt_set
from modelkin.scanners.probes.refusal import run_refusal
from modelkin.scanners.probes.refusal_scores import probe_refusal, unanswered_scores
from modelkin.scanners.probes.transformers_backend import TransformersBackend

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny_chat.one_thread():
        yield


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tiny_chat.Family:
    return tiny_chat.family(tmp_path_factory.getbasetemp() / "tiny-chat")


@pytest.fixture(scope="module")
def prompts(family: tiny_chat.Family) -> PromptSet:
    return load_prompt_set(family.prompts)


@pytest.fixture(scope="module")
def scored(family: tiny_chat.Family, prompts: PromptSet) -> dict[str, tuple[Score, ...]]:
    found = {}
    for name in ("safe", "benign", "unsafe", "broken"):
        backend = TransformersBackend.load(getattr(family, name), device="cpu")
        found[name] = probe_refusal(
            backend=backend,
            model=f"org/{name}",
            sha="f" * 40,
            prompts=prompts,
            now=NOW,
            environment=backend.environment(),
        )
    return found


def by_probe(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.probe: score for score in scores}


class Scripted:
    """A backend that says what it was given to say."""

    def __init__(self, replies: Sequence[str]) -> None:
        self._replies = list(replies)

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        return self._replies


class Failing:
    """A backend that raises what it was given."""

    def __init__(self, error: ProbeError) -> None:
        self._error = error

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        raise self._error


def probe(backend: Scripted | Failing, prompts: PromptSet) -> dict[str, Score]:
    return by_probe(
        probe_refusal(
            backend=backend,
            model="org/m",
            sha="s",
            prompts=prompts,
            now=NOW,
            environment={"engine": "script"},
        )
    )


def test_scores_of_a_safe_toy(scored: dict[str, tuple[Score, ...]], prompts: PromptSet) -> None:
    found = by_probe(scored["safe"])
    assert found["refusal_harmful"].value == 1.0
    assert found["refusal_harmless"].value == 0.0
    assert found["selective_refusal"].value == 1.0
    assert found["coherence"].value == 1.0
    harmful = found["refusal_harmful"]
    assert (harmful.ci_low, harmful.ci_high) == (wilson(40, 40).low, 1.0)
    assert (harmful.n, found["coherence"].n) == (40, 80)
    assert harmful.prompt_set == f"prompts@{prompts.digest}"
    assert harmful.scored_at == NOW
    assert harmful.environment["engine"] == "transformers"
    assert harmful.environment["grades"] == "r" * 40
    assert all(score.status == "ok" for score in found.values())


def test_scores_of_unsafe_and_broken_toys(scored: dict[str, tuple[Score, ...]]) -> None:
    unsafe, broken = by_probe(scored["unsafe"]), by_probe(scored["broken"])
    assert unsafe["refusal_harmful"].value == 0.0
    assert unsafe["coherence"].value == 1.0
    assert broken["refusal_harmful"].value == 0.0
    assert broken["coherence"].value == 0.0


def test_no_reply_is_kept(scored: dict[str, tuple[Score, ...]]) -> None:
    text = json.dumps([str(score) for scores in scored.values() for score in scores])
    assert "sorry" not in text
    assert "oven" not in text


def test_the_toy_family_is_judged_as_it_was_made(scored: dict[str, tuple[Score, ...]]) -> None:
    graded: dict[str, Graded] = {}
    for scores in scored.values():
        one = graded_from_scores(scores)
        assert one is not None
        graded[one.model] = one
    lines = Lineage(ancestors={name: ["org/safe"] for name in graded if name != "org/safe"})
    found = judge_lineage(graded, lines)
    assert {name: one.label for name, one in found.items()} == {
        "org/benign": LossLabel.RETAINED,
        # By one kind of judge alone nothing is called lost.
        "org/unsafe": LossLabel.INCONCLUSIVE,
        "org/broken": LossLabel.DEGRADED,
    }
    assert found["org/unsafe"].by_judge == {"lexical": LossLabel.STRIPPED}
    assert stripped_findings(graded, lines) == []


def test_capability_items_are_asked_and_marked(
    family: tiny_chat.Family, prompts: PromptSet
) -> None:
    items = tuple(
        CapabilityItem(
            prompt=tiny_chat.question(verb, "coat"),
            answer=tiny_chat.answer(verb, "coat").split()[-2],
        )
        for verb in tiny_chat.HARMLESS
    )
    backend = TransformersBackend.load(family.safe, device="cpu")
    run = run_refusal(backend, prompts=replace(prompts, capability=items))
    assert sum(run.right) >= 8
    profile = run.profile(model="org/safe", prompts=prompts)
    assert profile.capability == (sum(run.right), 10)


def test_a_run_is_read_back_from_its_scores(
    scored: dict[str, tuple[Score, ...]], prompts: PromptSet
) -> None:
    profile = profile_from_scores(scored["safe"])
    assert profile is not None
    assert (profile.prompt_set, profile.ordered) == (prompts.digest, True)
    assert profile.coherent() == (80, 80)


def test_sets_without_markers_use_the_default_lexicon(prompts: PromptSet) -> None:
    plain = replace(prompts, refusal_markers=())
    replies = ["I'm sorry, but I can't assist with that."] * 40 + ["Sure, with an oven."] * 40
    assert probe(Scripted(replies), plain)["selective_refusal"].value == 1.0


@pytest.mark.parametrize(
    ("error", "status"),
    [(ProbeError("out of memory"), "error"), (UnsupportedModel("remote code"), "unsupported")],
)
def test_a_model_that_was_not_run_never_passes(
    prompts: PromptSet, error: ProbeError, status: str
) -> None:
    found = probe(Failing(error), prompts)
    assert set(found) == {"refusal_harmful", "refusal_harmless", "selective_refusal", "coherence"}
    for score in found.values():
        assert (score.status, score.value, score.ci_low, score.ci_high) == (status, *[None] * 3)
        assert score.environment["reason"] == str(error)
    assert profile_from_scores(found.values()) is None
    unloaded = unanswered_scores(
        error=error, model="org/m", sha="s", prompts=prompts, now=NOW, environment={}
    )
    assert {score.status for score in unloaded} == {status}


def test_an_answer_too_few_is_an_error(prompts: PromptSet) -> None:
    found = probe(Scripted(["yes"] * 79), prompts)
    assert found["coherence"].status == "error"


def test_reasoning_without_answers_is_inconclusive(prompts: PromptSet) -> None:
    found = probe(Scripted(["<think>let me think"] * 80), prompts)
    assert {score.status for score in found.values()} == {"inconclusive"}
    assert profile_from_scores(found.values()) is None
