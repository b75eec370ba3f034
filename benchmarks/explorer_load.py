"""The explorer under load: latencies of the API and of pages, with many clients at once.

    python -m benchmarks.explorer_load STORE MODEL [--clients 50] [--seconds 60]

Starts `modelkin serve` on STORE, lets clients ask as fast as they are answered, and prints p50, p95
and p99 for each kind of question, with the memory of the server. Clients share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

Samples = dict[str, list[float]]


@contextmanager
def served(store: Path) -> Iterator[tuple[str, int]]:
    """A server over a store: its address and its process id."""
    command = [sys.executable, "-m", "modelkin.cli", "serve", "--store", str(store)]
    options = ["--port", "0", "--rate", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if found := re.search(r"http://[\d.]+:\d+", line):
                    yield found[0], server.pid
                    return
            raise SystemExit("the server did not start")
        finally:
            server.terminate()


def menu(model: str, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Addresses by kind of question."""
    root = quote(model, safe="")
    some = [quote(name, safe="") for name in names]
    return {
        "one hop": [f"/api/v1/children?model={root}&limit=100"]
        + [f"/api/v1/children?model={name}" for name in some],
        "tree page": [f"/tree?model={root}"] + [f"/tree?model={name}" for name in some],
        "model page": [f"/model?model={name}" for name in some],
        "search": [f"/models?q=model-{i}" for i in range(100, 400)],
        "sql": ["/api/v1/sql?query=" + quote("SELECT count(*) AS n FROM models")],
    }


async def load(
    address: str, choices: Mapping[str, Sequence[str]], *, clients: int, seconds: float
) -> tuple[Samples, dict[str, int]]:
    """Ask as fast as answers come: seconds of each by kind, and how many were turned away."""
    samples: Samples = defaultdict(list)
    refused: dict[str, int] = defaultdict(int)
    until = time.monotonic() + seconds
    headers = {"accept-encoding": "gzip"}
    pool = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=pool, auto_decompress=False) as session:

        async def client(seed: int) -> None:
            rng = random.Random(seed)
            kinds = [kind for kind in choices for _ in range(1 if kind == "sql" else 8)]
            while time.monotonic() < until:
                kind = rng.choice(kinds)
                began = time.monotonic()
                path = rng.choice(choices[kind])
                async with session.get(address + path, headers=headers) as reply:
                    await reply.read()
                if reply.status == 200:
                    samples[kind].append(time.monotonic() - began)
                else:
                    refused[f"{kind} {reply.status}"] += 1

        await asyncio.gather(*(client(seed) for seed in range(clients)))
    return samples, dict(refused)


def show(title: str, samples: Samples, refused: Mapping[str, int], seconds: float) -> None:
    """Print the figures."""
    print(f"## {title}")
    for kind, values in sorted(samples.items()):
        values.sort()
        at = {q: values[min(len(values) - 1, len(values) * q // 100)] * 1000 for q in (50, 95, 99)}
        told = ", ".join(f"p{q} {milliseconds:.0f} ms" for q, milliseconds in at.items())
        print(f"{kind}: {len(values):,} answers, {len(values) / seconds:.0f}/s, {told}")
    if refused:
        print("turned away:", refused)


def processor_seconds(process: int) -> float:
    """Processor seconds that a process has used, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: int) -> float:
    """MiB that a process holds."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def some_names(address: str, model: str) -> list[str]:
    """Names of a few hundred models below the release."""
    path = f"/api/v1/children?model={quote(model, safe='')}&limit=300"
    async with aiohttp.ClientSession() as session, session.get(address + path) as reply:
        found: dict[str, Any] = await reply.json()
    return [row["model"] for row in found["rows"]]


def main() -> None:
    """Run all loads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with served(given.store) as (address, process):
        names = asyncio.run(some_names(address, given.model))
        choices = menu(given.model, names)
        root = quote(given.model, safe="")
        closure = {"closure": [f"/api/v1/descendants?model={root}&limit=100000"]}
        hop = {"one hop": choices["one hop"]}
        for title, what, clients, seconds in (
            ("one hop, 20 clients", hop, 20, given.seconds / 4),
            ("closure, 20 clients", closure, 20, given.seconds / 4),
            (f"everything, {given.clients} clients", choices, given.clients, given.seconds),
        ):
            before = processor_seconds(process)
            samples, refused = asyncio.run(load(address, what, clients=clients, seconds=seconds))
            show(title, samples, refused, seconds)
            spent = processor_seconds(process) - before
            count = sum(len(values) for values in samples.values())
            print(f"processor time of the server: {1000 * spent / max(1, count):.0f} ms an answer")
        print(f"memory of the server afterwards: {memory(process):.0f} MiB")


if __name__ == "__main__":
    main()
