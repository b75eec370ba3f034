"""Where the dear probes run: on what the cheap ones flag, and on a random sample of the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ..statistics import Interval, clopper_pearson

LEAST_AUDIT = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known of a model before it is run.

    `claim` and `tool` are the metadata probes' values, `signature` the sketch probes' mark, each
    None where not measured. `conflict`: its claims and its lineage disagree. `kin` is the
    confidence of the surest edge to kin found stripped.
    """

    model: str
    claim: float | None = None
    tool: float | None = None
    signature: str | None = None
    conflict: bool = False
    kin: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Whether a model is run, and why. `audit`: by the draw alone."""

    runs: bool
    why: str
    audit: bool = False


def route(signals: Signals, *, audit: float, seed: str) -> Route:
    """Decide on one model.

    Parameters
    ----------
    audit : share of unflagged models that are run all the same, at least `LEAST_AUDIT`.
    seed : what the draw depends on beside the model; a new seed draws others.

    Raises
    ------
    ValueError : too small an audit: without one nobody knows what the flags miss.
    """
    if not LEAST_AUDIT <= audit <= 1.0:
        raise ValueError(f"an audit takes a share from {LEAST_AUDIT} to 1, not {audit}")
    flags = [
        why
        for why, raised in (
            ("claims to be without safety training", signals.claim == 1.0),
            ("an editing tool left its trace", signals.tool == 1.0),
            ("bears the signature of an edit", signals.signature == "edit"),
            ("claims and lineage disagree", signals.conflict),
            ("kin of a stripped model", (signals.kin or 0.0) >= 0.5),
        )
        if raised
    ]
    if flags:
        return Route(runs=True, why="; ".join(flags))
    if _draw(f"{seed}\0{signals.model}") < audit:
        return Route(runs=True, why="random audit", audit=True)
    return Route(runs=False, why="nothing flags it and the audit did not draw it")


def miss_rate(audited: Iterable[bool]) -> Interval | None:
    """Share of unflagged models that were stripped after all, from those that were audited.

    Returns
    -------
    None without any; exact 95 % limits (Clopper and Pearson 1934).
    """
    found = list(audited)
    return clopper_pearson(sum(found), len(found)) if found else None


def _draw(text: str) -> float:
    """A number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64
