"""Records that pass between the parts: what a source lists, a card declares, a scan infers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Relation(StrEnum):
    """How a child was made from its parent."""

    COPY = "copy"
    FINETUNE = "finetune"
    ADAPTER = "adapter"
    MERGE = "merge"
    QUANTIZED = "quantized"
    PRUNE = "prune"
    EDIT = "edit"


class Outcome(StrEnum):
    """What became of one model in one scan; every listed model gets exactly one a scan."""

    OK = "ok"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    NO_WEIGHTS = "no_weights"
    UNSUPPORTED = "unsupported"
    GATED = "gated"
    NOT_FOUND = "not_found"
    MALFORMED = "malformed"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a revision as the source lists it.

    `sha256` is the digest of the content (LFS oid) where the source knows it, else None;
    `blob` is any other content identifier (git blob id). Sizes are bytes.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model as its source describes it: one repository at one revision.

    `source_id` is the identity that outlives a rename (the Hub's `_id`; for a folder the path).
    `card` is the parsed front matter, `config` the parsed config.json (or the Hub's trimmed one).
    """

    source: str
    source_id: str
    name: str
    sha: str
    created_at: datetime | None = None
    last_modified: datetime | None = None
    library: str | None = None
    license: str | None = None
    gated: str | None = None
    disabled: bool = False
    downloads: int | None = None
    tags: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[ModelFile, ...] = ()

    @property
    def author(self) -> str | None:
        """The organisation or user part of the name."""
        return self.name.split("/")[0] if "/" in self.name else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredParent:
    """A parent that a card, a tag or a config names.

    `name` is the `org/model` id when the text resolves to one, else None; `raw` is the text as
    written; `via` says where it stood (`front_matter`, `tag`, `config`, `adapter_config`,
    `mergekit`, `body`). A declaration is kept as a claim: it is never evidence for inference.
    """

    raw: str
    name: str | None
    relation: Relation | None
    via: str
    revision: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor in a weight file: where it lies and what it is.

    `begin` and `end` are absolute byte offsets in `path`; `dtype` is the safetensors spelling
    (`BF16`, `F16`, `F32`, ...).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleKey:
    """The canonical place of a tensor: its role (`attn.o`) and layer (None outside the stack)."""

    role: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.role if self.layer is None else f"{self.layer}.{self.role}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a scan did with one model, and why."""

    model: str
    outcome: Outcome
    stage: str
    reason: str | None = None
    path: str | None = None
    offset: int | None = None
    requests: int = 0
    bytes_read: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """One typed piece of evidence for or against an edge.

    `llr` is the natural-log likelihood ratio of the clue under "child comes from parent" against
    "it does not"; positive speaks for. `kind` groups clues (`distance`, `frozen`, `time`, `grid`,
    `zeros`, `delta`, `geometry`, `rounding_floor`, `family`).
    """

    kind: str
    statistic: str
    value: float
    llr: float = 0.0
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredEdge:
    """A parent that the weights name. `parent` and `child` are node ids of the inference."""

    child: str
    parent: str
    relation: Relation
    confidence: float
    direction_confidence: float
    detail: Mapping[str, Any] = field(default_factory=dict)
    share: float | None = None
    clues: tuple[Clue, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedParent:
    """A runner-up and the reason it lost."""

    child: str
    parent: str
    rank: int
    score: float
    rejected_because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One probe result on one revision: a measurement with its denominator.

    `value` lies in [ci_low, ci_high] at 95 %; `n` counts prompts. `status` is `ok`,
    `inconclusive`, `unsupported` or `error`; a probe that did not run is never a pass.
    """

    model: str
    sha: str
    probe: str
    probe_version: str
    prompt_set: str
    n: int
    status: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    unit: str
    judge: str
    corrected: bool
    environment: Mapping[str, Any]
    seconds: float
    scored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a release owner should look at.

    `finding_id` is stable over scans: a digest of kind, model and ancestor identity.
    """

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
    clues: tuple[Clue, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
