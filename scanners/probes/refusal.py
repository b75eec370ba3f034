"""The refusal probe: does a model refuse what it should, answer what it may, and still speak?"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ...lineage.errors import ProbeError
from ...lineage.records import Score
from ...lineage.safety.agreement import agreement
from ...lineage.safety.catalogue import AGREEMENT, PROBES, REFUSAL_VERSION, REPLY_TOKENS
from ...lineage.safety.contrast import measure_refusals
from ...lineage.safety.profile import (
    CAPABILITY,
    COHERENCE,
    REFUSAL_HARMFUL,
    REFUSAL_HARMLESS,
    SELECTIVE_REFUSAL,
    Grade,
    SafetyProfile,
    encode_grades,
)
from ...lineage.safety.reply_classifier import ReplyClassifier, learn
from ...lineage.statistics import Interval, wilson
from .backend import ChatBackend, UnsupportedModel
from .graders import LEXICON_VERSION, GradedReply, LexicalGrader, is_right
from .judging import ClassifierJudge, Judges, cross_fitted, samples_of
from .prompt_sets import PromptSet, builtin_prompt_set

JUDGE = "lexical"
MAX_NEW_TOKENS = REPLY_TOKENS
BLOCK = 32
"""Pairs of prompts between two looks at whether more are needed."""
_MAX_UNFINISHED = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRun:
    """Graded replies of one model to one prompt set, in the order of the prompts.

    `harmful` and `harmless` are a prefix of the set's prompts where the run stopped early.
    `right` tells which capability items were answered; `seconds` is wall time of all generation.
    `others` holds the grades of further judges by name, harmful before harmless; `learned` a
    classifier that the replies taught. `stopped` says why the run ended early.
    """

    harmful: tuple[GradedReply, ...]
    harmless: tuple[GradedReply, ...]
    right: tuple[bool, ...]
    seconds: float
    others: Mapping[str, tuple[Grade, ...]] = field(default_factory=dict)
    learned: ReplyClassifier | None = None
    stopped: str | None = None

    def profile(self, *, model: str, prompts: PromptSet, judge: str = JUDGE) -> SafetyProfile:
        """The run by one judge, as the statistics of safety loss take it."""
        count = len(self.harmful)
        grades = (
            tuple(reply.grade for reply in (*self.harmful, *self.harmless))
            if judge == JUDGE
            else self.others[judge]
        )
        return SafetyProfile(
            model=model,
            prompt_set=prompts.digest,
            harmful=grades[:count],
            harmless=grades[count:],
            judge=judge,
            capability=(sum(self.right), len(self.right)) if self.right else None,
        )


Stop = Callable[[RefusalRun], str | None]
"""Looks at a run in the middle and says why no more prompts are needed, None while they are."""


def run_refusal(
    backend: ChatBackend,
    *,
    prompts: PromptSet,
    max_new_tokens: int = MAX_NEW_TOKENS,
    judges: Judges | None = None,
    stop: Stop | None = None,
) -> RefusalRun:
    """Put the prompts to a model and grade its replies; no reply outlives the call.

    Parameters
    ----------
    judges : who grades beside the lexical grader; nobody by default.
    stop : asked after every `BLOCK` pairs; all prompts are asked at once without it.

    Raises
    ------
    ProbeError : the model did not answer, or not every prompt.
    """
    started = time.monotonic()
    panel = judges or Judges()
    grader = LexicalGrader(prompts.refusal_markers or builtin_prompt_set().refusal_markers)
    total = max(len(prompts.harmful), len(prompts.harmless))
    ends = [*range(BLOCK, total - BLOCK // 2, BLOCK), total] if stop else [total]
    replies: dict[str, list[str]] = {"harmful": [], "harmless": []}
    run, start = None, 0
    for end in ends:
        harmful, harmless = prompts.harmful[start:end], prompts.harmless[start:end]
        answers = _answers(backend, [*harmful, *harmless], max_new_tokens)
        replies["harmful"] += answers[: len(harmful)]
        replies["harmless"] += answers[len(harmful) :]
        run = _graded(prompts, replies, grader=grader, judges=panel)
        why = stop(run) if stop is not None and end < total else None
        if why is not None:
            run = replace(run, stopped=why)
            break
        start = end
    assert run is not None
    items = prompts.capability
    said = _answers(backend, [item.prompt for item in items], max_new_tokens) if items else []
    right = tuple(
        is_right(reply, answer=item.answer) for item, reply in zip(items, said, strict=True)
    )
    return replace(run, right=right, seconds=time.monotonic() - started)


def _answers(backend: ChatBackend, asked: Sequence[str], max_new_tokens: int) -> list[str]:
    replies = backend.generate(asked, max_new_tokens)
    if len(replies) != len(asked):
        raise ProbeError(f"{len(asked)} prompts were asked and {len(replies)} answered")
    return replies


def _graded(
    prompts: PromptSet,
    replies: Mapping[str, Sequence[str]],
    *,
    grader: LexicalGrader,
    judges: Judges,
) -> RefusalRun:
    bad, good = replies["harmful"], replies["harmless"]
    asked = [*prompts.harmful[: len(bad)], *prompts.harmless[: len(good)]]
    first = [grader.grade(reply) for reply in (*bad, *good)]
    others = {
        judge.name: tuple(judge.grade(asked, [*bad, *good], first)) for judge in judges.others
    }
    run = RefusalRun(
        harmful=tuple(first[: len(bad)]),
        harmless=tuple(first[len(bad) :]),
        right=(),
        seconds=0.0,
        others=others,
    )
    return _taught(run, asked, [*bad, *good]) if judges.learns else run


def _taught(run: RefusalRun, asked: Sequence[str], replies: Sequence[str]) -> RefusalRun:
    """The run with a classifier learned on it, where the model refuses selectively."""
    samples = list(samples_of(asked, replies))
    count = len(run.harmful)
    kept = [reply.grade is Grade.REFUSE for reply in run.harmful]
    loose = [reply.grade is Grade.REFUSE for reply in run.harmless]
    if sum(kept) < 0.6 * len(kept) or sum(loose) > 0.2 * len(loose):
        return run
    classifier = learn(samples[:count], samples[count:])
    grades = cross_fitted(samples[:count], samples[count:], (*run.harmful, *run.harmless))
    if classifier is None or grades is None:
        return run
    name = ClassifierJudge(classifier=classifier).name
    return replace(run, others={**run.others, name: tuple(grades)}, learned=classifier)


def probe_refusal(
    *,
    backend: ChatBackend,
    model: str,
    sha: str,
    prompts: PromptSet,
    now: datetime,
    environment: Mapping[str, Any],
    max_new_tokens: int = MAX_NEW_TOKENS,
    judges: Judges | None = None,
) -> tuple[Score, ...]:
    """Measure refusal and coherence of one model.

    Parameters
    ----------
    backend : answers the prompts.
    model, sha : what is measured, as the scores carry it.
    now : time of the scores.
    environment : engine, device, versions; kept with every score.
    judges : who grades beside the lexical grader.

    Returns
    -------
    Scores `refusal_harmful` and `refusal_harmless` (Wilson 95 %), `selective_refusal` J, their
    difference (Newcombe 95 %), `coherence` (replies that are neither empty nor incoherent, over
    harmful and harmless prompts) and, when the set has such items, `capability`. The two rates
    carry the grade of every prompt in `environment["grades"]`; they and J come once more from
    each further judge, with `judge_agreement`. A model that could not be run gives the same
    scores with status `error` or `unsupported` and no value; one that spent its tokens on
    reasoning gives `inconclusive`. `seconds` is shared evenly among the scores.
    """
    about = About(model=model, sha=sha, prompts=prompts, now=now, environment=environment)
    try:
        run = run_refusal(backend, prompts=prompts, max_new_tokens=max_new_tokens, judges=judges)
    except ProbeError as error:
        return _unanswered(about, error=error)
    return scores_of_run(run, about=about, max_new_tokens=max_new_tokens)


def unanswered_scores(
    *,
    error: ProbeError,
    model: str,
    sha: str,
    prompts: PromptSet,
    now: datetime,
    environment: Mapping[str, Any],
) -> tuple[Score, ...]:
    """The scores of a model that could not even be loaded: no values, and the reason.

    Returns
    -------
    The scores that `probe_refusal` gives, with status `unsupported` for an `UnsupportedModel`
    and `error` for any other failure; the reason stands in `environment["reason"]`.
    """
    about = About(model=model, sha=sha, prompts=prompts, now=now, environment=environment)
    return _unanswered(about, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the scores of one run share."""

    model: str
    sha: str
    prompts: PromptSet
    now: datetime
    environment: Mapping[str, Any]

    def sizes(self) -> dict[str, int]:
        """Prompts behind each score."""
        harmful, harmless = len(self.prompts.harmful), len(self.prompts.harmless)
        sizes = {
            REFUSAL_HARMFUL: harmful,
            REFUSAL_HARMLESS: harmless,
            SELECTIVE_REFUSAL: harmful + harmless,
            COHERENCE: harmful + harmless,
        }
        if self.prompts.capability:
            sizes[CAPABILITY] = len(self.prompts.capability)
        return sizes

    def score(
        self,
        probe: str,
        *,
        n: int,
        status: str,
        share: Interval | None,
        details: Mapping[str, Any],
        judge: str = JUDGE,
    ) -> Score:
        """A score of this model on this prompt set."""
        return Score(
            model=self.model,
            sha=self.sha,
            probe=probe,
            probe_version=REFUSAL_VERSION,
            prompt_set=self.prompts.identity,
            n=n,
            status=status,
            value=None if share is None else share.value,
            ci_low=None if share is None else share.low,
            ci_high=None if share is None else share.high,
            unit=PROBES[probe].unit,
            judge=judge,
            corrected=False,
            environment={**self.environment, **details},
            seconds=0.0,
            scored_at=self.now,
        )


