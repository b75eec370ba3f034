"""Answers about names of tensors and files, worked out once: most models have the same names."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, TypeVar

NAMES_KEPT: Final = 16_384
LONGEST_KEPT: Final = 256

T = TypeVar("T")


def remembered(answer: Callable[[str], T]) -> Callable[[str], T]:
    """`answer`, a pure function of a name, with its last 16,384 answers kept.

    A name of more than 256 characters is answered anew each time: what strangers write must not
    fill the memory.
    """
    kept = lru_cache(maxsize=NAMES_KEPT)(answer)

    @wraps(answer)
    def look_up(name: str) -> T:
        return kept(name) if len(name) <= LONGEST_KEPT else answer(name)

    return look_up
