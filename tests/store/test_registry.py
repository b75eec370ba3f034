"""Opening a store, and what it does when others, kills and full disks get in the way."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_factories import NOW, fill, make_info

from modelkin.lineage.errors import RegistryBusy, RegistryError
from modelkin.store import Registry, scan_lock

PAGE = 20
WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from store_factories import NOW, claim, make_info
from modelkin.store import Registry

with Registry.open(sys.argv[1], create=True) as registry:
    state = registry.resume_scan(source="hub")
    if state is None:
        scan, page = registry.start_scan(kind="scan", source="hub", parameters={}, now=NOW), 0
    else:
        scan, page = state.scan, int(state.cursor or 0)
    while True:
        names = [f"o/{page}-{number}" for number in range(int(sys.argv[3]))]
        declared = {name: [claim(f"base/{page % 3}")] for name in names}
        page += 1
        registry.add_page(scan, [make_info(name) for name in names], next_cursor=str(page),
                          declared=declared, now=NOW)
        print(page, flush=True)
"""


def start(code: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folder_of_tests() -> str:
    return str(Path(__file__).parent.parent)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_missing_store_says_what_to_do(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(RegistryError, match="run `modelkin scan`"):
        Registry.open(tmp_path / "none", read_only=read_only)
    assert not (tmp_path / "none").exists()


def test_create_makes_the_folders_and_opens_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "store"
    Registry.open(folder, create=True).close()
    Registry.open(folder, create=True).close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match="cannot make"):
        Registry.open(tmp_path / "file" / "store", create=True)


@pytest.mark.parametrize("content", [b"hello" * 1000, b"", b"\0" * 20_000])
def test_a_file_that_is_no_registry_is_told(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "registry.duckdb").write_bytes(content)
    with pytest.raises(RegistryError):
        Registry.open(folder, read_only=True)


def test_a_read_only_registry_does_not_write(registry: Registry, folder: Path) -> None:
    registry.close()
    with Registry.open(folder, read_only=True) as reader:
        assert reader.read_only
        with pytest.raises(RegistryError, match="read-only"):
            fill(reader, ["o/a"])


def test_a_second_process_finds_the_store_busy(registry: Registry, folder: Path) -> None:
    code = """
    import sys
    from modelkin.lineage.errors import RegistryBusy
    from modelkin.store import Registry
    for read_only in (True, False):
        try:
            Registry.open(sys.argv[1], read_only=read_only)
        except RegistryBusy as error:
            print(error.exit_code)
    """
    out, err = start(code, [str(folder)]).communicate(timeout=600)
    assert (out.split(), err) == (["4", "4"], "")


def test_a_reader_gets_the_published_copy_while_a_scan_writes(
    registry: Registry, folder: Path
) -> None:
    fill(registry, ["o/a"])
    registry.close()
    snapshot = folder / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "registry.duckdb").write_bytes((folder / "registry.duckdb").read_bytes())
    (folder / "current").symlink_to(Path("snapshots") / "1")
    writer = start(WRITER, [str(folder), folder_of_tests(), str(PAGE)])
    assert writer.stdout is not None
    try:
        writer.stdout.readline()
        with Registry.open(folder, read_only=True) as reader:
            assert reader.opened == (snapshot / "registry.duckdb").resolve()
            assert reader.sql("SELECT model FROM models").fetchall() == [("o/a",)]
    finally:
        writer.kill()
        writer.communicate()
    (folder / "registry.duckdb").unlink()
    with Registry.open(folder, read_only=True) as reader:
        assert reader.resolve_name("o/a") == "o/a"


def test_a_kill_loses_no_acknowledged_page_and_tears_none(folder: Path) -> None:
    acknowledged = 0
    for pages_before_the_kill in (1, 4, 9):
        writer = start(WRITER, [str(folder), folder_of_tests(), str(PAGE)])
        assert writer.stdout is not None
        for _ in range(pages_before_the_kill):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        out, _ = writer.communicate()
        acknowledged = max([acknowledged, *(int(line) for line in out.split())])
        with Registry.open(folder, read_only=True) as reader:
            assert_consistent(reader, page=PAGE, at_least=acknowledged)
        with Registry.open(folder) as again:
            assert_consistent(again, page=PAGE, at_least=acknowledged)


def assert_consistent(registry: Registry, *, page: int, at_least: int) -> None:
    (state,) = registry.scans()
    pages = int(state.cursor or 0)
    assert pages >= at_least
    assert state.listed == page * pages
    counts = registry.sql(
        "SELECT (SELECT count(*) FROM v1.models WHERE source = 'hub'), "
        "(SELECT count(DISTINCT id) FROM internal.models WHERE source = 'hub'), "
        "(SELECT count(*) FROM v1.files), (SELECT count(*) FROM v1.edges), "
        "(SELECT count(*) FROM v1.claims)"
    ).fetchall()
    assert counts == [(page * pages,) * 5]


def test_a_full_disk_is_told_and_loses_nothing(folder: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), folder_of_tests(), "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000)),
    )
    out, err = writer.communicate(timeout=600)
    assert "RegistryError" in err
    assert "Free some disk" in err
    with Registry.open(folder, read_only=True) as reader:
        assert_consistent(reader, page=1000, at_least=int(out.split()[-1]))


def test_a_write_that_fails_leaves_nothing(registry: Registry) -> None:
    scan = fill(registry, ["o/a"])
    broken = {"o/b": [None]}
    with pytest.raises(AttributeError):
        registry.add_page(
            scan,
            [make_info("o/b")],
            next_cursor="next",
            declared=broken,  # type: ignore[arg-type]
            now=NOW,
        )
    assert registry.sql("SELECT model FROM models").fetchall() == [("o/a",)]
    assert registry.scans()[0].cursor is None
    registry.add_page(scan, [make_info("o/b")], next_cursor=None, now=NOW)
    assert len(registry.sql("FROM models").fetchall()) == 2


def test_threads_share_a_registry(registry: Registry) -> None:
    scan = fill(registry, [])

    def work(thread: int) -> int:
        for number in range(3):
            page = [make_info(f"t{thread}/{number}-{item}") for item in range(10)]
            registry.add_page(scan, page, next_cursor="c", now=NOW)
            registry.status()
        return len(registry.unvisited(scan))

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert max(pool.map(work, range(4))) == 120
    ids = registry.sql("SELECT count(DISTINCT id), max(id) FROM internal.models").fetchall()
    assert ids == [(120, 120)]


def test_one_scan_at_a_time(folder: Path) -> None:
    code = """
    import sys
    from modelkin.lineage.errors import RegistryBusy
    from modelkin.store import scan_lock
    try:
        with scan_lock(sys.argv[1]):
            print("taken")
    except RegistryBusy as error:
        print(error)
    """
    with scan_lock(folder):
        out, _ = start(code, [str(folder)]).communicate(timeout=600)
        assert "another scan (process" in out
        with pytest.raises(RegistryBusy) as caught, scan_lock(folder):
            pass
        assert caught.value.exit_code == 4
    out, _ = start(code, [str(folder)]).communicate(timeout=600)
    assert out == "taken\n"


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match="cannot lock"), scan_lock(tmp_path / "file"):
        pass
