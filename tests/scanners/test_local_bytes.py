"""Reads of a file on disk: what lies in memory and what has to be waited for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkin.lineage.errors import MalformedFile, TruncatedRead
from modelkin.scanners import bytes as byte_sources
from modelkin.scanners.bytes import LocalBytes, Traffic

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["at hand", "in a thread"])
def local(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, read in either way."""
    if request.param == "in a thread":
        monkeypatch.setattr(byte_sources, "_NO_WAIT", None)
    file = tmp_path / "m.bin"
    file.write_bytes(CONTENT)
    return file


@given(ends=st.tuples(*[st.integers(0, len(CONTENT))] * 2))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_read_gives_the_bytes_of_the_file(local: Path, ends: tuple[int, int]) -> None:
    begin, end = sorted(ends)
    traffic = Traffic()
    source = LocalBytes(local, name="m.bin", traffic=traffic)
    assert asyncio.run(source.read(begin, end)) == CONTENT[begin:end]
    assert (traffic.requests, traffic.bytes) == (1, end - begin)


def test_a_file_that_shrank_is_a_truncated_read(local: Path) -> None:
    source = LocalBytes(local, name="m.bin")
    local.write_bytes(CONTENT[:100])
    with pytest.raises(TruncatedRead, match="20 of 80 bytes"):
        asyncio.run(source.read(80, 160))


def test_a_range_outside_of_the_file_is_refused(local: Path) -> None:
    with pytest.raises(MalformedFile, match="outside the file"):
        asyncio.run(LocalBytes(local, name="m.bin").read(0, len(CONTENT) + 1))


def test_a_file_that_is_gone_is_an_error_of_the_system(local: Path) -> None:
    source = LocalBytes(local, name="m.bin")
    local.unlink()
    with pytest.raises(FileNotFoundError):
        asyncio.run(source.read(0, 8))


def test_no_descriptor_stays_open(local: Path) -> None:
    source = LocalBytes(local, name="m.bin")
    asyncio.run(source.read(0, 8))
    held = [os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
    assert str(local.resolve()) not in held


def test_bytes_in_memory_need_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.bin"
    file.write_bytes(CONTENT)
    try:
        with file.open("rb") as held:
            os.preadv(held.fileno(), [bytearray(8)], 0, os.RWF_NOWAIT)
    except (AttributeError, OSError):
        pytest.skip("this file system cannot tell what lies in memory")
    monkeypatch.setattr(LocalBytes, "_read", None)
    assert asyncio.run(LocalBytes(file, name="m.bin").read(0, 8)) == CONTENT[:8]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    file = tmp_path / "m.bin"
    file.write_bytes(CONTENT)
    source = LocalBytes(file, name="m.bin")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="seek"):
        asyncio.run(source.read(0, 8))
