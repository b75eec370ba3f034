"""How many rows fit: a search never asks the device for more than it was given."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import LimitExceeded

GROUP = 64
MOST_QUERIES = 16_384
MOST_ROWS = 65_536
CPU_ROWS = 2_048
DEFAULT_BYTES = 1 << 30
_SCORE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocking:
    """Queries a block and rows a tile; rows are a multiple of `GROUP`."""

    queries: int
    rows: int

    def halved(self) -> Blocking:
        """Half as many rows; half as many queries when there are no fewer rows to have.

        Raises
        ------
        LimitExceeded : one query and one group of rows do not fit.
        """
        if self.rows >= 2 * GROUP:
            return replace(self, rows=self.rows // 2 // GROUP * GROUP)
        if self.queries > 1:
            return replace(self, queries=self.queries // 2)
        raise LimitExceeded(
            "one query and one tile of rows do not fit in the device's memory",
            path="similarity",
            limit=1,
            actual=2,
        )


def blocking_for(
    queries: int,
    rows: int,
    width: int,
    *,
    budget: int,
    item: int,
    query: int,
    carried: int,
    most: int = MOST_ROWS,
) -> Blocking:
    """The largest blocks whose buffers fit in `budget` bytes.

    Parameters
    ----------
    width : coordinates that are multiplied.
    item : bytes of a coordinate as it is multiplied.
    query : bytes of a query as it is measured.
    carried : bytes of a row on the way to the device; 0 where it is there already.
    most : rows a tile at most; on a CPU few, so that a tile stays in its caches.

    Raises
    ------
    LimitExceeded : one query and one group of rows do not fit.

    Notes
    -----
    A tile costs its centred rows, two copies on the way, and a score for each query; what is kept
    of the scores (the members of the best groups) is about as large again.
    """
    tile = -(-min(rows, most) // GROUP) * GROUP
    found = Blocking(queries=max(1, min(queries, MOST_QUERIES)), rows=max(GROUP, tile))

    def cost(one: Blocking) -> int:
        of_rows = one.rows * (width * item + 2 * carried)
        of_queries = one.queries * (width * item + query)
        return of_rows + of_queries + 2 * _SCORE * one.queries * one.rows

    while cost(found) > budget:
        # The scores are a square: it shrinks evenly, so that products stay long.
        smaller = replace(found, queries=found.queries // 2)
        found = smaller if found.queries > max(64, found.rows // 4) else found.halved()
    return found
