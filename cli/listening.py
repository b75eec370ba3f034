"""The receiver of the Hub's webhooks: one small server that keeps hints for the next night."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..lineage.errors import AccessDenied, ModelkinError, RegistryError
from ..scanners.hints import LARGEST, receive_hint


class HintServer(ThreadingHTTPServer):
    """Takes POSTs of the Hub; says nothing about the store to anybody.

    Parameters
    ----------
    store : the store folder; it is not opened.
    secret : what `X-Webhook-Secret` has to be.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], *, store: Path, secret: str) -> None:
        self.store, self.secret = store, secret
        # One at a time: what a stranger sends must not fill the machine with threads at work.
        self.turn = threading.Semaphore(1)
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: HintServer
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        """Check one delivery and keep its hint."""
        text = self.headers.get("Content-Length", "")
        size = int(text) if text.isdecimal() and len(text) < 10 else LARGEST + 1
        if size > LARGEST:
            self._answer(413)
            return
        body = self.rfile.read(size)
        with self.server.turn:
            self._answer(self._take(body))

    def _take(self, body: bytes) -> int:
        given = self.headers.get("X-Webhook-Secret")
        try:
            receive_hint(self.server.store, body, given=given, secret=self.server.secret)
        except AccessDenied:
            return 401
        except RegistryError:
            return 503
        except ModelkinError:
            return 400
        return 204

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
