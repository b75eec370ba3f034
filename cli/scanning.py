"""`scan` and `infer`: fill the store, and infer parents anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from ..lineage.compute import Compute, Device
from ..lineage.records import Outcome
from ..scanners.claims import judge_claims
from ..scanners.inference import InferenceReport, infer_store
from ..scanners.limits import Meter, ScanLimits
from ..scanners.scan import Scanner, ScanPlan, ScanReport
from ..scanners.sources.base import ListingFilter, Source
from ..store import Registry
from ..store.lock import scan_lock
from . import options
from .interrupts import Interrupts
from .opening import open_source, origin, utc_now
from .output import clean, console, say
from .progress import Watch


@click.command("scan")
@click.argument("source", type=click.Choice(("hub", "dir")))
@click.argument("path", required=False, type=click.Path(path_type=Path, exists=True))
@options.store
@options.endpoint
@click.option("--author", help="Only models of this organisation or user.")
@click.option("--search", help="Only models whose name holds this text.")
@click.option("--filter", "tags", multiple=True, metavar="TAG", help="Only models with this tag.")
@click.option("--resume", is_flag=True, help="Go on with the last unfinished scan.")
@click.option("--dry-run", is_flag=True, help="List and say what would be read; write nothing.")
@click.option("--infer/--no-infer", default=True, show_default=True, help="Infer parents after.")
@options.limits
@options.device
@options.min_coverage
@click.pass_context
def scan_command(
    ctx: click.Context,
    source: str,
    path: Path | None,
    *,
    store: Path,
    endpoint: str,
    author: str | None,
    search: str | None,
    tags: tuple[str, ...],
    resume: bool,
    dry_run: bool,
    infer: bool,
    max_bytes: int | None,
    max_requests: int | None,
    deadline: float | None,
    device: Device,
    min_coverage: float,
) -> None:
    """Fill the store from a Hub, or from a folder of models (scan dir PATH)."""
    if (source == "dir") != (path is not None):
        raise click.UsageError("a folder is scanned as `scan dir PATH`, a Hub as `scan hub`")
    spec = "hub" if path is None else f"dir:{path.resolve()}"
    narrow = ListingFilter(author=author, search=search, tags=tags)
    interrupts = Interrupts()
    meter = Meter(
        limits=ScanLimits(max_bytes=max_bytes, max_requests=max_requests, deadline=deadline),
        interrupted=interrupts.stopped,
    )
    asked = {"author": author, "search": search, "tags": list(tags)}
    parameters = {**origin(spec, endpoint=endpoint), **asked}
    plan = ScanPlan(narrow=narrow, parameters=parameters, goes_on=True)
    with interrupts.watching(), open_source(spec, endpoint=endpoint, interrupts=interrupts) as hub:
        if dry_run:
            _say_listing(hub, narrow, meter)
            return
        with scan_lock(store), Registry.open(store, create=True) as registry:
            with Watch(console(stderr=True)) as watch:
                scanner = Scanner(
                    registry=registry, source=hub, now=utc_now, meter=meter, progress=watch
                )
                report = asyncio.run(scanner.run(plan, resume=resume))
                if infer and report.status != "interrupted":
                    _infer(registry, scan=report.scan, device=device, watch=watch)
                scanner.finish(report)
            tell(report)
    ctx.exit(exit_code(report, interrupts=interrupts, min_coverage=min_coverage))


@click.command("infer")
@options.store
@options.device
def infer_command(*, store: Path, device: Device) -> None:
    """Infer parents anew from the stored sketches."""
    with scan_lock(store), Registry.open(store) as registry:
        scan = registry.start_scan(kind="infer", source="store", parameters={}, now=utc_now())
        with Watch(console(stderr=True)) as watch:
            report = _infer(registry, scan=scan, device=device, watch=watch)
        registry.finish_scan(scan, status="done", now=utc_now())
    say(
        f"{report.models:,} models in {report.buckets:,} shapes: {report.pairs:,} pairs tested, "
        f"{report.related:,} related, {report.edges:,} edges believed"
    )


def tell(report: ScanReport) -> None:
    """Say what a scan read, and what it did not, by reason."""
    counts = ", ".join(f"{n:,} {o}" for o, n in sorted(report.outcomes.items()) if n)
    say(f"scan {report.scan} {report.status}: {counts or 'nothing to do'}")
    if report.reason:
        say(report.reason)
    say(f"{report.requests:,} requests, {report.bytes:,} bytes")


def exit_code(report: ScanReport, *, interrupts: Interrupts, min_coverage: float) -> int:
    """130 or 143 after a signal, 3 when too little could be read, else 0."""
    if interrupts.stopped():
        say("interrupted after a checkpoint: the same command with --resume goes on")
        return interrupts.exit_code
    if report.status == "exhausted" or report.coverage < min_coverage:
        missed = report.left + sum(n for o, n in report.outcomes.items() if o not in _READ)
        reached = f"coverage {report.coverage:.1%}, asked for {min_coverage:.1%}"
        say(f"{reached}: {missed:,} not read in full")
        return 3
    return 0


_READ = frozenset({Outcome.OK, Outcome.UNCHANGED, Outcome.SKIPPED})


def tell_unreadable(report: InferenceReport) -> None:
    """Name the models whose stored sketch is gone or damaged: they were not compared."""
    for model, reason in report.unreadable.items():
        say(f"{model}: its sketch could not be read back: {reason}")


def _infer(registry: Registry, *, scan: int, device: Device, watch: Watch) -> InferenceReport:
    compute = Compute(device=device)
    report = infer_store(registry, scan=scan, now=utc_now(), compute=compute, progress=watch)
    judge_claims(registry, scan=scan, now=utc_now())
    tell_unreadable(report)
    return report


def _say_listing(source: Source, narrow: ListingFilter, meter: Meter) -> None:
    """A dry run: the names that the listing holds, within the budget."""
    total = 0
    for page in source.pages(cursor=None, narrow=narrow, traffic=meter.traffic):
        for info in page.models:
            total += 1
            click.echo(clean(info.name))
        if page.next_cursor is not None:
            meter.check()
    say(f"{total:,} models would be looked at; nothing was written")
