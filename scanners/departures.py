"""Models that a whole listing left out: gone, hidden, or lost by the listing itself.

Only an answer about a model tells what became of it. When so many are left out that the listing is
the likelier fault, nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..lineage.errors import AccessDenied, ModelNotFound, TransientError
from ..store.ledger import Ledger
from .limits import Meter
from .publishing import SMALL
from .sources.base import Source

MOST_MISSING = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Departures:
    """Looks into what the full sweep of a scan did not name.

    Parameters
    ----------
    shrink : share of the models that may be missing before the listing is doubted.
    """

    ledger: Ledger
    source: Source
    meter: Meter
    now: Callable[[], datetime]
    shrink: float

    def look(self, scan: int, *, trusted: bool) -> None:
        """Ask for each missing model, and put a tombstone where the source says that it is gone.

        Parameters
        ----------
        trusted : a person vouched for the listing, however much it leaves out.
        """
        names = self._missing(scan)
        if self._is_doubtful(names) and not trusted:
            return
        gone: dict[str, list[str]] = {"not_found": [], "hidden": []}
        for name in names:
            self.meter.go_on()
            reason = self._absence(name)
            if reason is not None:
                gone[reason].append(name)
        for reason, absent in gone.items():
            if absent:
                self.ledger.tombstone(
                    absent, source=self.source.kind, reason=reason, scan=scan, now=self.now()
                )

    def doubt(self, scan: int) -> str | None:
        """What speaks against publishing: a listing that leaves out too much."""
        missing = self._missing(scan)
        if not self._is_doubtful(missing):
            return None
        return f"the listing left out {len(missing):,} models that were there before"

    def _missing(self, scan: int) -> list[str]:
        return self.ledger.missing(scan, source=self.source.kind, limit=MOST_MISSING)

    def _is_doubtful(self, missing: Sequence[str]) -> bool:
        return len(missing) > max(SMALL, self.shrink * self.ledger.counts()["models"])

    def _absence(self, name: str) -> str | None:
        """`not_found` or `hidden` (deleted or private), None when it is there or nobody says."""
        try:
            self.source.info(name, traffic=self.meter.traffic)
        except ModelNotFound as error:
            return "hidden" if error.hidden else "not_found"
        except (TransientError, AccessDenied):
            return None
        return None
