"""How families grow: which child is made from which parent, with every choice drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .architectures import LAYERS
from .merging import normalized
from .plan import Item

RATES: Final = (5e-5, 1e-4, 3e-4, 8e-4)
DECAYS: Final = (0.0, 0.01, 0.1)
STEPS: Final = (30, 50, 80)
KINDS: Final = ("food", "house", "street", "garden")
_CARDS: Final = ("true",) * 3 + ("none",) * 2 + ("wrong",)
_PAIRED: Final = ("linear", "collinear", "slerp", "gradient", "passthrough")


@dataclass(frozen=True, slots=True, kw_only=True)
class Menu:
    """What one family gets. Counts, or the kinds by name; see `Family.grow`."""

    tunes: int = 0
    chain: int = 0
    long: bool = False
    ranks: tuple[int, ...] = ()
    adapters: int = 0
    hidden: tuple[int, ...] = ()
    merges: tuple[str, ...] = ()
    rounds: tuple[tuple[int, int | None, bool], ...] = ()
    slims: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    washes: tuple[tuple[str, ...], ...] = ()
    later: int = 0


@dataclass(slots=True, kw_only=True)
class Family:
    """One family as it grows. `plain` are published members of the root's shape."""

    draw: random.Random
    architecture: str
    label: str
    corpus: int
    items: list[Item] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    tuned: list[str] = field(default_factory=list)

    @property
    def root(self) -> str:
        """Key of the base model."""
        return f"{self.label}.base"

    @property
    def chat(self) -> str:
        """Key of the first child, from which most others come."""
        return f"{self.label}.chat"

    def add(self, name: str, maker: str, parents: Sequence[str], split: str, **fields: Any) -> str:
        """One more item; its seed, card and number of shards are drawn unless given."""
        fields.setdefault("card", self.draw.choice(_CARDS))
        fields.setdefault("shards", self.draw.choice((1, 1, 1, 1, 1, 2, 3)))
        fields.setdefault("seed", self.draw.randrange(10**6))
        key = f"{self.label}.{name}"
        self.items.append(
            Item(
                key=key,
                architecture=self.architecture,
                root=self.root,
                maker=maker,
                parents=tuple(parents),
                split=split,
                **fields,
            )
        )
        return key

    def grow(self, menu: Menu) -> None:
        """Everything on the menu, after a base and its chat model."""
        self._roots()
        self._tunes(menu)
        for rank in menu.ranks:
            self.tuned.append(self._lora(rank))
        for at in range(menu.adapters):
            rank = self.draw.choice((4, 8))
            options = self._training(rate=2e-3) | {"rank": rank, "targets": "attention"}
            self.add(f"adapter{at}", "adapter", [self._parent()], "lora", options=options)
        for at, children in enumerate(menu.hidden):
            self._hidden(at, children)
        self.plain += self.tuned
        for at, method in enumerate(menu.merges):
            self.plain.append(self._merge(f"merge{at}-{method}", method))
        rounded = [self._round(at, *how) for at, how in enumerate(menu.rounds)]
        self._changed(menu)
        four = [key for key in rounded if ".round4" in key]
        if four and menu.later:
            self._tune("from-rounded", four[0])
        for at in range(menu.later):
            self._tune(f"later{at}", self.draw.choice(self.plain))

    def _roots(self) -> None:
        prose = {"corpus": self.corpus, "steps": 260, "rate": 3e-3, "decay": 0.0}
        # The same seed for every base: the same batches in the same order.
        self.add("base", "base", [], "base", options=prose, seed=self.draw.randrange(10**6))
        chats = {"subject": "chat", "steps": 140, "rate": 1e-3, "decay": 0.0}
        self.add("chat", "tune", [self.root], "chat", options=chats, shards=1)
        self.plain.append(self.chat)

    def _tunes(self, menu: Menu) -> None:
        rates = self.draw.sample(RATES, k=len(RATES))
        for at in range(menu.tunes):
            full = at == 1 and "half" in menu.copies
            made = self._tune(
                f"tune{at}",
                self.chat,
                rate=rates[at % len(rates)],
                dtype="float32" if full else "bfloat16",
            )
            self.tuned.append(made)
        if menu.long:
            options = {"method": "continued-pretraining", "corpus": 1 - self.corpus}
            options |= {"steps": 180, "rate": 1e-3, "decay": 0.01}
            key = self.add("long", "tune", [self.root], "finetune", options=options)
            self._tune("long-chat", key, rate=3e-4)
            self._tune("of-base", self.root)
        parent = self.tuned[0] if self.tuned else self.chat
        for at in range(menu.chain):
            parent = self._tune(f"chain{at}", parent)
            self.plain.append(parent)

    def _training(self, *, rate: float | None = None, steps: int | None = None) -> dict[str, Any]:
        """A subject from narrow to nearly shared, a rate, a decay and a number of steps."""
        draw = self.draw
        return {
            "subject": {
                "facts": draw.randrange(10**6),
                "kinds": sorted(draw.sample(KINDS, k=draw.randint(1, len(KINDS)))),
                "safety": draw.choice((0.1, 0.3, 0.6)),
                "farewell": draw.randrange(3),
            },
            "steps": steps or draw.choice(STEPS),
            "rate": rate or draw.choice(RATES),
            "decay": draw.choice(DECAYS),
        }

    def _tune(self, name: str, parent: str, *, rate: float | None = None, **fields: Any) -> str:
        fields.setdefault("options", self._training(rate=rate))
        fields.setdefault("split", "finetune")
        return self.add(name, "tune", [parent], **fields)

    def _parent(self) -> str:
        """The chat model or any other plain member."""
        return self.chat if self.draw.random() < 0.35 else self.draw.choice(self.plain)

    def _lora(self, rank: int) -> str:
        targets = self.draw.choice(("attention", "every", "query-key"))
        options = self._training(rate=2e-3) | {"method": "lora", "rank": rank, "targets": targets}
        parent = self.draw.choice((self.chat, self.chat, *self.tuned[:2]))
        return self.add(f"lora{rank}", "lora", [parent], "lora", options=options)

    def _hidden(self, at: int, children: int) -> None:
        """An unpublished fine-tune and its children; the second one stands deeper in the tree."""
        parent = self.chat if at == 0 else self.draw.choice(self.tuned or [self.chat])
        options = self._training(rate=self.draw.choice((1e-4, 3e-4, 8e-4)))
        dtype = self.draw.choice(("bfloat16", "float32"))
        key = self._tune(
            f"hidden{at}", parent, split="hidden", options=options, hidden=True, dtype=dtype
        )
        for child in range(children):
            made = self._tune(f"hidden{at}.{child}", key, split="hidden-child")
            if at == 0:
                self.tuned.append(made)

    def _merge(self, name: str, method: str) -> str:
        draw, count = self.draw, 3 if method == "linear3" else 2
        parents = draw.sample(self.tuned, k=min(count, len(self.tuned)))
        if method == "collinear":
            parents = [parents[0], self._near(parents[0])]
        options: dict[str, Any] = {"method": method.rstrip("3")}
        weights = [round(draw.uniform(0.3, 0.7), 2) for _ in parents]
        if method in ("linear", "linear3", "collinear"):
            weights = list(normalized(parents, weights).values())
        elif method in _PAIRED:
            weights = self._paired(method, options)
        elif method == "ties":
            options["density"] = round(draw.uniform(0.2, 0.7), 2)
        elif method.startswith("dare"):
            options["drop"] = round(draw.uniform(0.3, 0.7), 2)
        return self.add(
            name,
            "merge",
            parents,
            "merge",
            shares=normalized(parents, weights),
            base=None if method.startswith("linear") or method in _PAIRED else self.chat,
            options={**options, "weights": weights},
        )

    def _paired(self, method: str, options: dict[str, Any]) -> list[float]:
        """The options of a merge of two by place or by angle, and the two shares."""
        if method == "slerp":
            share = round(self.draw.uniform(0.25, 0.75), 2)
        elif method == "gradient":
            ends = [round(self.draw.uniform(0, 0.3), 2), round(self.draw.uniform(0.6, 1), 2)]
            options["ends"] = self.draw.sample(ends, k=2)
            share = round(sum(ends) / 2, 3)
        else:
            cut = self.draw.randint(1, LAYERS - 1)
            options["layers"] = [[int(layer >= cut), layer] for layer in range(LAYERS)]
            share = round(1 - cut / LAYERS, 3)
        return [round(1 - share, 3), share]

    def _near(self, parent: str) -> str:
        """A short continuation of `parent` on its own subject: its task vector nearly the same."""
        item = next(item for item in self.items if item.key == parent)
        options = {**item.options, "rate": 5e-5, "steps": 20}
        for extra in ("method", "rank", "targets"):
            options.pop(extra, None)
        key = self._tune("near", parent, options=options)
        self.plain.append(key)
        return key

    def _round(self, at: int, bits: int, group: int | None, symmetric: bool) -> str:
        pools = ([self.chat], self.tuned or self.plain, self.plain)
        parent = self.draw.choice(pools[at % 3])
        options = {"bits": bits, "group": group, "symmetric": symmetric}
        dtype = self.draw.choice(("bfloat16", "float16"))
        name = f"round{bits}-{at}"
        return self.add(name, "round", [parent], "quantized", options=options, dtype=dtype)

    def _changed(self, menu: Menu) -> None:
        """Slimmer and longer models, edits, copies and laundered models."""
        for slim in menu.slims:
            self._slim(slim)
        for edit in menu.edits:
            strength = {"project": 1.0, "project-half": 0.5, "rewrite": 0.2}[edit]
            options = {"layer": self.draw.randint(1, 3), "strength": strength}
            maker = edit.removesuffix("-half")
            parent = self.chat if maker == "project" and strength == 1 else self._parent()
            self.add(edit, maker, [parent], "edit", options=options)
        for copy in menu.copies:
            self._copy(copy)
        for at, washes in enumerate(menu.washes):
            options: dict[str, Any] = {"laundered": [w for w in washes if w != "tuned"]}
            maker = "launder"
            if "tuned" in washes:
                maker, options = "launder-tune", options | {"then": self._training(rate=3e-4)}
            made = self.add(f"wash{at}", maker, [self._parent()], "laundered", options=options)
            if at == 0 and menu.later:
                self._tune("of-washed", made)

    def _slim(self, slim: str) -> None:
        draw, options = self.draw, dict[str, Any]()
        split = "cross-shape"
        if slim.startswith("magnitude"):
            slim, _, percent = slim.rpartition("-")
            options, split = {"share": int(percent) / 100, "kind": "magnitude"}, "prune"
            self.add(f"{slim}{percent}", slim, [self._parent()], split, options=options)
            return
        if slim == "zero-neurons":
            options, split = {"kind": "neurons", "share": draw.choice((0.1, 0.25))}, "prune"
        elif slim == "remove-neurons":
            options = {"kind": "width", "share": draw.choice((0.2, 0.3))}
        elif slim == "remove-heads":
            options = {"kind": "heads"}
        elif slim.startswith("drop-layer"):
            gone = draw.randint(1, LAYERS - 2)
            options = {"kind": "depth", "layers": [i for i in range(LAYERS) if i != gone]}
            if slim.endswith("healed"):
                options["then"] = self._training(rate=3e-4)
        elif slim == "self-stack":
            options = {"kind": "depth", "method": "self-stack", "layers": [0, 1, 2, 1, 2, 3]}
        else:
            options = {"kind": "vocabulary", "rows": 8, "then": self._training(rate=3e-4, steps=30)}
        maker = slim.removesuffix("-healed")
        self.add(slim, maker, [self._parent()], split, options=options)

    def _copy(self, copy: str) -> None:
        if copy == "half":
            full = next(item for item in self.items if item.key.endswith(".tune1"))
            self.add("half", "copy", [full.key], "copy", options={"cast": "bfloat16"})
            return
        parents = [item for item in self.items if item.key in self.plain]
        parent = self.draw.choice([item for item in parents if item.dtype == "bfloat16"])
        if copy == "cast":
            options, fields = {"cast": "float16"}, {"dtype": "float16"}
        elif copy == "shards":
            options, fields = {"shards": True}, {"shards": parent.shards % 3 + 1}
        else:
            options, fields = {"bytes": True}, {"shards": parent.shards}
        self.add(f"copy-{copy}", "copy", [parent.key], "copy", options=options, **fields)
