"""Shared set-up of the lineage tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_chat import one_thread


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Matrices of toy size are multiplied faster by one thread than by several."""
    with one_thread():
        yield
