"""Models, revisions and files as a source lists them: the bulk upsert behind pages and visits.

All functions run inside the caller's transaction. `upsert_models` leaves a temporary table `page`
(one row a model: position, name, model id, revision id, what was known before) for what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import duckdb

from ..lineage.records import ModelInfo
from .staging import identity_key, staged, utc, whole

_MODEL_COLUMNS = {
    "pos": "int64",
    "key": "uint64",
    "source": "string",
    "source_id": "string",
    "name": "string",
    "author": "string",
    "sha": "string",
    "created_at": "timestamp",
    "last_modified": "timestamp",
    "library": "string",
    "license": "string",
    "gated": "string",
    "disabled": "bool",
    "downloads": "int64",
    "tags": "list",
}
_FILE_COLUMNS = {
    "pos": "int64",
    "path": "string",
    "size": "int64",
    "sha256": "string",
    "blob": "string",
}

# A model that only cards named keeps its row, and so its edges, when a source lists it at last.
_RESOLVE = """
CREATE OR REPLACE TEMP TABLE page AS
WITH known AS (
    SELECT p.*, md5_number_lower(p.name) AS name_key, m.id AS listed, m.name AS old_name,
        m.revision AS old_revision, m.tombstone_reason AS old_tombstone, m.gated AS old_gated
    FROM page_in p
    LEFT JOIN internal.models m
        ON m.key = p.key AND m.source_id = p.source_id AND m.source = p.source
), fresh AS (
    SELECT pos, name_key, name FROM known WHERE listed IS NULL
    QUALIFY row_number() OVER (PARTITION BY name ORDER BY pos) = 1
), named AS (
    SELECT f.pos, min(m.id) AS id
    FROM fresh f JOIN internal.models m
        ON m.name_key = f.name_key AND m.name = f.name AND m.source = 'declared'
    GROUP BY f.pos
), numbered AS (
    SELECT k.*, coalesce(k.listed, n.id) IS NULL AS is_new, n.id IS NOT NULL AS adopted,
        coalesce(
            k.listed, n.id,
            (SELECT coalesce(max(id), 0) FROM internal.models) + row_number() OVER (
                PARTITION BY coalesce(k.listed, n.id) IS NULL ORDER BY k.pos)
        )::INTEGER AS model
    FROM known k LEFT JOIN named n ON n.pos = k.pos
)
SELECT n.*, r.id IS NULL AS is_new_revision,
    coalesce(
        r.id,
        (SELECT coalesce(max(id), 0) FROM internal.revisions) + row_number() OVER (
            PARTITION BY r.id IS NULL ORDER BY n.pos)
    )::INTEGER AS revision
FROM numbered n LEFT JOIN internal.revisions r ON r.model = n.model AND r.sha = n.sha
ORDER BY n.pos
"""

_CHANGES = """
INSERT INTO internal.changes
SELECT $scan, c.kind, c.subject, c.before, c.after, $now FROM (
    SELECT pos, 0 AS nth, 'renamed' AS kind, name AS subject, old_name AS before, name AS after
    FROM page WHERE listed IS NOT NULL AND old_name <> name
    UNION ALL
    SELECT p.pos, 1, CASE WHEN p.is_new_revision THEN 'revision' ELSE 'rewound' END, p.name,
        r.sha, p.sha
    FROM page p JOIN internal.revisions r ON r.id = p.old_revision
    WHERE p.listed IS NOT NULL AND p.old_revision <> p.revision
    UNION ALL
    SELECT pos, 2, 'returned', name, old_tombstone, NULL
    FROM page WHERE listed IS NOT NULL AND old_tombstone IS NOT NULL
    UNION ALL
    SELECT pos, 3, 'gated', name, coalesce(old_gated, 'open'), coalesce(gated, 'open')
    FROM page WHERE listed IS NOT NULL AND old_gated IS DISTINCT FROM gated
) c ORDER BY c.pos, c.nth
"""

# Somebody else has the name now: the repository that had it is gone or moved.
_REPLACED = """
CREATE OR REPLACE TEMP TABLE replaced AS
SELECT m.id, m.name
FROM page p JOIN internal.models m
    ON m.name_key = p.name_key AND m.name = p.name AND m.source = p.source
WHERE (p.is_new OR p.old_name <> p.name) AND m.tombstone_reason IS NULL
    AND m.id NOT IN (SELECT model FROM page)
"""

_UPDATE_MODELS = """
UPDATE internal.models m SET
    key = p.key, source = p.source, source_id = p.source_id, name = p.name, name_key = p.name_key,
    author = p.author, revision = p.revision, gated = p.gated, disabled = p.disabled,
    created_at = coalesce(p.created_at, m.created_at),
    last_modified = coalesce(p.last_modified, m.last_modified),
    library = coalesce(p.library, m.library), license = coalesce(p.license, m.license),
    downloads = coalesce(p.downloads, m.downloads), last_seen_scan = $scan, tombstone_reason = NULL
FROM page p WHERE m.id = p.model AND NOT p.is_new
"""

_INSERT_MODELS = """
INSERT INTO internal.models BY NAME
SELECT model AS id, key, source, source_id, name, name_key, author, revision,
    created_at, last_modified, library, license, gated, disabled, downloads, false AS hidden,
    $scan AS first_seen_scan, $scan AS last_seen_scan
