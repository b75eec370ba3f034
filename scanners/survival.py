"""What a release's descendants retained of it, from the store to estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..lineage.safety.profile import SELECTIVE_REFUSAL
from ..lineage.safety.survival import (
    Decline,
    GroupSurvival,
    Survivor,
    decline,
    dose_groups,
    lines_of,
    survival_by,
)
from ..store.registry import Registry

DOSES = (0.003, 0.01, 0.03, 0.1, 0.3)
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalReport:
    """Retention of a release's selective refusal.

    `groups` by axis: `relation`, `bits` (of quantized copies), `dose` (measured size of the change
    of fine-tunes and adapters), `share` (merges). `declines`: the form of the decline with dose,
    for quantized copies and for fine-tunes.
    """

    release: str
    before: float
    survivors: tuple[Survivor, ...]
    groups: dict[str, list[GroupSurvival]]
    declines: dict[str, Decline | None]


def survival_of(
    registry: Registry, release: str, *, probe: str = SELECTIVE_REFUSAL
) -> SurvivalReport | None:
    """What measured descendants retained; None where the release or all of them are unmeasured.

    Raises
    ------
    NotInRegistry : the store does not hold the release.
    """
    name = registry.resolve_name(release)
    rows = registry.survival(name, probe=probe)
    rows = [row for row in rows if row["ancestor_value"] and row["ancestor_value"] > 0]
    if not rows:
        return None
    parents: dict[str, list[str]] = {}
    for edge in registry.believed_edges():
        parents.setdefault(edge.child, []).append(edge.parent)
    lines = lines_of(name, [row["model"] for row in rows], parents)
    survivors = tuple(
        Survivor(
            model=row["model"],
            line=lines[row["model"]],
            relation=row["relation"] or "unknown",
            retained=row["retained"],
            value=row["value"],
            n=row["n"],
            dose=row["dose"],
            bits=row["bits"],
            share=row["share"],
            declared=bool(row["declared"]),
        )
        for row in rows
    )
    quantized = [s for s in survivors if s.relation == "quantized"]
    tuned = [s for s in survivors if s.relation in ("finetune", "adapter")]
    return SurvivalReport(
        release=name,
        before=rows[0]["ancestor_value"],
        survivors=survivors,
        groups={
            "relation": survival_by(survivors, lambda s: s.relation),
            "bits": survival_by(quantized, lambda s: None if s.bits is None else f"{s.bits}"),
            "dose": survival_by(tuned, dose_groups(DOSES)),
            "share": _shares(survivors),
        },
        declines={"quantized": decline(quantized), "finetune": decline(tuned)},
    )


def _shares(survivors: Sequence[Survivor]) -> list[GroupSurvival]:
    def key(one: Survivor) -> str | None:
        if one.share is None:
            return None
        low = max((share for share in (0.0, *SHARES) if share <= one.share), default=0.0)
        return f"{low:g} and more"

    return survival_by(survivors, key)
