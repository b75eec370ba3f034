"""Two models held against each other: the inside of `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..lineage.errors import MalformedFile, NotComparable, RegistryError
from ..lineage.records import Score
from ..lineage.safety.profile import COHERENCE, REFUSAL_HARMFUL, REFUSAL_HARMLESS, SELECTIVE_REFUSAL
from ..store.facts import Candidate, EdgeEvidence, SketchRow
from ..store.registry import Registry
from .evidence import edge_mapping, show_edge
from .output import emit
from .trees import one_line, show_words, steps_from
from .weights import BlockComparison, WeightComparison, compare_sketches

FACTS = (
    "sha",
    "source",
    "created_at",
    "last_modified",
    "format",
    "dtype",
    "architecture",
    "shape_key",
    "n_params",
    "license",
    "downloads",
    "weights_digest",
)
PROBES = (REFUSAL_HARMFUL, REFUSAL_HARMLESS, SELECTIVE_REFUSAL, COHERENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship:
    """How two models hang together in the graph.

    `parent` is the one of the two that the other comes from, by `steps`; both empty when neither
    comes from the other. `common` are the nearest common ancestors, at `distance` edges from both
    together; a model counts as its own ancestor.
    """

    parent: str | None
    steps: tuple[str, ...]
    common: tuple[str, ...]
    distance: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models side by side; `weights` None and `not_comparable` the reason, or the reverse.

    `edges` are the edges between the two with their clues, in either direction, and `rejected` the
    reasons why one lost as a parent of the other.
    """

    names: tuple[str, str]
    facts: tuple[Mapping[str, Any], Mapping[str, Any]]
    kinship: Kinship
    refusal: tuple[Mapping[str, Score], Mapping[str, Score]]
    weights: WeightComparison | None
    not_comparable: str | None
    edges: tuple[EdgeEvidence, ...]
    rejected: tuple[tuple[str, Candidate], ...]

    def block_rows(self) -> list[dict[str, Any]]:
        """One flat row a block; none when the weights cannot be compared."""
        return [] if self.weights is None else [asdict(one) for one in self.weights.blocks]

    def as_mapping(self) -> dict[str, Any]:
        """The JSON shape."""
        weights = None
        if self.weights is not None:
            weights = {k: v for k, v in asdict(self.weights).items() if k != "blocks"}
        return {
            "a": self.names[0],
            "b": self.names[1],
            "facts": [dict(one) for one in self.facts],
            "kinship": asdict(self.kinship),
            "refusal": [{p: _score_mapping(s) for p, s in one.items()} for one in self.refusal],
            "edges": [edge_mapping(edge) for edge in self.edges],
            "rejected": [{"child": child, **asdict(one)} for child, one in self.rejected],
            "weights": weights,
            "not_comparable": self.not_comparable,
            "blocks": self.block_rows(),
        }


def compare_models(registry: Registry, a: str, b: str) -> Pair:
    """Everything that the store can say about two models together.

    Raises
    ------
    NotInRegistry : the store does not hold one of the names.
    """
    names = (registry.resolve_name(a), registry.resolve_name(b))
    weights, reason = None, None
    try:
        weights = _weights(registry, names)
    except NotComparable as error:
        reason = str(error)
    return Pair(
        names=names,
        facts=(_facts(registry, names[0]), _facts(registry, names[1])),
        kinship=find_kinship(registry, *names),
        refusal=(_refusal(registry, names[0]), _refusal(registry, names[1])),
        weights=weights,
        not_comparable=reason,
        **_evidence(registry, *names),
    )


def _evidence(registry: Registry, a: str, b: str) -> dict[str, Any]:
    """Edges and lost candidacies between two models, both ways."""
    both = [registry.why(child, parent) for child, parent in ((a, b), (b, a))]
    return {
        "edges": tuple(edge for why in both for edge in why.edges),
        "rejected": tuple((why.child, one) for why in both for one in why.candidates),
    }


def find_kinship(registry: Registry, a: str, b: str) -> Kinship:
    """Whether one model comes from the other, and their nearest common ancestors."""
    first, second = (
        {name: 0} | {kin.model: kin.distance for kin in registry.ancestors(name)} for name in (a, b)
    )
    sums = {name: first[name] + second[name] for name in first.keys() & second.keys()}
    nearest = min(sums.values(), default=None)
    parent, child = (a, b) if a in second else (b, a) if b in first else (None, None)
    steps: tuple[str, ...] = ()
    if parent is not None and child is not None and parent != child:
        steps = steps_from(registry, parent, [child]).get(child, ())
    return Kinship(
        parent=parent if steps else None,
        steps=steps,
        common=tuple(sorted(name for name in sums if sums[name] == nearest)),
        distance=nearest,
    )


