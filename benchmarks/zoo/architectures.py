"""The three architectures of the zoo: how each is created, asked, and laid out in its weights."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from toy_language import World
from toys import Pose, Toy, next_word
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

LAYERS: Final = 4
MASKED: Final = 0.3
_UNKNOWN: Final = 1

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the parts of an architecture stand in its weights.

    `layer` is the prefix of one layer, with `{}` for its index; the names of `mlp_in`, `mlp_out`,
    `heads_in` and `heads_out` follow it. Rows of `heads_in` and columns of `heads_out` fall into
    equal blocks, one a group of heads. `tied` names are stored under another name.
    """

    model: type[PreTrainedModel]
    layer: str
    embedding: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    heads_in: tuple[str, ...]
    heads_out: str
    attention: tuple[str, ...]
    every: tuple[str, ...]
    tied: tuple[str, ...] = ()
    pose: Pose = next_word

    def name(self, layer: int, part: str) -> str:
        """The weight of `part` in layer `layer`."""
        return f"{self.layer.format(layer)}{part}.weight"

    def groups(self, config: PretrainedConfig) -> int:
        """Groups of heads that can change places: key-value heads."""
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def masked_words(ids: Tensor, mask: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """A share `MASKED` of the words is hidden behind the unknown word and asked for."""
    draw = torch.Generator().manual_seed(rng.randrange(2**31))
    asked = (torch.rand(ids.shape, generator=draw) < MASKED) & (mask == 1)
    return ids.masked_fill(asked, _UNKNOWN), ids.masked_fill(~asked, -100)


LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout(
        model=LlamaForCausalLM,
        layer="model.layers.{}.",
        embedding="model.embed_tokens.weight",
        mlp_in=("mlp.gate_proj", "mlp.up_proj"),
        mlp_out="mlp.down_proj",
        heads_in=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        heads_out="self_attn.o_proj",
        attention=("q_proj", "v_proj"),
        every=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
    "neox": Layout(
        model=GPTNeoXForCausalLM,
        layer="gpt_neox.layers.{}.",
        embedding="gpt_neox.embed_in.weight",
        mlp_in=("mlp.dense_h_to_4h",),
        mlp_out="mlp.dense_4h_to_h",
        heads_in=("attention.query_key_value",),
        heads_out="attention.dense",
        attention=("query_key_value",),
        every=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "encoder": Layout(
        model=BertForMaskedLM,
        layer="bert.encoder.layer.{}.",
        embedding="bert.embeddings.word_embeddings.weight",
        mlp_in=("intermediate.dense",),
        mlp_out="output.dense",
        heads_in=("attention.self.query", "attention.self.key", "attention.self.value"),
        heads_out="attention.output.dense",
        attention=("query", "value"),
        every=("query", "key", "value"),
        tied=("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
        pose=masked_words,
    ),
}


def create(
    architecture: str, world: World, *, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Toy:
    """A new model of 64 hidden units, 4 layers and 4 heads, its weights drawn from `seed`.

    Raises
    ------
    KeyError : no such architecture.
    """
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 96,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "dtype": "float32",
    }
    config: PretrainedConfig = {
        "llama": lambda: LlamaConfig(
            **common, intermediate_size=160, num_key_value_heads=2, tie_word_embeddings=False
        ),
        "neox": lambda: GPTNeoXConfig(
            **common, intermediate_size=256, tie_word_embeddings=False, rotary_pct=0.5
        ),
        "encoder": lambda: BertConfig(**common, intermediate_size=192),
    }[architecture]()
    model = LAYOUTS[architecture].model
    config.architectures = [model.__name__]
    torch.manual_seed(seed)
    return Toy(model=model(config).eval(), tokenizer=tokenizer, world=world)


def layout_of(toy: Toy) -> Layout:
    """The layout of a toy's architecture."""
    return next(item for item in LAYOUTS.values() if item.model is type(toy.model))


def targets_of(layout: Layout, wanted: str) -> Sequence[str]:
    """Layer names that adapters go to: `attention` (q, v), `query-key` or `every`."""
    if wanted == "query-key":
        return ("q_proj", "k_proj") if "q_proj" in layout.every else layout.attention
    return layout.attention if wanted == "attention" else layout.every
