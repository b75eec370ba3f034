"""Who below a model lost the safety training of an ancestor: the inside of `stripped`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..lineage.safety.profile import REFUSAL_HARMFUL
from ..store.facts import FindingRow, Kin
from ..store.registry import Registry
from .severity import LIVE
from .trees import LOST, SURE, one_line, show_flow, show_words, steps_from

KIND = "stripped_safety"
NO_SCORE = "no refusal score"
NEAREST = 200
"""Kin looked at, nearest first, for the prompt set that a family was measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A finding with how the model was made from the ancestor, and refusal in both.

    `distance` counts edges from the model that was asked about, `below` the descendants.
    `before` and `after` are shares of harmful prompts refused, None where the finding does not
    say.
    """

    finding: FindingRow
    distance: int
    below: int
    made: tuple[str, ...]
    before: float | None
    after: float | None

    def row(self) -> dict[str, Any]:
        """A flat row."""
        found = self.finding
        clues = [asdict(clue) for clue in found.clues]
        return {
            "model": found.model,
            "ancestor": found.ancestor,
            "distance": self.distance,
            "descendants": self.below,
            "made": " > ".join(self.made),
            "drop": found.value,
            "ci_low": found.ci_low,
            "ci_high": found.ci_high,
            "q_value": found.q_value,
            "refusal_before": self.before,
            "refusal_after": self.after,
            "severity": found.severity,
            "status": found.status,
            "finding_id": found.finding_id,
            "first_scan": found.first_scan,
            "last_scan": found.last_scan,
            "detail": dict(found.detail),
            "clues": clues,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LossReport:
    """Losses below a model, with the denominator.

    `depth` is how many edges below were looked at, None for all.
    `own` are live findings on the model itself. Of the `published` descendants `measured` have a
    refusal score; `unmeasured` counts the others by reason; `hidden` nobody published.
    """

    model: str
    depth: int | None
    losses: tuple[Loss, ...]
    own: tuple[FindingRow, ...]
    published: int
    hidden: int
    measured: int
    unmeasured: Counter[str]

    @property
    def findings(self) -> tuple[FindingRow, ...]:
        """The findings behind the losses."""
        return tuple(loss.finding for loss in self.losses)

    def words(self) -> Iterator[str]:
        """What was found, of how many, and what was not looked at."""
        models = len({finding.model for finding in self.findings})
        near = "" if self.depth is None else f" within {self.depth} edges"
        yield (
            f"{models:,} of {self.measured:,} measured descendants of {self.model}{near} lost "
            f"safety training; {self.measured:,} of {self.published:,} published descendants were "
            "measured"
        )
        for reason, count in self.unmeasured.most_common(10):
            yield f"  {count:,} not measured: {one_line(reason, limit=160)}"
        if self.hidden:
            yield f"  {self.hidden:,} more, inferred and unpublished: there is nothing to measure"
        for finding in self.own:
            yield f"{self.model} itself lost safety training of {finding.ancestor}"


def find_losses(registry: Registry, model: str, *, depth: int | None = None) -> LossReport:
    """The live findings of lost safety training below a model, and how much was measured.

    Parameters
    ----------
    depth : edges below the model to look at, None for all.

    Raises
    ------
    NotInRegistry : the store does not hold the model.
    """
    name = registry.resolve_name(model)
    kin = registry.descendants(name, max_depth=depth)
    below = {one.model: one.distance for one in kin}
    live = [f for f in registry.findings(kind=KIND, ancestor=name) if f.status in LIVE]
    found = sorted((f for f in live if f.model in below), key=lambda f: -(f.value or 0.0))
    published = [one.model for one in kin if not one.hidden]
    measured, unmeasured = _measured(registry, name, kin=kin, findings=live)
    return LossReport(
        model=name,
        depth=depth,
        losses=tuple(_losses(registry, found, below)),
        own=tuple(f for f in live if f.model == name),
        published=len(published),
        hidden=len(kin) - len(published),
        measured=measured,
        unmeasured=unmeasured,
    )


def show_losses(report: LossReport) -> None:
    """Print the losses for a person."""
    for loss in report.losses:
        found = loss.finding
        ancestor = one_line(found.ancestor or "an ancestor")
        counts = f"({loss.distance:,} down, {loss.below:,} below it)"
        show_flow("", (one_line(found.model), "bold red"), (LOST, "bold red"), (counts, "dim"))
        steps = loss.made or ("unknown steps",)
        made = [f"{'by' if at == 0 else '→'} {one_line(step)}" for at, step in enumerate(steps)]
        show_flow("  ", (f"from {ancestor}", ""), *((step, "cyan") for step in made))
        show_words((f"  {_drop(found)}{_q(found)}", ""))
        sure = found.detail.get("descent_confidence")
        if isinstance(sure, float) and sure < SURE:
            show_words((f"  the descent is sure to {sure:.2f} only", "yellow"))
        if loss.before is not None and loss.after is not None:
            change = f"{loss.before:.2f} → {loss.after:.2f}"
            show_words((f"  harmful prompts refused {change}", ""))


def _drop(found: FindingRow) -> str:
    if found.value is None:
        return "selective refusal lost"
    limits = ""
    if found.ci_low is not None and found.ci_high is not None:
        limits = f" [{found.ci_low:.2f}, {found.ci_high:.2f}]"
    return f"selective refusal fell by {found.value:.2f}{limits}"


def _q(found: FindingRow) -> str:
    return "" if found.q_value is None else f", q = {found.q_value:.2g}"


def _losses(
    registry: Registry, findings: Sequence[FindingRow], distances: Mapping[str, int]
) -> Iterator[Loss]:
    made: dict[tuple[str | None, str], tuple[str, ...]] = {}
    for ancestor in {finding.ancestor for finding in findings if finding.ancestor}:
        models = [finding.model for finding in findings if finding.ancestor == ancestor]
        for model, steps in steps_from(registry, ancestor, models).items():
            made[ancestor, model] = steps
    for finding in findings:
        values = {clue.statistic: clue.value for clue in finding.clues}
        yield Loss(
            finding=finding,
            distance=distances[finding.model],
            below=len(registry.descendant_ids(finding.model)),
            made=made.get((finding.ancestor, finding.model), ()),
            before=values.get("harmful_refusal_ancestor"),
            after=values.get("harmful_refusal"),
        )


def _measured(
    registry: Registry, model: str, *, kin: Iterable[Kin], findings: Iterable[FindingRow]
) -> tuple[int, Counter[str]]:
    """Published descendants with a refusal score, and the others counted by reason."""
    names = [one.model for one in kin if not one.hidden]
    tops = dict.fromkeys([model, *(f.ancestor for f in findings if f.ancestor), *names[:NEAREST]])
    digests = _prompt_sets(registry, tops)
    scored = {one for digest in digests for one in registry.scored(digest)}
    # One question for all that have an answer: there may be thousands of them.
    answered = {
        one for digest in digests for one in registry.measured(REFUSAL_HARMFUL, prompt_set=digest)
    }
    reasons = Counter[str]()
    for name in names:
        if name not in answered:
            reason = _why_not(registry, name) if name in scored else NO_SCORE
            reasons.update(() if reason is None else (reason,))
    return len(names) - reasons.total(), reasons


def _prompt_sets(registry: Registry, models: Iterable[str]) -> set[str]:
    """The prompt sets of the first of the models that has scores."""
    for model in models:
        scores = registry.scores_of(model, probe=REFUSAL_HARMFUL)
        if scores:
            return {score.prompt_set for score in scores}
    return set()


def _why_not(registry: Registry, model: str) -> str | None:
    """Why the newest try to measure a model brought no score; None when it did."""
    scores = registry.scores_of(model, probe=REFUSAL_HARMFUL)
    if not scores:
        return NO_SCORE
    newest = scores[0]
    if newest.status == "ok":
        return None
    return f"{newest.status}: {newest.environment.get('reason', 'no reason given')}"
