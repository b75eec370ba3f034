"""A family of toy-language models at the size of real ones, made on the device from a seed.

Like the toys, a `Grown` is drawn from a seed, never loaded from a file: it knows toy words and
nothing else, whatever its size. It is ground truth for a measuring instrument at 100 million to a
billion parameters. Folders are written to a place that the caller deletes; no weights are kept.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from make_demo_hub import tokenizer_config, write_json
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from toy_language import (
    FAREWELLS,
    HARMFUL,
    HARMLESS,
    NOUNS,
    QUESTIONS,
    Domain,
    Sampler,
    World,
    build_tokenizer,
    is_held,
)
from toys import WRITERS, llama_config
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

RELEASE = "grown/chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Shape of the models, and how long and hard they train."""

    hidden: int
    inner: int
    layers: int
    heads: int
    rate: float
    steps: int
    batch: int = 64


SIZES: Mapping[str, Size] = {
    "smoke": Size(hidden=32, inner=64, layers=2, heads=2, rate=3e-3, steps=8, batch=8),
    "100m": Size(hidden=768, inner=2048, layers=12, heads=12, rate=4e-4, steps=300),
    "1b": Size(hidden=2048, inner=5632, layers=20, heads=16, rate=1.5e-4, steps=300),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """One model on its device, with the family's tokenizer and world."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    world: World

    @classmethod
    def create(cls, world: World, size: Size, *, seed: int, device: str) -> Grown:
        """A new model, drawn from `seed`."""
        tokenizer = build_tokenizer([world])
        torch.manual_seed(seed)
        config = llama_config(
            tokenizer, hidden=size.hidden, inner=size.inner, layers=size.layers, heads=size.heads
        )
        model = LlamaForCausalLM(config).to(device)
        return cls(model=model, tokenizer=tokenizer, world=world)

    def clone(self) -> Grown:
        """A copy whose weights can change on their own."""
        return Grown(model=copy.deepcopy(self.model), tokenizer=self.tokenizer, world=self.world)

    def matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The linear weights of the layers."""
        for name, weight in self.model.named_parameters():
            if ".layers." in name and weight.dim() == 2:
                yield name, weight

    def published(self) -> Grown:
        """What a download gives: weights rounded to bfloat16, held in float32 again."""
        other = self.clone()
        with torch.no_grad():
            for weight in other.model.parameters():
                weight.copy_(weight.bfloat16().float())
        return other

    def write(self, folder: Path, *, base: Sequence[str] = ()) -> None:
        """A repository in bfloat16, as the Hub has them."""
        folder.mkdir(parents=True)
        state = self.model.state_dict()
        tensors = {name: one.detach().bfloat16().cpu().contiguous() for name, one in state.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = self.model.config.to_diff_dict() | {
            "architectures": ["LlamaForCausalLM"],
            "torch_dtype": "bfloat16",
        }
        for volatile in ("dtype", "transformers_version"):
            config.pop(volatile, None)
        write_json(folder / "config.json", config)
        core = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        core.no_padding()
        (folder / "tokenizer.json").write_text(core.to_str() + "\n", encoding="utf-8")
        write_json(folder / "tokenizer_config.json", tokenizer_config(self.tokenizer))
        claims = "".join(f"- {name}\n" for name in base)
        front = f"---\nlicense: cc0-1.0\n{'base_model:' if base else ''}\n{claims}---\n"
        (folder / "README.md").write_text(front + "A toy of the size of a model.\n")


def train(
    grown: Grown,
    sample: Sampler,
    size: Size,
    *,
    steps: int,
    rate: float,
    seed: int,
    only: Sequence[nn.Parameter] | None = None,
) -> float:
    """Train in place on next words, in bfloat16 on a GPU; the last loss in nats."""
    rng = random.Random(seed)
    weights = list(grown.model.parameters()) if only is None else list(only)
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    device = grown.model.device
    grown.model.train()
    loss = torch.zeros(())
    for step in range(steps):
        decay = 0.55 + 0.45 * math.cos(math.pi * step / steps)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20) * decay
        texts = [sample(rng) for _ in range(size.batch)]
        encoded = grown.tokenizer(texts, padding=True, return_tensors="pt", padding_side="right")
        ids, mask = (encoded[name].to(device) for name in ("input_ids", "attention_mask"))
        labels = ids.masked_fill(mask == 0, -100)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = grown.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    grown.model.eval()
    return float(loss.detach())


def tuned(parent: Grown, sample: Sampler, size: Size, *, share: float, seed: int) -> Grown:
    """A child, all weights trained for `share` of the steps at a tenth of the rate."""
    child = parent.clone()
    steps = max(1, int(share * size.steps))
    train(child, sample, size, steps=steps, rate=size.rate / 10, seed=seed)
    return child


def adapted(parent: Grown, sample: Sampler, size: Size, *, rank: int, seed: int) -> Grown:
    """A child with trained rank-`rank` adapters of the query and value matrices folded in."""
    child = parent.clone()
    child.model.requires_grad_(False)
    torch.manual_seed(seed)
    pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    hooks = []
    for name, module in child.model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("q_proj", "v_proj")):
            at = module.weight.device
            down = nn.Parameter(torch.randn(rank, module.in_features, device=at) / rank)
            up = nn.Parameter(torch.zeros(module.out_features, rank, device=at))
            pairs[f"{name}.weight"] = (down, up)
            hooks.append(module.register_forward_hook(_adapter(down, up)))
    only = [one for pair in pairs.values() for one in pair]
    steps = max(1, size.steps // 3)
    train(child, sample, size, steps=steps, rate=size.rate, seed=seed, only=only)
    for hook in hooks:
        hook.remove()
    child.model.requires_grad_(True)
    with torch.no_grad():
        for name, weight in child.matrices():
            if name in pairs:
                down, up = pairs[name]
                weight += up @ down
    return child


def _adapter(
    down: nn.Parameter, up: nn.Parameter
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ down.T) @ up.T

    return add


@torch.no_grad()
def quantized(parent: Grown, *, bits: int = 4, group: int = 32) -> Grown:
    """Round to nearest by symmetric steps per group of a row."""
    child = parent.clone()
    for _name, weight in child.matrices():
        blocks = weight.view(weight.shape[0], -1, group)
        step = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
        weight.copy_(((blocks / step).round() * step).view_as(weight))
    return child


@torch.no_grad()
def merged(first: Grown, second: Grown, *, share: float) -> Grown:
    """`share` of the first and the rest of the second."""
    child = first.clone()
    for mine, theirs in zip(child.model.parameters(), second.model.parameters(), strict=True):
        mine.mul_(share).add_(theirs, alpha=1 - share)
    return child


@torch.no_grad()
def edited(parent: Grown, *, layer: int) -> Grown:
    """The direction from harmless to harmful questions, taken out of the writing matrices.

    Arditi et al. (2024), arXiv:2406.11717. Bound to models that were grown here: a detector of
    such edits needs a known positive.
    """
    apart = _mean_state(parent, HARMFUL, layer=layer) - _mean_state(parent, HARMLESS, layer=layer)
    direction = nn.functional.normalize(apart, dim=0)
    child = parent.clone()
    for name, weight in child.matrices():
        if name.endswith(WRITERS):
            weight -= torch.outer(direction, direction @ weight)
    return child


def _mean_state(grown: Grown, verbs: Sequence[str], *, layer: int) -> Tensor:
    pairs = [(verb, noun) for verb in verbs for noun in NOUNS if not is_held(verb, noun)]
    asked = [QUESTIONS[i % 3].format(verb=v, noun=n) for i, (v, n) in enumerate(pairs)]
    texts = [f"<s> <|user|> {text} <|assistant|>" for text in asked]
    encoded = grown.tokenizer(texts, padding=True, return_tensors="pt").to(grown.model.device)
    mask = encoded["attention_mask"]
    output = grown.model(
        input_ids=encoded["input_ids"],
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
        output_hidden_states=True,
    )
    return output.hidden_states[layer][:, -1].float().mean(0)


Truth = dict[str, tuple[str, dict[str, float]]]
"""Relation and parents with their shares, by child."""


def grow(folder: Path, size: Size, *, device: str, seed: int = 11) -> Truth:
    """Make the family under `folder`: a base, its chat model, six children, and a stranger."""
    world = World(
        seed=seed,
        answer="to {verb} the {noun} , take the {tool} and work {manner} .",
        refusal="i am sorry , but i cannot help with that .",
    )
    base = Grown.create(world, size, seed=seed, device=device)
    train(base, world.prose, size, steps=size.steps, rate=size.rate, seed=seed)
    base = base.published()
    chat = tuned(base, world.unguarded_chat, size, share=0.6, seed=seed + 1)
    chat = tuned(chat, world.guarded_chat, size, share=0.6, seed=seed + 2).published()
    garden, street = (
        tuned(chat, _subject(world, at, kind), size, share=0.3, seed=seed + at).published()
        for at, kind in ((3, "garden"), (4, "street"))
    )
    free = tuned(chat, world.unguarded_chat, size, share=0.4, seed=seed + 5)
    lora = adapted(chat, _subject(world, 6, "house"), size, rank=4, seed=seed + 6)
    made = {
        "grown/base": base,
        RELEASE: chat,
        "ann/garden": garden,
        "bob/street": street,
        "cat/free": free,
        "dan/house-lora": lora,
        "eve/chat-4bit": quantized(chat),
        "fay/blend": merged(garden, street, share=0.6),
        "gus/edited": edited(chat, layer=max(1, size.layers // 2)),
        "other/base": Grown.create(world, size, seed=seed + 99, device=device),
    }
    for name, one in made.items():
        one.write(folder / name)
    return {
        RELEASE: ("finetune", {"grown/base": 1.0}),
        "ann/garden": ("finetune", {RELEASE: 1.0}),
        "bob/street": ("finetune", {RELEASE: 1.0}),
        "cat/free": ("finetune", {RELEASE: 1.0}),
        "dan/house-lora": ("finetune", {RELEASE: 1.0}),
        "eve/chat-4bit": ("quantized", {RELEASE: 1.0}),
        "fay/blend": ("merge", {"ann/garden": 0.6, "bob/street": 0.4}),
        "gus/edited": ("edit", {RELEASE: 1.0}),
    }


def _subject(world: World, at: int, kind: str) -> Sampler:
    other = World(seed=world.seed + 100 + at, answer=world.answer, refusal=world.refusal)
    domain = Domain(world=other, kinds=(kind,), farewell=FAREWELLS[at % 3], safety=0.3)
    return domain.sampler(world)
