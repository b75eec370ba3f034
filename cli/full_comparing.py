"""`compare --full`: all weights of two models of a source."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..lineage.compute import Compute, Device
from .interrupts import Interrupts
from .opening import open_source
from .output import console, emit, emit_ids, say
from .progress import Watch
from .trees import one_line, show_words

if TYPE_CHECKING:
    from ..lineage.full_delta import FullDelta, TensorDelta
    from ..scanners.full_compare import FullReport

COLUMNS = (
    "tensor",
    "relative_distance",
    "cosine",
    "same_share",
    "rounding_ratio",
    "rank",
    "full_rank",
    "top_energy",
    "rank_90",
    "norm_a",
    "norm_b",
    "distance",
    "zeros_a",
    "zeros_b",
    "dtype_a",
    "dtype_b",
)
SHOWN = ("tensor", "distance", "cosine", "same", "rounding", "rank", "top 4")


def run_full(
    names: tuple[str, str],
    *,
    source: str,
    endpoint: str,
    device: Device,
    output_format: str,
    quiet: bool,
) -> int:
    """Compare, print, and give the exit code: that of the signal where one stopped it."""
    from ..scanners.full_compare import compare_full

    interrupts = Interrupts()
    with (
        interrupts.watching(),
        open_source(source, endpoint=endpoint, interrupts=interrupts) as place,
        Watch(console(stderr=True)) as watch,
    ):
        watch.stage("compare", None)
        report = asyncio.run(
            compare_full(
                place,
                *names,
                compute=Compute(device=device),
                watch=lambda one: watch.step(one.tensor),
                stopped=interrupts.stopped,
            )
        )
    if quiet:
        emit_ids([one.tensor for one in report.delta.tensors if one.same_share < 1])
    elif output_format == "table":
        show_full(report)
    elif output_format == "csv":
        emit([asdict(one) for one in report.delta.tensors], output_format="csv", columns=COLUMNS)
    else:
        emit([full_mapping(report)], output_format=output_format, columns=())
    tell_skipped(report.skipped)
    say(f"{report.bytes_read:,} bytes read")
    return interrupts.exit_code if interrupts.stopped() else 0


def full_mapping(report: FullReport) -> dict[str, Any]:
    """The JSON shape."""
    whole = asdict(report.delta)
    return {
        "a": report.a,
        "b": report.b,
        "whole": {name: value for name, value in whole.items() if name != "tensors"},
        "tensors": whole["tensors"],
        "skipped": dict(report.skipped),
        "bytes_read": report.bytes_read,
    }


def show_full(report: FullReport) -> None:
    """Print the comparison for a person."""
    show_words(("a  ", "dim"), (one_line(report.a), "bold"))
    show_words(("b  ", "dim"), (one_line(report.b), "bold"))
    show_words((summary_of(report.delta), "bold"))
    rows = [_cells(one) for one in report.delta.tensors]
    emit(rows, output_format="table", columns=SHOWN)


def summary_of(found: FullDelta) -> str:
    """The whole in one line."""
    words = [f"{found.changed:,} of {len(found.tensors):,} tensors differ"]
    if found.changed:
        words.append(f"relative distance {_short(found.relative_distance)}")
        words.append(f"{found.same_share:.1%} of {found.weights:,} weights equal")
        words.append(f"{_short(found.rounding_ratio)} times rounding")
    for what, value in (("write", found.writer_coherence), ("read", found.reader_coherence)):
        if value is not None:
            words.append(f"changes {what} along one direction to {value:.2f}")
    return "; ".join(words)


def tell_skipped(skipped: Mapping[str, str]) -> None:
    """Say which tensors were not compared: each of a few, the number of many."""
    for tensor, reason in list(skipped.items())[:8]:
        say(f"{tensor} not compared: {reason}")
    if len(skipped) > 8:
        say(f"{len(skipped) - 8:,} more tensors not compared; --format json names them")


def _cells(one: TensorDelta) -> dict[str, Any]:
    rank = "" if one.rank is None else f"{one.rank}+" if one.full_rank else str(one.rank)
    return {
        "tensor": one.tensor,
        "distance": one.relative_distance,
        "cosine": None if one.cosine is None else f"{one.cosine:.6f}",
        "same": f"{one.same_share:.1%}",
        "rounding": one.rounding_ratio,
        "rank": rank,
        "top 4": "" if one.top_energy is None else f"{one.top_energy:.0%}",
    }


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
