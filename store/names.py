"""Finding a model by what people call it."""

from __future__ import annotations

import difflib
import hashlib

from ..lineage.errors import NotInRegistry
from .database import Database
from .staging import text

MAX_NAME = 512
MOST_KEPT = 20_000

# What the macro does, for the common case at a tenth of its planning: one live model of that name.
_BY_KEY = "SELECT model FROM internal.name_index WHERE name_key = ?"
_BY_ID = "SELECT name, tombstone_reason IS NULL FROM internal.models WHERE id = ?"

_SPELLING = "SELECT DISTINCT name FROM internal.models WHERE lower(name) = lower(?) LIMIT 2"
_NEAR = """
SELECT name FROM internal.models WHERE NOT hidden
ORDER BY jaro_winkler_similarity(lower(name), lower(?)) DESC, name LIMIT 50
"""
_SAME_ENDING = """
SELECT name FROM internal.models
WHERE NOT hidden AND contains(lower(name), lower(?)) ORDER BY downloads DESC NULLS LAST, name
LIMIT 5
"""


def find_id(database: Database, name: str) -> int:
    """The id of a model by its current name, a former one, or another spelling of case.

    Raises
    ------
    NotInRegistry : none has that name; the message offers the closest.
    """
    if name in database.ids:
        return database.ids[name]
    found = _find(database, name)
    if database.read_only and len(database.ids) < MOST_KEPT:
        database.ids[name] = found
    return found


def name_of(database: Database, model: int) -> str:
    """The current name of a model id."""
    found = database.row("SELECT name FROM internal.models WHERE id = ?", [model])
    return "" if found is None else str(found[0])


def _find(database: Database, name: str) -> int:
    if len(name) > MAX_NAME:
        raise NotInRegistry(f"a name of {len(name):,} characters is no model", name=name[:MAX_NAME])
    wanted = text(name) or ""
    keyed = database.rows(_BY_KEY, [_name_key(wanted)])
    if len(keyed) == 1 and database.row(_BY_ID, keyed[0]) == (wanted, True):
        return int(keyed[0][0])
    found = database.row("SELECT internal.find_model(?)", [wanted])
    if found and found[0] is not None:
        return int(found[0])
    spelled = database.rows(_SPELLING, [wanted])
    if len(spelled) == 1:
        return _find(database, spelled[0][0])
    raise NotInRegistry(_message(database, wanted), name=name)


def _name_key(name: str) -> int:
    """`md5_number_lower` of a name, without half a millisecond of planning a call of it."""
    return int.from_bytes(hashlib.md5(name.encode(), usedforsecurity=False).digest()[8:], "little")


def _message(database: Database, wanted: str) -> str:
    near = [row[0] for row in database.rows(_NEAR, [wanted])]
    close = difflib.get_close_matches(wanted, near, n=3, cutoff=0.6)
    if not close and wanted:
        close = [row[0] for row in database.rows(_SAME_ENDING, [wanted])]
    if not close:
        return f"no model named {wanted} in this store"
    return f"no model named {wanted} in this store; did you mean {', '.join(close)}?"
