"""What can be asked: each question has parameters, an answer, and perhaps a page.

The page `/NAME`, its twins `/NAME.json` and `/NAME.csv`, `/api/v1/NAME` and the OpenAPI document
all come from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...lineage.records import Outcome
from ...store.explorer import PublicReader
from . import asking, charting
from .answers import Answer
from .values import Parameter, Values

RELATIONS = ("copy", "finetune", "adapter", "merge", "quantized", "prune", "edit")
SEVERITIES = ("high", "medium", "low")
STATUSES = ("live", "new", "open", "fixed", "ignored")
OUTCOMES = tuple(outcome.value for outcome in Outcome)

Ask = Callable[[PublicReader, Values], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. `template` names its page, None where only the API has it."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    ask: Ask
    template: str | None = None


MODEL = Parameter(name="model", about="Name of a model, current or former", required=True)
LIMIT = Parameter(
    name="limit", about="Rows on a page", kind="integer", default=50, low=1, high=1000
)
NEXT = Parameter(name="next", about="Token of the page wanted, from the page before it")
WORDS = Parameter(name="q", about="Text that the name of the model holds, in any case")
UP = Parameter(
    name="up", about="1 for ancestors instead of descendants", kind="flag", default=False
)
CONFIDENCE = Parameter(
    name="min_confidence",
    about="Least confidence of the edge",
    kind="number",
    default=0.0,
    low=0,
    high=1,
)
KIN = (
    Parameter(
        name="relation", about="Relation to keep", kind="list", choices=RELATIONS, default=()
    ),
    CONFIDENCE,
    Parameter(name="since", about="Published on this day or later", kind="date"),
    Parameter(name="until", about="Published before this day", kind="date"),
    Parameter(name="min_downloads", about="Least downloads", kind="integer", low=0, high=1 << 53),
    Parameter(
        name="lost",
        about="1 for models that lost safety training, or with such a model below them",
        kind="flag",
        default=False,
    ),
)
CLOSURE = (
    MODEL,
    CONFIDENCE,
    Parameter(name="max_depth", about="Most edges away", kind="integer", low=1, high=64),
    Parameter(
        name="limit",
        about="Rows on a page",
        kind="integer",
        default=1000,
        low=1,
        high=asking.MOST_KIN,
    ),
    NEXT,
)
PROBE = Parameter(
    name="probe", about="Probe whose survival is plotted", default=charting.DEFAULT_PROBE
)
SCAN = Parameter(name="scan", about="Number of a scan", kind="integer", low=1, high=1 << 31)

QUESTIONS: Mapping[str, Question] = {
    one.name: one
    for one in (
        Question(
            name="home",
            summary="What the store holds, its largest releases and its latest findings",
            parameters=(),
            ask=asking.ask_home,
            template="home.html",
        ),
        Question(
            name="models",
            summary="Models by name, those with most descendants first",
            parameters=(WORDS, LIMIT, NEXT),
            ask=asking.ask_models,
            template="models.html",
        ),
        Question(
            name="model",
            summary="One model: facts, revisions, parents claimed and inferred, scores, children",
            parameters=(MODEL,),
            ask=asking.ask_model,
            template="model.html",
        ),
        Question(
            name="tree",
            summary="The tree of a model: one hop, and what is opened below it",
            parameters=(
                MODEL,
                UP,
                *KIN,
                Parameter(
                    name="depth",
                    about="Generations open from the start",
                    kind="integer",
                    default=1,
                    low=1,
                    high=4,
                ),
                Parameter(name="open", about="Model whose kin are shown", kind="list", default=()),
                Parameter(name="more", about="Model with 100 more kin", kind="list", default=()),
            ),
            ask=asking.ask_tree,
            template="tree.html",
        ),
        Question(
            name="children",
            summary="One hop from a model, by page",
            parameters=(MODEL, UP, *KIN, LIMIT, NEXT),
            ask=asking.ask_children,
        ),
        Question(
            name="descendants",
            summary="Everything that comes from a model, at any distance",
            parameters=CLOSURE,
            ask=asking.ask_descendants,
        ),
        Question(
            name="ancestors",
            summary="Everything that a model comes from, at any distance",
            parameters=CLOSURE,
            ask=asking.ask_ancestors,
        ),
        Question(
            name="edge",
            summary="All evidence for and against an edge, and what it was judged against",
            parameters=(
                Parameter(name="child", about="Name of the child", required=True),
                Parameter(name="parent", about="Name of the parent; all parents without it"),
            ),
            ask=asking.ask_edge,
            template="edge.html",
        ),
        Question(
            name="findings",
            summary="Findings, latest first",
            parameters=(
                Parameter(name="kind", about="Kind of finding", longest=64),
                Parameter(name="severity", about="How bad", choices=SEVERITIES),
                Parameter(name="status", about="live is new or open", choices=STATUSES),
                WORDS,
                LIMIT,
                NEXT,
            ),
            ask=asking.ask_findings,
            template="findings.html",
        ),
        Question(
            name="coverage",
            summary="What became of each model in a scan, and why",
            parameters=(
                SCAN,
                Parameter(name="outcome", about="Outcome of the visit", choices=OUTCOMES),
                WORDS,
                LIMIT,
                NEXT,
            ),
            ask=asking.ask_coverage,
            template="coverage.html",
        ),
        Question(
            name="scans",
            summary="Runs that filled the store, newest first",
            parameters=(),
            ask=asking.ask_scans,
            template="scans.html",
        ),
        Question(
            name="plots",
            summary="What each kind of step left of a probe",
            parameters=(MODEL, PROBE),
            ask=charting.ask_plots,
            template="plots.html",
        ),
        Question(
            name="growth",
            summary="Descendants by the month they were published in",
            parameters=(MODEL,),
            ask=charting.ask_growth,
        ),
        Question(
            name="map",
            summary="All descendants of a model at once, laid out",
            parameters=(MODEL,),
            ask=asking.ask_map,
            template="map.html",
        ),
    )
}


def schema_of(parameter: Parameter) -> Any:
    """A JSON schema of a parameter, for the OpenAPI document."""
    kinds = {"integer": "integer", "number": "number", "list": "array"}
    schema: dict[str, Any] = {"type": kinds.get(parameter.kind, "string")}
    target = schema
    if parameter.kind == "list":
        target = schema["items"] = {"type": "string"}
    choices = ("0", "1") if parameter.kind == "flag" else parameter.choices
    if choices:
        target["enum"] = list(choices)
    if parameter.low is not None:
        schema["minimum"] = parameter.low
    if parameter.high is not None:
        schema["maximum"] = parameter.high
    return schema
