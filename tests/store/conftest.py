"""A store in a temporary folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_registry import build_registry

from modelkin.store import Registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it, made once: migrations take a fifth of a second."""
    folder = tmp_path_factory.mktemp("empty") / "store"
    Registry.open(folder, create=True).close()
    return folder


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `small_registry`; whoever changes it copies it first."""
    return build_registry(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture
def registry(folder: Path, empty_store: Path) -> Iterator[Registry]:
    shutil.copytree(empty_store, folder)
    with Registry.open(folder) as opened:
        yield opened
