"""`serve` as a command: it says where it is, ends on a signal, and writes files instead."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_serve_says_where_and_ends_on_a_signal(small_store: Path) -> None:
    command = [sys.executable, "-m", "modelkin.cli", "serve", "--port", "0"]
    command += ["--host", "127.0.0.1", "--allow-host", "kin.example", "--rate", "0"]
    command += ["--sql-workers", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*command, "--store", str(small_store)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A suite that was started in the background hands down that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as server:
        assert server.stderr is not None
        address = ""
        for line in server.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                address = found[0]
                break
        with urllib.request.urlopen(address) as reply:
            assert b"lab/base" in reply.read()
        named = urllib.request.Request(address, headers={"Host": "kin.example"})
        with urllib.request.urlopen(named) as reply:
            assert reply.status == 200
        strange = urllib.request.Request(address, headers={"Host": "strange.example"})
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(strange)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=600) == 130


def test_a_port_that_is_taken_is_told(look: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = look("serve", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "cannot listen" in result.stderr


def test_serve_writes_files(look: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    result = look("serve", "--export", str(site), "--export-models", "2")
    assert result.exit_code == 0
    assert f"files in {site}" in result.stderr
    assert "sdk: static" in (site / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in site.glob("*.html")]
    assert {"index.html", "models.html", "findings.html"} <= set(pages)
    assert sum(name.startswith("model-") for name in pages) == 2
    again = look("serve", "--export", str(site))
    assert again.exit_code == 2
    assert "not empty" in again.stderr


def test_no_store_is_told(look: Run, tmp_path: Path) -> None:
    result = look("serve", "--store", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "no store" in result.stderr
