"""Snapshots: written whole, checked, published, restored; damaged and hostile ones refused."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factories import NOW, fill, make_info

from modelkin.lineage.errors import (
    FormatError,
    LimitExceeded,
    MalformedFile,
    NotInRegistry,
    RegistryError,
    SchemaTooNew,
)
from modelkin.store import Registry
from modelkin.store.manifest import (
    MAX_BYTES,
    SnapshotManifest,
    read_manifest,
    verify_snapshot,
    write_manifest,
)
from modelkin.store.restoring import REPLACED, restore_snapshot
from modelkin.store.snapshots import (
    list_snapshots,
    prune_snapshots,
    publish_snapshot,
    published_snapshot,
    snapshot_names,
)

WRITE = """
import sys
from datetime import UTC, datetime
from modelkin.store import Registry
with Registry.open(sys.argv[1]) as registry:
    print("open", flush=True)
    print(registry.write_snapshot(now=datetime(2026, 11, 24, tzinfo=UTC)).name, flush=True)
"""


@pytest.fixture(scope="session")
def dumped(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store with one snapshot, `2`."""
    folder = tmp_path_factory.mktemp("dumped") / "store"
    shutil.copytree(small_store, folder)
    with Registry.open(folder) as registry:
        registry.write_snapshot(now=NOW)
    return folder


@pytest.fixture
def store(dumped: Path, folder: Path) -> Path:
    shutil.copytree(dumped, folder)
    return folder


def facts_of(folder: Path) -> list[list[tuple[Any, ...]]]:
    with Registry.open(folder, read_only=True) as registry:
        return [
            registry.sql(f"FROM v1.{view} ORDER BY ALL").fetchall()
            for view in ("models", "edges", "evidence", "scores", "findings", "coverage", "closure")
        ]


def test_a_snapshot_is_a_registry_of_its_own(store: Path) -> None:
    copy = store / "snapshots" / "2"
    assert facts_of(copy) == facts_of(store)
    with duckdb.connect(copy / "registry.duckdb", read_only=True) as connection:
        found = connection.execute("SELECT model FROM stripped('lab/base')").fetchall()
        tags = connection.execute("SELECT tags FROM duckdb_databases() WHERE NOT internal")
        assert tags.fetchall()[0][0]["storage_version"].startswith("v1.2")
    assert found == [("dave/freed",)]


def test_parquet_is_read_by_other_engines(store: Path) -> None:
    folder = store / "snapshots" / "2"
    manifest = read_manifest(folder)
    with Registry.open(store, read_only=True) as registry:
        for table in manifest.tables:
            expected = registry.sql(f"SELECT count(*) FROM v1.{table.name}").fetchall()[0][0]
            read = pyarrow.parquet.read_table(folder / "tables" / table.name)
            assert (read.num_rows, table.rows) == (expected, expected)
            assert read.column_names == list(table.columns)
    edges = polars.read_parquet(folder / "tables" / "edges" / "*.parquet")
    assert edges.filter(polars.col("relation") == "merge")["child"].to_list() == ["carol/blend"] * 2


def test_the_manifest_holds_every_file(store: Path) -> None:
    folder = store / "snapshots" / "2"
    manifest = read_manifest(folder)
    assert manifest.scan == 2
    assert manifest.created_at == NOW
    for file in manifest.files():
        content = (folder / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)
    assert verify_snapshot(folder) == ()
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "registry.duckdb", "tables",
    }  # fmt: skip


def test_the_same_rows_make_no_second_snapshot(store: Path) -> None:
    with Registry.open(store) as registry:
        again = registry.write_snapshot(now=NOW)
        assert (again.name, snapshot_names(store)) == ("2", ["2"])
        registry.add_page(2, [make_info("new/model")], next_cursor=None, now=NOW)
        assert registry.write_snapshot(now=NOW).name == "2.1"
        registry.add_page(2, [make_info("new/model2")], next_cursor=None, now=NOW)
        assert registry.write_snapshot(now=NOW).name == "2.2"
    assert [one.name for one in list_snapshots(store)] == ["2.2", "2.1", "2"]


