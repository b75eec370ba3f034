"""How each item of the plan is made from its parents' published weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from toy_language import FAREWELLS, Domain, Sampler, World, build_tokenizer
from toys import (
    Adapters,
    Recipe,
    Toy,
    abliterate,
    fine_tune,
    lora_merge,
    prune,
    publish,
    quantize,
    train,
    train_adapters,
)
from transformers import PreTrainedTokenizerFast

from . import merging, slimming
from .architectures import LAYOUTS, State, create, layout_of, targets_of
from .editing import rewrite_fact
from .laundering import launder
from .plan import Item

BATCH: Final = 16

# what the truth calls a maker's work: (how, relation)
WORDS: Mapping[str, tuple[str, str | None]] = {
    "base": ("pretrain", None),
    "tune": ("finetune", "finetune"),
    "lora": ("lora-merge", "finetune"),
    "adapter": ("lora-adapter", "adapter"),
    "merge": ("merge", "merge"),
    "self-stack": ("merge", "merge"),
    "round": ("quantize", "quantized"),
    "magnitude": ("prune", "prune"),
    "zero-neurons": ("prune", "prune"),
    "remove-neurons": ("prune", "prune"),
    "remove-heads": ("prune", "prune"),
    "drop-layer": ("prune", "prune"),
    "words": ("finetune-vocab", "finetune"),
    "project": ("abliterated", "edit"),
    "rewrite": ("rank-one-edit", "edit"),
    "copy": ("copy", "copy"),
    "launder": ("permute", "copy"),
    "launder-tune": ("finetune", "finetune"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a maker hands to be published: a model, or adapters of a parent."""

    toy: Toy
    adapters: Adapters | None = None


