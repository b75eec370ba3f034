"""Every query of docs/queries.md gives the result that is printed under it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_registry import build_registry

from modelkin.store import Registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "queries.md"
BLOCK = re.compile(r"^```sql\n(.*?)^```\n\n((?:\|[^\n]*\n)+)", re.S | re.M)
QUERIES = BLOCK.findall(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = build_registry(tmp_path_factory.mktemp("queries") / "store")
    with Registry.open(folder, read_only=True) as opened:
        yield opened


def as_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A result as the page prints it."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join("| " + " | ".join("" if v is None else str(v) for v in row) + " |\n"
                   for row in lines)  # fmt: skip


@pytest.mark.parametrize(("query", "printed"), QUERIES)
def test_the_result_is_the_printed_one(registry: Registry, query: str, printed: str) -> None:
    result = registry.run_readonly(query)
    assert as_table(result.columns, result.rows) == printed


def test_every_query_has_a_result() -> None:
    assert len(QUERIES) == PAGE.read_text(encoding="utf-8").count("```sql") >= 20
