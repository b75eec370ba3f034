"""`sql` and `status`: the whole store, asked or summed up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..lineage.errors import LimitExceeded
from ..store import Registry
from ..store.facts import QueryResult
from . import options
from .output import clean, emit, emit_ids, safe, say
from .standing import as_mapping, as_rows, as_values, nightly_rows, resume_command

MAX_QUERY_BYTES = 1 << 20
TABLE_ROWS = 10_000
REASONS = 20


@click.command("sql")
@click.argument("query", required=False)
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Read the query from a file.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    help=f"Stop after so many rows; {TABLE_ROWS:,} for a table, else none.",
)
@options.data
def sql_command(
    query: str | None,
    *,
    path: Path | None,
    max_rows: int | None,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Run one read-only QUERY on the store; `-` reads it from stdin.

    The views and macros of schema v1 need no prefix: models, edges, descendants('org/model').
    With -q only the first column is written.
    """
    text = read_query(query, path=path)
    limit = max_rows or (TABLE_ROWS if output_format == "table" and not quiet else None)
    with Registry.open(store, read_only=True) as registry:
        result = registry.run_readonly(text, max_rows=limit)
    _write(result, output_format=output_format, quiet=quiet)
    if result.truncated:
        say(f"only the first {limit:,} rows are shown; --max-rows shows more")


@click.command("status")
@options.data
def status_command(*, store: Path, output_format: str, quiet: bool) -> None:
    """Last scan, what became of each model and why, unfinished scans, counts, backlog.

    With -q only the numbers of unfinished scans are written.
    """
    with Registry.open(store, read_only=True) as registry:
        found = registry.status()
        nights = nightly_rows(registry.ledger())
        copy = registry.opened if registry.opened.parent != store else None
    if quiet:
        emit_ids([str(scan.scan) for scan in found.unfinished])
    elif output_format in ("json", "jsonl"):
        whole = as_mapping(found, store=store) | {"nightly": as_values(nights)}
        emit([whole], output_format=output_format, columns=())
    else:
        most = REASONS if output_format == "table" else None
        rows = [*as_rows(found, most=most), *nights]
        emit(rows, output_format=output_format, columns=("what", "value", "note"))
    for scan in found.unfinished:
        say(f"to go on with scan {scan.scan}: {resume_command(scan, store=store)}")
    if copy is not None:
        say(f"a scan is writing; this is the published copy {copy}")


def read_query(query: str | None, *, path: Path | None) -> str:
    """The query from the command line, a file, or stdin (`-`).

    Raises
    ------
    LimitExceeded : above 1 MiB.
    """
    if (query is None) == (path is None):
        raise click.UsageError("give one query: as text, with -f FILE, or `-` for stdin")
    if path is not None:
        with path.open("rb") as file:
            return _decode(file.read(MAX_QUERY_BYTES + 1), name=str(path))
    if query == "-":
        return _decode(sys.stdin.buffer.read(MAX_QUERY_BYTES + 1), name="stdin")
    return query or ""


def _decode(content: bytes, *, name: str) -> str:
    if len(content) > MAX_QUERY_BYTES:
        raise LimitExceeded(
            "the query is too long", path=name, limit=MAX_QUERY_BYTES, actual=len(content)
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name} is not UTF-8 at byte {error.start}") from error


def _write(result: QueryResult, *, output_format: str, quiet: bool) -> None:
    if quiet:
        emit_ids(["" if row[0] is None else str(row[0]) for row in result.rows])
        return
    # A query can be copied from anywhere: what it names its columns is no safer than a cell.
    make_safe = {"table": safe, "csv": clean}.get(output_format, str)
    columns = distinct([make_safe(column) for column in result.columns])
    rows = [dict(zip(columns, row, strict=True)) for row in result.rows]
    emit(rows, output_format=output_format, columns=columns)


def distinct(columns: Sequence[str]) -> tuple[str, ...]:
    """Column names made distinct: the second `a` becomes `a_2`."""
    found: dict[str, None] = {}
    for column in columns:
        name, number = column, 1
        while name in found:
            number += 1
            name = f"{column}_{number}"
        found[name] = None
    return tuple(found)
