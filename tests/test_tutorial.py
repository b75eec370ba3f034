"""Every line of docs/tutorial.md gives what is printed under it."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from small_registry import build_registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"


def test_the_tutorial_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_registry(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8").replace("```python\n", "\n").replace("```\n", "\n")
    test = doctest.DocTestParser().get_doctest(page, {}, "tutorial", str(PAGE), 0)
    report: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert result.attempted > 20
    assert result.failed == 0, "".join(report)
