"""Pages from templates, and the addresses in them.

All text in a store is attacker-controlled: templates escape everything, and the filters strip
control and bidirectional marks and cut what is long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup

from ... import __version__
from ..output import clean, plain
from ..trees import relation_words
from .answers import Answer
from .charts import PLOTS, draw
from .questions import QUESTIONS, Question
from .values import MAX_TEXT, Values, text_values

LONGEST = 120


class Links(Protocol):
    """Where pages lie: at addresses of a server, or in files of an export."""

    def page(self, name: str, **values: Any) -> str | None:
        """The address of a page; None where there is none, and text stands without a link."""

    def twin(self, name: str, suffix: str, **values: Any) -> str | None:
        """The address of a page's JSON or CSV twin."""

    def static(self, name: str) -> str:
        """The address of a file that comes with the explorer."""


class ServedLinks:
    """Addresses of a running server.

    Parameters
    ----------
    as_of : snapshot that all pages are about, None for the newest state.
    """

    def __init__(self, *, as_of: str | None) -> None:
        self._as_of = as_of

    def page(self, name: str, **values: Any) -> str | None:
        """The address of a page with these values."""
        return self._address(f"/{name}" if name != "home" else "/", name, values)

    def twin(self, name: str, suffix: str, **values: Any) -> str | None:
        """The address of a twin: `.json`, `.csv`, or another form of the same answer."""
        return self._address(f"/{name}{suffix}", name, values)

    def static(self, name: str) -> str:
        """The address of a static file; it changes with the version."""
        return f"/static/{__version__}/{name}"

    def _address(self, path: str, name: str, values: Values) -> str | None:
        question = QUESTIONS.get(name)
        found = {k: [str(v)] for k, v in values.items()}
        if question is not None:
            found = text_values(question.parameters, values)
        if any(len(one) > MAX_TEXT for k, many in found.items() if k != "query" for one in many):
            return None
        if self._as_of is not None:
            found["as_of"] = [self._as_of]
        query = urlencode(found, doseq=True, quote_via=quote)
        return f"{path}?{query}" if query else path


class Pages:
    """Makes pages of answers.

    Parameters
    ----------
    snapshots : gives the names of the snapshots that can be picked, newest first.
    served : whether a server is behind the pages: without one there are no forms.
    """

    def __init__(self, *, snapshots: Callable[[], Sequence[str]], served: bool) -> None:
        self._templates = environment()
        self._snapshots = snapshots
        self._served = served

    def render(
        self,
        question: Question,
        answer: Answer,
        *,
        values: Values,
        as_of: str | None,
        links: Links,
    ) -> str:
        """The page of an answer."""
        plots: Mapping[str, Markup] = {}
        if question.name == "plots":
            plots = {name: Markup(draw(name, answer)) for name in PLOTS}
        return self.fill(
            question.template or "",
            question=question,
            answer=answer,
            values=values,
            links=links,
            as_of=as_of,
            plots=plots,
            kept=text_values(question.parameters, values),
        )

    def fill(self, template: str, **context: Any) -> str:
        """A page from a template that is no answer to a question."""
        common: dict[str, Any] = {
            "links": ServedLinks(as_of=None),
            "as_of": None,
            "snapshots": self._snapshots(),
            "served": self._served,
            "values": {},
            "question": None,
            "kept": {},
        }
        return self._templates.get_template(template).render(common | context)


def environment() -> jinja2.Environment:
    """The templates of the explorer, with escaping on for all of them."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("modelkin.cli.explorer"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "shown": shown,
        "whole": lambda text: clean(str(text)),
        "count": lambda value: "" if value is None else f"{value:,}",
        "figure": figure,
        "share": lambda value: "" if value is None else f"{value:.2f}",
        "day": lambda value: "" if value is None else f"{value:%Y-%m-%d}",
        "moment": lambda value: "" if value is None else f"{value:%Y-%m-%d %H:%M} UTC",
        "made": made_by,
        "detail": detail_text,
        "without": lambda names, gone: tuple(name for name in names if name != gone),
    }
    return made


def shown(value: object, limit: int = LONGEST) -> str:
    """A text on one line without marks that act, cut with an ellipsis."""
    text = clean("" if value is None else str(value)).replace("\n", " ").replace("\t", " ")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def figure(value: object) -> str:
    """A number as people read it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case Mapping() | list() | tuple():
            return shown(json.dumps(plain(value), ensure_ascii=False))
    return shown(value)


def made_by(row: Mapping[str, Any]) -> str:
    """How a model was made from its parent, in words."""
    return shown(relation_words(row["relation"], row["detail"], row["share"]), 60)


def detail_text(detail: Mapping[str, Any]) -> str:
    """The particulars of an edge as `key value` pairs."""
    pairs: Iterable[str] = (f"{shown(key, 40)} {figure(value)}" for key, value in detail.items())
    return shown("; ".join(pairs), 200)
