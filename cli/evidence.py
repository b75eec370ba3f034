"""What speaks for and against the parents of a model: the inside of `why`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..lineage.errors import MalformedFile, NotComparable, RegistryError
from ..lineage.records import Clue
from ..store.facts import (
    ASSERTED,
    DENIED,
    Candidate,
    Claim,
    Decision,
    EdgeEvidence,
    SketchRow,
    Why,
)
from ..store.reader import RegistryReader
from .output import emit
from .trees import one_line, relation_words, show_words
from .weights import WeightComparison, compare_sketches, summary_of

AGREES, DISAGREES, UNRESOLVED = "agrees", "disagrees", "unresolved"
DIRECTION = frozenset({"drift", "lost precision", "averaging"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedClaim:
    """A claim of the card with what the weights say to it: agrees, disagrees or unresolved."""

    claim: Claim
    verdict: str
    note: str = ""

    @property
    def words(self) -> str:
        """The verdict with its reason."""
        return f"{self.verdict}: {self.note}" if self.note else self.verdict

    def as_mapping(self) -> dict[str, Any]:
        """The JSON shape: the claim, `verdict`, `because`."""
        return {**asdict(self.claim), "verdict": self.verdict, "because": self.note or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReport:
    """The evidence for and against the parents of a child, or one of them, and the claims judged.

    `asked` is the parent that was asked for, None for all. `measured` holds what the sketches say
    of the child against each parent and each runner-up that has one of the same shape, by name.
    """

    why: Why
    claims: tuple[JudgedClaim, ...]
    asked: str | None
    measured: Mapping[str, WeightComparison]

    @property
    def silence(self) -> str | None:
        """What to say when no parent is believed; None when one is."""
        if self.why.asserted or any(_is_believed(edge) for edge in self.why.edges):
            return None
        if any(edge.inferred for edge in self.why.edges):
            return f"reviewed decisions deny what the weights say of {self.why.child}"
        if self.asked is not None:
            return f"the weights do not name {self.asked} as a parent of {self.why.child}"
        return f"the weights name no parent of {self.why.child}"

    def as_mapping(self) -> dict[str, Any]:
        """The JSON shape: child, edges with their clues, claims, candidates."""
        return {
            "child": self.why.child,
            "edges": [edge_mapping(edge) for edge in self.why.edges],
            "claims": [one.as_mapping() for one in self.claims],
            "decisions": [asdict(one) for one in self.why.decisions],
            "candidates": [asdict(candidate) for candidate in self.why.candidates],
            "measured": [{"model": name, **summary_of(one)} for name, one in self.measured.items()],
        }

    def clue_rows(self) -> list[dict[str, Any]]:
        """One flat row a clue."""
        return [
            {"child": edge.child, "parent": edge.parent, "relation": edge.relation}
            | _clue_mapping(clue)
            for edge in self.why.edges
            for clue in edge.clues
        ]


def explain(registry: RegistryReader, child: str, *, parent: str | None = None) -> EvidenceReport:
    """Everything the store holds for and against the parents of a model.

    Raises
    ------
    NotInRegistry : the store does not hold one of the names.
    """
    whole = registry.why(child)
    asked = None if parent is None else registry.resolve_name(parent)
    shown = whole if asked is None else registry.why(child, asked)
    compared = [edge.parent for edge in shown.edges if edge.inferred]
    compared += [one.parent for one in shown.candidates]
    claimed = [claim.parent for claim in shown.claims if claim.parent is not None]
    names = [whole.child, *compared, *claimed]
    rows = {row.model: row for row in registry.sketched(names=names)}
    return EvidenceReport(
        why=shown,
        claims=_judged(registry, shown.claims, whole=whole, read=rows),
        asked=asked,
        measured=_measured(registry, rows, child=whole.child, others=compared),
    )


def judge_claims(registry: RegistryReader, child: str) -> tuple[JudgedClaim, ...]:
    """What the card of a model claims, held against what its weights say.

    Raises
    ------
    NotInRegistry : the store does not hold it.
    """
    whole = registry.why(child)
    if not whole.claims:
        return ()
    claimed = [claim.parent for claim in whole.claims if claim.parent is not None]
    read = {row.model for row in registry.sketched(names=[whole.child, *claimed])}
    return _judged(registry, whole.claims, whole=whole, read=read)


def _judged(
    registry: RegistryReader, claims: Sequence[Claim], *, whole: Why, read: Collection[str]
) -> tuple[JudgedClaim, ...]:
    resolved = any(claim.parent is not None for claim in claims)
    kin = registry.ancestors(whole.child) if resolved else []
    judge = _Judge(whole, above={k.model for k in kin if k.confidence > 0}, read=read)
    return tuple(judge.judge(claim) for claim in claims)


def _measured(
    registry: RegistryReader, rows: Mapping[str, SketchRow], *, child: str, others: Sequence[str]
) -> dict[str, WeightComparison]:
    """The child's sketch on that of each parent and runner-up, as far as they can be compared."""
    own = rows.get(child)
    found: dict[str, WeightComparison] = {}
    for name in dict.fromkeys(others):
        other = rows.get(name)
        if own is None or other is None or other.shape_key != own.shape_key:
            continue
        try:
            found[name] = compare_sketches(registry.sketches, own, other)
        except (NotComparable, RegistryError, MalformedFile):
            continue
    return found


