"""The socket behind which anything that answers prompts stands: local weights or an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...lineage.errors import ProbeError


class UnsupportedModel(ProbeError):
    """The model is understood well enough to say that it is not run here."""


class ChatBackend(Protocol):
    """Answers prompts, each alone as one user turn; the same prompts give the same replies."""

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Replies in the order of `prompts`, each of at most `max_new_tokens` tokens.

        Raises
        ------
        ProbeError : the model did not answer.
        """
        ...
