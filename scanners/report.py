"""What a run of probes reports, whatever the tier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..lineage.records import Finding
from ..lineage.safety.catalogue import probes_of
from ..lineage.safety.protocol import Tier
from ..store.facts import ProbeDefinition
from ..store.registry import Registry
from .limits import Meter
from .progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """How many models were probed, which were already, and why the rest were not.

    `names` are the nodes measured where they are not those asked for (deployments).
    """

    probed: int
    unchanged: int
    failed: Mapping[str, str]
    findings: tuple[Finding, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the models asked for that are measured; 1 when there were none."""
        measured = self.probed + self.unchanged
        return measured / (measured + len(self.failed)) if measured or self.failed else 1.0


def probe_each(
    models: Iterable[str],
    probe: Callable[[str], str | None],
    *,
    meter: Meter,
    progress: Progress,
) -> tuple[int, dict[str, str]]:
    """Probe one model after the other, until a signal or the end of the budget.

    Parameters
    ----------
    probe : measures and stores; None, or why it could not.

    Returns
    -------
    How many were probed, and why the others were not.
    """
    probed = 0
    failed: dict[str, str] = {}
    for model in models:
        if meter.stopped:
            break
        if meter.exhausted:
            failed[model] = "not probed: the budget is used up"
            continue
        reason = probe(model)
        probed += reason is None
        if reason is not None:
            failed[model] = reason
        progress.step(model)
    return probed, failed


def announce(registry: Registry, tier: Tier) -> None:
    """Store what the probes of a tier are, so that their scores can be read."""
    for spec in probes_of(tier):
        registry.add_probe(
            ProbeDefinition(
                probe=spec.probe,
                probe_version=spec.version,
                tier=spec.tier,
                unit=spec.unit,
                description=spec.description,
            )
        )
