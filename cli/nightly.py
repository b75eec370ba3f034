"""`nightly`, `notify` and `schedule`: the scan of every night, what it tells, what starts it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..lineage.compute import Compute
from ..lineage.errors import ModelkinError
from ..scanners.digest import add_to_feed
from ..scanners.engines.base import Engine, SourceSpec
from ..scanners.limits import Meter
from ..scanners.night_report import NightReport
from ..scanners.nightly import Night
from ..scanners.nightly_config import NightConfig, parse_config
from ..scanners.notifying import Courier
from ..scanners.sources.retry import RetryPolicy
from ..scanners.sources.spool import PageSpool
from ..store import Registry
from ..store.durable import write_whole
from ..store.lock import scan_lock
from ..store.snapshots import prune_snapshots, publish_snapshot
from .interrupts import Interrupts
from .opening import utc_now
from .output import console, say
from .progress import Watch

GRACE = 9.0
"""Seconds after a signal or the deadline until the process ends in spite of what it is doing."""
REPORTS = "reports"
FEED = "feed.atom"

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=Path("modelkin.toml"),
    show_default=True,
    help="The configuration.",
)


@click.command("nightly")
@config_option
@click.option("--accept", metavar="REASON", help="Publish in spite of the gate; it is stored.")
@click.pass_context
def nightly_command(ctx: click.Context, *, config_path: Path, accept: str | None) -> None:
    """One night: list, visit, infer, probe, snapshot, publish, notify. Started by a scheduler."""
    config = read_config(config_path)
    interrupts = Interrupts()
    with interrupts.watching(), scan_lock(config.store), _deadline(config, interrupts):
        report = _run(config, interrupts=interrupts, accept=accept)
    _tell(report)
    _ping(config, ok=report.status == "done" and not _blocked(report))
    ctx.exit(_exit_code(report, interrupts))


def read_config(path: Path) -> NightConfig:
    """Read `modelkin.toml`; paths in it are relative to its folder.

    Raises
    ------
    ModelkinError : it is no TOML, or a key or value is not understood.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelkinError(f"{path}: {error}") from None
    config = parse_config(data, environment=os.environ.get)
    prompts = None if config.prompts is None else path.parent / config.prompts
    return replace(config, store=path.parent / config.store, prompts=prompts)


def courier(registry: Registry, interrupts: Interrupts) -> Courier:
    """What delivers the outbox of an open store."""
    return Courier(ledger=registry.ledger(), now=utc_now, stopped=interrupts.stopped)


def _run(config: NightConfig, *, interrupts: Interrupts, accept: str | None) -> NightReport:
    meter = Meter(limits=config.limits, interrupted=interrupts.stopped)
    spool = PageSpool(config.store / "spool")
    spec = _spec(config)
    retry = RetryPolicy(sleep=interrupts.sleep, sleep_async=interrupts.sleep_async)
    with Registry.open(config.store, create=True) as registry, Watch(console(stderr=True)) as watch:
        source = _source(spec, config, retry=retry, spool=spool)
        engine = _engine(config, spec, retry=retry, interrupts=interrupts)
        try:
            night = Night(
                registry=registry,
                source=source,
                engine=engine,
                config=config,
                now=utc_now,
                publish=lambda name: publish_snapshot(config.store, name),
                tell=lambda report: _keep(registry, config, interrupts, report),
                meter=meter,
                compute=Compute(device=config.device),  # type: ignore[arg-type]
                progress=watch,
                spool=spool,
                prompts=_prompts(config),
                accept=accept,
            )
            report = night.run()
        finally:
            engine.close()
            asyncio.run(source.close())
        if report.publication is None:
            _keep(registry, config, interrupts, report)
        else:
            prune_snapshots(config.store, keep=config.keep_snapshots)
        _deliver(registry, config, interrupts)
    return report


def _spec(config: NightConfig) -> SourceSpec:
    if config.source != "hub":
        return SourceSpec(endpoint="", folder=config.source.removeprefix("dir:"))
    from huggingface_hub import get_token

    contact = f" ({config.contact})" if config.contact else ""
    return SourceSpec(
        endpoint=config.endpoint,
        token=get_token(),
        connections=config.connections,
        user_agent=f"modelkin/{__version__}{contact}",
    )


def _source(spec: SourceSpec, config: NightConfig, *, retry: RetryPolicy, spool: PageSpool) -> Any:
    if spec.folder is not None:
        return spec.open()
    from ..scanners.sources.hub import HubSource

    return HubSource(
        endpoint=spec.endpoint,
        token=spec.token,
        user_agent=spec.user_agent,
        page_size=config.page_size,
        retry=retry,
        spool=spool,
    )