def test_publishing_moves_the_link_and_retention_spares_it(store: Path) -> None:
    assert published_snapshot(store) is None
    publish_snapshot(store, "2")
    with Registry.open(store) as registry:
        for number in range(3):
            scan = fill(registry, [f"more/{number}"])
            registry.write_snapshot(now=NOW)
            registry.finish_scan(scan, status="done", now=NOW)
    assert prune_snapshots(store, keep=2) == ["3"]
    assert snapshot_names(store) == ["5", "4", "2"]
    assert published_snapshot(store) == "2"
    publish_snapshot(store, "5")
    assert (store / "current").resolve() == (store / "snapshots" / "5").resolve()
    assert prune_snapshots(store, keep=2) == ["2"]
    with pytest.raises(NotInRegistry):
        publish_snapshot(store, "2")
    with pytest.raises(ValueError, match="at least one"):
        prune_snapshots(store, keep=0)


@pytest.mark.parametrize("name", ["", "..", "../2", "2/", "x", "2.", "current"])
def test_only_names_of_snapshots_are_published(store: Path, name: str) -> None:
    with pytest.raises(NotInRegistry):
        publish_snapshot(store, name)


def test_nothing_to_snapshot_is_told(registry: Registry, folder: Path) -> None:
    with pytest.raises(RegistryError, match="no scan yet"):
        registry.write_snapshot(now=NOW)
    assert list((folder / "snapshots").iterdir()) == []
    registry.close()
    with Registry.open(folder, read_only=True) as reader, pytest.raises(RegistryError):
        reader.write_snapshot(now=NOW)


def test_private_tables_stay_at_home(store: Path) -> None:
    with Registry.open(store) as registry:
        with registry._database.transaction() as connection:
            connection.execute("COMMENT ON TABLE internal.former_names IS 'Private: a list'")
            connection.execute("INSERT INTO internal.former_names VALUES (1, 'secret/name', 1)")
        fill(registry, ["a/b"])
        name = registry.write_snapshot(now=NOW).name
    with Registry.open(store / "snapshots" / name, read_only=True) as copy:
        assert copy.sql("FROM internal.former_names").fetchall() == []


@pytest.mark.parametrize(
    "sign", [".partial-*", ".partial-*/tables/*/*", ".partial-*/manifest.json"]
)
def test_a_kill_leaves_no_half_snapshot(store: Path, sign: str) -> None:
    with Registry.open(store) as registry:
        fill(registry, [f"o/{number}" for number in range(3000)])
    home = store / "snapshots"
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(store)], stdout=subprocess.PIPE)
    while writer.poll() is None and not any(home.glob(sign)):
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    whole = set(snapshot_names(store))
    for name in whole:
        assert verify_snapshot(home / name) == ()
    with Registry.open(store) as registry:
        name = registry.write_snapshot(now=NOW).name
    # A writer that was done before its kill left a whole snapshot: the same rows, the same name.
    assert {path.name for path in home.iterdir()} == whole | {name} == {"2", "3"}
    assert verify_snapshot(home / name) == ()


