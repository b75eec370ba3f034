"""The schema as a contract: migrations, comments, the columns and macros of v1."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from store_factories import NOW

from modelkin.lineage.errors import RegistryError, SchemaTooNew
from modelkin.store import Registry
from modelkin.store.migrate import Migration, known_migrations, migrate

PROMISED = {
    "models": "model source sha author created_at last_modified library format dtype architecture "
    "shape_key n_params license gated downloads hidden first_seen_scan last_seen_scan "
    "tombstone_reason",
    "edges": "child child_sha parent parent_sha relation detail declared inferred confidence "
    "direction_confidence share evidence_id first_seen_scan last_seen_scan",
    "candidates": "child parent rank score rejected_because",
    "evidence": "evidence_id kind statistic value ci_low ci_high n p_value code_version "
    "inputs_digest",
    "scores": "model sha probe probe_version prompt_set n status value ci_low ci_high unit judge "
    "corrected environment seconds scored_at",
    "findings": "finding_id kind severity model ancestor value ci_low ci_high q_value status "
    "evidence_id first_scan last_scan",
    "scans": "scan kind source target parameters status started_at finished_at listed visited",
    "coverage": "scan model outcome stage reason path byte_offset requests bytes seconds",
    "changes": "scan kind subject before after",
}
MACROS = {
    "descendants", "ancestors", "path", "stripped", "disagreements", "undeclared", "survival",
    "diff", "models_as_of", "edges_as_of", "scores_as_of", "findings_as_of", "descendants_as_of",
}  # fmt: skip


@pytest.mark.parametrize("view", sorted(PROMISED))
def test_views_have_the_promised_columns(registry: Registry, view: str) -> None:
    columns = registry.sql(f"SELECT * FROM v1.{view}").columns
    assert set(PROMISED[view].split()) <= set(columns)


def test_every_table_view_and_column_is_commented(registry: Registry) -> None:
    ours = "schema_name IN ('internal', 'v1')"
    bare = registry.sql(
        f"SELECT table_name, column_name FROM duckdb_columns() WHERE {ours} AND comment IS NULL "
        f"UNION ALL SELECT table_name, '' FROM duckdb_tables() WHERE {ours} AND comment IS NULL "
        f"UNION ALL SELECT view_name, '' FROM duckdb_views() WHERE {ours} AND comment IS NULL"
    ).fetchall()
    assert bare == []


def test_every_macro_is_commented_and_has_a_short_name(registry: Registry) -> None:
    found = registry.sql(
        "SELECT schema_name, function_name, comment FROM duckdb_functions() "
        "WHERE NOT internal AND schema_name IN ('v1', 'main')"
    ).fetchall()
    assert {name for schema, name, _ in found if schema == "main"} == MACROS
    assert {name for schema, name, comment in found if schema == "v1" and comment} == MACROS


def test_reopening_applies_nothing_twice(registry: Registry, folder: Path) -> None:
    registry.close()
    with Registry.open(folder) as again:
        applied = again.sql("SELECT version FROM internal.schema_migrations").fetchall()
    assert applied == [(migration.version,) for migration in known_migrations()]


def test_a_failed_migration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "registry.duckdb"
    good = Migration(version=1, name="0001_a.sql", sql="CREATE TABLE internal.a (x INTEGER)")
    bad = Migration(
        version=2, name="0002_b.sql", sql="CREATE TABLE internal.b (x INTEGER); nonsense"
    )
    with duckdb.connect(path) as connection:
        migrate(connection, migrations=(good,))
        with pytest.raises(duckdb.ParserException):
            migrate(connection, migrations=(good, bad))
    with duckdb.connect(path) as connection:
        applied = connection.execute("SELECT version FROM internal.schema_migrations").fetchall()
        assert applied == [(1,)]
        tables = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
    assert tables == [("a",), ("schema_migrations",)]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_newer_schema_is_refused(registry: Registry, folder: Path, read_only: bool) -> None:
    registry.close()
    with duckdb.connect(folder / "registry.duckdb") as connection:
        connection.execute("INSERT INTO internal.schema_migrations VALUES (99, '0099_later.sql')")
    with pytest.raises(SchemaTooNew) as caught:
        Registry.open(folder, read_only=read_only)
    assert (caught.value.found, caught.value.known) == (99, known_migrations()[-1].version)


def test_an_older_schema_is_not_read_but_upgraded(folder: Path) -> None:
    folder.mkdir()
    with duckdb.connect(folder / "registry.duckdb") as connection:
        migrate(connection, migrations=known_migrations()[:1])
    with pytest.raises(RegistryError, match="up to date"):
        Registry.open(folder, read_only=True)
    Registry.open(folder).close()
    Registry.open(folder, read_only=True).close()


def test_files_can_be_opened_by_older_duckdb(registry: Registry) -> None:
    tags = registry.sql("SELECT tags FROM duckdb_databases() WHERE NOT internal").fetchall()
    assert tags[0][0]["storage_version"].startswith("v1.2")


def test_timestamps_are_utc_without_zone(registry: Registry) -> None:
    registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
    assert registry.sql("SELECT started_at FROM v1.scans").fetchall() == [
        (NOW.replace(tzinfo=None),)
    ]
    assert registry.scans()[0].started_at == NOW
