"""Nights against a loopback Hub: a configuration, runs in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from faulty_hub import FaultyHub
from small_models import _contents, ask

from modelkin.cli.main import cli

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def write_config(folder: Path, url: str, *, more: str = "", scan: str = "") -> Path:
    """A configuration for a small Hub, its store beside it."""
    path = folder / "modelkin.toml"
    path.write_text(
        f"""
[store]
path = "store"
keep_snapshots = 3
[hub]
endpoint = "{url}"
page_size = 3
[scan]
watch = ["lab/base"]
device = "cpu"
{scan}
[publish]
freshness = "4000d"
{more}
""",
        encoding="utf-8",
    )
    return path


def run_night(config: Path, *words: str) -> Result:
    """A night in this process."""
    return CliRunner().invoke(cli, ["nightly", "--config", str(config), *words])


def started(config: Path, **environment: str) -> subprocess.Popen[str]:
    """A night in a process of its own."""
    quiet = {"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "modelkin.cli", "-vv", "nightly", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **quiet, **environment},
    )


def wait_for(hub: FaultyHub, requests: int, process: subprocess.Popen[str]) -> None:
    """Until the hub has seen so many requests, or the process has ended."""
    until = time.monotonic() + 600
    while len(hub.seen) < requests and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)


def published(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What the published snapshot holds, without times and numbers of scans."""
    return dict(ask(store / "current", _contents_of_copy))


def _contents_of_copy(registry: Any) -> dict[str, list[tuple[Any, ...]]]:
    found = _contents(registry)
    query = "SELECT DISTINCT kind, subject, before, after FROM changes ORDER BY ALL"
    found["changes"] = list(registry.sql(query).fetchall())
    # Which of two exact copies is read, and which found to be one, is a matter of the moment.
    query = "SELECT model, outcome FROM coverage ORDER BY ALL"
    found["coverage"] = list(registry.sql(query).fetchall())
    return found
