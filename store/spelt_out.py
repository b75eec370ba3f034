"""Queries on schema v1 for a person to copy and change: what each page of the explorer asks."""

from __future__ import annotations

from collections.abc import Sequence

_ASKED = {
    "releases": "SELECT parent, count(*) AS children FROM v1.edges GROUP BY parent\n"
    "ORDER BY children DESC LIMIT 20",
    "models": "SELECT * FROM v1.models WHERE contains(lower(model), lower(?)) ORDER BY model",
    "parents": "SELECT * FROM v1.edges WHERE child = ? ORDER BY confidence DESC",
    "children": "SELECT * FROM v1.edges WHERE parent = ? ORDER BY child",
    "descendants": "SELECT * FROM descendants(?, min_confidence := ?)",
    "ancestors": "SELECT * FROM ancestors(?, min_confidence := ?)",
    "edge": "SELECT e.child, e.parent, e.relation, e.confidence, x.*\nFROM v1.edges e "
    "JOIN v1.evidence x ON x.evidence_id = e.evidence_id WHERE e.child = ?",
    "findings": "SELECT * FROM v1.findings WHERE kind = coalesce(?, kind) ORDER BY last_scan DESC",
    "coverage": "SELECT outcome, stage, reason, count(*) AS models FROM v1.coverage\n"
    "WHERE scan = coalesce(?, scan) GROUP BY ALL ORDER BY models DESC",
    "scans": "SELECT * FROM v1.scans ORDER BY scan DESC",
    "survival": "SELECT * FROM survival(?, ?)",
    "growth": "SELECT date_trunc('month', m.created_at) AS month, count(*) AS models\n"
    "FROM descendants(?) d JOIN v1.models m ON m.model = d.model GROUP BY month ORDER BY month",
}

EXAMPLES = (
    ("Releases with most children", "SELECT parent, count(*) AS children FROM v1.edges "
     "WHERE inferred OR declared GROUP BY parent ORDER BY children DESC LIMIT 20"),
    ("Findings of lost safety training", "SELECT model, ancestor, value, ci_low, ci_high, q_value "
     "FROM v1.findings WHERE kind = 'stripped_safety' ORDER BY value DESC"),
    ("Claims that the weights do not bear out", "SELECT * FROM disagreements()"),
    ("What could not be read, and why", "SELECT outcome, stage, reason, count(*) AS models "
     "FROM v1.coverage GROUP BY ALL ORDER BY models DESC"),
    ("Licences that changed along an edge", "SELECT e.child, c.license, e.parent, "
     "p.license AS parent_license FROM v1.edges e JOIN v1.models c ON c.model = e.child "
     "JOIN v1.models p ON p.model = e.parent WHERE c.license IS DISTINCT FROM p.license"),
)  # fmt: skip
"""Queries that the SQL page offers, each with what it asks."""


def as_sql(asked: str, *values: str | float | None) -> str:
    """A query for a person to run, with the values as literals.

    Parameters
    ----------
    asked : what it asks: models, parents, children, descendants, ancestors, edge, findings,
        coverage, scans, survival or growth.
    """
    parts: Sequence[str] = _ASKED[asked].split("?")
    written = [part + _literal(value) for part, value in zip(parts[:-1], values, strict=True)]
    return "".join([*written, parts[-1]])


def _literal(value: str | float | None) -> str:
    match value:
        case None:
            return "NULL"
        case str():
            return "'" + value.replace("'", "''") + "'"
    return repr(value)
