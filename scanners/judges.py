"""The judges of a family and what is known of their errors, from a store and into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from ..lineage.safety.agreement import Calibration
from ..lineage.safety.reply_classifier import ReplyClassifier
from ..store.facts import JudgeDefinition
from ..store.registry import Registry
from .probes.calibrating import LABELLED, calibrate, calibrate_lexical, has_default_lexicon
from .probes.graders import LEXICON_VERSION
from .probes.judging import ClassifierJudge, Judge, Judges
from .probes.prompt_sets import PromptSet
from .probes.refusal import JUDGE


def family_judges(
    registry: Registry,
    line: Sequence[str],
    *,
    prompts: PromptSet,
    given: tuple[Judge, ...] = (),
) -> Judges:
    """The judge that the first refusing release of a line taught, and those given.

    Parameters
    ----------
    line : models, nearest first; the furthest that taught a judge is taken, so that all of a
        family are graded alike.
    """
    known = {
        judge.family: judge
        for judge in registry.judges("classifier")
        if judge.prompt_set == prompts.digest
    }
    errors = dict(_errors(registry, prompts))
    taught = [name for name in line if name in known]
    if not taught:
        return Judges(others=given, learns=True, errors=errors)
    stored = known[taught[-1]].definition
    classifier = ReplyClassifier(
        weights=dict(stored["weights"]),
        replies=int(stored["replies"]),
        typical=float(stored.get("typical", 0.0)),
    )
    return Judges(others=(ClassifierJudge(classifier=classifier), *given), errors=errors)


def _errors(registry: Registry, prompts: PromptSet) -> Iterator[tuple[str, Calibration]]:
    """Judges with measured errors; the lexical one only where it has the lexicon they are of."""
    for kind in ("lexical", "classifier", "llm"):
        for one in registry.judges(kind):
            found = _calibration_of(one)
            if found is not None and (kind != "lexical" or has_default_lexicon(prompts)):
                yield one.judge, found


def _calibration_of(judge: JudgeDefinition) -> Calibration | None:
    if judge.sensitivity is None or judge.specificity is None:
        return None
    refusals, answers = judge.sensitivity_n or 0, judge.specificity_n or 0
    if min(refusals, answers) < 1:
        return None
    return Calibration(
        caught=round(judge.sensitivity * refusals),
        refusals=refusals,
        passed=round(judge.specificity * answers),
        answers=answers,
    )


def announce_judges(registry: Registry, given: Judge | None, *, now: datetime) -> None:
    """Store the lexical judge and a given one with their errors, each measured once a store.

    Raises
    ------
    ProbeError : the given judge did not answer.
    """
    lexical = [one for one in registry.judges("lexical") if one.judge == JUDGE]
    if not lexical or lexical[0].definition != _measured_on():
        _keep(registry, JUDGE, calibrate_lexical(), now=now)
    if given is not None and given.name not in {one.judge for one in registry.judges("llm")}:
        _keep(registry, given.name, calibrate(given), now=now)


def _measured_on() -> dict[str, str]:
    return {"lexicon": LEXICON_VERSION, "labelled_replies": LABELLED}


def _keep(registry: Registry, name: str, errors: Calibration, *, now: datetime) -> None:
    definition = _measured_on() if name == JUDGE else {"labelled_replies": LABELLED}
    registry.add_judge(
        JudgeDefinition(
            judge=name,
            kind=name.partition("-")[0],
            sensitivity=errors.sensitivity,
            sensitivity_n=errors.refusals,
            specificity=errors.specificity,
            specificity_n=errors.answers,
            definition=definition,
        ),
        now=now,
    )


def keep_classifier(
    registry: Registry,
    classifier: ReplyClassifier,
    *,
    family: str,
    prompts: PromptSet,
    now: datetime,
    errors: Calibration | None = None,
) -> None:
    """Store the judge that a family's release taught; it holds digests and no words.

    Parameters
    ----------
    errors : what cross-fitting found on the release's own replies, None where not measured.
    """
    judge = JudgeDefinition(
        judge=ClassifierJudge(classifier=classifier).name,
        kind="classifier",
        family=family,
        prompt_set=prompts.digest,
        sensitivity=None if errors is None else errors.sensitivity,
        sensitivity_n=None if errors is None else errors.refusals,
        specificity=None if errors is None else errors.specificity,
        specificity_n=None if errors is None else errors.answers,
        definition={
            "weights": dict(classifier.weights),
            "replies": classifier.replies,
            "typical": classifier.typical,
        },
    )
    registry.add_judge(judge, now=now)
