"""Queries that people type: what is answered and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_factories import fill

from modelkin.lineage.errors import QueryRefused, RegistryError
from modelkin.store import Registry


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("sandbox")
    with Registry.open(folder, create=True) as writer:
        fill(writer, ["o/a", "o/b"])
    with Registry.open(folder, read_only=True) as opened:
        yield opened


@pytest.mark.parametrize(
    "query",
    [
        "SELECT model FROM v1.models ORDER BY model",
        "SELECT model FROM models ORDER BY model -- no prefix needed",
        "FROM (VALUES ('o/a'), ('o/b')) x(model);",
        "WITH m AS (SELECT model FROM models) SELECT * FROM m ORDER BY 1",
    ],
)
def test_a_query_is_answered(reader: Registry, query: str) -> None:
    answer = reader.run_readonly(query)
    assert answer.columns == ("model",)
    assert answer.rows == [("o/a",), ("o/b",)]
    assert not answer.truncated


def test_macros_need_no_prefix(reader: Registry) -> None:
    assert reader.run_readonly("SELECT * FROM descendants('o/a')").rows == []
    assert reader.run_readonly("EXPLAIN ANALYZE SELECT * FROM models").rows
    assert reader.run_readonly("EXPLAIN (FORMAT json) SELECT 1").rows
    assert reader.run_readonly("DESCRIBE models").rows


def test_rows_are_limited(reader: Registry) -> None:
    answer = reader.run_readonly("SELECT range FROM range(10)", max_rows=3)
    assert (len(answer.rows), answer.truncated) == (3, True)
    assert not reader.run_readonly("SELECT range FROM range(3)", max_rows=3).truncated


@pytest.mark.parametrize(
    "query",
    [
        "",
        ";",
        "-- nothing",
        "SELECT 1; SELECT 2",
        "SELECT * FROM",
        "SELECT '\ud800'",
        "INSERT INTO internal.models SELECT * FROM internal.models",
        "DELETE FROM internal.models",
        "UPDATE internal.models SET name = 'x'",
        "DROP TABLE internal.models",
        "CREATE TEMP TABLE x AS SELECT 1",
        "COPY (SELECT 1) TO '/tmp/modelkin-leak.csv'",
        "EXPORT DATABASE '/tmp/modelkin-leak'",
        "ATTACH '/tmp/modelkin-leak.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA memory_limit='1GB'",
        "CALL pragma_version()",
        "BEGIN",
        "CHECKPOINT",
        "EXPLAIN ANALYZE CREATE TEMP TABLE x AS SELECT 1",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/modelkin-leak.csv'",
        "EXPLAIN EXPLAIN SELECT 1",
        "PREPARE p AS SELECT 1",
    ],
)
def test_anything_but_one_query_is_refused(reader: Registry, query: str) -> None:
    with pytest.raises(QueryRefused):
        reader.run_readonly(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('http://169.254.169.254/x')",
        "SELECT * FROM read_json('https://example.com/x.json')",
    ],
)
def test_nothing_outside_the_store_is_read(reader: Registry, query: str) -> None:
    with pytest.raises(RegistryError):
        reader.run_readonly(query)


def test_python_variables_are_out_of_reach(reader: Registry) -> None:
    secret = [1, 2, 3]
    with pytest.raises(RegistryError, match="does not exist"):
        reader.run_readonly("SELECT * FROM secret")
    assert secret


def test_errors_of_the_query_are_told(reader: Registry) -> None:
    with pytest.raises(RegistryError, match="no_such_column"):
        reader.run_readonly("SELECT no_such_column FROM models")
    assert reader.run_readonly("SELECT 1").rows == [(1,)]


def test_a_registry_open_for_writing_takes_no_typed_query(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="read-only"):
        registry.run_readonly("SELECT 1")


def test_a_second_reader_in_the_process_still_opens(reader: Registry) -> None:
    reader.run_readonly("SELECT 1")
    with Registry.open(reader.path, read_only=True) as second:
        assert len(second.run_readonly("FROM models").rows) == 2
        assert second.sql("SELECT count(*) FROM models").fetchall() == [(2,)]
