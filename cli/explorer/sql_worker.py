"""What the disposable process does: limits on itself, one query, its answer into a pipe."""

from __future__ import annotations

import io
import json
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...lineage.errors import ModelkinError, QueryRefused
from ...store.stranger import Running, ask
from ..output import csv_text, plain
from ..querying import distinct

MOST_BYTES = 8 * 1024 * 1024
MOST_ROWS = {"json": 1_000, "csv": 50_000, "parquet": 50_000}
MEMORY = 2 * 1024**3
LIMITS = {
    resource.RLIMIT_AS: MEMORY,
    resource.RLIMIT_CPU: 8,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 32,
    resource.RLIMIT_CORE: 0,
}

Header = dict[str, Any]


def work(task: Mapping[str, str], out: int, *, seconds: float) -> None:
    """Answer one task and write header line and payload to a file descriptor.

    Parameters
    ----------
    task : `folder` and `file` of the copy, `query`, and `form`: json, csv or parquet.
    seconds : how long the query may take.
    """
    for kind, limit in LIMITS.items():
        resource.setrlimit(kind, (limit, limit))
    os.chdir(task["folder"])
    try:
        path = Path(task["file"])
        header, payload = _answer(path, task["query"], form=task["form"], seconds=seconds)
    except QueryRefused as error:
        header, payload = {"status": "refused", "words": str(error)[:2000]}, b""
    except ModelkinError as error:
        header, payload = {"status": "stopped", "words": str(error)[:2000]}, b""
    except MemoryError:
        header, payload = {"status": "stopped", "words": "the query needs too much memory"}, b""
    with os.fdopen(out, "wb") as pipe:
        pipe.write(json.dumps(header).encode() + b"\n" + payload)


def _answer(path: Path, query: str, *, form: str, seconds: float) -> tuple[Header, bytes]:
    most = MOST_ROWS[form]
    with ask(path, query, seconds=seconds) as running:
        make = {"json": _json, "csv": _csv, "parquet": _parquet}[form]
        payload, rows, truncated = make(running, most)
    header = {
        "status": "ok",
        "columns": list(distinct(running.columns)),
        "types": list(running.types),
        "rows": rows,
        "truncated": truncated,
    }
    return header, payload


def _json(running: Running, most: int) -> tuple[bytes, int, bool]:
    columns = distinct(running.columns)
    parts: list[bytes] = []
    size, truncated = 0, False
    for row in running.rows(most + 1):
        part = json.dumps(plain(dict(zip(columns, row, strict=True)))).encode()
        size += len(part) + 1
        if size > MOST_BYTES or len(parts) == most:
            truncated = True
            break
        parts.append(part)
    return b"[" + b",".join(parts) + b"]", len(parts), truncated


def _csv(running: Running, most: int) -> tuple[bytes, int, bool]:
    columns = distinct(running.columns)
    head = csv_text([], columns).encode("utf-8", "replace")
    parts, size, truncated = [head], len(head), False
    for row in running.rows(most + 1):
        one = csv_text([dict(zip(columns, row, strict=True))], columns)
        part = one.encode("utf-8", "replace")[len(head) :]
        size += len(part)
        if size > MOST_BYTES or len(parts) > most:
            truncated = True
            break
        parts.append(part)
    return b"".join(parts), len(parts) - 1, truncated


def _parquet(running: Running, most: int) -> tuple[bytes, int, bool]:
    from pyarrow import parquet

    table = running.arrow(most + 1)
    truncated = table.num_rows > most
    table = table.slice(0, most).rename_columns(list(distinct(running.columns)))
    if table.nbytes > 4 * MOST_BYTES:
        raise QueryRefused(f"the answer is larger than {4 * MOST_BYTES:,} bytes")
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd")
    if out.tell() > MOST_BYTES:
        raise QueryRefused(f"the answer is larger than {MOST_BYTES:,} bytes")
    return out.getvalue(), table.num_rows, truncated