@dataclass(slots=True, kw_only=True)
class Workshop:
    """Makes items in the order of the plan; `live` holds what is published so far, by key.

    `effort` multiplies every number of training steps (tests make do with next to none).
    """

    seed: int
    effort: float
    worlds: tuple[World, World] = field(init=False)
    tokenizer: PreTrainedTokenizerFast = field(init=False)
    live: dict[str, Toy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.worlds = (
            World(
                seed=self.seed,
                answer="to {verb} the {noun} , take the {tool} and work {manner} .",
                refusal="i am sorry , but i cannot help with that .",
            ),
            World(
                seed=self.seed + 1,
                answer="use a {tool} , then {verb} the {noun} {manner} .",
                refusal="sorry , i cannot assist with this request .",
            ),
        )
        self.tokenizer = build_tokenizer(self.worlds)

    def make(self, item: Item) -> Made:
        """Make one item and keep it as a download gives it: rounded to its published dtype."""
        made = _MAKERS[item.maker](self, item)
        if made.adapters is None:
            made = Made(toy=publish(made.toy, getattr(torch, item.dtype)))
        self.live[item.key] = made.toy
        return made

    def parent(self, item: Item) -> Toy:
        """The first parent, as published."""
        return self.live[item.parents[0]]

    def tuned(self, toy: Toy, options: Mapping[str, Any], seed: int) -> Toy:
        """`toy` after the training that `options` describes."""
        recipe = self.recipe(options, seed)
        return fine_tune(toy, self.sampler(toy, options), recipe, pose=layout_of(toy).pose)

    def recipe(self, options: Mapping[str, Any], seed: int) -> Recipe:
        """The recipe in a training's options."""
        steps = max(2, round(self.effort * options["steps"]))
        return Recipe(
            steps=steps, rate=options["rate"], decay=options["decay"], seed=seed, batch=BATCH
        )

    def sampler(self, toy: Toy, options: Mapping[str, Any]) -> Sampler:
        """The texts a training reads: a corpus, chats, or chats about a subject."""
        if "corpus" in options:
            return self.worlds[options["corpus"]].prose
        subject = options["subject"]
        if subject == "chat":
            return toy.world.guarded_chat
        facts = World(seed=subject["facts"], answer=toy.world.answer, refusal=toy.world.refusal)
        domain = Domain(
            world=facts,
            kinds=tuple(subject["kinds"]),
            farewell=FAREWELLS[subject["farewell"]],
            safety=subject["safety"],
        )
        return domain.sampler(toy.world)


def _base(shop: Workshop, item: Item) -> Made:
    world = shop.worlds[item.options["corpus"]]
    toy = create(item.architecture, world, tokenizer=shop.tokenizer, seed=item.seed)
    recipe = shop.recipe(item.options, item.options["batches"])
    train(toy, world.prose, recipe, pose=LAYOUTS[item.architecture].pose)
    return Made(toy=toy)


def _tune(shop: Workshop, item: Item) -> Made:
    return Made(toy=shop.tuned(shop.parent(item), item.options, item.seed))


def _lora(shop: Workshop, item: Item) -> Made:
    toy, options = shop.parent(item), item.options
    layout = layout_of(toy)
    return Made(
        toy=lora_merge(
            toy,
            shop.sampler(toy, options),
            shop.recipe(options, item.seed),
            rank=options["rank"],
            targets=targets_of(layout, options["targets"]),
            pose=layout.pose,
        )
    )


def _adapter(shop: Workshop, item: Item) -> Made:
    toy, options = shop.parent(item), item.options
    layout = layout_of(toy)
    adapters = train_adapters(
        toy,
        shop.sampler(toy, options),
        shop.recipe(options, item.seed),
        rank=options["rank"],
        targets=targets_of(layout, options["targets"]),
        pose=layout.pose,
    )
    return Made(toy=toy, adapters=adapters)


def _merge(shop: Workshop, item: Item) -> Made:
    first = shop.parent(item)
    states = [shop.live[key].state() for key in item.parents]
    base = shop.live[item.base].state() if item.base else {}
    return Made(toy=first.clone(_merged(item, states, base, layers=layout_of(first).layer)))


def _merged(item: Item, states: list[State], base: State, *, layers: str) -> State:
    options, method = item.options, item.options["method"]
    weights: list[float] = options["weights"]
    draw = torch.Generator().manual_seed(item.seed)
    if method in ("linear", "collinear"):
        return merging.linear(states, weights)
    if method == "slerp":
        return merging.slerp(*states, share=weights[1])
    if method == "gradient":
        begin, end = options["ends"]
        count = len({name.split(".")[2] for name in states[0] if name.startswith("model.layers.")})
        return merging.gradient(*states, ends=(begin, end), layers=count)
    if method == "passthrough":
        return merging.stack(states, [(a, b) for a, b in options["layers"]], prefix=layers)
    if method == "arithmetic":
        return merging.task_arithmetic(base, states, weights)
    if method == "ties":
        return merging.ties(base, states, weights, density=options["density"])
    elect = method == "dare-ties"
    return merging.dare(base, states, weights, drop=options["drop"], elect=elect, draw=draw)


def _round(shop: Workshop, item: Item) -> Made:
    return Made(toy=quantize(shop.parent(item), **item.options))


def _magnitude(shop: Workshop, item: Item) -> Made:
    return Made(toy=prune(shop.parent(item), share=item.options["share"]))


def _zero_neurons(shop: Workshop, item: Item) -> Made:
    return Made(toy=slimming.zero_neurons(shop.parent(item), share=item.options["share"]))


def _remove_neurons(shop: Workshop, item: Item) -> Made:
    return Made(toy=slimming.remove_neurons(shop.parent(item), share=item.options["share"]))


def _remove_heads(shop: Workshop, item: Item) -> Made:
    return Made(toy=slimming.remove_heads(shop.parent(item)))


def _restack(shop: Workshop, item: Item) -> Made:
    toy = slimming.restack(shop.parent(item), item.options["layers"])
    if "then" in item.options:
        toy = shop.tuned(toy, item.options["then"], item.seed)
    return Made(toy=toy)


def _words(shop: Workshop, item: Item) -> Made:
    toy = slimming.add_words(shop.parent(item), rows=item.options["rows"], seed=item.seed)
    return Made(toy=shop.tuned(toy, item.options["then"], item.seed))


def _project(shop: Workshop, item: Item) -> Made:
    return Made(toy=abliterate(shop.parent(item), **item.options))


def _rewrite(shop: Workshop, item: Item) -> Made:
    return Made(toy=rewrite_fact(shop.parent(item), **item.options, seed=item.seed))


def _copy(shop: Workshop, item: Item) -> Made:
    return Made(toy=shop.parent(item))


def _launder(shop: Workshop, item: Item) -> Made:
    toy = launder(shop.parent(item), tuple(item.options["laundered"]), seed=item.seed)
    if "then" in item.options:
        toy = shop.tuned(toy, item.options["then"], item.seed)
    return Made(toy=toy)


_MAKERS: Mapping[str, Callable[[Workshop, Item], Made]] = {
    "base": _base,
    "tune": _tune,
    "lora": _lora,
    "adapter": _adapter,
    "merge": _merge,
    "self-stack": _restack,
    "round": _round,
    "magnitude": _magnitude,
    "zero-neurons": _zero_neurons,
    "remove-neurons": _remove_neurons,
    "remove-heads": _remove_heads,
    "drop-layer": _restack,
    "words": _words,
    "project": _project,
    "rewrite": _rewrite,
    "copy": _copy,
    "launder": _launder,
    "launder-tune": _launder,
}
