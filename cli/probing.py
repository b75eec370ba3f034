"""`probe`: run the safety probes on models of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from ..lineage.compute import Device
from ..lineage.safety.catalogue import LOG_ODDS, probes_of
from ..lineage.safety.protocol import Tier
from ..lineage.safety.router import LEAST_AUDIT, Route, miss_rate
from ..scanners.limits import Meter, ScanLimits
from ..scanners.planning import plan_probes, total
from ..scanners.probe_run import ProbeRun
from ..scanners.probes.inspect_logs import InspectLog, read_log
from ..scanners.probes.margins import Margins
from ..scanners.probes.prompt_sets import PromptSet
from ..scanners.report import ProbeReport
from ..scanners.routing import chosen_names, route_models
from ..store import Registry
from ..store.lock import scan_lock
from . import options, probe_servers
from .interrupts import Interrupts
from .mapping import load_prompts
from .opening import open_source, utc_now
from .output import console, emit, emit_ids, say
from .progress import Watch
from .severity import worst_at_least

COLUMNS = ("model", "probe", "judge", "value", "ci_low", "ci_high", "n", "status")
PLAN_COLUMNS = ("model", "probe", "runs", "why", "requests", "bytes_read", "tokens")
TIERS = tuple(Tier)


@click.command("probe")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--tier",
    type=click.Choice([str(tier) for tier in TIERS]),
    default=str(Tier.GENERATION),
    show_default=True,
    help="What is read, from the cheapest to the dearest.",
)
@click.option(
    "--plan", is_flag=True, help="Show what would run, why and at what cost; run nothing."
)
@click.option(
    "--route",
    "routed",
    is_flag=True,
    help="Of the models only those that cheaper tiers flag, whose claims and lineage disagree, "
    "or that an audit draws, and their ancestors.",
)
@click.option(
    "--audit",
    type=click.FloatRange(LEAST_AUDIT, 1.0),
    default=LEAST_AUDIT,
    show_default=True,
    help="With --route: share of the other models that is drawn at random.",
)
@options.prompts
@click.option("--source", default="hub", show_default=True, help="hub, or dir:PATH.")
@options.endpoint
@click.option(
    "--max-model-bytes",
    type=click.IntRange(min=1),
    default=20 << 30,
    show_default=True,
    help="Largest model that is downloaded, or read whole, to be probed.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="New tokens of generation at most.")
@click.option(
    "--samples",
    type=click.IntRange(0, 20),
    default=0,
    show_default=True,
    help="With generation: replies that are also drawn at temperature 1 for each of 40 prompts.",
)
@click.option(
    "--prefill",
    is_flag=True,
    help="With generation: also ask 40 prompts with the reply begun as the model begins answers.",
)
@click.option(
    "--inspect-log",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON log of Inspect to take the replies, or the metrics, of one MODEL from.",
)
@options.limits
@options.device
@probe_servers.server
@probe_servers.judge
@options.fail_on
@options.data
@click.pass_context
def probe_command(
    ctx: click.Context,
    models: tuple[str, ...],
    *,
    tier: str,
    plan: bool,
    routed: bool,
    audit: float,
    prompts: str | None,
    source: str,
    endpoint: str,
    max_model_bytes: int,
    max_tokens: int | None,
    samples: int,
    prefill: bool,
    inspect_log: Path | None,
    max_bytes: int | None,
    max_requests: int | None,
    deadline: float | None,
    device: Device,
    server: probe_servers.ServerOptions,
    judge: probe_servers.JudgeOptions,
    fail_on: str | None,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Put the safety probes of a tier to MODELs, or to every sketched model of the source.

    After generation, all that have scores are judged against their ancestors. The tier
    `deployment` takes one MODEL, the checkpoint that a server answers with.
    """
    asked, level = load_prompts(prompts, store=store), Tier(tier)
    margins = chosen_margins(level, samples=samples, prefill=prefill)
    choice = Choice(models=models, source=source, audit=audit if routed else None)
    if plan:
        show_plan(store, choice, tier=level, prompts=asked, output_format=output_format)
        return
    interrupts = Interrupts()
    limits = ScanLimits(max_bytes=max_bytes, max_requests=max_requests, deadline=deadline)
    meter = Meter(limits=limits, interrupted=interrupts.stopped)
    meter.start()
    arbiter = probe_servers.open_judge(judge, interrupts=interrupts)
    log = open_log(inspect_log, models, tier=level)
    served = probe_servers.open_served(level, models, server, interrupts=interrupts)
    with (
        interrupts.watching(),
        open_source(source, endpoint=endpoint, interrupts=interrupts) as place,
        scan_lock(store),
        Registry.open(store) as registry,
        Watch(console(stderr=True)) as watch,
    ):
        run = ProbeRun(
            registry=registry,
            source=place,
            prompts=asked,
            now=utc_now,
            device=device,
            max_bytes=max_model_bytes,
            judge=arbiter,
            progress=watch,
            max_tokens=max_tokens,
            margins=margins,
            meter=meter,
        )
        picked = pick(registry, choice)
        parameters = {"tier": tier, "routed": routed, "audit": audit}
        names, report = run_probes(
            run, level, picked, served=served, log=log, parameters=parameters
        )
        show_scores(registry, names, tier=level, asked=asked, form=(output_format, quiet))
        failing = worst_at_least(registry.findings(), fail_on)
    tell_report(report, asked=len(names))
    tell_audit(picked.routes, report)
    incomplete = 3 if report.failed else int(failing)
    ctx.exit(interrupts.exit_code if interrupts.stopped() else incomplete)


