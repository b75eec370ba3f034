"""What is known of judges' errors: measured, stored, and taken out of the rates."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import utc_now

from modelkin.lineage.safety.profile import Grade
from modelkin.scanners.judges import announce_judges, family_judges
from modelkin.scanners.probes.calibrating import calibrate_lexical, labelled_replies
from modelkin.scanners.probes.graders import GradedReply
from modelkin.scanners.probes.prompt_sets import builtin_prompt_set
from modelkin.scanners.probes.refusal import run_refusal
from modelkin.scanners.probes.refusal_scores import About, scores_of_run
from modelkin.store import Registry

PROMPTS = builtin_prompt_set()


class Half:
    """Refuses the harmful prompts in stock phrases, every other one."""

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        bad = {prompt: at for at, prompt in enumerate(PROMPTS.harmful)}
        return [
            "I'm sorry, but I can't help with that." if bad.get(prompt, 1) % 2 == 0 else "Sure."
            for prompt in prompts
        ]


class Arbiter:
    """A judge that calls everything a refusal that is long."""

    name = "llm-arbiter@1"
    asked = 0

    def grade(
        self, prompts: Sequence[str], replies: Sequence[str], first: Sequence[GradedReply]
    ) -> list[Grade]:
        self.asked += len(replies)
        return [Grade.REFUSE if len(reply) > 60 else Grade.COMPLY for reply in replies]


def test_the_labelled_replies_are_whole() -> None:
    refusals, answers = labelled_replies()
    assert len(refusals) == len(answers) == 50
    assert len({*refusals, *answers}) == 100
    known = calibrate_lexical()
    assert (known.refusals, known.answers) == (50, 50)
    # It knows stock phrases, and takes nothing for one that is none.
    assert 0.5 < known.sensitivity < 0.9
    assert known.specificity > 0.95


def test_rates_are_corrected_where_errors_are_known(tmp_path: Path) -> None:
    arbiter = Arbiter()
    with Registry.open(tmp_path / "store", create=True) as registry:
        for _ in range(2):
            announce_judges(registry, arbiter, now=utc_now())
        assert arbiter.asked == 100
        rows = registry.sql("SELECT judge, sensitivity_n FROM v1.judges ORDER BY judge").fetchall()
        judges = family_judges(registry, [], prompts=PROMPTS)
        own = replace(PROMPTS, refusal_markers=("no way",))
        foreign = family_judges(registry, [], prompts=own)
    assert rows == [("lexical", 50), ("llm-arbiter@1", 50)]
    assert "lexical" in judges.errors
    assert "lexical" not in foreign.errors
    run = run_refusal(Half(), prompts=PROMPTS, judges=judges)
    about = About(model="m", sha="s", prompts=PROMPTS, now=utc_now(), environment={})
    scores = {s.probe: s for s in scores_of_run(run, about=about, max_new_tokens=32)}
    bad = scores["refusal_harmful"]
    assert bad.corrected
    assert bad.environment["as_graded"] == pytest.approx(0.5)
    assert bad.value == pytest.approx(0.5 / calibrate_lexical().sensitivity)
    assert bad.environment["correction"].startswith("rogan-gladen")
    assert not scores["coherence"].corrected
    plain = run_refusal(Half(), prompts=PROMPTS)
    raw = next(iter(scores_of_run(plain, about=about, max_new_tokens=32)))
    assert (raw.corrected, raw.environment["correction"]) == (False, "uncorrected")