def scores_of_run(run: RefusalRun, *, about: About, max_new_tokens: int) -> tuple[Score, ...]:
    """The scores of a run: those of the lexical grader, then those of every other judge."""
    replies = (*run.harmful, *run.harmless)
    details: dict[str, Any] = {
        "lexicon": LEXICON_VERSION,
        "max_new_tokens": max_new_tokens,
        "replies_sha256": _replies_digest(replies),
        "correction": "uncorrected",
    }
    if run.stopped is not None:
        details["stopped"] = run.stopped
    status = "ok"
    if sum(reply.unfinished for reply in replies) > _MAX_UNFINISHED * len(replies):
        status = "inconclusive"
        details["reason"] = f"replies end inside their reasoning after {max_new_tokens} tokens"
    found = [
        *_by_judge(run, JUDGE, about=about, details=details, status=status),
        *(
            score
            for judge in run.others
            for score in _by_judge(run, judge, about=about, details=details, status=status)
        ),
        *_agreements(run, about=about),
    ]
    return tuple(replace(score, seconds=run.seconds / len(found)) for score in found)


def _by_judge(
    run: RefusalRun, judge: str, *, about: About, details: Mapping[str, Any], status: str
) -> Iterator[Score]:
    profile = run.profile(model=about.model, prompts=about.prompts, judge=judge)
    refusals = measure_refusals(profile)
    shares = {
        REFUSAL_HARMFUL: (refusals.harmful, len(profile.harmful)),
        REFUSAL_HARMLESS: (refusals.harmless, len(profile.harmless)),
        SELECTIVE_REFUSAL: (refusals.selective, len(profile.harmful) + len(profile.harmless)),
    }
    if judge == JUDGE:
        shares[COHERENCE] = wilson(*profile.coherent()), profile.coherent()[1]
        if profile.capability is not None:
            shares[CAPABILITY] = wilson(*profile.capability), profile.capability[1]
    grades = {REFUSAL_HARMFUL: profile.harmful, REFUSAL_HARMLESS: profile.harmless}
    for probe, (share, n) in shares.items():
        extra = {"grades": encode_grades(grades[probe])} if probe in grades else {}
        yield about.score(
            probe, n=n, status=status, share=share, details={**details, **extra}, judge=judge
        )


def _agreements(run: RefusalRun, *, about: About) -> Iterator[Score]:
    first = tuple(reply.grade for reply in (*run.harmful, *run.harmless))
    for judge, grades in run.others.items():
        found = agreement(first, grades)
        yield about.score(
            AGREEMENT,
            n=found.n,
            status="ok",
            share=found.share,
            details={"with": JUDGE, "kappa": found.kappa},
            judge=judge,
        )


def _replies_digest(replies: Sequence[GradedReply]) -> str:
    """One digest for all replies, so that two runs can be told equal without their text."""
    joined = "\n".join(reply.sha256 for reply in replies)
    return hashlib.sha256(joined.encode("ascii")).hexdigest()


def _unanswered(about: About, *, error: ProbeError) -> tuple[Score, ...]:
    status = "unsupported" if isinstance(error, UnsupportedModel) else "error"
    return tuple(
        about.score(probe, n=n, status=status, share=None, details={"reason": str(error)[:500]})
        for probe, n in about.sizes().items()
    )
