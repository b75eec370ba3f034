"""The one place that writes: data to stdout, words to stderr.

Text from repositories is attacker-controlled: control and bidirectional marks are stripped before
anything reaches a terminal, and cells that a spreadsheet would run are quoted.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
WIDE = 4096
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def console(*, stderr: bool = False) -> Console:
    """A rich console that honours NO_COLOR and whether it writes to a terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not stderr)


def say(text: str) -> None:
    """Words for the person, to stderr."""
    click.echo(clean(text), err=True)


def clean(text: str) -> str:
    """Text without control characters and bidirectional marks; line ends stay."""
    return _UNSAFE.sub("\ufffd", text)


def safe(text: object) -> str:
    """A value as text that rich prints literally."""
    from rich.markup import escape

    return escape(clean(_shown(text)))


def emit(
    rows: Sequence[Mapping[str, Any]],
    *,
    output_format: str,
    columns: Sequence[str],
    title: str | None = None,
) -> None:
    """Write rows in the asked-for format.

    Parameters
    ----------
    columns : what a table and a CSV show, in order; JSON holds every key, and escapes all that is
        not ASCII, so that nothing in a name can act on a terminal.
    """
    match output_format:
        case "json":
            click.echo(json.dumps([plain(row) for row in rows], indent=1))
        case "jsonl":
            for row in rows:
                click.echo(json.dumps(plain(row)))
        case "csv":
            click.echo(csv_text(rows, columns), nl=False)
        case _:
            _table(rows, columns, title=title)


def emit_ids(ids: Sequence[str]) -> None:
    """Write ids alone, one a line."""
    for one in ids:
        click.echo(_one_line(one))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None) -> None:
    from rich.table import Table

    shown = None if title is None else safe(title)
    table = Table(title=shown, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        side: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(safe(column.replace("_", " ")), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(safe(row.get(column)) for column in columns))
    out = console()
    # A pipe has no width: folding names would only break what reads them.
    out.print(table, width=None if out.is_terminal or "COLUMNS" in os.environ else WIDE)


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV; a cell or column name that a spreadsheet would run is quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(column) for column in columns])
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = _one_line(_shown(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _one_line(text: str) -> str:
    """Cleaned text without line ends and tabs."""
    return " ".join(clean(text).split())


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case datetime() | date():
            return value.isoformat()
        case Mapping() | list() | tuple():
            return json.dumps(plain(value), ensure_ascii=False)
    return str(value)


def plain(value: Any) -> Any:
    """A value as JSON can say it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if value == value and abs(value) != float("inf") else None
        case Decimal():
            return float(value) if value.is_finite() else None
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case datetime() | date():
            return value.isoformat()
    return str(value)
