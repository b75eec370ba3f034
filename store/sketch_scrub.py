"""Sketches that are damaged on disk: forgotten, so that the next scan reads the weights again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import duckdb

from .staging import staged, utc


def clear_sketches(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str], *, scan: int, now: datetime
) -> list[str]:
    """Forget the sketch files at these paths; inside the caller's transaction.

    Returns
    -------
    Names of the models that will be read again, sorted.
    """
    with staged(connection, "damaged_in", {"path": "string"}, [(path,) for path in paths]):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE damaged AS SELECT r.id AS revision, r.model, m.name "
            "FROM internal.revisions r JOIN internal.models m ON m.id = r.model "
            "WHERE r.sketch_path IN (SELECT path FROM damaged_in)"
        )
    connection.execute(
        "UPDATE internal.revisions SET sketch_path = NULL, sketch_digest = NULL, outcome = NULL, "
        "visited_plan = NULL WHERE id IN (SELECT revision FROM damaged)"
    )
    connection.execute("DELETE FROM internal.schedule WHERE model IN (SELECT model FROM damaged)")
    connection.execute(
        "INSERT INTO internal.changes "
        "SELECT DISTINCT $scan, 'sketch_damaged', name, NULL, NULL, $now FROM damaged "
        "ORDER BY name",
        {"scan": scan, "now": utc(now)},
    )
    found = connection.execute("SELECT DISTINCT name FROM damaged ORDER BY name").fetchall()
    return [name for (name,) in found]
