"""Public copies: what they leave out, when they are made anew, and which snapshot they show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_registry import LISTED
from store_factories import NOW, fill, make_info

from modelkin.cli.explorer.library import LOOK_AGAIN, Library
from modelkin.lineage.errors import NotInRegistry, RegistryError
from modelkin.store import Registry

from .conftest import Serve


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path, explorer_store: Path) -> Path:
    shutil.copytree(explorer_store, tmp_path / "store")
    return tmp_path / "store"


def library_of(store: Path, tmp_path: Path, clock: Clock | None = None, **more: Any) -> Library:
    """A library that makes newer copies while the caller waits."""
    room = tmp_path / "room"
    room.mkdir()
    return Library(store, room=room, clock=clock or Clock(), **{"start": lambda job: job(), **more})


def snapshot(store: Path, name: str) -> None:
    folder = store / "snapshots" / name
    folder.mkdir(parents=True)
    shutil.copyfile(store / "registry.duckdb", folder / "registry.duckdb")


def test_a_scan_can_write_while_a_copy_is_served(store: Path, tmp_path: Path) -> None:
    clock = Clock()
    library = library_of(store, tmp_path, clock)
    with library.shelf() as before:
        known = before.reader.status().models
        with Registry.open(store) as writer:
            fill(writer, ["new/one"])
            clock.now += LOOK_AGAIN + 1
            with library.shelf() as during:
                assert during.state == before.state
        clock.now += LOOK_AGAIN + 1
        with library.shelf() as after:
            assert after.reader.status().models == known + 1
        assert before.reader.status().models == known
    assert not before.path.exists()
    library.close()


def test_the_copy_of_before_is_served_while_the_next_is_made(store: Path, tmp_path: Path) -> None:
    clock, jobs = Clock(), list[Callable[[], None]]()
    library = library_of(store, tmp_path, clock, start=jobs.append)
    with library.shelf() as before:
        pass
    with Registry.open(store) as writer:
        fill(writer, ["new/one"])
    for _ in range(2):
        clock.now += LOOK_AGAIN + 1
        with library.shelf() as during:
            assert during.state == before.state
    (renew,) = jobs
    renew()
    with library.shelf() as after:
        assert after.state != before.state
    library.close()


def test_a_copy_is_renewed_beside_the_requests(store: Path, tmp_path: Path) -> None:
    clock = Clock()
    library = library_of(store, tmp_path, clock, start=None)
    with library.shelf() as before:
        pass
    with Registry.open(store) as writer:
        fill(writer, ["new/one"])
    clock.now += LOOK_AGAIN + 1
    with library.shelf():
        pass
    library.close()  # waits for the copy, so that nothing is left half
    assert len(list((tmp_path / "room").glob("copy-*"))) == 2
    assert not before.path.exists()


def test_the_store_is_not_looked_at_for_every_page(store: Path, tmp_path: Path) -> None:
    library = library_of(store, tmp_path)
    with library.shelf() as first:
        pass
    with Registry.open(store) as writer:
        fill(writer, ["new/one"])
    with library.shelf() as second:
        assert second.state == first.state
    library.close()


def test_snapshots_are_served_as_of(store: Path, tmp_path: Path, serve: Serve) -> None:
    snapshot(store, "2")
    with Registry.open(store) as writer:
        scan = writer.start_scan(kind="scan", source="hub", parameters={}, now=NOW)
        writer.add_page(scan, [make_info("late/comer")], next_cursor=None, now=NOW)
        writer.finish_scan(scan, status="done", now=NOW)
    snapshot(store, "3")
    snapshot(store, "3.1")
    (store / "snapshots" / ".partial-x").mkdir()
    client = serve(store)
    rows = client.get("/api/v1/snapshots").json()["rows"]
    assert [row["as_of"] for row in rows] == ["3.1", "3", "2"]
    late = client.ask("/models", q="late")
    assert "late/comer" in late.text
    assert '<option value="3.1"' in late.text
    assert late.headers["cache-control"] == "no-cache"
    early = client.ask("/models", q="late", as_of="2")
    assert "late/comer" not in early.text
    assert "immutable" in early.headers["cache-control"]
    assert "as_of=2" in early.text
    assert client.ask("/sql.json", query="FROM models", as_of="2").json()["total"] == 14
    assert client.ask("/models", as_of="4").status == 404


def test_few_copies_are_kept(store: Path, tmp_path: Path) -> None:
    for name in "12345":
        snapshot(store, name)
    library = library_of(store, tmp_path)
    for name in "12345":
        with library.shelf(name) as shelf:
            assert shelf.reader.status().models == len(LISTED)
    assert len(list((tmp_path / "room").glob("*/registry.duckdb"))) <= 4
    library.close()


def test_a_published_state_is_preferred(store: Path, tmp_path: Path) -> None:
    snapshot(store, "2")
    (store / "current").symlink_to("snapshots/2")
    with Registry.open(store) as writer:
        fill(writer, ["new/one"])
    library = library_of(store, tmp_path)
    with library.shelf() as shelf:
        assert shelf.reader.status().models == len(LISTED)
    library.close()


def test_no_store_is_told(tmp_path: Path) -> None:
    library = library_of(tmp_path / "nothing", tmp_path)
    with pytest.raises(RegistryError, match="no store at"), library.shelf():
        pass
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "registry.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(RegistryError), library.shelf():
        pass


def test_an_unknown_snapshot_is_told(store: Path, tmp_path: Path) -> None:
    library = library_of(store, tmp_path)
    for name in ("9", "../..", "", "1/../2"):
        with pytest.raises(NotInRegistry), library.shelf(name):
            pass
    library.close()
