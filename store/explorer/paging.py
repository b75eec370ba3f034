"""Records of an explorer: pages of a listing, and values as people expect them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..database import Database, Parameters
from ..one_model import mapping
from ..staging import aware

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows of a listing, and how many there are in all."""

    rows: tuple[Mapping[str, Any], ...]
    total: int


def page(database: Database, query: str, values: Mapping[str, Any]) -> Page:
    """The rows of a query whose column `matched` counts them without the limit."""
    rows = records(database, query, values)
    total = rows[0]["matched"] if rows else 0
    for row in rows:
        del row["matched"]
    return Page(rows=tuple(rows), total=total)


def records(database: Database, query: str, values: Parameters = ()) -> list[Record]:
    """The rows of a query: times with their zone, JSON columns as mappings."""
    return [_tidy(record) for record in database.records(query, values)]


def _tidy(record: Record) -> Record:
    for name, value in record.items():
        if isinstance(value, datetime):
            record[name] = aware(value)
    if "detail" in record:
        record["detail"] = mapping(record["detail"])
    return record
