"""`similar`: the models whose weights lie nearest to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..lineage.compute import Compute, Device
from ..lineage.errors import MalformedFile, NotComparable, RegistryError
from ..store import Registry
from ..store.facts import SketchRow
from . import options
from .output import emit, emit_ids, say

COLUMNS = ("model", "relative_distance", "same_share", "form", "kin")
BEHAVIOUR = ("other", "debiased_cka", "cka", "p_value", "q_value", "null_pairs", "kin")


@click.command("similar")
@click.argument("model")
@click.option(
    "--top", type=click.IntRange(min=1), default=16, show_default=True, help="Models to show."
)
@click.option(
    "--by",
    type=click.Choice(("weights", "activations")),
    default="weights",
    show_default=True,
    help="Sampled weights, or hidden states that `probe --tier activations` read.",
)
@options.device
@options.data
@click.pass_context
def similar_command(
    ctx: click.Context,
    model: str,
    *,
    top: int,
    by: str,
    device: Device,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """The models of the store whose sampled weights lie nearest to MODEL's, nearest first.

    With --by activations those that see the prompts of a set most alike, of any shape: debiased
    CKA, and the share of pairs of unrelated models that are as alike. A second opinion, no edge.

    Distance is no descent: `why` and `tree` say who comes from whom. Models of other shapes are
    not compared. `relative_distance` is |a - b| / |b|, MODEL is a; unrelated models of one recipe
    lie near 1.4.
    """
    if by == "activations":
        options.refuse(ctx, "device", because="nothing is computed: `probe` compared them")
        show_behaviour(store, model, top=top, form=(output_format, quiet))
        return
    with Registry.open(store, read_only=True) as registry:
        rows, compared = similar_rows(registry, model, count=top, compute=Compute(device=device))
    if quiet:
        emit_ids([str(row["model"]) for row in rows])
    else:
        emit(rows, output_format=output_format, columns=COLUMNS)
    say(f"{compared:,} models of its shape were compared")


def show_behaviour(store: Path, model: str, *, top: int, form: tuple[str, bool]) -> None:
    """Print the behavioural kin of a model, on each prompt set that it was run on."""
    output_format, quiet = form
    with Registry.open(store, read_only=True) as registry:
        found = registry.behavioural_kin(model)
    sets = sorted({row["prompt_set"] for row in found})
    rows = [
        row for name in sets for row in [one for one in found if one["prompt_set"] == name][:top]
    ]
    if quiet:
        emit_ids(list(dict.fromkeys(str(row["other"]) for row in rows)))
    else:
        emit(rows, output_format=output_format, columns=BEHAVIOUR)
    if not rows:
        say("no hidden states to compare: run `modelkin probe --tier activations` on it and others")


def similar_rows(
    registry: Registry, model: str, *, count: int, compute: Compute
) -> tuple[list[dict[str, Any]], int]:
    """What `similar` prints, and of how many models; one that cannot be read is said."""
    from ..scanners.similar import find_similar

    found = find_similar(registry, model, count=count, compute=compute)
    unreadable = dict(found.unreadable)
    name = found.row.model
    above = {kin.model for kin in registry.ancestors(name)}
    below = {kin.model for kin in registry.descendants(name)}
    rows = []
    for other in found.near:
        try:
            row = _row(registry, found.row, other)
        except (RegistryError, MalformedFile, NotComparable) as error:
            unreadable[other.model] = str(error)
            continue
        one = other.model
        kin = "ancestor" if one in above else "descendant" if one in below else None
        rows.append(row | {"kin": kin})
    for other_name, reason in unreadable.items():
        say(f"{other_name}: {reason}")
    # A distance that is not known is no small one.
    rows.sort(key=lambda row: (row["relative_distance"] is None, row["relative_distance"] or 0.0))
    return rows[:count], found.compared


def _row(registry: Registry, one: SketchRow, other: SketchRow) -> dict[str, Any]:
    from .weights import compare_sketches

    weights = compare_sketches(registry.sketches, one, other)
    return {
        "model": other.model,
        "relative_distance": weights.relative_distance,
        "same_share": weights.same_share,
        "form": weights.form,
    }
