"""Who hangs together with whom: sets of numbers that are joined and never parted."""

from __future__ import annotations


class DisjointSets:
    """Disjoint sets of numbers."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def find(self, i: int) -> int:
        """The number that stands for the set of `i`."""
        while (above := self._above.get(i, i)) != i:
            self._above[i] = self._above.get(above, above)
            i = above
        return i

    def join(self, a: int, b: int) -> bool:
        """Make one set of two; whether they were apart."""
        first, second = self.find(a), self.find(b)
        self._above[first] = second
        return first != second
