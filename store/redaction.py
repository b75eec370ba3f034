"""Masking a model: its name and all that describes it go, its place in the graph stays.

Wherever a text of the store holds one of its names, a number stands from then on. What identifies
it is kept as digests in a table that no snapshot takes along, so that it is not read in again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import duckdb

from ..lineage.records import DeclaredParent, ModelInfo
from .behaviour import forget_fingerprints
from .corrections import Correction
from .facts import Visit
from .masking import mask_everywhere, masked_text, masked_value
from .staging import identity_key, text, utc

_MASK = """
UPDATE internal.{table} SET name = $name, name_key = md5_number_lower($name), key = $key,
    source_id = $name, author = NULL, library = NULL, license = NULL, gated = NULL,
    created_at = NULL, last_modified = NULL, downloads = NULL, tombstone_reason = 'redacted'
WHERE id = $model
"""
_FORGET = (
    "DELETE FROM internal.files WHERE revision IN "
    "(SELECT id FROM internal.revisions WHERE model = $model)",
    "DELETE FROM internal.declared WHERE model = $model",
    "DELETE FROM internal.former_names WHERE model = $model",
    "DELETE FROM internal.name_index WHERE model = $model",
    "UPDATE internal.revisions SET sha = 'redacted:' || id, tags = NULL, config = NULL, "
    "weights_digest = NULL, sketch_path = NULL, sketch_digest = NULL WHERE model = $model",
    "UPDATE internal.coverage SET sha = NULL, reason = NULL, path = NULL WHERE model = $model",
)
_NAMES = """
SELECT name FROM internal.models WHERE id = $model
UNION SELECT source_id FROM internal.models WHERE id = $model
UNION SELECT f.name FROM (
    SELECT name FROM internal.former_names WHERE model = $model
    UNION SELECT name FROM internal.model_versions WHERE id = $model
) f WHERE NOT EXISTS (
    -- A former name that another publisher's model has now is that model's.
    SELECT 1 FROM internal.models o WHERE o.id <> $model AND lower(o.name) = lower(f.name)
        AND o.source <> 'declared' AND NOT o.hidden
        AND lower(o.name) <> (SELECT lower(m.name) FROM internal.models m WHERE m.id = $model)
)
"""
_MASKED = "redacted"
"""What stands for a redacted model in words that were read after it was."""

# A card may have named it in another spelling, and a repository be there again under its name.
_NAMESAKES = """
SELECT DISTINCT m.id FROM (FROM internal.models UNION ALL BY NAME FROM internal.model_versions) m
WHERE m.id <> $model AND lower(m.name) IN (SELECT lower(unnest($names::VARCHAR[])))
    AND NOT m.hidden
ORDER BY m.id
"""


class Redacted(NamedTuple):
    """The mask that stands for a model, and files that describe it, to be deleted after the commit.

    `sketches` and `fingerprints` are paths in the folders of that name.
    """

    name: str
    sketches: list[str]
    fingerprints: list[str]


def redact(
    connection: duckdb.DuckDBPyConnection, model: int, *, reason: str, now: datetime
) -> Redacted:
    """Mask a model, and others of its name, in every table, inside the caller's transaction."""
    names = [name for (name,) in connection.execute(_NAMES, {"model": model}).fetchall()]
    namesakes = connection.execute(_NAMESAKES, {"model": model, "names": names}).fetchall()
    sketches, fingerprints = [], []
    for one in (model, *(other for (other,) in namesakes)):
        sketches += _sketches(connection, one)
        fingerprints += forget_fingerprints(connection, one)
        _mask_model(connection, one, names, of=model, reason=reason, now=now)
    mask = _mask_of(model)
    mask_everywhere(connection, names, mask=mask)
    return Redacted(mask, sketches, fingerprints)


def _sketches(connection: duckdb.DuckDBPyConnection, model: int) -> list[str]:
    found = connection.execute(
        "SELECT sketch_path FROM internal.revisions WHERE model = ? AND sketch_path IS NOT NULL",
        [model],
    ).fetchall()
    return [path for (path,) in found]


def _mask_of(model: int) -> str:
    """The name that stands for a redacted model."""
    return f"redacted:{model}"


