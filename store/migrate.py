"""Schema migrations: numbered SQL files, each applied once, each in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import duckdb

from ..lineage.errors import RegistryError, SchemaTooNew

_LEDGER = """
CREATE SCHEMA IF NOT EXISTS internal;
CREATE TABLE IF NOT EXISTS internal.schema_migrations (
    version INTEGER NOT NULL,
    name VARCHAR NOT NULL
);
COMMENT ON TABLE internal.schema_migrations IS 'Migrations that this file has seen';
COMMENT ON COLUMN internal.schema_migrations.version IS 'Number at the head of the file name';
COMMENT ON COLUMN internal.schema_migrations.name IS 'File name of the migration';
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema: its number, its file name and its statements."""

    version: int
    name: str
    sql: str


def known_migrations() -> tuple[Migration, ...]:
    """The migrations that ship with this modelkin, in order."""
    found = [
        Migration(version=int(entry.name[:4]), name=entry.name, sql=entry.read_text("utf-8"))
        for entry in (files(__package__) / "migrations").iterdir()
        if entry.name.endswith(".sql")
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


def migrate(
    connection: duckdb.DuckDBPyConnection, *, migrations: tuple[Migration, ...] | None = None
) -> None:
    """Apply what is missing, each migration in a transaction of its own.

    Raises
    ------
    SchemaTooNew : the file has a migration that this modelkin does not know.
    """
    migrations = known_migrations() if migrations is None else migrations
    present = check_known(connection, migrations)
    for migration in migrations:
        if migration.version not in present:
            _apply(connection, migration)


def check_version(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse a file that this modelkin cannot read.

    Raises
    ------
    SchemaTooNew : the file has a migration that this modelkin does not know.
    RegistryError : the file is older than this modelkin, or is no registry.
    """
    migrations = known_migrations()
    present = check_known(connection, migrations)
    if not present:
        raise RegistryError("the file is not a modelkin registry")
    missing = [step.version for step in migrations if step.version not in present]
    if missing:
        raise RegistryError(
            f"the store lacks migration {missing[0]} of its schema: any writing command (such as "
            "`modelkin scan`) brings it up to date"
        )


def check_known(
    connection: duckdb.DuckDBPyConnection,
    migrations: tuple[Migration, ...],
    *,
    alias: str | None = None,
) -> set[int]:
    """Numbers of the migrations in the file, all of which must be known.

    Parameters
    ----------
    alias : name that the file is attached by; None for the connection's own.

    Raises
    ------
    SchemaTooNew : one of them is not in `migrations`.
    """
    present = _applied(connection, alias=alias)
    strange = present - {step.version for step in migrations}
    if strange:
        found, known = max(strange), migrations[-1].version
        raise SchemaTooNew(
            f"the store has schema {found}, this modelkin knows {known}: upgrade modelkin",
            found=found,
            known=known,
        )
    return present


def _applied(connection: duckdb.DuckDBPyConnection, *, alias: str | None = None) -> set[int]:
    ledger = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = coalesce(?, "
        "current_database()) AND schema_name = 'internal' AND table_name = 'schema_migrations'",
        [alias],
    ).fetchall()
    if ledger[0][0] == 0:
        return set()
    table = "internal.schema_migrations" if alias is None else f"{alias}.internal.schema_migrations"
    rows = connection.execute(f"SELECT version FROM {table}").fetchall()
    return {int(version) for (version,) in rows}


def _apply(connection: duckdb.DuckDBPyConnection, migration: Migration) -> None:
    connection.execute("BEGIN TRANSACTION")
    try:
        connection.execute(_LEDGER)
        connection.execute(migration.sql)
        connection.execute(
            "INSERT INTO internal.schema_migrations VALUES (?, ?)",
            [migration.version, migration.name],
        )
        connection.execute("COMMIT")
    except BaseException:
        # Closing without a commit rolls back; an explicit ROLLBACK can itself fail and hide this.
        connection.close()
        raise