def _engine(
    config: NightConfig, spec: SourceSpec, *, retry: RetryPolicy, interrupts: Interrupts
) -> Engine:
    if config.engine == "ray":
        from ..scanners.engines.on_ray import OnRay

        return OnRay(spec, max_requests=config.limits.max_requests, stopped=interrupts.stopped)
    from ..scanners.engines.local import InProcess, ProcessPool

    if config.processes > 1:
        return ProcessPool(spec, processes=config.processes, stopped=interrupts.stopped)
    return InProcess(
        spec.open(retry=retry), stopped=interrupts.stopped, concurrent=config.connections
    )


def _prompts(config: NightConfig) -> Any:
    if config.probe == "none":
        return None
    from ..scanners.probes.prompt_sets import builtin_prompt_set, load_prompt_set

    return builtin_prompt_set() if config.prompts is None else load_prompt_set(config.prompts)


def _keep(
    registry: Registry, config: NightConfig, interrupts: Interrupts, report: NightReport
) -> None:
    """Keep the digest of a night, and put its events on their way."""
    _keep_report(config, report)
    courier(registry, interrupts).enqueue(config.receivers, scan=report.scan)


def _keep_report(config: NightConfig, report: NightReport) -> None:
    """The digest of the night, and the feed with it in front."""
    if report.digest is None:
        return
    folder = config.store / REPORTS
    feed = folder / FEED
    try:
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"{report.scan}.md", report.digest.encode())
        known = feed.read_bytes() if feed.exists() else None
        entry = add_to_feed(known, scan=report.scan, digest=report.digest, now=utc_now())
        write_whole(feed, entry)
    except OSError as error:
        raise ModelkinError(
            f"cannot keep the report of the night in {folder}: {error.strerror}. The next run does"
        ) from error


def _deliver(registry: Registry, config: NightConfig, interrupts: Interrupts) -> None:
    ends = courier(registry, interrupts).deliver(config.receivers)
    if ends:
        say("notified: " + ", ".join(f"{n} {status}" for status, n in sorted(ends.items())))


@contextmanager
def _deadline(config: NightConfig, interrupts: Interrupts) -> Iterator[None]:
    """Stop at the deadline as at a signal, and end the process when stopping takes too long."""
    ended = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(config.limits.deadline, interrupts, ended), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(deadline: float | None, interrupts: Interrupts, ended: threading.Event) -> None:
    begun, stopped = time.monotonic(), None
    while not ended.wait(0.2):
        now = time.monotonic()
        if deadline is not None and now - begun > deadline:
            interrupts.stop()
        if interrupts.stopped() and stopped is None:
            stopped = now
        if stopped is not None and now - stopped > GRACE:
            # Everything that counts is committed; what is in flight is done again by the next run.
            say("ended after a checkpoint; the next run goes on")
            sys.stderr.flush()
            os._exit(interrupts.exit_code if interrupts.number else 3)


def _ping(config: NightConfig, *, ok: bool) -> None:
    """Tell a dead-man's switch that the night came to an end."""
    if config.healthcheck is None:
        return
    import requests

    try:
        requests.get(
            config.healthcheck + ("" if ok else "/fail"), timeout=10, allow_redirects=False
        )
    except requests.RequestException as error:
        say(f"the health check could not be told: {type(error).__name__}")


def _blocked(report: NightReport) -> bool:
    return report.publication is not None and report.publication.status == "blocked"


def _tell(report: NightReport) -> None:
    counts = ", ".join(f"{n:,} {o}" for o, n in sorted(report.outcomes.items()) if n)
    say(f"scan {report.scan} {report.status}: {report.listed:,} listed; {counts or 'none visited'}")
    say(f"{report.requests:,} requests, {report.bytes:,} bytes; {report.queue.waiting:,} waiting")
    if report.reason:
        say(report.reason)
    if report.publication is not None and _blocked(report):
        say("not published: " + "; ".join(report.publication.reasons))
    elif report.publication is not None:
        say(f"published as snapshot {report.scan}")


def _exit_code(report: NightReport, interrupts: Interrupts) -> int:
    if interrupts.number:
        return interrupts.exit_code
    if report.status == "unlisted":
        return ModelkinError.exit_code
    return 3 if report.status == "interrupted" or _blocked(report) else 0