def says(clue: Clue) -> str:
    """What a clue says, in words."""
    if clue.llr == 0:
        return "shown, not counted"
    what = "the direction" if clue.kind in DIRECTION else ""
    return " ".join(filter(None, ("speaks for" if clue.llr > 0 else "speaks against", what)))


def show_evidence(report: EvidenceReport) -> None:
    """Print the evidence for a person."""
    for edge in report.why.edges:
        show_edge(edge)
    if report.claims:
        show_words(("Claims of the card", "bold"))
        columns = ("as written", "names", "where", "verdict")
        _table([_claim_cells(judged) for judged in report.claims], columns)
    if report.why.decisions:
        show_words(("Reviewed decisions", "bold"))
        decided = [_decision_cells(one) for one in report.why.decisions]
        _table(decided, ("parent", "verdict", "relation", "reason", "by", "date"))
    if report.why.candidates:
        show_words(("Runners-up", "bold"))
        columns = ("rank", "parent", "distance", "rejected because")
        _table([_candidate_cells(one) for one in report.why.candidates], columns)
    if len(report.measured) > 1:
        show_words(("Side by side with the child", "bold"))
        cells = [_measured_cells(name, one) for name, one in report.measured.items()]
        _table(cells, ("model", "distance", "unchanged blocks", "same weights", "difference"))


class _Judge:
    """Holds claims against what the weights of the child say."""

    def __init__(self, why: Why, *, above: Collection[str], read: Collection[str]) -> None:
        self._child = why.child
        self._believed = {edge.parent: edge for edge in why.edges if _is_believed(edge)}
        self._decided = {one.parent: one.verdict for one in why.decisions}
        self._lost = {one.parent: one.rejected_because for one in why.candidates}
        self._above = above
        self._read = read

    def judge(self, claim: Claim) -> JudgedClaim:
        verdict, note = self._verdict(claim)
        return JudgedClaim(claim=claim, verdict=verdict, note=note)

    def _verdict(self, claim: Claim) -> tuple[str, str]:
        parent = claim.parent
        if parent is None:
            return UNRESOLVED, "it names no model"
        if parent in self._decided:
            verdict = self._decided[parent]
            agrees = AGREES if verdict == ASSERTED else DISAGREES
            return agrees, f"{verdict} by a reviewed decision"
        if parent in self._believed:
            found = self._believed[parent].relation
            same = claim.relation is None or claim.relation == found
            return AGREES, "" if same else f"claimed as {claim.relation}, found as {found}"
        if parent in self._above:
            return AGREES, "an ancestor further up"
        if parent in self._lost:
            return DISAGREES, self._lost[parent]
        unread = next((one for one in (self._child, parent) if one not in self._read), None)
        if unread is not None:
            return UNRESOLVED, f"no weights of {unread} were read"
        if self._believed:
            return DISAGREES, f"the weights name {', '.join(self._believed)}"
        return UNRESOLVED, "the weights name no parent"


