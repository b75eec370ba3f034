"""`survival`: what of a release outlived what was done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..lineage.safety.profile import SELECTIVE_REFUSAL
from ..lineage.safety.survival import Decline
from ..scanners.survival import SurvivalReport, survival_of
from ..store import Registry
from . import options
from .output import emit, say
from .survival_plot import SUFFIXES, write_plot

COLUMNS = ("axis", "group", "retained", "ci_low", "ci_high", "models", "lines")


@click.command("survival")
@click.argument("release")
@click.option("--probe", default=SELECTIVE_REFUSAL, show_default=True, help="Probe to follow.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the groups into this file, SVG or PNG by its name.",
)
@options.store
@options.output_format
def survival_command(
    release: str, *, probe: str, plot: Path | None, store: Path, output_format: str
) -> None:
    """What the measured descendants of RELEASE retained, by what was done to them.

    Groups are associations: who merges and who quantizes chose their models.
    """
    if plot is not None and plot.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--plot draws {' or '.join(SUFFIXES)}, by the name of the file")
    with Registry.open(store, read_only=True) as registry:
        found = survival_of(registry, release, probe=probe)
    if found is None:
        say(f"{release} or its descendants have no scores of {probe}: run modelkin probe")
        return
    rows = rows_of(found)
    emit(rows, output_format=output_format, columns=COLUMNS)
    say(f"{found.release}: {probe} {found.before:.3f}; {len(found.survivors)} descendants measured")
    for relation, form in found.declines.items():
        say(f"{relation}, by measured size of the change: {_form(form)}")
    if plot is not None:
        write_plot(plot, rows, title=f"{found.release}: share of {probe} retained")


def rows_of(found: SurvivalReport) -> list[dict[str, Any]]:
    """A row a group."""
    return [
        {
            "axis": axis,
            "group": group.group,
            "retained": group.retained,
            "ci_low": None if group.interval is None else group.interval.low,
            "ci_high": None if group.interval is None else group.interval.high,
            "models": group.models,
            "lines": group.lines,
        }
        for axis, groups in found.groups.items()
        for group in groups
    ]


def _form(found: Decline | None) -> str:
    if found is None:
        return "too few different doses to tell"
    turns = "turns" if found.monotone_p < 0.05 else "no turn seen"
    step = f"a step at {found.step:.3g}" if found.threshold_p < 0.05 else "no threshold seen"
    return (
        f"{turns} (p = {found.monotone_p:.2g}), {step} (p = {found.threshold_p:.2g}), "
        f"{found.points} models"
    )
