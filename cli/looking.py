"""`tree`, `why` and `stripped`: what the store knows of a model's kin."""

from __future__ import annotations

from pathlib import Path

import click

from ..store import Registry
from ..store.facts import DENIED
from . import options
from .evidence import explain, show_evidence
from .losses import find_losses, show_losses
from .output import emit, emit_ids, say
from .severity import worst_at_least
from .trees import show_tree

CLUE_COLUMNS = ("child", "parent", "kind", "statistic", "value", "llr", "says", "p_value", "n")
LOSS_COLUMNS = (
    "model",
    "ancestor",
    "distance",
    "descendants",
    "made",
    "drop",
    "ci_low",
    "ci_high",
    "q_value",
    "refusal_before",
    "refusal_after",
    "status",
    "finding_id",
)


@click.command("tree")
@click.argument("model")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    help="Generations to show; 0 for all. Without it three, in about 200 lines.",
)
@click.option("--up", is_flag=True, help="The ancestors instead of the descendants.")
@options.data
def tree_command(
    model: str, *, depth: int | None, up: bool, store: Path, output_format: str, quiet: bool
) -> None:
    """The tree below, or above, MODEL.

    Counts are of the whole store, whatever is shown. JSON and CSV have one flat row a model, with
    the model it hangs `under`; `claims` holds what its card names where the weights disagree.
    """
    with Registry.open(store, read_only=True) as registry:
        show_tree(registry, model, output_format=output_format, depth=depth, up=up, quiet=quiet)


@click.command("why")
@click.argument("child")
@click.argument("parent", required=False)
@options.data
def why_command(
    child: str, parent: str | None, *, store: Path, output_format: str, quiet: bool
) -> None:
    """All evidence for and against the parents of CHILD, or against one PARENT.

    JSON is one object: `child`; `edges`, each with `relation`, `confidence`,
    `direction_confidence` and its `clues`; `claims`, each with a `verdict`; `decisions`, what a
    reviewed file says; and `candidates`, each with `rejected_because`. CSV has one row a clue.
    """
    with Registry.open(store, read_only=True) as registry:
        report = explain(registry, child, parent=parent)
    if quiet:
        parents = [edge.parent for edge in report.why.edges if edge.correction != DENIED]
        emit_ids(list(dict.fromkeys([*parents, *report.why.asserted])))
    elif output_format == "table":
        show_evidence(report)
    else:
        rows = report.clue_rows() if output_format == "csv" else [report.as_mapping()]
        emit(rows, output_format=output_format, columns=CLUE_COLUMNS)
    if report.silence is not None:
        say(report.silence)


@click.command("stripped")
@click.argument("model")
@click.option(
    "--depth", type=click.IntRange(min=1), help="Edges below MODEL to look at; all without it."
)
@options.fail_on
@options.data
@click.pass_context
def stripped_command(
    ctx: click.Context,
    model: str,
    *,
    depth: int | None,
    fail_on: str | None,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Descendants of MODEL that lost the safety training of an ancestor.

    `drop` is the loss of selective refusal with its 95 % interval; `q_value` is corrected for all
    models tested. How many of the descendants were measured is told on stderr.
    """
    with Registry.open(store, read_only=True) as registry:
        report = find_losses(registry, model, depth=depth)
    if quiet:
        emit_ids(list(dict.fromkeys(finding.model for finding in report.findings)))
    elif output_format == "table":
        show_losses(report)
    else:
        rows = [loss.row() for loss in report.losses]
        emit(rows, output_format=output_format, columns=LOSS_COLUMNS)
    for line in report.words():
        say(line)
    ctx.exit(int(worst_at_least(report.findings, fail_on)))
