"""What a zoo holds, before anything is trained: items, their order, their names and dates."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

EPOCH: Final = 1_704_000_000
HOUR: Final = 3600

_FIRST = """
    amber ashen brisk calm copper coral dapper dusky early ember faint gentle gilded hollow
    ivory jolly keen lilac lunar mellow misty navy olive opal pale plum quiet rapid rosy
    rustic sable sandy silver slate solar stark sunny tawny teal umber velvet vivid wandering
    windy
"""
_SECOND = """
    acorn anvil badger basin beacon bison canyon cobalt comet crane delta dune falcon fern
    fjord gecko glacier harbor heron ibis jasper kestrel lagoon lantern lynx marten meadow
    nebula otter pebble pine plover quartz quill raven reef sparrow summit thicket tundra vole
    willow
"""
_HOUSES = """
    atelier bench bureau collective corner den foundry guild hub lab loft nook office room
    shed society studio team union works
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One model to be made: how, from which, and how it is published.

    `maker` names a function of `makers.MAKERS`; `options` are its arguments and become the
    truth's `detail`. `base` is a model that a merge subtracts, no parent. `card` says what the card
    tells: "true", "none" or "wrong".
    """

    key: str
    architecture: str
    root: str
    maker: str
    split: str
    parents: tuple[str, ...] = ()
    shares: Mapping[str, float] | None = None
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    hidden: bool = False
    dtype: str = "bfloat16"
    shards: int = 1
    card: str = "true"

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of everything that must be made before."""
        return self.parents if self.base is None else (*self.parents, self.base)


def in_order(items: Sequence[Item], draw: random.Random) -> list[Item]:
    """A random order in which nothing stands before what it needs."""
    left, done, order = list(items), set[str](), list[Item]()
    while left:
        ready = [item for item in left if done.issuperset(item.needs)]
        chosen = draw.choice(ready)
        left.remove(chosen)
        done.add(chosen.key)
        order.append(chosen)
    return order


def dates(count: int, draw: random.Random) -> list[int]:
    """`count` increasing times in Unix seconds, with gaps of an hour to some weeks."""
    now, times = EPOCH + draw.randrange(10**6), []
    for _ in range(count):
        now += HOUR + int(draw.expovariate(1 / (40 * HOUR)))
        times.append(now)
    return times


def names(count: int, draw: random.Random) -> Iterator[str]:
    """`count` different `org/name` that say nothing."""
    first, second, houses = (text.split() for text in (_FIRST, _SECOND, _HOUSES))
    orgs = [f"{draw.choice(second)}-{draw.choice(houses)}" for _ in range(max(3, count // 3))]
    seen: set[str] = set()
    while len(seen) < count:
        words = f"{draw.choice(first)}-{draw.choice(second)}"
        tail = draw.choice(("", f"-{draw.randrange(16**3):03x}", f"-{draw.randrange(1, 10)}"))
        name = f"{draw.choice(orgs)}/{words}{tail}"
        if name not in seen:
            seen.add(name)
            yield name
