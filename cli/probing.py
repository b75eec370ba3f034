"""`probe`: run the refusal probe on models of the store."""

from __future__ import annotations

from pathlib import Path

import click

from ..lineage.compute import Device
from ..scanners.limits import Meter
from ..scanners.probing import Prober
from ..store import Registry
from ..store.lock import scan_lock
from . import options
from .interrupts import Interrupts
from .mapping import load_prompts
from .opening import open_source, utc_now
from .output import console, emit, emit_ids, say
from .progress import Watch
from .severity import worst_at_least

COLUMNS = ("model", "probe", "value", "ci_low", "ci_high", "n", "status")


@click.command("probe")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--tier", type=click.Choice(("generation",)), default="generation", show_default=True)
@options.prompts
@click.option("--source", default="hub", show_default=True, help="hub, or dir:PATH.")
@options.endpoint
@click.option(
    "--max-model-bytes",
    type=click.IntRange(min=1),
    default=20 << 30,
    show_default=True,
    help="Largest model that is downloaded to be probed.",
)
@options.device
@options.fail_on
@options.data
@click.pass_context
def probe_command(
    ctx: click.Context,
    models: tuple[str, ...],
    *,
    tier: str,
    prompts: Path | None,
    source: str,
    endpoint: str,
    max_model_bytes: int,
    device: Device,
    fail_on: str | None,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Measure refusal of MODELs, or of every sketched model, and judge them against ancestors."""
    interrupts = Interrupts()
    asked = load_prompts(prompts)
    with (
        interrupts.watching(),
        open_source(source, endpoint=endpoint, interrupts=interrupts) as place,
        scan_lock(store),
        Registry.open(store) as registry,
    ):
        names = [registry.resolve_name(name) for name in models]
        names = names or [row.model for row in registry.sketched() if row.source == place.kind]
        scan = registry.start_scan(
            kind="probe", source="store", parameters={"tier": tier}, now=utc_now()
        )
        with Watch(console(stderr=True)) as watch:
            prober = Prober(
                registry=registry,
                source=place,
                prompts=asked,
                now=utc_now,
                device=device,
                max_bytes=max_model_bytes,
                progress=watch,
                meter=Meter(interrupted=interrupts.stopped),
            )
            report = prober.run(scan, names)
        status = "interrupted" if interrupts.stopped() else "done"
        registry.finish_scan(scan, status=status, now=utc_now())
        rows = [
            {column: getattr(score, column) for column in COLUMNS}
            for name in names
            for score in registry.scores_of(name)
            if score.prompt_set.endswith(asked.digest)
        ]
        failing = worst_at_least(registry.findings(), fail_on)
    if quiet:
        emit_ids(names)
    else:
        emit(rows, output_format=output_format, columns=COLUMNS)
    for model, reason in report.failed.items():
        say(f"{model}: {reason}")
    say(f"{report.probed + report.unchanged} of {len(names)} measured")
    incomplete = 3 if report.failed else int(failing)
    ctx.exit(interrupts.exit_code if interrupts.stopped() else incomplete)
