"""`map`: the main job."""

from __future__ import annotations

from pathlib import Path

import click

from ..lineage.compute import Compute, Device
from ..scanners.limits import Meter, ScanLimits
from ..scanners.mapping import Mapper, MapReport
from ..scanners.probes.prompt_sets import PromptSet, builtin_prompt_set, load_prompt_set
from ..scanners.probes.shelf import PromptShelf
from ..scanners.report import ProbeReport
from ..store import Registry
from ..store.lock import scan_lock
from . import options
from .interrupts import Interrupts
from .opening import open_source, origin, utc_now
from .output import console, say
from .progress import Watch
from .scanning import exit_code, tell, tell_unreadable
from .severity import worst_at_least
from .trees import show_tree

TIERS = ("none", "generation")


@click.command("map")
@click.argument("release")
@click.option("--source", default="hub", show_default=True, help="hub, or dir:PATH.")
@options.endpoint
@options.store
@click.option(
    "--probe",
    type=click.Choice(TIERS),
    default="generation",
    show_default=True,
    help="The dearest probe to run on the release and its kin.",
)
@options.prompts
@click.option(
    "--max-model-bytes",
    type=click.IntRange(min=1),
    default=20 << 30,
    show_default=True,
    help="Largest model that is downloaded to be probed.",
)
@click.option("--resume", is_flag=True, help="Go on with the last unfinished map of RELEASE.")
@options.limits
@options.device
@options.output_format
@options.fail_on
@options.min_coverage
@click.pass_context
def map_command(
    ctx: click.Context,
    release: str,
    *,
    source: str,
    endpoint: str,
    store: Path,
    probe: str,
    prompts: str | None,
    max_model_bytes: int,
    resume: bool,
    max_bytes: int | None,
    max_requests: int | None,
    deadline: float | None,
    device: Device,
    output_format: str,
    fail_on: str | None,
    min_coverage: float,
) -> None:
    """Find, sketch, place and probe everything that may descend from RELEASE; print the tree."""
    asked = None if probe == "none" else load_prompts(prompts, store=store)
    interrupts = Interrupts()
    meter = Meter(
        limits=ScanLimits(max_bytes=max_bytes, max_requests=max_requests, deadline=deadline),
        interrupted=interrupts.stopped,
    )
    with (
        interrupts.watching(),
        open_source(source, endpoint=endpoint, interrupts=interrupts) as place,
        scan_lock(store),
        Registry.open(store, create=True) as registry,
    ):
        with Watch(console(stderr=True)) as watch:
            mapper = Mapper(
                registry=registry,
                source=place,
                now=utc_now,
                compute=Compute(device=device),
                meter=meter,
                progress=watch,
                prompts=asked,
                max_model_bytes=max_model_bytes,
                parameters=origin(source, endpoint=endpoint),
            )
            report = mapper.map_release(release, resume=resume)
        tell_map(report)
        found = False
        if report.inference is not None:
            show_tree(registry, report.release, output_format=output_format)
            found = worst_at_least(registry.findings(ancestor=report.release), fail_on)
    code = exit_code(report.scan, interrupts=interrupts, min_coverage=min_coverage)
    ctx.exit(code or _probe_code(report.probes, min_coverage=min_coverage) or int(found))


def _probe_code(probes: ProbeReport | None, *, min_coverage: float) -> int:
    """3 when too few of the kin could be probed: nothing is known of the rest."""
    return 3 if probes is not None and probes.coverage < min_coverage else 0


def load_prompts(name: str | None, *, store: Path) -> PromptSet:
    """The prompt set of a file or of the store's shelf by its name; the built-in one for None.

    Raises
    ------
    NotInRegistry : neither a file nor a set of this name.
    """
    if name is None:
        return builtin_prompt_set()
    if Path(name).is_file():
        return load_prompt_set(Path(name))
    return PromptShelf(store / "prompts").find(name)


def tell_map(report: MapReport) -> None:
    """Say what a map found, with denominators."""
    tell(report.scan)
    one = report.inference
    if one is None:
        return
    say(
        f"{one.models:,} models of this shape: {one.pairs:,} pairs tested, {one.related:,} "
        f"related, {one.edges:,} edges believed"
    )
    tell_unreadable(one)
    if report.probes is None:
        return
    probes = report.probes
    say(
        f"probed {probes.probed + probes.unchanged:,} ({probes.unchanged:,} before), "
        f"{len(probes.failed):,} could not be"
    )
    for model, reason in probes.failed.items():
        say(f"  {model}: {reason}")
