"""The menus of a zoo's families, dealt from one deck, for each size of zoo."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from .families import Family, Menu
from .plan import Item

Card = TypeVar("Card")

ALL: Final = ("llama", "neox", "encoder")
RANKS: Final = (2, 4, 8, 16, 32)
MERGES: Final = (
    "linear",
    "linear3",
    "arithmetic",
    "slerp",
    "gradient",
    "ties",
    "dare-linear",
    "dare-ties",
    "passthrough",
    "collinear",
)
ROUNDS: Final = (
    (8, None, True),
    (4, 32, True),
    (3, 32, True),
    (2, 32, False),
    (4, 32, False),
    (8, 32, False),
    (4, None, True),
    (3, 16, False),
)
SLIMS: Final = (
    "magnitude-20",
    "magnitude-50",
    "zero-neurons",
    "remove-neurons",
    "remove-heads",
    "drop-layer",
    "drop-layer-healed",
    "self-stack",
    "words",
)
EDITS: Final = ("project", "project-half", "rewrite")
COPIES: Final = ("bytes", "shards", "cast", "half")
WASHES: Final = (
    ("mlp-permutation",),
    ("head-permutation",),
    ("mlp-rescale", "value-rescale"),
    ("basis-permutation",),
    ("rotation",),
    ("mlp-permutation", "head-permutation", "mlp-rescale", "rotation"),
    ("basis-permutation", "mlp-permutation", "tuned"),
)
SMALL: Final = Menu(
    tunes=3,
    chain=1,
    ranks=(8,),
    adapters=1,
    hidden=(2,),
    merges=("linear", "slerp", "ties", "passthrough"),
    rounds=((4, 32, True), (3, 32, False)),
    slims=("magnitude-20", "remove-neurons", "drop-layer-healed", "words"),
    edits=("project", "rewrite"),
    copies=("bytes", "cast"),
    washes=(("mlp-permutation", "head-permutation"), ("rotation",)),
)
NEOX: Final = Menu(
    tunes=3,
    chain=1,
    ranks=(4, 16),
    hidden=(2,),
    merges=("linear", "ties", "slerp"),
    rounds=((8, None, True), (4, 32, True), (3, 32, False)),
    slims=("magnitude-50", "remove-neurons", "drop-layer"),
    edits=("project",),
    copies=("cast",),
    washes=(("mlp-permutation",), ("head-permutation", "mlp-permutation")),
)
ENCODER: Final = Menu(
    tunes=3,
    ranks=(8,),
    hidden=(2,),
    merges=("linear", "arithmetic"),
    rounds=((8, 32, True), (4, 32, False)),
    slims=("magnitude-20",),
    copies=("cast",),
    washes=(("mlp-permutation", "head-permutation"),),
)
ONE_CHILD: Final = Menu(tunes=1)


def draw_items(seed: int, *, small: bool, only: Collection[str] = ALL) -> list[Item]:
    """Every item of a zoo, family by family; the same for the same arguments.

    Raises
    ------
    ValueError : `only` names no architecture, or an unknown one.
    """
    if not only or not set(only) <= set(ALL):
        raise ValueError(f"architectures are some of {ALL}, not {sorted(only)}")
    menus = _small_menus() if small else _menus(random.Random(f"{seed}/deal"))
    items: list[Item] = []
    for label, menu in menus:
        architecture = label.rstrip("0123456789")
        if architecture not in only:
            continue
        family = Family(
            draw=random.Random(f"{seed}/{label}"),
            architecture=architecture,
            label=label,
            corpus=int(architecture == "neox"),
        )
        family.grow(menu)
        # One training seed an architecture: initialisation is all that bases differ in.
        recipe = random.Random(f"{seed}/{architecture}").randrange(10**6)
        items += [
            replace(i, options=i.options | {"batches": recipe}) if not i.parents else i
            for i in family.items
        ]
    return items


def _menus(draw: random.Random) -> list[tuple[str, Menu]]:
    first: dict[str, Any] = {"tunes": 4, "chain": 3, "hidden": (3, 2, 1), "adapters": 1}
    second: dict[str, Any] = {"tunes": 3, "chain": 1, "hidden": (2, 2, 1), "adapters": 1}
    decks: dict[str, Sequence[Any]] = {
        "ranks": RANKS,
        "merges": MERGES,
        "rounds": ROUNDS,
        "slims": SLIMS,
        "edits": EDITS,
        "copies": COPIES,
        "washes": WASHES,
    }
    for name, deck in decks.items():
        first[name], second[name] = _deal(deck, draw)
    second["merges"] = ("linear", *(m for m in second["merges"] if m != "linear"))
    return [
        ("llama0", Menu(**first, long=True, later=2)),
        ("llama1", Menu(**second, later=2)),
        ("llama2", ONE_CHILD),
        ("llama3", ONE_CHILD),
        ("neox0", NEOX),
        ("neox1", ONE_CHILD),
        ("encoder0", ENCODER),
    ]


def _small_menus() -> list[tuple[str, Menu]]:
    few = Menu(tunes=1, rounds=((4, 32, True),))
    return [("llama0", SMALL), ("llama1", ONE_CHILD), ("neox0", few), ("encoder0", few)]


def _deal(deck: Sequence[Card], draw: random.Random) -> tuple[tuple[Card, ...], tuple[Card, ...]]:
    """Two hands of about six in ten cards each, every card at least once."""
    cards = draw.sample(list(deck), k=len(deck))
    half, shared = len(cards) // 2, max(1, len(cards) // 5)
    return tuple(cards[: half + shared]), tuple(cards[half:])
