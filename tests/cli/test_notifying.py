"""`notify` from the outside: one receiver of several, past scans again, the Hub's hints."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner, Result
from nights import SECRET, write_config
from small_models import utc_now
from small_registry import build_registry

from modelkin.cli.main import cli
from modelkin.store import Registry

HOOK = "a-secret-of-the-hub"


@contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A server that takes everything: its address and the ids that it was sent."""
    taken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            taken.append(self.headers["webhook-id"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def config_of(folder: Path, **urls: str) -> Path:
    """A configuration with a receiver for each address, beside a small store."""
    build_registry(folder / "store")
    tables = (
        f'[[notify]]\nname = "{name}"\nurl = "{url}"\nsecret = "{SECRET}"\nmode = "each"\n'
        for name, url in urls.items()
    )
    return write_config(folder, "http://127.0.0.1:9", more="\n".join(tables))


def put_event(store: Path) -> int:
    """A finding of a night that was not the first; its scan."""
    with Registry.open(store) as registry:
        nights = []
        for _ in range(2):
            begun = {"kind": "nightly", "source": "hub", "parameters": {}}
            nights.append(registry.start_scan(**begun, now=utc_now()))
            registry.finish_scan(nights[-1], status="done", now=utc_now())
        rows = [("finding.new", "dave/freed", "critical", {})]
        registry.ledger().add_events(rows, scan=nights[-1], now=utc_now())
        return nights[-1]


def notify(config: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["notify", *words, "--config", str(config)])


def test_a_test_goes_to_the_receiver_that_is_named(tmp_path: Path) -> None:
    with receiver() as (first, one), receiver() as (second, other):
        config = config_of(tmp_path, first=first, second=second)
        result = notify(config, "test", "--receiver", "second")
        assert result.exit_code == 0, result.stderr
        assert (len(one), len(other)) == (0, 1)
        assert notify(config, "test").exit_code == 0
        assert (len(one), len(other)) == (1, 2)
    assert notify(config, "test", "--receiver", "third").exit_code == 2


def test_past_events_are_sent_again_under_their_ids(tmp_path: Path) -> None:
    with receiver() as (first, one), receiver() as (second, other):
        config = config_of(tmp_path, first=first, second=second)
        scan = put_event(tmp_path / "store")
        words = ("replay", "--since", str(scan), "--receiver", "first")
        assert notify(config, *words).exit_code == 0
        assert one
        before = list(one)
        assert notify(config, *words).exit_code == 0
        assert sorted(one) == sorted(before * 2)
        assert not other
        one.clear()
        assert (
            notify(config, "replay", "--since", str(scan + 1), "--receiver", "first").exit_code == 0
        )
        assert not one
    assert notify(config, "replay").exit_code == 2


def test_hints_are_taken_until_a_signal(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    text = config.read_text().replace("[hub]", f'[hub]\nwebhook_secret = "{HOOK}"')
    config.write_text(text)
    command = [sys.executable, "-m", "modelkin.cli", "notify", "listen", "--config", str(config)]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line
        answer = requests.post(
            found[0], json={}, headers={"X-Webhook-Secret": "wrong"}, timeout=600
        )
        assert answer.status_code == 401
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=600) in (0, 143)


def test_nobody_listens_without_a_secret(tmp_path: Path) -> None:
    result = notify(config_of(tmp_path), "listen")
    assert result.exit_code == 2
    assert "webhook_secret" in result.stderr


@pytest.mark.parametrize("words", [("test",), ("replay", "--since", "1")])
def test_no_receiver_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = notify(config_of(tmp_path), *words)
    assert result.exit_code == 2
    assert "no such receiver" in result.stderr
