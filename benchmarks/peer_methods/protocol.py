"""What every method is asked and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from zoo_scoring import Claim

Dates = Mapping[str, datetime] | None
Families = Callable[[Sequence[str]], int]
"""True number of families among the named models: given to methods that need it told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResult:
    """One method's answer on one zoo.

    `claims` directed edges; `related` the pairs it calls kin, None where it does not say;
    `bytes_read` of weights and configurations over all models; `seconds` of wall clock, reading
    included; `unread` models that the method could not take in.
    """

    claims: tuple[Claim, ...]
    related: frozenset[frozenset[str]] | None
    bytes_read: int
    seconds: float
    unread: tuple[str, ...] = ()


class Peer(Protocol):
    """A method. `label` tells it from the other settings of the same method."""

    @property
    def label(self) -> str:
        """Name in tables."""

    def edges(self, models: Mapping[str, Path], dates: Dates) -> PeerResult:
        """Name parents.

        Parameters
        ----------
        models : repository folder by name; names and order say nothing.
        dates : creation times of all models, or None.
        """


def may_be_parent(parent: str, child: str, dates: Dates) -> bool:
    """Whether time allows it; without dates, always."""
    return parent != child and (dates is None or dates[parent] < dates[child])