def show_pair(pair: Pair) -> None:
    """Print the comparison for a person."""
    a, b = pair.names
    show_words(("a  ", "dim"), (one_line(a), "bold"))
    show_words(("b  ", "dim"), (one_line(b), "bold"))
    show_words((_kinship_words(pair), ""))
    first, second = pair.facts
    rows = [
        {"": name, "a": _fact(name, first[name]), "b": _fact(name, second[name])}
        for name in FACTS
        if first[name] is not None or second[name] is not None
    ]
    rows += [
        {
            "": probe,
            "a": _shown(pair.refusal[0].get(probe)),
            "b": _shown(pair.refusal[1].get(probe)),
        }
        for probe in PROBES
        if probe in pair.refusal[0] or probe in pair.refusal[1]
    ]
    emit(rows, output_format="table", columns=("", "a", "b"))
    show_words(("", ""))
    for edge in pair.edges:
        show_edge(edge)
    for child, lost in pair.rejected:
        told = f"{lost.parent} is no parent of {child}: {lost.rejected_because}"
        show_words((one_line(told), ""))
    if pair.weights is not None:
        show_words((_summary(pair.weights), "bold"))
        columns = ("block", "distance", "same", "rank", "cosine", "sampled")
        cells = [_block_cells(one) for one in pair.weights.blocks]
        emit(cells, output_format="table", columns=columns)


def _weights(registry: Registry, names: Sequence[str]) -> WeightComparison:
    rows = {row.model: row for row in registry.sketched(names=list(names))}
    for name in names:
        if name not in rows:
            raise NotComparable(f"the weights of {name} were not sketched: scan it first")
    first, second = rows[names[0]], rows[names[1]]
    if first.shape_key != second.shape_key:
        raise NotComparable(
            f"{names[0]} and {names[1]} differ in shape: {_shape(first)} against {_shape(second)}"
        )
    try:
        return compare_sketches(registry.sketches, first, second)
    except (RegistryError, MalformedFile) as error:
        raise NotComparable(f"a sketch cannot be read back: {error}") from error


def _shape(row: SketchRow) -> str:
    return row.shape_key or "unknown"


def _facts(registry: Registry, name: str) -> dict[str, Any]:
    known = registry.describe(name)
    return {"model": name} | {fact: known.get(fact) for fact in FACTS}


def _refusal(registry: Registry, name: str) -> dict[str, Score]:
    """The newest usable score of each refusal probe."""
    found: dict[str, Score] = {}
    for score in registry.scores_of(name):
        if score.probe in PROBES and score.status == "ok":
            found.setdefault(score.probe, score)
    return found


def _score_mapping(score: Score) -> dict[str, Any]:
    kept = ("value", "ci_low", "ci_high", "n", "unit", "prompt_set", "judge", "sha", "scored_at")
    return {name: getattr(score, name) for name in kept}


def _kinship_words(pair: Pair) -> str:
    kin = pair.kinship
    if kin.steps:
        child = next((name for name in pair.names if name != kin.parent), pair.names[1])
        letters = "ab" if child == pair.names[0] else "ba"
        return one_line(f"{letters[0]} comes from {letters[1]} by {' → '.join(kin.steps)}")
    if kin.common:
        named = ", ".join(kin.common)
        return one_line(f"nearest common ancestor: {named}, {kin.distance} edges apart")
    return "no common ancestor is known"


def _fact(name: str, value: object) -> str:
    """A fact as the table shows it: digests short, lists with room to break."""
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
    text = str(value)
    return text[:12] if name in ("sha", "weights_digest") else text.replace(";", "; ")


def _shown(score: Score | None) -> str:
    if score is None or score.value is None:
        return "not measured"
    limits = ""
    if score.ci_low is not None and score.ci_high is not None:
        limits = f" [{score.ci_low:.2f}, {score.ci_high:.2f}]"
    return f"{score.value:.2f}{limits} n={score.n}"


def _summary(found: WeightComparison) -> str:
    distance = "unknown" if found.relative_distance is None else f"{found.relative_distance:.3g}"
    return (
        f"{found.unchanged:,} of {len(found.blocks):,} sampled blocks unchanged; relative distance "
        f"{distance}; {found.form}"
    )


def _block_cells(one: BlockComparison) -> dict[str, Any]:
    rank = "" if one.rank is None else "full" if one.full_rank else str(one.rank)
    return {
        "block": one.block,
        "distance": one.relative_distance,
        "same": f"{one.same_share:.1%}",
        "rank": rank,
        "cosine": None if one.cosine is None else f"{one.cosine:.6f}",
        "sampled": one.sampled,
    }