FROM page WHERE is_new ORDER BY model
"""

_INSERT_REVISIONS = """
INSERT INTO internal.revisions BY NAME
SELECT revision AS id, model, sha, $scan AS first_seen_scan, $now AS seen_at, tags
FROM page WHERE is_new_revision ORDER BY revision
"""

# The files of a commit never change, but a listing may say less about them than a visit did.
_RICHER = """
CREATE OR REPLACE TEMP TABLE richer AS
SELECT n.revision FROM (
    SELECT p.revision, count(f.sha256) AS digests, count(f.size) AS sizes
    FROM files_in f JOIN page p ON p.pos = f.pos GROUP BY p.revision
) n LEFT JOIN (
    SELECT o.revision, count(o.sha256) AS digests, count(o.size) AS sizes
    FROM internal.files o WHERE o.revision IN (SELECT revision FROM page) GROUP BY o.revision
) h ON h.revision = n.revision
WHERE h.revision IS NULL OR (n.digests, n.sizes) > (h.digests, h.sizes)
"""


def upsert_models(
    connection: duckdb.DuckDBPyConnection,
    infos: Sequence[ModelInfo],
    *,
    scan: int,
    now: datetime,
) -> None:
    """Bring models, their current revision and its files up to what a source says.

    Identity is (source, source_id): a new name for a known identity is a rename, a new sha a new
    revision; both leave a row in `changes`. Of two entries with one identity the later counts.
    """
    latest = list({(info.source, info.source_id): info for info in infos}.values())
    with staged(connection, "page_in", _MODEL_COLUMNS, _model_rows(latest)):
        connection.execute(_RESOLVE)
    moment = {"scan": scan, "now": utc(now)}
    connection.execute(_CHANGES, moment)
    _retire_replaced(connection, scan=scan, now=now)
    connection.execute(
        "INSERT INTO internal.former_names SELECT model, old_name, $scan FROM page "
        "WHERE listed IS NOT NULL AND old_name <> name ORDER BY pos",
        {"scan": scan},
    )
    connection.execute(
        "INSERT INTO internal.name_index SELECT name_key, model FROM page "
        "WHERE is_new OR (NOT adopted AND old_name <> name) ORDER BY pos"
    )
    connection.execute(_UPDATE_MODELS, {"scan": scan})
    connection.execute(_INSERT_MODELS, {"scan": scan})
    connection.execute(_INSERT_REVISIONS, moment)
    _upsert_files(connection, latest)


def record_listing(connection: duckdb.DuckDBPyConnection, *, scan: int) -> None:
    """Note that this scan listed the models of the temporary table `page`."""
    connection.execute(
        "INSERT INTO internal.listings SELECT $scan, model FROM page WHERE model NOT IN "
        "(SELECT l.model FROM internal.listings l WHERE l.scan = $scan) ORDER BY pos",
        {"scan": scan},
    )


def retire(
    connection: duckdb.DuckDBPyConnection, table: str, *, reason: str, scan: int, now: datetime
) -> None:
    """Put a tombstone on the models of a temporary table (id, name) and note the change."""
    connection.execute(
        "INSERT INTO internal.changes "
        f"SELECT $scan, 'removed', name, NULL, $reason, $now FROM {table} ORDER BY name",
        {"scan": scan, "reason": reason, "now": utc(now)},
    )
    connection.execute(
        "UPDATE internal.models m SET tombstone_reason = $reason "
        f"WHERE m.id IN (SELECT id FROM {table})",
        {"reason": reason},
    )


def _retire_replaced(connection: duckdb.DuckDBPyConnection, *, scan: int, now: datetime) -> None:
    connection.execute(_REPLACED)
    retire(connection, "replaced", reason="replaced", scan=scan, now=now)


def _upsert_files(connection: duckdb.DuckDBPyConnection, infos: Sequence[ModelInfo]) -> None:
    _insert_bare_files(connection, infos)
    rows = list(_file_rows(infos))
    if not rows:
        return
    with staged(connection, "files_in", _FILE_COLUMNS, rows):
        connection.execute(_RICHER)
        connection.execute(
            "DELETE FROM internal.files WHERE revision IN (SELECT revision FROM richer)"
        )
        connection.execute(
            "INSERT INTO internal.files "
            "SELECT p.revision, f.path, f.size, f.sha256, f.blob "
            "FROM files_in f JOIN page p ON p.pos = f.pos "
            "WHERE p.revision IN (SELECT revision FROM richer) ORDER BY p.revision, f.path"
        )


def _insert_bare_files(connection: duckdb.DuckDBPyConnection, infos: Sequence[ModelInfo]) -> None:
    """File names without sizes or digests: they can only say something of a new commit."""
    rows = [
        (pos, [file.path for file in info.files])
        for pos, info in enumerate(infos)
        if info.files and _is_bare(info)
    ]
    if not rows:
        return
    with staged(connection, "bare_in", {"pos": "int64", "paths": "list"}, rows):
        connection.execute(
            "INSERT INTO internal.files BY NAME SELECT p.revision, unnest(b.paths) AS path "
            "FROM bare_in b JOIN page p ON p.pos = b.pos WHERE p.is_new_revision "
            "ORDER BY p.revision"
        )


def _is_bare(info: ModelInfo) -> bool:
    for file in info.files:
        if file.size is not None or file.sha256 is not None or file.blob is not None:
            return False
    return True


def _model_rows(infos: Sequence[ModelInfo]) -> Iterable[tuple[object, ...]]:
    for position, info in enumerate(infos):
        yield (
            position,
            identity_key(info.source, info.source_id),
            info.source,
            info.source_id,
            info.name,
            info.author,
            info.sha,
            utc(info.created_at),
            utc(info.last_modified),
            info.library,
            info.license,
            info.gated,
            info.disabled,
            whole(info.downloads),
            list(info.tags),
        )


def _file_rows(infos: Sequence[ModelInfo]) -> Iterable[tuple[object, ...]]:
    for position, info in enumerate(infos):
        if _is_bare(info):
            continue
        for file in info.files:
            yield position, file.path, whole(file.size), file.sha256, file.blob
