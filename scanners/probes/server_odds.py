"""What a server says of its first tokens, as log odds of opening with a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...lineage.errors import BudgetExceeded, ProbeError
from ...lineage.safety.activations import censored_log_odds, opening_tokens
from ...lineage.safety.catalogue import LOG_ODDS
from ...lineage.safety.protocol import Measurement, Status, declined
from .answer_odds import Odds
from .backend import UnsupportedModel
from .endpoint_backend import EndpointBackend
from .prompt_sets import PromptSet


@dataclass(slots=True, kw_only=True)
class ServerOdds:
    """Log odds of opening with a refusal, for one server in several contexts.

    The openings are those of the first context in which it refuses selectively; `reference` names
    it. Tokens of one server are comparable over its contexts and with no other server's.
    """

    prompts: PromptSet
    reference: str | None = None
    _openings: tuple[int, ...] = ()
    _numbers: dict[str, int] = field(default_factory=dict)

    def measure(self, backend: EndpointBackend, *, context: str) -> Measurement:
        """Ask for the first token of every reply within one context."""
        try:
            harmful, harmless = (
                [self._numbered(one) for one in backend.first_tokens(asked)]
                for asked in (self.prompts.harmful, self.prompts.harmless)
            )
        except UnsupportedModel as error:
            return declined(LOG_ODDS, Status.UNSUPPORTED, str(error))
        except (ProbeError, BudgetExceeded) as error:
            return declined(LOG_ODDS, Status.ERROR, str(error))
        if self.reference is None:
            self._openings = opening_tokens(_likeliest(harmful), _likeliest(harmless))
            self.reference = context if self._openings else None
        if self.reference is None:
            reason = "in no context of this run so far do its refusals open alike"
            return declined(LOG_ODDS, Status.UNALIGNABLE, reason)
        found = censored_log_odds(harmful, harmless, self._openings)
        return Measurement(
            probe=LOG_ODDS,
            status=Status.OK,
            n=len(harmful) + len(harmless),
            value=found.value,
            ci_low=found.low,
            ci_high=found.high,
            detail={"reference": self.reference, "openings": len(self._openings)},
        )

    def _numbered(self, odds: Odds) -> dict[int, float]:
        return {self._numbers.setdefault(token, len(self._numbers)): p for token, p in odds.items()}


def _likeliest(group: Sequence[Mapping[int, float]]) -> list[int]:
    """The likeliest first token of each reply; -1, which opens nothing, for an empty one."""
    return [max(one, key=lambda token: one[token], default=-1) for one in group]
