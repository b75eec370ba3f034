"""The registry in DuckDB: the only place with SQL."""

from .facts import HiddenModel, ProbeDefinition, PromptSet, RevisionFacts, Visit
from .lock import scan_lock
from .registry import Registry

__all__ = [
    "HiddenModel",
    "ProbeDefinition",
    "PromptSet",
    "Registry",
    "RevisionFacts",
    "Visit",
    "scan_lock",
]