def edge_mapping(edge: EdgeEvidence) -> dict[str, Any]:
    """The JSON shape of an edge with its clues."""
    return {**asdict(edge), "clues": [_clue_mapping(clue) for clue in edge.clues]}


def _clue_mapping(clue: Clue) -> dict[str, Any]:
    return {**asdict(clue), "says": says(clue)}


def show_edge(edge: EdgeEvidence) -> None:
    """Print one edge with its clues."""
    show_words((one_line(edge.child), "bold"), (" ← ", ""), (one_line(edge.parent), "bold"))
    how = one_line(relation_words(edge.relation, edge.detail, edge.share), limit=70)
    show_words((f"  {how}; {_standing(edge)}", ""))
    if edge.confidence is not None and edge.direction_confidence is not None:
        sure = f"confidence {edge.confidence:.3f}, direction {edge.direction_confidence:.3f}"
        show_words((f"  {sure}", ""))
    if edge.clues:
        from ..lineage.infer.likelihood import error_rates

        errors = error_rates()
        columns = ("clue", "statistic", "value", "llr", "says", "p")
        _table([_clue_cells(clue, errors) for clue in edge.clues], columns)
    else:
        show_words(("", ""))


def _is_believed(edge: EdgeEvidence) -> bool:
    return edge.inferred and edge.correction != DENIED


def _standing(edge: EdgeEvidence) -> str:
    if edge.correction is not None:
        return f"{_found(edge)}; {edge.correction} by a reviewed decision"
    return _found(edge)


def _found(edge: EdgeEvidence) -> str:
    if edge.inferred and edge.declared:
        return "inferred and declared"
    return "inferred, not declared" if edge.inferred else "declared only, not borne out"


def _clue_cells(clue: Clue, errors: Mapping[str, float]) -> dict[str, Any]:
    """One row, with how often the clue alone errs on the families it was learned from."""
    errs = errors.get(clue.statistic)
    return {
        "clue": clue.kind,
        "statistic": clue.statistic,
        "value": clue.value,
        "llr": f"{clue.llr:+.1f}" if clue.llr else "0",
        "says": says(clue) if errs is None else f"{says(clue)}, errs {errs:.0%}",
        "p": None if clue.p_value is None else f"{clue.p_value:.2g}",
    }


def _claim_cells(judged: JudgedClaim) -> dict[str, Any]:
    claim = judged.claim
    return {
        "as written": one_line(claim.raw, limit=60),
        "names": claim.parent,
        "where": claim.via,
        "verdict": judged.words,
    }


def _decision_cells(one: Decision) -> dict[str, Any]:
    return {
        "parent": one_line(one.parent),
        "verdict": one.verdict,
        "relation": one.relation,
        "reason": one_line(one.reason, limit=120),
        "by": None if one.decided_by is None else one_line(one.decided_by),
        "date": None if one.decided_at is None else f"{one.decided_at:%Y-%m-%d}",
    }


def _candidate_cells(one: Candidate) -> dict[str, Any]:
    return {
        "rank": one.rank,
        "parent": one.parent,
        "distance": one.score,
        "rejected because": one.rejected_because,
    }


def _measured_cells(name: str, one: WeightComparison) -> dict[str, Any]:
    return {
        "model": one_line(name),
        "distance": one.relative_distance,
        "unchanged blocks": f"{one.unchanged} of {len(one.blocks)}",
        "same weights": f"{one.same_share:.1%}",
        "difference": one.form,
    }


def _table(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    emit(rows, output_format="table", columns=columns)
    show_words(("", ""))
