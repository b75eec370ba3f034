"""A process that forks one child for each query, and kills those whose time is up.

It has imported what a child needs and opened nothing, so that a fork costs milliseconds and a
child begins without a secret: its environment is empty, it holds no socket but this one, which the
child closes. It has one thread; forking more would not be safe.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from .sql_worker import work

KILL_AFTER = 1.0
"""Seconds from the interrupt of a query to the kill of its process."""
LARGEST_TASK = 200 * 1024
_NO_NEW_PRIVILEGES, _PARENT_DEATH_SIGNAL = 38, 1
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000


def main(descriptor: int, *, seconds: float) -> None:
    """Serve tasks from a socket until it closes; each query may take so many seconds."""
    control = socket.socket(fileno=descriptor)
    _leave_the_network()
    children: dict[int, float] = {}
    while True:
        ready, _, _ = select.select([control], [], [], 0.02 if children else None)
        if ready:
            message, files, _, _ = socket.recv_fds(control, LARGEST_TASK, 1)
            if not message:
                break
            child = _start(control, message, files, seconds=seconds)
            children[child] = time.monotonic() + seconds + KILL_AFTER
        _reap(children)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _start(control: socket.socket, message: bytes, files: list[int], *, seconds: float) -> int:
    child = os.fork()
    if child:
        for one in files:
            os.close(one)
        return child
    try:
        control.close()
        _forbid_privileges()
        work(json.loads(message), files[0], seconds=seconds)
    finally:
        # Not sys.exit: nothing of the parent may run twice, and no thread may hold the end back.
        os._exit(0)


def _reap(children: dict[int, float]) -> None:
    now = time.monotonic()
    for child, deadline in list(children.items()):
        if now > deadline:
            os.kill(child, signal.SIGKILL)
        ended, _ = os.waitpid(child, 0 if now > deadline else os.WNOHANG)
        if ended:
            del children[child]


def _libc() -> ctypes.CDLL | None:
    with suppress(OSError):
        return ctypes.CDLL(None, use_errno=True)
    return None


def _leave_the_network() -> None:
    """Into a network of its own with nothing in it, where the system lets this user do that."""
    libc = _libc()
    if libc is not None and hasattr(libc, "unshare"):
        libc.unshare(_NEW_NETWORK if os.geteuid() == 0 else _NEW_NETWORK | _NEW_USER)


def _forbid_privileges() -> None:
    libc = _libc()
    if libc is not None and hasattr(libc, "prctl"):
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(int(sys.argv[1]), seconds=float(sys.argv[2]))
