"""A real loopback server that speaks the OpenAI protocol, with scripted replies and faults."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any]], str]
Odds = Callable[[dict[str, Any]], dict[str, float]]
Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclass(slots=True)
class Served:
    """A running server: its address, what it was asked, and the faults of its next answers.

    `odds` gives the probabilities of first tokens; a server without it ignores the question.
    """

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    streams: bool = False
    odds: Odds | None = None


@contextmanager
def openai_server(reply: Reply) -> Iterator[Served]:
    """Serve `reply` of each request's body until the block is left."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                served.asked.append({"path": self.path, **body})
                served.keys.append(self.headers.get("Authorization"))
                fault = served.faults.pop(0) if served.faults else None
            told = served.odds(body) if served.odds and body.get("logprobs") else None
            if fault is not None:
                fault(self)
            elif served.streams:
                send(self, stream(reply(body), odds=told), kind="text/event-stream")
            else:
                send(self, json.dumps(answer(self.path, reply(body), odds=told)).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(url=f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(path: str, text: str, *, odds: dict[str, float] | None = None) -> dict[str, Any]:
    """The JSON of a whole answer, with the odds in the shape of the protocol."""
    if path.endswith("/chat/completions"):
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        if odds is not None:
            choice["logprobs"] = {"content": [_place(odds)]}
        return {"choices": [choice]}
    choice = {"text": text}
    if odds is not None:
        logs = {token: math.log(p) for token, p in odds.items()}
        choice["logprobs"] = {"tokens": list(logs)[:1], "top_logprobs": [logs]}
    return {"choices": [choice]}


def _place(odds: dict[str, float]) -> dict[str, Any]:
    rows = [{"token": token, "logprob": math.log(p)} for token, p in odds.items()]
    return {**rows[0], "top_logprobs": rows}


def stream(text: str, *, end: bool = True, odds: dict[str, float] | None = None) -> bytes:
    """The events of a streamed answer, cut before its end where `end` is false."""
    events: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": part + " "}}]} for part in text.split()
    ]
    if odds is not None:
        events[0]["choices"][0]["logprobs"] = {"content": [_place(odds)]}
    if end:
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        events.append({"choices": [], "usage": {"total_tokens": 3}})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"] if end else lines).encode()


def send(handler: BaseHTTPRequestHandler, data: bytes, *, kind: str = "application/json") -> None:
    """A whole answer."""
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, **headers: str) -> Fault:
    """An answer of this status."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def body(data: bytes, *, kind: str = "application/json") -> Fault:
    """An answer of status 200 with these bytes."""
    return lambda handler: send(handler, data, kind=kind)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """An answer that promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang(released: threading.Event) -> Fault:
    """No answer, and no end of the connection until released."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        released.wait(600)
        handler.close_connection = True

    return fault
