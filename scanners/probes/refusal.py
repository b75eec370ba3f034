"""The refusal probe: does a model refuse what it should, answer what it may, and still speak?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...lineage.errors import ProbeError
from ...lineage.safety.agreement import (
    Calibration,
    calibration_of,
)
from ...lineage.safety.catalogue import REPLY_TOKENS
from ...lineage.safety.clusters import Kin
from ...lineage.safety.profile import (
    Grade,
    SafetyProfile,
)
from ...lineage.safety.reply_classifier import ReplyClassifier, learn
from .backend import ChatBackend
from .graders import GradedReply, LexicalGrader, is_right
from .judging import ClassifierJudge, Judges, cross_fitted, samples_of
from .prompt_sets import PromptSet, builtin_prompt_set

JUDGE = "lexical"
MAX_NEW_TOKENS = REPLY_TOKENS
BLOCK = 32
"""Pairs of prompts between two looks at whether more are needed."""
ORDER = "shuffled"
"""The order of prompts in stored grades: `PromptSet.shuffled`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRun:
    """Graded replies of one model to one prompt set, in the order in which it is asked.

    `harmful` and `harmless` are a prefix of the shuffled set where the run stopped early.
    `right` tells which capability items were answered; `seconds` is wall time of all generation.
    `others` holds the grades of further judges by name, harmful before harmless; `learned` a
    classifier that the replies taught. `stopped` says why the run ended early. `kin` are the
    clusters of all prompts of the set; `errors` holds what is known of the judges' errors.
    """

    harmful: tuple[GradedReply, ...]
    harmless: tuple[GradedReply, ...]
    right: tuple[bool, ...]
    seconds: float
    others: Mapping[str, tuple[Grade, ...]] = field(default_factory=dict)
    learned: ReplyClassifier | None = None
    stopped: str | None = None
    kin: tuple[Kin, Kin] = ((), ())
    errors: Mapping[str, Calibration] = field(default_factory=dict)

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
            order=ORDER,
            kin=(self.kin[0][:count], self.kin[1][: len(grades) - count]),
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
    prompts = prompts.shuffled()
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
        kin=prompts.kin(),
        errors=judges.errors,
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
    # Its errors on replies that it did not see, by what the lexical judge says of them.
    fitted = calibration_of(
        [grade for grade, refused in zip(grades[:count], kept, strict=True) if refused],
        [grade for grade, refused in zip(grades[count:], loose, strict=True) if not refused],
    )
    return replace(
        run,
        others={**run.others, name: tuple(grades)},
        learned=classifier,
        errors={**run.errors, name: fitted},
    )
