"""The collector of cycles, told to look seldom while many objects are made and few are cyclic."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 200_000
"""Objects made between two searches: about 200 listed models, or 50 that are read."""


@contextmanager
def cycles_sought_seldom() -> Iterator[None]:
    """Let the collector run seldom: to look at every page or header costs as much as its parse."""
    usual = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
