"""Masking a model: its name and all that describes it go, its place in the graph stays.

Wherever a text of the store holds one of its names, a number stands from then on. What identifies
it is kept as digests in a table that no snapshot takes along, so that it is not read in again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import duckdb

from ..lineage.records import DeclaredParent, ModelInfo
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
UNION SELECT name FROM internal.former_names WHERE model = $model
UNION SELECT name FROM internal.model_versions WHERE id = $model
UNION SELECT source_id FROM internal.models WHERE id = $model
"""
_TEXTS = """
SELECT table_name, column_name, data_type FROM duckdb_columns()
WHERE schema_name = 'internal' AND database_name = current_database() AND NOT internal
    AND data_type IN ('VARCHAR', 'JSON')
    AND table_name IN (SELECT t.table_name FROM duckdb_tables() t WHERE t.schema_name = 'internal')
ORDER BY ALL
"""


class Redacted(NamedTuple):
    """The mask that stands for a model, and its sketch files, to be deleted after the commit."""

    name: str
    sketches: list[str]


def redact(
    connection: duckdb.DuckDBPyConnection, model: int, *, reason: str, now: datetime
) -> Redacted:
    """Mask a model in every table, inside the caller's transaction."""
    names = [name for (name,) in connection.execute(_NAMES, {"model": model}).fetchall()]
    sketches = connection.execute(
        "SELECT sketch_path FROM internal.revisions WHERE model = ? AND sketch_path IS NOT NULL",
        [model],
    ).fetchall()
    mask = f"redacted:{model}"
    for name in names:
        connection.execute(
            "INSERT INTO internal.redactions SELECT key, $digest, id, $reason, $now "
            "FROM internal.models WHERE id = $model",
            {"digest": _digest(name), "reason": text(reason), "now": utc(now), "model": model},
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
    _replace_everywhere(connection, names, mask=mask)
    return Redacted(mask, [path for (path,) in sketches])


class Redactions(NamedTuple):
    """What must not be read in again: identity keys and digests of names."""

    keys: frozenset[int]
    names: frozenset[str]

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> Redactions:
        """The redactions of a store."""
        rows = connection.execute("SELECT key, name_digest FROM internal.redactions").fetchall()
        return cls(frozenset(key for key, _ in rows), frozenset(digest for _, digest in rows))

    def hold(self, info: ModelInfo) -> bool:
        """Whether a listed model is one that was redacted, by identity or by name."""
        if not self.keys:
            return False
        return identity_key(info.source, info.source_id) in self.keys or self.hold_name(info.name)

    def hold_name(self, name: str) -> bool:
        """Whether a redacted model had this name."""
        return bool(self.names) and _digest(name) in self.names

    def masked(
        self, declared: Mapping[str, Sequence[DeclaredParent]]
    ) -> dict[str, Sequence[DeclaredParent]]:
        """Claims without the names of redacted models."""
        if not self.names:
            return dict(declared)
        return {model: self.masked_claims(claims) for model, claims in declared.items()}

    def masked_claims(self, claims: Sequence[DeclaredParent]) -> tuple[DeclaredParent, ...]:
        """The claims of one model without the names of redacted models."""
        return tuple(
            replace(claim, name=None, raw="redacted", note=None)
            if self.hold_name(claim.name or claim.raw)
            else claim
            for claim in claims
        )


def _replace_everywhere(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], *, mask: str
) -> None:
    # A name inside a longer one (org/x in org/x2) is another model's.
    for table, column, kind in connection.execute(_TEXTS).fetchall():
        for name in names:
            connection.execute(
                f'UPDATE internal."{table}" SET "{column}" = regexp_replace("{column}"::VARCHAR, '
                "'(^|[^\\w./-])' || regexp_escape($name) || '($|[^\\w./-])', "
                f"'\\1' || $mask || '\\2', 'g')::{kind} "
                f'WHERE contains("{column}"::VARCHAR, $name)',
                {"name": name, "mask": mask},
            )


def _digest(name: str) -> str:
    return hashlib.sha256((text(name) or "").lower().encode()).hexdigest()
