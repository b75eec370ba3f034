"""What an explorer asks of a public copy."""

from .drawings import MapNodes
from .kin import KinFilter
from .paging import Page
from .reader import PublicReader

__all__ = ["KinFilter", "MapNodes", "Page", "PublicReader"]
