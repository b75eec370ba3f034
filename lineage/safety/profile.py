"""What one model did on a prompt set: a grade per prompt, and nothing of the replies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ..records import Score
from .clusters import Kin

REFUSAL_HARMFUL = "refusal_harmful"
REFUSAL_HARMLESS = "refusal_harmless"
SELECTIVE_REFUSAL = "selective_refusal"
COHERENCE = "coherence"
CAPABILITY = "capability"


class Grade(StrEnum):
    """What a reply did with its request; the value is the letter that is stored.

    `PARTIAL` declines in passing ("cannot" with no refusal around it): a refusal under a lenient
    reading of the reply, none under a strict one. `EMPTY` holds no word at all.
    """

    REFUSE = "r"
    PARTIAL = "p"
    COMPLY = "c"
    EMPTY = "e"
    INCOHERENT = "i"


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyProfile:
    """Grades of one model on the harmful and harmless prompts of a set.

    `prompt_set` is the digest of the set. With `ordered`, position i is prompt i of the set, so
    that two profiles of one set are paired; without, only the counts mean something. `order` says
    in which order the set was asked: only profiles of one order are paired.
    `capability` counts right answers and items asked, None when the set has no such items.
    `kin` are the clusters of the harmful and of the harmless prompts, empty where unknown:
    prompts then count as independent.
    """

    model: str
    prompt_set: str
    harmful: tuple[Grade, ...]
    harmless: tuple[Grade, ...]
    judge: str = "lexical"
    ordered: bool = True
    capability: tuple[int, int] | None = None
    order: str = "file"
    kin: tuple[Kin, Kin] = ((), ())

    def paired_with(self, other: SafetyProfile) -> bool:
        """Whether position i is the same prompt in both, as far as both were asked."""
        return (
            self.ordered
            and other.ordered
            and self.prompt_set == other.prompt_set
            and self.order == other.order
        )

    def coherent(self) -> tuple[int, int]:
        """Replies with some sense to them, and all replies."""
        replies = self.harmful + self.harmless
        broken = sum(grade in (Grade.EMPTY, Grade.INCOHERENT) for grade in replies)
        return len(replies) - broken, len(replies)


def encode_grades(grades: Iterable[Grade]) -> str:
    """Grades as one letter a prompt."""
    return "".join(grades)


def decode_grades(text: str) -> tuple[Grade, ...]:
    """The reverse of `encode_grades`.

    Raises
    ------
    ValueError : a letter that is no grade.
    """
    return tuple(Grade(letter) for letter in text)


def profile_from_scores(scores: Iterable[Score], *, judge: str = "lexical") -> SafetyProfile | None:
    """The profile behind the stored refusal scores of one model on one prompt set.

    Parameters
    ----------
    scores : of one model; other probes among them are ignored.
    judge : whose grades are read; coherence and capability are everybody's.

    Returns
    -------
    None unless refusal on harmful and on harmless prompts were both measured with status `ok`.

    Notes
    -----
    Grades are read from `environment["grades"]`. Scores without them give the counts alone; broken
    replies are then laid on the harmful prompts first, which speaks against a loss.
    """
    shared = (COHERENCE, CAPABILITY)
    mine = (score for score in scores if score.judge == judge or score.probe in shared)
    by_time = sorted(mine, key=lambda score: score.scored_at)
    found = {score.probe: score for score in by_time if score.status == "ok"}
    harmful, harmless = found.get(REFUSAL_HARMFUL), found.get(REFUSAL_HARMLESS)
    if harmful is None or harmless is None or harmful.prompt_set != harmless.prompt_set:
        return None
    bad, good = _stored_grades(harmful), _stored_grades(harmless)
    ordered = bad is not None and good is not None
    if bad is None or good is None:
        bad, good = _counted_grades(harmful, harmless, coherence=found.get(COHERENCE))
    return SafetyProfile(
        model=harmful.model,
        prompt_set=harmful.prompt_set.rpartition("@")[2],
        harmful=bad,
        harmless=good,
        judge=harmful.judge,
        ordered=ordered,
        capability=_counts(found.get(CAPABILITY)),
        order=str(harmful.environment.get("order", "file")),
        kin=(_stored_kin(harmful), _stored_kin(harmless)) if ordered else ((), ()),
    )


def _stored_grades(score: Score) -> tuple[Grade, ...] | None:
    text = score.environment.get("grades")
    if not isinstance(text, str) or len(text) != score.n or set(text) - set(Grade):
        return None
    return decode_grades(text)


def _stored_kin(score: Score) -> Kin:
    """Clusters beside the grades; none where they are not such, so that prompts count alone."""
    rows = score.environment.get("kin")
    if not isinstance(rows, (list, tuple)) or len(rows) != score.n:
        return ()
    limit = 64 * score.n
    if not all(
        isinstance(row, (list, tuple))
        and all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c < limit for c in row)
        for row in rows
    ):
        return ()
    return tuple(tuple(row) for row in rows)


def _counts(score: Score | None) -> tuple[int, int] | None:
    if score is None or score.value is None:
        return None
    return round(score.value * score.n), score.n


def _counted_grades(
    harmful: Score, harmless: Score, *, coherence: Score | None
) -> tuple[tuple[Grade, ...], tuple[Grade, ...]]:
    right, asked = _counts(coherence) or (0, 0)
    first, left = _spread(harmful, broken=asked - right)
    second, _ = _spread(harmless, broken=left)
    return first, second


def _spread(score: Score, *, broken: int) -> tuple[tuple[Grade, ...], int]:
    refused, total = _counts(score) or (0, 0)
    bad = min(broken, total - refused)
    complied = total - refused - bad
    grades = (Grade.REFUSE,) * refused + (Grade.INCOHERENT,) * bad + (Grade.COMPLY,) * complied
    return grades, broken - bad
