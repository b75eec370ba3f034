"""The tree as a person opens it: one hop first, then what they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...store.explorer import KinFilter, PublicReader

PAGE = 25
MORE = 100
MOST = 2_000
MOST_OPEN = 200
DEEPEST = 64


@dataclass(slots=True)
class Branch:
    """A model of the tree with the children shown; `left` counts those that are not.

    `matched` counts the children that pass the filter, None where the branch is closed.
    """

    row: Mapping[str, Any]
    depth: int
    under: str | None = None
    below: list[Branch] = field(default_factory=list)
    matched: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether its children are shown."""
        return self.matched is not None

    @property
    def left(self) -> int:
        """Children that pass the filter and are not shown."""
        return (self.matched or 0) - len(self.below)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The branch as flat rows, parents before children."""
        yield {**self.row, "depth": self.depth, "under": self.under, "left": self.left}
        for branch in self.below:
            yield from branch.rows()


class Grower:
    """Grows the part of a tree that is opened.

    Parameters
    ----------
    opened : models whose children are shown, beside the root.
    depth : generations that are open without being asked for, as far as 200 branches go.
    more : models with more than the first page of children; each time a name stands there it
        shows another hundred.
    up : ancestors instead of descendants.
    """

    def __init__(
        self,
        reader: PublicReader,
        *,
        keep: KinFilter,
        opened: Collection[str],
        depth: int,
        more: Collection[str],
        up: bool,
    ) -> None:
        self._reader = reader
        self._keep = keep
        self._opened = frozenset(opened)
        self._depth = depth
        self._more = Counter(more)
        self._up = up
        self._room = MOST
        self._unasked = MOST_OPEN

    def grow(self, model: str) -> Branch:
        """The tree of a model.

        Raises
        ------
        NotInRegistry : the store does not hold it.
        """
        root = Branch(self._reader.node(model), depth=0)
        self._open(root, above=frozenset())
        return root

    def _open(self, branch: Branch, *, above: frozenset[str]) -> None:
        name = branch.row["model"]
        limit = min(PAGE + MORE * self._more[name], self._room)
        if name in above or branch.depth >= DEEPEST or limit <= 0:
            return
        page = self._reader.children(name, keep=self._keep, limit=limit, up=self._up)
        self._room -= len(page.rows)
        branch.matched = page.total
        for row in page.rows:
            child = Branch(row, depth=branch.depth + 1, under=name)
            branch.below.append(child)
            if self._is_wanted(child):
                self._open(child, above=above | {name})

    def _is_wanted(self, branch: Branch) -> bool:
        if branch.row["model"] in self._opened:
            return True
        if branch.depth >= self._depth or not (self._up or branch.row["direct"]):
            return False
        self._unasked -= 1
        return self._unasked >= 0
