"""A small registry for the look-up verbs, built once: they leave its rows as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_registry import build_registry

from modelkin.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `small_registry`; look-ups leave it as it is."""
    return build_registry(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture
def look(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb on the small store, at 80 columns and without colour."""
    monkeypatch.setenv("MODELKIN_STORE", str(small_store))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str, **options: object) -> Result:
        return CliRunner().invoke(cli, list(words), **options)  # type: ignore[arg-type]

    return run