def _mask_model(
    connection: duckdb.DuckDBPyConnection,
    model: int,
    names: Sequence[str],
    *,
    of: int,
    reason: str,
    now: datetime,
) -> None:
    mask = _mask_of(model)
    for name in names:
        connection.execute(
            "INSERT INTO internal.redactions SELECT key, $digest, $of, $reason, $now "
            "FROM internal.models WHERE id = $model",
            {
                "digest": _digest(name),
                "of": of,
                "reason": text(reason),
                "now": utc(now),
                "model": model,
            },
        )
    for query in _FORGET:
        connection.execute(query, {"model": model})
    key = identity_key("redacted", mask)
    for table in ("models", "model_versions"):
        masked = {"name": mask, "key": key, "model": model}
        connection.execute(_MASK.format(table=table), masked)
    connection.execute(
        "INSERT INTO internal.name_index SELECT name_key, id FROM internal.models WHERE id = ?",
        [model],
    )


class Redactions(NamedTuple):
    """What must not be read in again: identity keys, and digests of names with whose they were."""

    keys: frozenset[int]
    names: Mapping[str, int]

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> Redactions:
        """The redactions of a store."""
        rows = connection.execute(
            "SELECT key, name_digest, model FROM internal.redactions ORDER BY model DESC"
        ).fetchall()
        return cls(frozenset(row[0] for row in rows), {row[1]: row[2] for row in rows})

    def hold(self, info: ModelInfo) -> bool:
        """Whether a listed model is one that was redacted, by identity or by name."""
        if not self.keys:
            return False
        return identity_key(info.source, info.source_id) in self.keys or self.hold_name(info.name)

    def hold_name(self, name: str) -> bool:
        """Whether a redacted model had this name."""
        return bool(self.names) and _digest(name) in self.names

    def masked_name(self, name: str) -> str:
        """A name, or the mask that stands for it."""
        model = self.names.get(_digest(name)) if self.names else None
        return name if model is None else _mask_of(model)

    def masked_text(self, value: str | None) -> str | None:
        """Words without the names of redacted models."""
        if value is None or not self.names:
            return value
        return masked_text(value, self.hold_name, mask=_MASKED)

    def masked_json(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """A mapping without the names of redacted models in its texts."""
        if not self.names:
            return value
        found: Mapping[str, Any] = masked_value(dict(value), self.hold_name, mask=_MASKED)
        return found

    def masked_info(self, info: ModelInfo) -> ModelInfo:
        """What is kept of a description that is no redacted model's, without their names."""
        if not self.names:
            return info
        return replace(info, tags=tuple(self.masked_text(tag) or "" for tag in info.tags))

    def masked_visit(self, visit: Visit) -> Visit:
        """A visit without the names of redacted models in what it brought."""
        if not self.names:
            return visit
        facts, claims = visit.facts, visit.declared
        return replace(
            visit,
            coverage=replace(
                visit.coverage, reason=self.masked_text(visit.coverage.reason),
                path=self.masked_text(visit.coverage.path),
            ),
            info=None if visit.info is None else self.masked_info(visit.info),
            facts=facts and replace(facts, config=self.masked_json(facts.config)),
            declared=None if claims is None else self.masked_claims(claims),
        )  # fmt: skip

    def masked_correction(self, correction: Correction) -> Correction:
        """A decision with the masks of redacted models, about whom it stands on."""
        return replace(
            correction,
            child=self.masked_name(correction.child),
            parent=self.masked_name(correction.parent),
            reason=self.masked_text(correction.reason) or "",
            by=self.masked_text(correction.by),
        )

    def masked(
        self, declared: Mapping[str, Sequence[DeclaredParent]]
    ) -> dict[str, Sequence[DeclaredParent]]:
        """Claims without the names of redacted models."""
        if not self.names:
            return dict(declared)
        return {model: self.masked_claims(claims) for model, claims in declared.items()}

    def masked_claims(self, claims: Sequence[DeclaredParent]) -> tuple[DeclaredParent, ...]:
        """The claims of one model without the names of redacted models."""
        return tuple(map(self._masked_claim, claims))

    def _masked_claim(self, claim: DeclaredParent) -> DeclaredParent:
        if self.hold_name(claim.name or claim.raw):
            return replace(claim, name=None, raw=_MASKED, note=None)
        raw = self.masked_text(claim.raw) or ""
        return replace(claim, raw=raw, note=self.masked_text(claim.note))


def _digest(name: str) -> str:
    return hashlib.sha256((text(name) or "").lower().encode()).hexdigest()
