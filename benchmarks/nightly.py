"""What a night costs: listing, changes, fetching; on a simulated Hub over real HTTP.

    python -m benchmarks.nightly listing --models 350000 [--changes 10000] [--nights 2]
    python -m benchmarks.nightly fetch --models 400 [--latency 0.05] [--engine local|pool|ray]

It is run from the root of the repository.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.ecosystem.population import Population  # noqa: E402
from benchmarks.ecosystem.server import Conditions, EcosystemHub  # noqa: E402


def main() -> None:
    """Run one of the benchmarks and print its figures as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("listing", "fetch"))
    parser.add_argument("--models", type=int, default=35_000)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--nights", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--engine", choices=("local", "pool", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snapshot", action="store_true")
    asked = parser.parse_args()
    {"listing": listing, "fetch": fetch}[asked.what](asked)


def say(**figures: Any) -> None:
    """One JSON line."""
    print(json.dumps(figures), flush=True)


def now() -> datetime:
    """UTC."""
    return datetime.now(UTC)


def listing(asked: argparse.Namespace) -> None:
    """A full sweep of a Hub of so many models, then nights of changes; the snapshot of each."""
    with _served(asked) as (url, control), tempfile.TemporaryDirectory() as folder:
        from modelkin.store import Registry

        with Registry.open(Path(folder) / "store", create=True) as registry:
            _night(registry, url, asked, what="full sweep", control=control)
            for number in range(1, asked.nights + 1):
                changes = asked.changes
                control.send((number, changes // 3, changes // 2, changes // 60, changes // 60))
                control.recv()
                _night(registry, url, asked, what=f"night {number}", control=control)


def _night(registry: Any, url: str, asked: argparse.Namespace, *, what: str, control: Any) -> None:
    from modelkin.scanners.bytes import Traffic
    from modelkin.scanners.limits import Meter
    from modelkin.scanners.listing import Lister
    from modelkin.scanners.sources.hub import HubSource
    from modelkin.scanners.sources.spool import PageSpool
    from modelkin.store.snapshots import publish_snapshot

    spool = PageSpool(registry.path / "spool")
    source = HubSource(endpoint=url, spool=spool)
    traffic = Traffic()
    lister = Lister(
        ledger=registry.ledger(),
        source=source,
        now=now,
        meter=Meter(traffic=traffic),
        spool=spool,
        full_every=timedelta(days=7),
    )
    begun, cpu, served = time.perf_counter(), time.process_time(), _server_cpu(control)
    scan = registry.start_scan(kind="nightly", source="hub", parameters={}, now=now())
    sweeps = lister.run(scan)
    listed = time.perf_counter() - begun
    used, serving = time.process_time() - cpu, _server_cpu(control) - served
    registry.finish_scan(scan, status="done", now=now())
    ended = time.perf_counter() - begun
    asyncio.run(source.close())
    models = sum(sweep.listed for sweep in sweeps)
    figures = {
        "what": what,
        "listed": models,
        "known": sum(sweep.known for sweep in sweeps),
        "requests": traffic.requests,
        "megabytes": round(traffic.bytes / 1e6, 1),
        "list_seconds": round(listed, 2),
        "models_per_second": round(models / listed),
        "cpu_us_per_model": round(used / models * 1e6),
        "server_cpu_us_per_model": round(serving / models * 1e6),
        "end_seconds": round(ended - listed, 2),
    }
    if asked.snapshot:
        begun = time.perf_counter()
        manifest = registry.write_snapshot(now=now())
        publish_snapshot(registry.path, manifest.name)
        figures["snapshot_seconds"] = round(time.perf_counter() - begun, 2)
        size = sum(file.bytes for file in manifest.files())
        figures["snapshot_megabytes"] = round(size / 1e6, 1)
    figures["store_megabytes"] = round((registry.path / "registry.duckdb").stat().st_size / 1e6, 1)
    figures["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    say(**figures)


def _server_cpu(control: Any) -> float:
    """Seconds of processor time that the simulated Hub has used."""
    control.send("cpu")
    return float(control.recv())


@contextmanager
def _served(asked: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The simulated Hub in a process of its own; what is sent to it lets a day pass."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(asked.models, asked.seed, there))
    process.start()
    try:
        yield here.recv(), here
    finally:
        here.send(None)
        process.join()


def _serve(models: int, seed: int, control: Any) -> None:
    people = Population(models, seed=seed, step=timedelta(seconds=27))
    with EcosystemHub(people, Conditions()) as hub:
        control.send(hub.url)
        while (asked := control.recv()) is not None:
            if asked == "cpu":
                control.send(time.process_time())
                continue
            number, added, edited, renamed, removed = asked
            people.night(number, added=added, edited=edited, renamed=renamed, removed=removed)
            control.send("done")


def fetch(asked: argparse.Namespace) -> None:
    """Visit real small models over HTTP with latency: models and requests a second, CPU a model."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "hub"
        _write_models(root, asked.models)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_serve_files, args=(root, asked.latency, there))
        process.start()
        try:
            _fetch(here.recv(), asked)
        finally:
            here.send(None)
            print(here.recv(), file=sys.stderr)
            process.join()


def _fetch(url: str, asked: argparse.Namespace) -> None:
    from modelkin.scanners.bytes import Traffic
    from modelkin.scanners.engines.base import SourceSpec
    from modelkin.scanners.fetching import Batch
    from modelkin.scanners.sources.base import ListingFilter

    spec = SourceSpec(endpoint=url, connections=64)
    source = spec.open()
    pages = source.pages(narrow=ListingFilter(), traffic=Traffic())
    infos = [info for page in pages for info in page.models]
    asyncio.run(source.close())
    begun = time.perf_counter()
    engine = _engine(spec, asked.engine)
    step = 100
    batches = [
        Batch(number=at, infos=tuple(infos[at : at + step])) for at in range(0, len(infos), step)
    ]
    warm = list(engine.run([Batch(number=-1, infos=tuple(infos[:2]))]))
    ready = time.perf_counter()
    cpu = time.process_time()
    done = list(engine.run(batches))
    seconds = time.perf_counter() - ready
    used = time.process_time() - cpu
    engine.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    visits = [visit for fetched in done for visit in fetched.visits]
    requests = sum(visit.coverage.requests for visit in visits)
    say(
        what=f"fetch and sketch, engine {asked.engine}",
        models=len(visits),
        ok=sum(visit.coverage.outcome == "ok" for visit in visits),
        latency=asked.latency,
        start_seconds=round(ready - begun, 1),
        models_per_second=round(len(visits) / seconds, 1),
        requests_per_model=round(requests / len(visits), 1),
        kilobytes_per_model=round(sum(v.coverage.bytes_read for v in visits) / len(visits) / 1e3),
        cpu_ms_per_model=round(used / len(visits) * 1e3, 1),
        children_cpu_seconds=round(children.ru_utime + children.ru_stime, 1),
        warm=len(warm),
    )


def _engine(spec: Any, name: str) -> Any:
    if name == "ray":
        from modelkin.scanners.engines.on_ray import OnRay

        return OnRay(spec, cpus=2)
    from modelkin.scanners.engines.local import InProcess, ProcessPool

    if name == "pool":
        return ProcessPool(spec, processes=2, stopped=lambda: False)
    return InProcess(spec.open(), stopped=lambda: False, concurrent=64)


def _write_models(root: Path, models: int) -> None:
    from small_models import tiny_weights, write_model

    for at in range(models):
        weights = tiny_weights(f"bench {at % 40}", hidden=64, layers=4)
        weights["model.norm.weight"] = weights["model.norm.weight"] + at / 1024
        write_model(root, f"org{at % 97}/model-{at}", weights, base="org0/model-0")


def _serve_files(root: Path, latency: float, control: Any) -> None:
    from modelkin.scanners.sources.loopback import HubHandler, LoopbackHub

    class Far(LoopbackHub):
        def intercept(self, request: HubHandler) -> bool:
            time.sleep(latency)
            return False

    with Far(root) as hub:
        control.send(hub.url)
        control.recv()
        control.send(dict(hub.counters))


if __name__ == "__main__":
    main()
