"""How likely a model comes from one branch of a family before its weights are looked at.

Models are derived from what is already derived from: the numbers of children on the Hub follow the
power law of linear preferential attachment, in which each member is the next one's parent with a
chance in proportion to one more than the children it has (Yule 1925; Simon 1955).

References
----------
Simon (1955), "On a class of skew distribution functions".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

WEIGHT = 0.5
"""How far the log-odds are believed: `benchmarks/learn_clues.py` prints how many steps of paths are
misjudged without them, with half and with all, on families that its curves have not seen."""

Children = Mapping[int, Sequence[int]]


def children_of(parents: Mapping[int, Sequence[int]]) -> Children:
    """Members by each of their parents."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for child, above in parents.items():
        for parent in above:
            found[parent].append(child)
    return found


def attachment(child: int, *, via: int, origin: int, children: Children) -> float:
    """Prior log-odds that a member hangs below `via` rather than from its parent `origin` itself.

    A branch of m members attracts with 2m - 1 (one each, and one for each of its m - 1 edges), its
    origin with k children with k + 1; `WEIGHT` of the log of their ratio is returned. The child and
    what comes from it are not counted.

    Notes
    -----
    O(m): the branch is walked.
    """
    below = {via}
    pending = [via]
    while pending:
        for one in children.get(pending.pop(), ()):
            if one != child and one not in below:
                below.add(one)
                pending.append(one)
    beside = sum(one != child for one in children.get(origin, ()))
    return WEIGHT * math.log((2 * len(below) - 1) / (beside + 1))