def chosen_margins(tier: Tier, *, samples: int, prefill: bool) -> Margins:
    """What is asked beside the greedy replies.

    Raises
    ------
    click.UsageError : a margin with another tier than generation.
    """
    if (samples or prefill) and tier is not Tier.GENERATION:
        raise click.UsageError("--samples and --prefill go with --tier generation")
    return Margins(samples=samples, prefill=prefill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which models were asked for: by name, else all of a source; `audit` lets a router choose."""

    models: tuple[str, ...]
    source: str
    audit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """The models to probe, each with its reason, and the routes that chose them, if any did."""

    names: dict[str, str]
    routes: Mapping[str, Route]


def pick(registry: Registry, choice: Choice) -> Picked:
    """The models named, or all sketched ones of the source; with `audit`, what a router leaves."""
    kind = "hub" if choice.source == "hub" else "dir"
    names = chosen(registry, choice.models, kind=kind)
    if choice.audit is None:
        return Picked(names=names, routes={})
    routes = routed_models(registry, names, audit=choice.audit)
    return Picked(names=chosen_names(routes), routes=routes)


def run_probes(
    run: ProbeRun,
    tier: Tier,
    picked: Picked,
    *,
    served: probe_servers.Served | None,
    log: InspectLog | None = None,
    parameters: Mapping[str, Any],
) -> tuple[list[str], ProbeReport]:
    """Probe in a scan of its own; what has scores now, and how it went."""
    registry = run.registry
    scan = registry.start_scan(kind="probe", source="store", parameters=parameters, now=utc_now())
    names = list(picked.names)
    if log is not None:
        report = run.take_over(scan, names[0], log)
    elif served is None:
        report = run.run(scan, tier, names)
    else:
        report = run.serve(scan, names[0], served.backend, served.contexts, odds=served.odds)
        names = list(report.names)
    status = "interrupted" if run.meter.interrupted() else "done"
    registry.finish_scan(scan, status=status, now=utc_now())
    return names, report


def open_log(path: Path | None, models: tuple[str, ...], *, tier: Tier) -> InspectLog | None:
    """The log that was named, None without one.

    Raises
    ------
    click.UsageError : another tier than generation, or not one model.
    """
    if path is None:
        return None
    if len(models) != 1 or tier is not Tier.GENERATION:
        raise click.UsageError("--inspect-log takes one MODEL and goes with --tier generation")
    return read_log(path)


def tell_report(report: ProbeReport, *, asked: int) -> None:
    """Say what could not be measured, and how much was."""
    for model, reason in report.failed.items():
        say(f"{model}: {reason}")
    say(f"{report.probed + report.unchanged} of {asked} measured")


def chosen(registry: Registry, models: tuple[str, ...], *, kind: str) -> dict[str, str]:
    """The models to probe, with the reason: those named, or all sketched ones of the source."""
    if models:
        return {registry.resolve_name(name): "named" for name in models}
    return {row.model: "in the store" for row in registry.sketched() if row.source == kind}


def routed_models(registry: Registry, models: Iterable[str], *, audit: float) -> dict[str, Route]:
    """A route for each model; every scan draws its audit anew."""
    seed = str(max((scan.scan for scan in registry.scans()), default=0))
    return route_models(registry, list(models), audit=audit, seed=seed)


def tell_audit(routes: Mapping[str, Route], report: ProbeReport) -> None:
    """Say what the flags miss, from the models that the draw alone chose."""
    lost = {finding.model for finding in report.findings}
    drawn = [name for name, one in routes.items() if one.audit and name not in report.failed]
    rate = miss_rate(name in lost for name in drawn)
    if rate is not None:
        found = sum(name in lost for name in drawn)
        say(
            f"audit: {found} of {len(drawn)} models that nothing flagged are stripped; "
            f"missed {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
        )


def show_plan(
    store: Path, choice: Choice, *, tier: Tier, prompts: PromptSet, output_format: str
) -> None:
    """Print what would run and what all of it costs at most."""
    with Registry.open(store, read_only=True) as registry:
        picked = pick(registry, choice)
        planned = plan_probes(registry, tier, picked.names, prompts=prompts)
    emit([asdict(one) for one in planned], output_format=output_format, columns=PLAN_COLUMNS)
    count, requests, received, tokens = total(planned)
    say(
        f"{count:,} of {len(picked.names):,} models would be probed: at most "
        f"{requests:,} requests, {received:,} bytes, {tokens:,} new tokens"
    )


def show_scores(
    registry: Registry, names: list[str], *, tier: Tier, asked: PromptSet, form: tuple[str, bool]
) -> None:
    """Print the scores of a tier, or the names alone."""
    output_format, quiet = form
    if quiet:
        emit_ids(names)
        return
    asks = tier in (Tier.GENERATION, Tier.DEPLOYMENT)
    wanted = {spec.probe for spec in probes_of(Tier.GENERATION if asks else tier)}
    wanted |= {LOG_ODDS} if tier is Tier.DEPLOYMENT else set()
    taken = "inspect:"
    rows = [
        {**{column: getattr(score, column) for column in COLUMNS}, "detail": score.environment}
        for name in names
        for score in registry.scores_of(name)
        if (score.probe in wanted and (not asks or score.prompt_set.endswith(asked.digest)))
        or (asks and score.probe.startswith(taken))
    ]
    emit(rows, output_format=output_format, columns=COLUMNS)
