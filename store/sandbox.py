"""Queries that people type: one read-only statement, no file, no network, no extension.

The settings keep an honest query away from everything but the store. They do not contain a hostile
one: DuckDB's own memory limit and timer do not stop a single large scalar call. A service that
takes queries from strangers runs each in a process of its own with resource limits and a kill.
"""

from __future__ import annotations

import re

import duckdb

from ..lineage.errors import QueryRefused, RegistryError
from .database import Database, translated
from .facts import QueryResult
from .staging import text

_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)

# The order matters: locking the configuration comes last.
LOCK_DOWN = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET allow_persistent_secrets = false",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def run_readonly(database: Database, query: str, *, max_rows: int | None) -> QueryResult:
    """Run one SELECT or EXPLAIN with the names of schema v1 in reach.

    Locks the configuration of the database for as long as it is open in this process.

    Raises
    ------
    QueryRefused : several statements, none, or one that is no read-only query.
    RegistryError : the registry is open for writing, or DuckDB cannot answer.
    """
    if not database.read_only:
        raise RegistryError("queries run on a registry that was opened read-only")
    with database.cursor() as cursor, translated(database.path):
        statement = only_query(query, connection=cursor)
        _lock_down(cursor)
        cursor.execute("SET search_path = 'v1,main'")
        try:
            result = cursor.execute(statement)
            columns = tuple(str(column[0]) for column in result.description or ())
            rows = result.fetchall() if max_rows is None else result.fetchmany(max_rows + 1)
        except duckdb.PermissionException as error:
            raise QueryRefused(f"only the store itself can be read: {error}") from error
    truncated = max_rows is not None and len(rows) > max_rows
    return QueryResult(
        columns=columns, rows=rows[:max_rows] if truncated else rows, truncated=truncated
    )


def only_query(query: str, *, connection: duckdb.DuckDBPyConnection) -> duckdb.Statement:
    """The one statement of a text, which is a SELECT or the EXPLAIN of one.

    Parameters
    ----------
    connection : parses; without one, DuckDB would open a database for that alone.

    Raises
    ------
    QueryRefused : it is anything else.
    """
    statement = _single(query, connection)
    if statement.type == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains.
        inner = _EXPLAIN.sub("", statement.query, count=1)
        if _single(inner, connection).type != duckdb.StatementType.SELECT:
            raise QueryRefused("EXPLAIN is for a SELECT only")
    elif statement.type != duckdb.StatementType.SELECT:
        kind = statement.type.name
        raise QueryRefused(f"one SELECT or EXPLAIN statement is run, not {kind}")
    return statement


def _single(query: str, connection: duckdb.DuckDBPyConnection) -> duckdb.Statement:
    if text(query) != query:
        raise QueryRefused("not text: a lone surrogate")
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryRefused(f"not SQL: {error}") from error
    if len(statements) != 1:
        raise QueryRefused(f"exactly one statement is run, not {len(statements)}")
    return statements[0]


def _lock_down(cursor: duckdb.DuckDBPyConnection) -> None:
    locked = cursor.execute("SELECT current_setting('lock_configuration')").fetchall()
    if locked[0][0]:
        return
    for setting in LOCK_DOWN:
        cursor.execute(setting)
