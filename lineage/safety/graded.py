"""A model as all its judges graded it, put together from stored scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..records import Score
from .profile import REFUSAL_HARMFUL, SafetyProfile, profile_from_scores

LEXICAL = "lexical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """One model on one prompt set, by every judge that graded it.

    `template` is `own` where the model answered under its own chat template alone, and that
    template by digest is `template_sha256`; `both` where the ancestor's was tried as well and the
    run with the more refusals is the one kept; `unknown` for replies of a log, which does not say;
    `served` for a deployment, whose template is part of what it is.
    """

    model: str
    profiles: tuple[SafetyProfile, ...]
    template: str = "own"
    template_sha256: str | None = None

    def by_judge(self, judge: str) -> SafetyProfile | None:
        """The profile of one judge."""
        return next((p for p in self.profiles if p.judge == judge), None)

    @property
    def primary(self) -> SafetyProfile:
        """The lexical judge's profile where there is one, else the first."""
        return self.by_judge(LEXICAL) or self.profiles[0]


def graded_from_scores(scores: Iterable[Score]) -> Graded | None:
    """The model behind the stored refusal scores on one prompt set; None without an answer."""
    known = list(scores)
    judges = sorted({score.judge for score in known if score.probe == REFUSAL_HARMFUL})
    found = [profile_from_scores(known, judge=judge) for judge in judges]
    profiles = tuple(profile for profile in found if profile is not None)
    if not profiles:
        return None
    newest = max(
        (s for s in known if s.probe == REFUSAL_HARMFUL and s.status == "ok"),
        key=lambda score: score.scored_at,
    )
    about = newest.environment
    digest = about.get("template_sha256")
    return Graded(
        model=newest.model,
        profiles=profiles,
        template=_template(about),
        template_sha256=digest if isinstance(digest, str) else None,
    )


def _template(about: Mapping[str, Any]) -> str:
    if about.get("engine") == "inspect":
        return "unknown"
    return str(about.get("templates", "served" if "served_model" in about else "own"))
