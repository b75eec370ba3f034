"""The graph in the formats of other tools. Names are attacker-controlled and harmless in each."""

from .formats import FORMATS, Selection, export

__all__ = ["FORMATS", "Selection", "export"]
