"""The answers to the questions, from a public copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...lineage.infer.likelihood import error_rates
from ...lineage.safety.profile import SELECTIVE_REFUSAL
from ...store.explorer import KinFilter, Page, PublicReader
from ...store.spelt_out import as_sql
from ..evidence import explain, judge_claims
from ..standing import COUNTS
from .answers import Answer
from .branches import Grower
from .values import Values, seal, unseal

MOST_KIN = 100_000
"""Rows of a closure on one page: more come with the next token."""

KIN_COLUMNS = (
    "model",
    "relation",
    "detail",
    "confidence",
    "share",
    "declared",
    "inferred",
    "hidden",
    "created_at",
    "downloads",
    "license",
    "direct",
    "total",
    "lost",
    "lost_below",
    "refusal",
    "refusal_low",
    "refusal_high",
)
MODEL_COLUMNS = ("model", "source", "created_at", "downloads", "license", "direct", "total", "lost")
CLOSURE_COLUMNS = ("model", "distance", "confidence", "hidden", "lost")
EDGE_COLUMNS = (
    "child",
    "parent",
    "kind",
    "statistic",
    "value",
    "llr",
    "says",
    "judged_against",
    "p_value",
    "ci_low",
    "ci_high",
    "n",
)
FINDING_COLUMNS = (
    "finding_id",
    "kind",
    "severity",
    "model",
    "ancestor",
    "value",
    "ci_low",
    "ci_high",
    "q_value",
    "status",
    "first_scan",
    "last_scan",
    "detail",
)
COVERAGE_COLUMNS = (
    "scan",
    "model",
    "outcome",
    "stage",
    "reason",
    "path",
    "byte_offset",
    "requests",
    "bytes",
    "seconds",
    "sha",
    "visited_at",
)


def ask_home(reader: PublicReader, values: Values) -> Answer:
    """Counts, latest findings; its rows are the models with most descendants."""
    status = reader.status()
    about = {
        "counts": {name: getattr(status, name) for name in COUNTS},
        "findings": reader.list_findings(status="live", limit=10).rows,
    }
    page = reader.search(None, limit=10)
    return Answer(
        columns=MODEL_COLUMNS, rows=page.rows, about=about, total=page.total, sql=as_sql("releases")
    )


def ask_models(reader: PublicReader, values: Values) -> Answer:
    """Models by name."""
    offset, limit = unseal(values["next"], "at") or 0, values["limit"]
    page = reader.search(values["q"], limit=limit, offset=offset)
    return _paged(page, MODEL_COLUMNS, offset, sql=as_sql("models", values["q"] or ""))


def ask_model(reader: PublicReader, values: Values) -> Answer:
    """One model; its rows are the edges to its parents."""
    name = reader.resolve_name(values["model"])
    about = {
        "model": reader.describe(name),
        "counts": reader.node(name),
        "children": reader.children_by_relation(name),
        "revisions": reader.revisions(name),
        "scores": [asdict(score) for score in reader.scores_of(name)],
        "findings": reader.findings_on(name),
        "claims": [claim.as_mapping() for claim in judge_claims(reader, name)],
    }
    rows = reader.children(name, keep=KinFilter(), limit=1000, up=True).rows
    sql = as_sql("parents", name)
    return Answer(columns=KIN_COLUMNS, rows=rows, about=about, sql=sql)


def ask_tree(reader: PublicReader, values: Values) -> Answer:
    """The opened part of a tree, as flat rows; the page takes the branches themselves."""
    keep = _filter(values)
    grower = Grower(
        reader,
        keep=keep,
        opened=values["open"],
        depth=values["depth"],
        more=values["more"],
        up=values["up"],
    )
    name = reader.resolve_name(values["model"])
    root = grower.grow(name)
    asked = "ancestors" if values["up"] else "descendants"
    return Answer(
        columns=("depth", "under", "left", *KIN_COLUMNS),
        rows=list(root.rows()),
        about={"model": name, "root": root},
        sql=as_sql(asked, name, values["min_confidence"]),
    )


def ask_children(reader: PublicReader, values: Values) -> Answer:
    """One hop, by page."""
    offset = unseal(values["next"], "at") or 0
    page = reader.children(
        values["model"],
        keep=_filter(values),
        limit=values["limit"],
        offset=offset,
        up=values["up"],
    )
    sql = as_sql("parents" if values["up"] else "children", values["model"])
    return _paged(page, KIN_COLUMNS, offset, sql=sql)


def ask_descendants(reader: PublicReader, values: Values) -> Answer:
    """The closure downwards."""
    return _closure(reader, values, up=False)


def ask_ancestors(reader: PublicReader, values: Values) -> Answer:
    """The closure upwards."""
    return _closure(reader, values, up=True)


def ask_edge(reader: PublicReader, values: Values) -> Answer:
    """The evidence, one row a clue, each with the null that it was judged against."""
    report = explain(reader, values["child"], parent=values["parent"])
    errors = error_rates()
    rows = [{**row, "judged_against": _null(row, errors)} for row in report.clue_rows()]
    about = {**report.as_mapping(), "silence": report.silence, "asked": report.asked}
    sql = as_sql("edge", report.why.child)
    return Answer(columns=EDGE_COLUMNS, rows=rows, about=about, sql=sql)


def ask_findings(reader: PublicReader, values: Values) -> Answer:
    """Findings by page."""
    offset = unseal(values["next"], "at") or 0
    page = reader.list_findings(
        kind=values["kind"],
        severity=values["severity"],
        status=values["status"],
        words=values["q"],
        limit=values["limit"],
        offset=offset,
    )
    about = {"kinds": reader.finding_kinds()}
    return _paged(
        page, FINDING_COLUMNS, offset, about=about, sql=as_sql("findings", values["kind"])
    )


def ask_coverage(reader: PublicReader, values: Values) -> Answer:
    """What became of each model, by page, and the sums by reason."""
    offset, scan = unseal(values["next"], "at") or 0, values["scan"]
    page = reader.coverage(
        scan=scan,
        outcome=values["outcome"],
        words=values["q"],
        limit=values["limit"],
        offset=offset,
    )
    about = {"by_reason": reader.outcomes_by_reason(scan)}
    return _paged(page, COVERAGE_COLUMNS, offset, about=about, sql=as_sql("coverage", scan))


def ask_scans(reader: PublicReader, values: Values) -> Answer:
    """All scans."""
    rows = reader.scan_totals()
    columns = tuple(rows[0]) if rows else ("scan",)
    return Answer(columns=columns, rows=rows, sql=as_sql("scans"))


def ask_map(reader: PublicReader, values: Values) -> Answer:
    """What the map page needs to begin; the drawing itself comes as bytes of its own."""
    name = reader.resolve_name(values["model"])
    node = reader.node(name)
    return Answer(
        columns=MODEL_COLUMNS,
        rows=[node],
        about={"model": name},
        sql=as_sql("survival", name, SELECTIVE_REFUSAL),
    )


def _filter(values: Values) -> KinFilter:
    return KinFilter(
        relations=values["relation"],
        min_confidence=values["min_confidence"],
        since=values["since"],
        until=values["until"],
        min_downloads=values["min_downloads"],
        lost=values["lost"],
    )


def _paged(
    page: Page,
    columns: tuple[str, ...],
    offset: int,
    *,
    about: Mapping[str, Any] | None = None,
    sql: str | None = None,
) -> Answer:
    after = offset + len(page.rows)
    more = seal({"at": after}) if page.rows and after < page.total else None
    return Answer(
        columns=columns, rows=page.rows, about=about or {}, total=page.total, next=more, sql=sql
    )


def _closure(reader: PublicReader, values: Values, *, up: bool) -> Answer:
    after = unseal(values["next"], "after")
    name = reader.resolve_name(values["model"])
    page = reader.closure(
        name,
        up=up,
        limit=values["limit"],
        after=-1 if after is None else after,
        max_depth=values["max_depth"],
        min_confidence=values["min_confidence"],
    )
    return Answer(
        columns=CLOSURE_COLUMNS,
        rows=[dict(zip(CLOSURE_COLUMNS, row, strict=True)) for row in page.rows],
        about={"model": name},
        total=page.total,
        next=None if page.after is None else seal({"after": page.after}),
        sql=as_sql("ancestors" if up else "descendants", name, values["min_confidence"]),
    )


def _null(clue: Mapping[str, Any], errors: Mapping[str, float]) -> str:
    """What a clue was held against, in words; what is not known is not said."""
    kind, statistic = clue["kind"], clue["statistic"]
    if statistic in errors:
        return f"children against siblings of known families: errs {errors[statistic]:.0%} alone"
    if clue["p_value"] is not None:
        return _NULLS.get(kind, "chance, by its p-value")
    return _NULLS.get(kind, "")


_NULLS = {
    "family": "the same units in shuffled order, whose 95 % stand as the interval",
    "rounding_floor": "rounding noise of exact arithmetic; 1 is that and nothing else",
    "rounding": "equality of every weight read",
    "zeros": "equality of every weight that did not vanish",
    "behaviour": "the same prompts put to the ancestor",
}
