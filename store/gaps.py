"""Where what the weights say and what the cards say part ways."""

from __future__ import annotations

from dataclasses import dataclass

from .database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimGap:
    """A model whose inferred parent is not what its card names.

    `claimed` names the declared parents, empty when the card declares none. `confidence` is that
    of the inferred edge.
    """

    model: str
    parent: str
    confidence: float
    relation: str
    claimed: tuple[str, ...]


_GAPS = """
WITH claims AS (
    SELECT e.child, list(p.name ORDER BY p.name) AS claimed,
        bool_or(e.inferred OR u.ancestor IS NOT NULL) AS kin
    FROM internal.edges e
    JOIN internal.models p ON p.id = e.parent
    LEFT JOIN internal.closure_up u ON u.descendant = e.child AND u.ancestor = e.parent
    WHERE e.declared GROUP BY e.child
), surest AS (
    SELECT e.child, arg_max(e.parent, e.confidence) AS parent, max(e.confidence) AS confidence,
        arg_max(e.relation, e.confidence) AS relation
    FROM internal.edges e JOIN internal.models p ON p.id = e.parent
    WHERE e.inferred GROUP BY e.child
)
SELECT c.name, p.name, s.confidence, s.relation, coalesce(k.claimed, [])
FROM surest s
JOIN internal.models c ON c.id = s.child AND NOT c.hidden AND c.tombstone_reason IS NULL
JOIN internal.models p ON p.id = s.parent
LEFT JOIN claims k ON k.child = s.child
WHERE s.confidence >= ? AND (k.child IS NULL OR NOT k.kin)
ORDER BY c.name
"""


def claim_gaps(database: Database, *, min_confidence: float) -> list[ClaimGap]:
    """Models whose inferred parent no claim of theirs accounts for, by name.

    A claim that names a further ancestor instead of the parent counts as an account.
    """
    return [
        ClaimGap(
            model=model,
            parent=parent,
            confidence=confidence,
            relation=relation,
            claimed=tuple(claimed),
        )
        for model, parent, confidence, relation, claimed in database.rows(_GAPS, [min_confidence])
    ]
