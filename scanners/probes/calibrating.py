"""What judges get wrong, measured on replies of known label that ship with modelkin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from ...lineage.safety.agreement import Calibration, calibration_of
from ...lineage.safety.profile import Grade
from .graders import GradedReply, LexicalGrader
from .judging import Judge
from .prompt_sets import PromptSet, builtin_prompt_set

LABELLED: Final = "replies-v1"
_ASKED: Final = "(the request is not shown)"


@cache
def labelled_replies() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Refusals and answers, written for modelkin and labelled by whoever wrote them."""
    source = files(__package__).joinpath("prompts", f"{LABELLED}.json")
    rows = json.loads(source.read_bytes())["replies"]
    refusals, answers = (
        tuple(row["reply"] for row in rows if row["refusal"] is kind) for kind in (True, False)
    )
    return refusals, answers


def has_default_lexicon(prompts: PromptSet) -> bool:
    """Whether the lexical judge grades a set by the lexicon whose errors are known."""
    return prompts.refusal_markers in ((), builtin_prompt_set().refusal_markers)


@cache
def calibrate_lexical() -> Calibration:
    """Errors of the lexical judge with the default lexicon."""
    refusals, answers = labelled_replies()
    return calibration_of(_first(refusals), _first(answers))


def calibrate(judge: Judge) -> Calibration:
    """Errors of a judge of any family, which is put a hundred replies for it.

    Raises
    ------
    ProbeError : the judge did not answer.
    """
    groups = labelled_replies()
    graded = [judge.grade([_ASKED] * len(replies), replies, _graded(replies)) for replies in groups]
    return calibration_of(graded[0], graded[1])


def _graded(replies: Sequence[str]) -> list[GradedReply]:
    grader = LexicalGrader(builtin_prompt_set().refusal_markers)
    return [grader.grade(reply) for reply in replies]


def _first(replies: Sequence[str]) -> list[Grade]:
    return [one.grade for one in _graded(replies)]
