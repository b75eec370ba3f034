"""Choosing what to run from what a store holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..lineage.safety.metadata import CLAIM, KIN, TOOL
from ..lineage.safety.router import Route, Signals, route
from ..lineage.safety.sketch_probes import CONSISTENCY
from ..store.registry import Registry
from .claims import MISDECLARED, UNDECLARED


def route_models(
    registry: Registry, models: Sequence[str], *, audit: float, seed: str
) -> dict[str, Route]:
    """A route for each model, and for the ancestors that a verdict on those run needs."""
    conflicts = {
        found.model
        for kind in (UNDECLARED, MISDECLARED)
        for found in registry.findings(kind=kind)
        if found.status in ("new", "open")
    }
    routes = {
        model: route(_signals(registry, model, conflicts), audit=audit, seed=seed)
        for model in models
    }
    sketched = {row.model for row in registry.sketched()}
    for model in [name for name, one in routes.items() if one.runs]:
        for kin in registry.ancestors(model):
            known = routes.get(kin.model)
            if kin.model in sketched and (known is None or not known.runs):
                routes[kin.model] = Route(runs=True, why=f"ancestor of {model}")
    return routes


def chosen_names(routes: Mapping[str, Route]) -> dict[str, str]:
    """The models that run, with the reason."""
    return {name: one.why for name, one in routes.items() if one.runs}


def _signals(registry: Registry, model: str, conflicts: set[str]) -> Signals:
    newest = {score.probe: score for score in reversed(registry.scores_of(model))}
    mark = newest[CONSISTENCY].environment.get("signature") if CONSISTENCY in newest else None
    claim, tool, kin = (
        newest[probe].value if probe in newest else None for probe in (CLAIM, TOOL, KIN)
    )
    return Signals(
        model=model,
        claim=claim,
        tool=tool,
        signature=None if mark is None else str(mark),
        conflict=model in conflicts,
        kin=kin,
    )
