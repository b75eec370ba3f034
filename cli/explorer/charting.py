"""Series for the plots: what each kind of step left of a probe, and how a release grew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from ...lineage.safety.profile import SELECTIVE_REFUSAL
from ...lineage.statistics import normal_quantile
from ...store.explorer import PublicReader
from ...store.spelt_out import as_sql
from .answers import Answer
from .values import Values

DEFAULT_PROBE = SELECTIVE_REFUSAL
DISTANCE = "relative distance"
"""The clue that says how far a child is from its parent."""

SURVIVAL_COLUMNS = (
    "model",
    "distance",
    "relation",
    "bits",
    "delta_size",
    "n",
    "value",
    "ci_low",
    "ci_high",
    "ancestor_value",
    "retained",
    "prompt_set",
    "judge",
)
GROWTH_COLUMNS = ("month", "models", "lost", "so_far")

Row = Mapping[str, Any]


def ask_plots(reader: PublicReader, values: Values) -> Answer:
    """One row a measured descendant; `about` holds them by relation and by bits, and the growth."""
    name, probe = reader.resolve_name(values["model"]), values["probe"]
    found = reader.survival_points(name, probe, distance=DISTANCE)
    rows = [{**row, "bits": _bits(row)} for row in found]
    about = {
        "model": name,
        "probe": probe,
        "probes": reader.probes(),
        "by_relation": retained_by(rows, "relation"),
        "by_bits": retained_by((row for row in rows if row["bits"] is not None), "bits"),
        "growth": _growth(reader, name),
        "measured": len({row["model"] for row in rows}),
        "descendants": reader.node(name)["total"],
    }
    sql = as_sql("survival", name, probe)
    return Answer(columns=SURVIVAL_COLUMNS, rows=rows, about=about, sql=sql)


def ask_growth(reader: PublicReader, values: Values) -> Answer:
    """One row a month."""
    name = reader.resolve_name(values["model"])
    rows = _growth(reader, name)
    sql = as_sql("growth", name)
    return Answer(columns=GROWTH_COLUMNS, rows=rows, about={"model": name}, sql=sql)


def retained_by(rows: Iterable[Row], key: str) -> list[dict[str, Any]]:
    """Mean retention of each group with its 95 % interval.

    Notes
    -----
    The variance of a mean over n models is s²/n between the models plus the mean variance of
    their own measurements over n, so that a single model, or several that agree by chance, do not
    look certain. Normal limits.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if row["retained"] is not None and row[key] is not None:
            groups.setdefault(row[key], []).append(row)
    return [
        {key: name, **_mean(members)}
        for name, members in sorted(groups.items(), key=lambda g: g[0])
    ]


def _mean(members: list[Row]) -> dict[str, Any]:
    z, n = normal_quantile(0.95), len(members)
    values = [row["retained"] for row in members]
    mean = sum(values) / n
    between = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    within = sum((_half(row) / z) ** 2 for row in members) / n
    half = z * math.sqrt((between + within) / n)
    return {"models": n, "retained": mean, "ci_low": mean - half, "ci_high": mean + half}


def _half(row: Row) -> float:
    """Half the width of the interval of a model's retention."""
    if row["ci_low"] is None or row["ci_high"] is None or not row["ancestor_value"]:
        return 0.0
    return float(abs((row["ci_high"] - row["ci_low"]) / 2 / row["ancestor_value"]))


def _bits(row: Row) -> int | None:
    bits = row["detail"].get("bits")
    return bits if isinstance(bits, int) and 0 < bits <= 64 else None


def _growth(reader: PublicReader, name: str) -> list[dict[str, Any]]:
    rows = reader.growth(name)
    sums = accumulate(row["models"] for row in rows)
    return [{**row, "so_far": so_far} for row, so_far in zip(rows, sums, strict=True)]
