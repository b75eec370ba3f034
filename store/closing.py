"""The closure tables of a store: computed anew, or brought up to the edges that changed.

numpy and Arrow are imported where they are used, because reading verbs start without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from .staging import registered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .closure import Closure, Ids

# Above one affected model to so many edges, everything is computed anew, and sorted.
REBUILD_SHARE = 8

_BELIEVED = """
CREATE OR REPLACE TEMP TABLE believed_now AS
SELECT parent, child, confidence FROM internal.believed
"""

_CHANGED = """
CREATE OR REPLACE TEMP TABLE changed AS
SELECT DISTINCT coalesce(n.child, o.child) AS child
FROM believed_now n FULL JOIN internal.closure_edges o
    ON o.child = n.child AND o.parent = n.parent
WHERE n.child IS NULL OR o.child IS NULL OR n.confidence <> o.confidence;
CREATE OR REPLACE TEMP TABLE affected AS
SELECT child AS node FROM changed
UNION
SELECT k.descendant FROM internal.closure k WHERE k.ancestor IN (SELECT child FROM changed)
"""

_SHARE = """
SELECT (SELECT count(*) FROM affected), (SELECT count(*) FROM internal.closure_edges)
"""


def maintain_closure(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring the closure up to the edges believed now, inside the caller's transaction.

    Notes
    -----
    A pair can have changed only if its descendant is the child of an edge that changed, or comes
    from one by edges that did not: only the ancestors of those are computed anew. When that is a
    large share of all, everything is.
    """
    connection.execute(_BELIEVED)
    connection.execute(_CHANGED)
    ((changed, known),) = connection.execute(_SHARE).fetchall()
    if changed * REBUILD_SHARE > known:
        _rebuild(connection)
    elif changed:
        _update(connection)


def rebuild_closure(connection: duckdb.DuckDBPyConnection) -> None:
    """Write both closure tables and the name index anew, inside the caller's transaction."""
    connection.execute(_BELIEVED)
    _rebuild(connection)


def _rebuild(connection: duckdb.DuckDBPyConnection) -> None:
    from .closure import compute_closure

    parent, child, confidence = _edges(connection)
    closure = compute_closure(parent, child, confidence)
    for table in ("closure", "closure_up", "closure_edges"):
        connection.execute(f"DELETE FROM internal.{table}")
    _insert(connection, closure)
    connection.execute("INSERT INTO internal.closure_edges FROM believed_now")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE names AS SELECT DISTINCT name_key, model "
        "FROM internal.name_index"
    )
    connection.execute("DELETE FROM internal.name_index")
    connection.execute("INSERT INTO internal.name_index FROM names ORDER BY name_key, model")


def _update(connection: duckdb.DuckDBPyConnection) -> None:
    from .closure import compute_closure

    parent, child, confidence = _edges(connection)
    affected = connection.execute("SELECT node FROM affected").fetchnumpy()["node"]
    closure = compute_closure(parent, child, confidence, of=affected)
    for table in ("closure", "closure_up"):
        connection.execute(
            f"DELETE FROM internal.{table} WHERE descendant IN (SELECT node FROM affected)"
        )
    _insert(connection, closure)
    connection.execute(
        "DELETE FROM internal.closure_edges WHERE child IN (SELECT child FROM changed)"
    )
    connection.execute(
        "INSERT INTO internal.closure_edges "
        "SELECT * FROM believed_now WHERE child IN (SELECT child FROM changed)"
    )


def _edges(connection: duckdb.DuckDBPyConnection) -> tuple[Ids, Ids, NDArray[np.float64]]:
    columns = connection.execute(
        "SELECT parent::BIGINT AS parent, child::BIGINT AS child, confidence FROM believed_now"
    ).fetchnumpy()
    return columns["parent"], columns["child"], columns["confidence"]


def _insert(connection: duckdb.DuckDBPyConnection, closure: Closure) -> None:
    import pyarrow as pa

    from .closure import turned_rows

    columns = closure._asdict()
    for table, rows in (("closure", columns), ("closure_up", turned_rows(closure))):
        with registered(connection, "closure_in", pa.table(rows)):
            connection.execute(f"INSERT INTO internal.{table} BY NAME FROM closure_in")
