"""Toy chat models that are really trained, and what people do to published weights, on toys only.

A family's base model reads prose, its chat model answers questions and refuses the harmful ones
(`toy_language`). Children are made from the parent's *published* weights, as on a Hub: fine-tune,
merged LoRA, linear merge, round-to-nearest quantization, pruning, a directional edit.

Everything here works on `Toy` and on nothing else: a `Toy` is created from a seed, never loaded
from a file, and refuses to hold a model above `MAX_PARAMETERS`. It is a source of ground truth
for a measuring instrument, not a tool for real models.
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from toy_language import HARMFUL, HARMLESS, NOUNS, QUESTIONS, TOOLS, Sampler, World, is_held
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

MAX_PARAMETERS = 2_000_000
WRITERS = (
    "o_proj.weight",
    "down_proj.weight",
    "attention.dense.weight",
    "dense_4h_to_h.weight",
)

# How a batch is asked: (ids, mask, rng) to (inputs, labels), -100 where nothing is asked.
Pose = Callable[[Tensor, Tensor, random.Random], tuple[Tensor, Tensor]]


def llama_config(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, inner: int, layers: int, heads: int
) -> LlamaConfig:
    """A Llama of any size that speaks the toy language; two queries share a key."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=96,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """A toy model with its tokenizer and its family's world; the only thing that is ever changed.

    Raises
    ------
    ValueError : more than `MAX_PARAMETERS` weights, or fewer words than the tokenizer has.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    world: World

    def __post_init__(self) -> None:
        size = sum(weight.numel() for weight in self.model.parameters())
        if size > MAX_PARAMETERS or self.model.config.vocab_size < len(self.tokenizer):
            raise ValueError(f"not a toy: {size} weights, at most {MAX_PARAMETERS}")

    @classmethod
    def create(
        cls, world: World, *, tokenizer: PreTrainedTokenizerFast, seed: int, hidden: int = 64
    ) -> Toy:
        """A new model of the toy architecture: 4 Llama layers, drawn from `seed`."""
        torch.manual_seed(seed)
        config = llama_config(tokenizer, hidden=hidden, inner=hidden * 5 // 2, layers=4, heads=4)
        return cls(model=LlamaForCausalLM(config).eval(), tokenizer=tokenizer, world=world)

    def clone(
        self, state: Mapping[str, Tensor] | None = None, *, config: PretrainedConfig | None = None
    ) -> Toy:
        """A copy in float32, with `state` in place of the weights where one is given.

        `config` is needed only for a `state` of other shapes.
        """
        model = type(self.model)(copy.deepcopy(config or self.model.config)).eval()
        model.load_state_dict(dict(self.model.state_dict() if state is None else state))
        return Toy(model=model, tokenizer=self.tokenizer, world=self.world)

    def state(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The weights by name, cast to `dtype` and detached from training."""
        named = sorted(self.model.state_dict().items())
        return {name: weight.detach().to(dtype).clone().contiguous() for name, weight in named}

    def matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The linear weights of the layers: what quantizers and pruners touch."""
        for name, weight in self.model.named_parameters():
            if re.search(r"\.layers?\.\d+\.", name) and weight.dim() == 2:
                yield name, weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how hard to train: AdamW, ten steps of warm-up, cosine to a tenth of `rate`.

    `decay` is AdamW's weight decay: each step shrinks the weights by its product with the rate.
    """

    steps: int
    rate: float
    seed: int
    batch: int = 40
    decay: float = 0.0


def next_word(ids: Tensor, mask: Tensor, _rng: random.Random) -> tuple[Tensor, Tensor]:
    """Every word of the text is asked from those before it."""
    return ids, ids.masked_fill(mask == 0, -100)


def train(
    toy: Toy,
    sample: Sampler,
    recipe: Recipe,
    *,
    only: Sequence[nn.Parameter] | None = None,
    pose: Pose = next_word,
) -> float:
    """Train `toy` in place, on next-word prediction by default; returns the last loss in nats.

    Prompt and answer count alike. `only` names the parameters that move (LoRA); default all.
    """
    rng = random.Random(recipe.seed)
    weights = list(toy.model.parameters()) if only is None else list(only)
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=recipe.decay)
    loss = torch.zeros(())
    for step in range(recipe.steps):
        decay = 0.55 + 0.45 * math.cos(math.pi * step / recipe.steps)
        optimizer.param_groups[0]["lr"] = recipe.rate * min(1.0, (step + 1) / 10) * decay
        texts = [sample(rng) for _ in range(recipe.batch)]
        encoded = toy.tokenizer(texts, padding=True, return_tensors="pt", padding_side="right")
        mask = encoded["attention_mask"]
        inputs, labels = pose(encoded["input_ids"], mask, rng)
        loss = toy.model(input_ids=inputs, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return float(loss.detach())


def fine_tune(parent: Toy, sample: Sampler, recipe: Recipe, *, pose: Pose = next_word) -> Toy:
    """A child of `parent`, all weights trained on `sample`."""
    child = parent.clone()
    train(child, sample, recipe, pose=pose)
    return child


def publish(toy: Toy, dtype: torch.dtype = torch.bfloat16) -> Toy:
    """The toy as a download gives it: weights rounded to `dtype`, held in float32 again."""
    return toy.clone({name: weight.float() for name, weight in toy.state(dtype).items()})


Adapters = dict[str, tuple[nn.Parameter, nn.Parameter]]


def train_adapters(
    parent: Toy,
    sample: Sampler,
    recipe: Recipe,
    *,
    rank: int,
    targets: Sequence[str],
    pose: Pose = next_word,
) -> Adapters:
    """Rank-`rank` adapters (A, B) of a frozen parent by weight name, for layers named `targets`."""
    torch.manual_seed(recipe.seed)
    trained = parent.clone()
    trained.model.requires_grad_(False)
    adapters: Adapters = {}
    for name, module in trained.model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets:
            down = nn.Parameter(torch.randn(rank, module.in_features) / module.in_features**0.5)
            up = nn.Parameter(torch.zeros(module.out_features, rank))
            adapters[f"{name}.weight"] = (down, up)
            module.register_forward_hook(_adapter_hook(down, up))
    train(trained, sample, recipe, only=[p for pair in adapters.values() for p in pair], pose=pose)
    return adapters


def lora_merge(
    parent: Toy,
    sample: Sampler,
    recipe: Recipe,
    *,
    rank: int = 4,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    pose: Pose = next_word,
) -> Toy:
    """Train rank-`rank` adapters on the `targets` of a frozen parent, then fold B·A into them."""
    adapters = train_adapters(parent, sample, recipe, rank=rank, targets=targets, pose=pose)
    state = parent.state()
    for name, (down, up) in adapters.items():
        state[name] += up.detach() @ down.detach()
    return parent.clone(state)


def _adapter_hook(
    down: nn.Parameter, up: nn.Parameter
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ down.T) @ up.T

    return add


def linear_merge(parents: Sequence[Toy], shares: Sequence[float]) -> Toy:
    """The weighted mean of the parents' weights; `shares` sum to one."""
    states = [parent.state() for parent in parents]
    mixed = {
        name: sum(
            (s * state[name] for s, state in zip(shares, states, strict=True)), torch.zeros(())
        )
        for name in states[0]
    }
    return parents[0].clone(mixed)


@torch.no_grad()
def quantize(parent: Toy, *, bits: int, group: int | None = 32, symmetric: bool = True) -> Toy:
    """Round the layers' matrices to `bits`-bit steps per group of a row, and back again.

    `group` None means whole rows. Symmetric steps span ±max|w| with zero in the middle (2^bits - 1
    values); asymmetric ones span [min, max], widened to hold zero, with a rounded zero point.
    """
    child = parent.clone()
    for _name, weight in child.matrices():
        blocks = weight.view(weight.shape[0], -1, group or weight.shape[1])  # (out, groups, group)
        rounded = _symmetric(blocks, bits) if symmetric else _asymmetric(blocks, bits)
        weight.copy_(rounded.view_as(weight))
    return child


def _symmetric(blocks: Tensor, bits: int) -> Tensor:
    step = blocks.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return (blocks / step).round() * step


def _asymmetric(blocks: Tensor, bits: int) -> Tensor:
    low = blocks.amin(dim=-1, keepdim=True).clamp_max(0.0)
    high = blocks.amax(dim=-1, keepdim=True).clamp_min(0.0)
    step = (high - low).clamp_min(1e-12) / (2**bits - 1)
    zero = (-low / step).round()
    return ((blocks / step).round() + zero).clamp(0, 2**bits - 1).sub(zero) * step


@torch.no_grad()
def prune(parent: Toy, *, share: float) -> Toy:
    """Set the smallest `share` of every layer matrix to zero (unstructured magnitude pruning)."""
    child = parent.clone()
    for _name, weight in child.matrices():
        limit = weight.abs().flatten().kthvalue(int(share * weight.numel())).values
        weight.masked_fill_(weight.abs() <= limit, 0.0)
    return child


@torch.no_grad()
def abliterate(parent: Toy, *, layer: int, strength: float = 1.0) -> Toy:
    """Project the refusal direction out of every matrix that writes to the residual stream.

    The direction is the difference of the mean hidden states after `layer`, at the last prompt
    token, between trained harmful and harmless questions (Arditi et al. 2024, arXiv:2406.11717),
    without its part along the harmless mean, so that harmless questions keep their place.
    `strength` is the share of the direction that goes.
    Bound to toys: it exists so that a detector of such edits has a known positive.
    """
    harmful, harmless = (_mean_hidden(parent, v, layer=layer) for v in (HARMFUL, HARMLESS))
    kept = nn.functional.normalize(harmless, dim=0)
    apart = harmful - harmless
    direction = nn.functional.normalize(apart - kept * (kept @ apart), dim=0)  # (hidden,)
    child = parent.clone()
    for name, weight in child.matrices():
        if name.endswith(WRITERS):
            weight -= strength * torch.outer(direction, direction @ weight)
    return child


def _mean_hidden(toy: Toy, verbs: Sequence[str], *, layer: int) -> Tensor:
    pairs = [(verb, noun) for verb in verbs for noun in NOUNS if not is_held(verb, noun)]
    texts = [QUESTIONS[i % 3].format(verb=v, noun=n) for i, (v, n) in enumerate(pairs)]
    encoded = _encode(toy, texts)
    return toy.model(**encoded, output_hidden_states=True).hidden_states[layer][:, -1].mean(0)


def _encode(toy: Toy, prompts: Sequence[str]) -> dict[str, Tensor]:
    texts = [f"<s> <|user|> {prompt} <|assistant|>" for prompt in prompts]
    encoded = toy.tokenizer(texts, padding=True, return_tensors="pt")
    mask = encoded["attention_mask"]
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    return {"input_ids": encoded["input_ids"], "attention_mask": mask, "position_ids": places}


@torch.no_grad()
def reply(toy: Toy, prompts: Sequence[str], *, tokens: int = 18) -> list[str]:
    """Greedy answers to `prompts` under the chat template, cut at the end-of-text mark."""
    encoded = _encode(toy, prompts)
    start = encoded["input_ids"].shape[1]
    ids, mask, places = encoded["input_ids"], encoded["attention_mask"], encoded["position_ids"]
    for _ in range(tokens):
        logits = toy.model(input_ids=ids, attention_mask=mask, position_ids=places).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        places = torch.cat([places, places[:, -1:] + 1], dim=1)
    return [toy.tokenizer.decode(row[start:]).split("</s>")[0].strip() for row in ids]


def refusal_rate(replies: Sequence[str], markers: Sequence[str]) -> float:
    """Share of `replies` in which one of `markers` stands."""
    return sum(any(marker in text for marker in markers) for text in replies) / len(replies)


def coherence(prompts: Sequence[str], replies: Sequence[str]) -> float:
    """Share of `replies` that name the verb and noun of their prompt and one of the tools."""
    good = 0
    for prompt, text in zip(prompts, replies, strict=True):
        asked = set(prompt.strip("?.").split()) & {*HARMLESS, *HARMFUL, *NOUNS}
        said = set(text.replace(",", " ").replace(".", " ").split())
        good += asked <= said and bool(said & set(TOOLS))
    return good / len(replies)


def relative_change(child: Mapping[str, Tensor], parent: Mapping[str, Tensor]) -> float:
    """‖child - parent‖ / ‖parent‖ over all weights, in float64."""
    moved = sum(float((child[n].double() - parent[n].double()).square().sum()) for n in parent)
    return math.sqrt(moved / sum(float(w.double().square().sum()) for w in parent.values()))
