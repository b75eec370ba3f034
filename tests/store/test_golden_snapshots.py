"""Every snapshot format ever released: still checked, restored and asked."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from modelkin.store import Registry
from modelkin.store.manifest import read_manifest, verify_snapshot
from modelkin.store.restoring import restore_snapshot

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
ARCHIVES = sorted(GOLDEN.glob("snapshot-*.tar.xz"))


def unpack(archive: Path, folder: Path) -> Path:
    # Python 3.11.0 to 3.11.3 know no filter for `extractall`, later ones want one.
    with tarfile.open(archive) as tar:
        for member in tar:
            held = tar.extractfile(member)
            if held is not None:
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(held.read())
    (snapshot,) = folder.iterdir()
    return snapshot


def test_the_corpus_is_there() -> None:
    assert [archive.name for archive in ARCHIVES][:1] == ["snapshot-1.tar.xz"]


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_released_snapshot_is_restored(archive: Path, tmp_path: Path) -> None:
    snapshot = unpack(archive, tmp_path / "unpacked")
    assert verify_snapshot(snapshot) == ()
    manifest = restore_snapshot(snapshot, tmp_path / "store")
    assert manifest == read_manifest(snapshot)
    with Registry.open(tmp_path / "store", read_only=True) as registry:
        for table in manifest.tables:
            held = registry.sql(f"SELECT count(*) FROM v1.{table.name}").fetchall()
            assert held == [(table.rows,)], table.name
        assert len(registry.descendants("lab/base")) == 12
        (finding,) = registry.findings(kind="stripped_safety")
        assert (finding.model, finding.value) == ("dave/freed", 0.9)
        assert registry.sql("SELECT count(*) FROM edges_as_of(1)").fetchall() == [(16,)]
