"""Judges, and the edges that verdicts follow. Writers run inside the caller's transaction."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import duckdb

from .database import Database
from .facts import BelievedEdge, JudgeDefinition
from .names import find_id, name_of
from .staging import json_text, utc

_FIELDS = "judge, kind, family, prompt_set, sensitivity, sensitivity_n, specificity, specificity_n"


def add_judge(
    connection: duckdb.DuckDBPyConnection, judge: JudgeDefinition, *, now: datetime
) -> None:
    """Store a judge; one of the same name is replaced."""
    connection.execute("DELETE FROM internal.judges WHERE judge = ?", [judge.judge])
    connection.execute(
        f"INSERT INTO internal.judges ({_FIELDS}, definition, added_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            judge.judge,
            judge.kind,
            judge.family,
            judge.prompt_set,
            judge.sensitivity,
            judge.sensitivity_n,
            judge.specificity,
            judge.specificity_n,
            json_text(judge.definition),
            utc(now),
        ],
    )


def judges(database: Database, *, kind: str) -> list[JudgeDefinition]:
    """The judges of a kind, the oldest first."""
    found = database.records(
        f"SELECT {_FIELDS}, definition FROM internal.judges WHERE kind = ? "
        "ORDER BY added_at, judge",
        [kind],
    )
    for record in found:
        record["definition"] = json.loads(record["definition"])
    return [JudgeDefinition(**record) for record in found]


def believed_edges(database: Database, *, child: str | None = None) -> list[BelievedEdge]:
    """The edges that the closure follows, of one child or of each, the surest first."""
    found = database.records(
        "SELECT c.name AS child, p.name AS parent, e.relation, e.confidence, e.share, e.detail "
        "FROM internal.believed e JOIN internal.models c ON c.id = e.child "
        "JOIN internal.models p ON p.id = e.parent WHERE $child IS NULL OR e.child = $child "
        "ORDER BY c.name, e.share DESC NULLS LAST, e.confidence DESC, p.name",
        {"child": None if child is None else find_id(database, child)},
    )
    for record in found:
        record["detail"] = json.loads(record["detail"]) if record["detail"] else {}
    return [BelievedEdge(**record) for record in found]


def survival(database: Database, name: str, *, probe: str, judge: str) -> list[dict[str, Any]]:
    """The rows of the macro `survival` by one judge, on the prompt set most models share."""
    found = database.records(
        "WITH rows AS (SELECT * FROM v1.survival($name, $probe) WHERE judge = $judge "
        "AND ancestor_value IS NOT NULL), "
        "sets AS (SELECT prompt_set FROM rows GROUP BY prompt_set ORDER BY count(*) DESC, "
        "prompt_set LIMIT 1) "
        "SELECT r.* FROM rows r SEMI JOIN sets s ON s.prompt_set = r.prompt_set ORDER BY r.model",
        {"name": name_of(database, find_id(database, name)), "probe": probe, "judge": judge},
    )
    return found
