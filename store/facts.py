"""Records that go into the store and come out of it, beside those of `lineage.records`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..lineage.records import Clue, Coverage, DeclaredParent, Finding, ModelInfo

ASSERTED, DENIED = "asserted", "denied"
"""What a reviewed decision says of an edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionFacts:
    """What a visit learned about the weights of one revision.

    `sketch_digest` is the sha256 of the sketch file and `sketch_path` its place relative to the
    sketch folder; both None when the weights were read but not sketched. `weights_digest` is a
    digest over the content digests of all weight files: exact copies share it.
    """

    format: str | None = None
    dtype: str | None = None
    architecture: str | None = None
    shape_key: str | None = None
    n_params: int | None = None
    sketch_plan: str | None = None
    sketch_digest: str | None = None
    sketch_path: str | None = None
    weights_digest: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One visit of one model: what became of it and what it brought.

    `info` None means that the model's description was not read either; `declared` None that its
    claims were not (the stored ones stay). `plan` is the sketch plan version that the visit
    followed, so that a permanent skip is tried again under a newer plan. `hidden` marks a
    `not_found` that may as well be a private model: no tombstone follows from it alone. `findings`
    are about files that nobody should load.
    """

    coverage: Coverage
    info: ModelInfo | None = None
    facts: RevisionFacts | None = None
    declared: tuple[DeclaredParent, ...] | None = None
    plan: str | None = None
    hidden: bool = False
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenModel:
    """An inferred ancestor that nobody published; `node` is `hidden:<digest>`."""

    node: str
    shape_key: str | None = None
    architecture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """A prompt set that scores refer to; the prompts themselves are not stored."""

    digest: str
    name: str
    license: str
    n_harmful: int
    n_harmless: int
    origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDefinition:
    """A probe that scores refer to; `tier` is its cost."""

    probe: str
    probe_version: str
    tier: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeDefinition:
    """What graded replies, and what is known of its errors.

    `family` is the release that taught it, None for a judge of any family. `sensitivity` and
    `specificity` were measured on `sensitivity_n` refusals and `specificity_n` answers of known
    label; None where they were not, and rates by this judge are uncorrected. `definition` holds
    what the judge needs to grade again.
    """

    judge: str
    kind: str
    family: str | None = None
    prompt_set: str | None = None
    sensitivity: float | None = None
    sensitivity_n: int | None = None
    specificity: float | None = None
    specificity_n: int | None = None
    definition: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BelievedEdge:
    """An edge that the closure follows."""

    child: str
    parent: str
    relation: str | None
    confidence: float
    share: float | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanState:
    """A scan and where its listing stands; times are UTC.

    `cursor` None with `listing_done` False means that no page was stored yet.
    """

    scan: int
    kind: str
    source: str
    target: str | None
    parameters: Mapping[str, Any]
    status: str
    cursor: str | None
    listing_done: bool
    started_at: datetime
    finished_at: datetime | None
    listed: int
    visited: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Models whose current commit wants a visit: now, after a cooldown, after a new commit."""

    waiting: int
    cooling: int
    disabled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that people are told; `event_id` is the idempotency key of its deliveries."""

    event_id: str
    kind: str
    scan: int
    subject: str
    severity: str
    baseline: bool
    body: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What the publish gate said of the snapshot of a scan."""

    scan: int
    status: str
    reasons: tuple[str, ...]
    counts: Mapping[str, int]
    accepted: str | None
    judged_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A listing sweep and where it stands.

    `kind` is `full`, `created` or `modified`; `newest` and `oldest` are the source's dates;
    `known` counts models that the store had at that very commit, `short_pages` and `disordered`
    the pages that a whole listing would not have.
    """

    scan: int
    kind: str
    cursor: str | None = None
    done: bool = False
    pages: int = 0
    listed: int = 0
    known: int = 0
    short_pages: int = 0
    disordered: int = 0
    newest: datetime | None = None
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchRow:
    """The newest sketched revision of a live model.

    `current` is False when the source has a newer commit that was not sketched yet.
    """

    revision: int
    model: str
    source: str
    sha: str
    current: bool
    created_at: datetime | None
    last_modified: datetime | None
    format: str | None
    dtype: str | None
    architecture: str | None
    shape_key: str | None
    n_params: int | None
    sketch_plan: str | None
    sketch_digest: str | None
    sketch_path: str
    weights_digest: str | None
    downloads: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """A descendant or ancestor: its distance in edges and the weakest edge on the surest way."""

    model: str
    distance: int
    confidence: float
    hidden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """One line of a tree, in the order of printing (parents before their children).

    `direct` and `total` count the next generation and all of them in the whole store, whatever the
    depth shown. `others` names further parents (or, upwards, children) through which the node
    hangs in the same tree; it is printed once, under the surest.
    """

    model: str
    under: str | None
    depth: int
    relation: str | None
    detail: Mapping[str, Any]
    confidence: float | None
    share: float | None
    declared: bool
    inferred: bool
    hidden: bool
    stripped: bool
    direct: int
    total: int
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeEvidence:
    """An edge with the clues that carry it.

    `correction` is what a reviewed decision says of it, asserted or denied, None without one.
    """

    child: str
    child_sha: str | None
    parent: str
    parent_sha: str | None
    relation: str | None
    detail: Mapping[str, Any]
    declared: bool
    declared_relation: str | None
    inferred: bool
    confidence: float | None
    direction_confidence: float | None
    share: float | None
    evidence_id: str | None
    first_seen_scan: int
    last_seen_scan: int
    code_version: str | None
    inputs_digest: str | None
    clues: tuple[Clue, ...]
    correction: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A parent that was considered and lost."""

    parent: str
    rank: int
    score: float
    rejected_because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A parent as the child's card, tags or config write it; `parent` None: it resolves to none."""

    raw: str
    parent: str | None
    relation: str | None
    via: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a reviewed file says of a parent: asserted or denied, with the reason."""

    parent: str
    verdict: str
    relation: str | None
    reason: str
    decided_by: str | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Everything the store holds for and against the parents of one child."""

    child: str
    edges: tuple[EdgeEvidence, ...]
    candidates: tuple[Candidate, ...]
    claims: tuple[Claim, ...]
    decisions: tuple[Decision, ...] = ()

    @property
    def asserted(self) -> tuple[str, ...]:
        """Parents that a reviewed decision asserts."""
        return tuple(one.parent for one in self.decisions if one.verdict == ASSERTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow:
    """A finding as stored, with its status over scans (new, open, fixed, ignored)."""

    finding_id: str
    kind: str
    severity: str
    model: str
    ancestor: str | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    q_value: float | None
    status: str
    evidence_id: str | None
    detail: Mapping[str, Any]
    first_scan: int
    last_scan: int
    clues: tuple[Clue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeCount:
    """How many visits of a scan ended in one way, for one reason."""

    outcome: str
    reason: str | None
    models: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the store holds and what is still to do.

    `backlog` counts live listed models whose current revision no visit has looked at.
    """

    last_scan: ScanState | None
    unfinished: tuple[ScanState, ...]
    outcomes: tuple[OutcomeCount, ...]
    models: int
    named_only: int
    hidden: int
    tombstones: int
    sketched: int
    inferred_edges: int
    declared_edges: int
    open_findings: int
    backlog: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that a scan found different from what the store held."""

    scan: int
    kind: str
    subject: str
    before: str | None
    after: str | None
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """The answer to a stranger's query; `truncated` when rows beyond the limit were left out."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintRow:
    """Where the fingerprint of a revision on a prompt set lies."""

    model: str
    sha: str
    prompt_set: str
    version: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviourRow:
    """Two models that see prompts alike, and the null they were held against."""

    first: str
    second: str
    n: int
    debiased_cka: float
    cka: float
    null_pairs: int
    p_value: float | None
    q_value: float | None
