"""Provenance registry and lineage scanner for open-weight models."""

__version__ = "0.1.0"
