"""Findings against `--fail-on`."""

from __future__ import annotations

from collections.abc import Iterable

from ..store.facts import FindingRow

RANK = {"low": 0, "medium": 1, "high": 2}
LIVE = ("new", "open")


def worst_at_least(findings: Iterable[FindingRow], severity: str | None) -> bool:
    """Whether a live finding is at least this severe; never when no severity is asked for."""
    if severity is None:
        return False
    bar = RANK[severity]
    return any(RANK.get(f.severity, 2) >= bar for f in findings if f.status in LIVE)