def test_a_full_disk_leaves_no_half_snapshot(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(store)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert "RegistryError" in done.stderr
    assert snapshot_names(store) == ["2"]
    assert verify_snapshot(store / "snapshots" / "2") == ()


@pytest.mark.parametrize("target", ["registry.duckdb", "tables/edges/data_0.parquet"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "link"])
def test_damage_is_found_and_never_restored(store: Path, target: str, harm: str) -> None:
    folder = store / "snapshots" / "2"
    path = folder / target
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "cut":
        path.write_bytes(content[:-1])
    elif harm == "link":
        path.symlink_to("/etc/hostname")
    faults = verify_snapshot(folder)
    assert [fault.path for fault in faults] == [target]
    with pytest.raises(MalformedFile, match="manifest"):
        restore_snapshot(folder, store.parent / "again")
    assert not (store.parent / "again" / "registry.duckdb").exists()


def test_a_file_too_many_is_told(store: Path) -> None:
    folder = store / "snapshots" / "2"
    (folder / "tables" / "edges" / "data_1.parquet").write_bytes(b"PAR1")
    (fault,) = verify_snapshot(folder)
    assert (fault.path, fault.what) == ("tables/edges/data_1.parquet", "not in the manifest")


def test_restore_gives_the_same_answers(store: Path, tmp_path: Path) -> None:
    manifest = restore_snapshot(store / "snapshots" / "2", tmp_path / "again")
    assert manifest.scan == 2
    assert facts_of(tmp_path / "again") == facts_of(store)
    with Registry.open(tmp_path / "again") as registry:
        assert registry.write_snapshot(now=NOW).content == manifest.content


def test_restore_replaces_only_when_asked(store: Path) -> None:
    with Registry.open(store) as registry:
        fill(registry, ["late/one"])
    with pytest.raises(RegistryError, match="--replace"):
        restore_snapshot(store / "snapshots" / "2", store)
    restore_snapshot(store / "snapshots" / "2", store, replace=True)
    with Registry.open(store, read_only=True) as registry, pytest.raises(NotInRegistry):
        registry.resolve_name("late/one")
    with duckdb.connect(store / REPLACED, read_only=True) as old:
        assert old.execute("SELECT count(*) FROM v1.models WHERE model = 'late/one'").fetchall()
    assert not list(store.glob(".restoring*"))


def sealed(folder: Path, **fields: Any) -> None:
    """Write a manifest that fits a changed `registry.duckdb`, as a forger would."""
    content = (folder / "registry.duckdb").read_bytes()
    manifest = read_manifest(folder)
    file = replace(
        manifest.database, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    write_manifest(folder, replace(manifest, database=file, **fields))


def test_a_forged_database_runs_nothing(store: Path, tmp_path: Path) -> None:
    folder = store / "snapshots" / "2"
    (folder / "registry.duckdb").unlink()
    secret = tmp_path / "secret.csv"
    secret.write_text("id,secret\n1,token\n")
    with duckdb.connect(folder / "registry.duckdb") as forged:
        forged.execute("CREATE SCHEMA internal")
        forged.execute(
            "CREATE VIEW internal.former_names AS SELECT id::INTEGER AS model, secret AS name, "
            f"1 AS scan FROM read_csv('{secret}')"
        )
        forged.execute("CREATE MACRO internal.find_model(wanted) AS error('run')")
    sealed(folder)
    restore_snapshot(folder, tmp_path / "again")
    with Registry.open(tmp_path / "again", read_only=True) as registry:
        assert registry.sql("FROM internal.former_names").fetchall() == []
        with pytest.raises(NotInRegistry):
            registry.resolve_name("lab/base")


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_database_that_is_none_is_told(store: Path, tmp_path: Path, content: bytes) -> None:
    folder = store / "snapshots" / "2"
    (folder / "registry.duckdb").write_bytes(content)
    sealed(folder)
    if content:
        with pytest.raises(RegistryError):
            restore_snapshot(folder, tmp_path / "again")
        assert list((tmp_path / "again").iterdir()) == []


def test_a_newer_snapshot_is_refused(store: Path, tmp_path: Path) -> None:
    folder = store / "snapshots" / "2"
    schema = (*read_manifest(folder).schema, "0099_later.sql")
    sealed(folder, schema=schema)
    with pytest.raises(SchemaTooNew, match="upgrade modelkin"):
        restore_snapshot(folder, tmp_path / "again")


@pytest.mark.parametrize(
    "change",
    [
        (lambda raw: raw.update(format=2)),
        (lambda raw: raw.update(name="../../etc")),
        (lambda raw: raw.update(scan=-1)),
        (lambda raw: raw.update(scan=True)),
        (lambda raw: raw.update(created_at="today")),
        (lambda raw: raw.update(tables=7)),
        (lambda raw: raw.pop("database")),
        (lambda raw: raw["database"].update(path="/etc/passwd")),
        (lambda raw: raw["database"].update(path="tables/../../x")),
        (lambda raw: raw["database"].update(path=".hidden")),
        (lambda raw: raw["database"].update(sha256="0")),
        (lambda raw: raw["tables"][0].update(name="a b")),
        (lambda raw: raw["tables"][0].update(columns=[1])),
    ],
)
def test_lying_manifests_are_refused(
    store: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = store / "snapshots" / "2" / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(MalformedFile, match=r"manifest\.json"):
        read_manifest(path.parent)
    assert list_snapshots(store) == []


def test_a_huge_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(LimitExceeded):
        read_manifest(tmp_path)


@settings(max_examples=40)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_end_in_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(FormatError):
        read_manifest(folder)


def test_a_manifest_comes_back_as_written(store: Path, tmp_path: Path) -> None:
    manifest = read_manifest(store / "snapshots" / "2")
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert isinstance(manifest, SnapshotManifest)
    assert manifest.rows("edges") == 16
    assert manifest.rows("nothing") == 0
