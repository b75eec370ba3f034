"""`survival`: what of a release outlived what was done to it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import click

from ..lineage.safety.profile import SELECTIVE_REFUSAL
from ..lineage.safety.survival import Decline
from ..scanners.survival import SurvivalReport, survival_of
from ..store import Registry
from . import options
from .output import clean, emit, say

COLUMNS = ("axis", "group", "retained", "ci_low", "ci_high", "models", "lines")
_WIDTH, _ROW, _LEFT, _TOP = 720, 22, 250, 48


@click.command("survival")
@click.argument("release")
@click.option("--probe", default=SELECTIVE_REFUSAL, show_default=True, help="Probe to follow.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the groups into this SVG file.",
)
@options.store
@options.output_format
def survival_command(
    release: str, *, probe: str, plot: Path | None, store: Path, output_format: str
) -> None:
    """What the measured descendants of RELEASE retained, by what was done to them.

    Groups are associations: who merges and who quantizes chose their models.
    """
    with Registry.open(store, read_only=True) as registry:
        found = survival_of(registry, release, probe=probe)
    if found is None:
        say(f"{release} or its descendants have no scores of {probe}: run modelkin probe")
        return
    emit(rows_of(found), output_format=output_format, columns=COLUMNS)
    say(f"{found.release}: {probe} {found.before:.3f}; {len(found.survivors)} descendants measured")
    for relation, form in found.declines.items():
        say(f"{relation}, by measured size of the change: {_form(form)}")
    if plot is not None:
        plot.write_text(drawn(found), encoding="utf-8")


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


def drawn(found: SurvivalReport) -> str:
    """The groups as an SVG: a dot each, with its interval, from 0 to 1.25."""
    rows = rows_of(found)
    height = _TOP + _ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{html.escape(clean(found.release))}: '
        "share of selective refusal retained</text>",
    ]
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, bottom = _x(at), height - 24
        parts.append(f'<path d="M{x:.1f} {_TOP - 12} V{bottom}" stroke="#ccc"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{at:g}</text>')
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number
        label = html.escape(f"{row['axis']}: {row['group']} ({row['models']} in {row['lines']})")
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{label}</text>')
        if row["ci_low"] is not None:
            ends = f"M{_x(row['ci_low']):.1f} {y} H{_x(row['ci_high']):.1f}"
            parts.append(f'<path d="{ends}" stroke="#357" stroke-width="2"/>')
        parts.append(f'<circle cx="{_x(row["retained"]):.1f}" cy="{y}" r="4" fill="#357"/>')
    return "\n".join([*parts, "</svg>", ""])


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 30) * min(max(share, -0.1), 1.25) / 1.25
