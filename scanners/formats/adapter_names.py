"""What the tensors of an adapter are called, and which tensor of which model each one changes.

Trainers have names of their own. peft keeps the module's name between a prefix and the matrix;
kohya's sd-scripts puts underscores for its dots, and the part of the pipeline before it; diffusers
writes the part with a dot, and in older files the attention processor in between.

References
----------
peft; kohya-ss/sd-scripts `networks/lora.py`; diffusers `loaders/lora_conversion_utils.py`; LyCORIS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

DENOISER = ""
"""The part that an adapter of a language model, or of a pipeline's denoiser, belongs to."""

_LAYOUTS = (
    ("peft", re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")),
    ("kohya", re.compile(r"(.+)\.lora_(down|up)\.weight")),
    ("diffusers-lora", re.compile(r"(.+)\.lora\.(down|up)\.weight")),
    ("diffusers-lora", re.compile(r"(.+)_lora\.(down|up)\.weight")),
    ("mlx-adapter", re.compile(r"(.+)\.lora_([ab])")),
)
_SIDES = {"A": "in", "a": "in", "down": "in", "B": "out", "b": "out", "up": "out"}
_MAGNITUDE = re.compile(r"(.+)\.(?:lora_magnitude_vector|dora_scale)(?:\.[^.]+)?(?:\.weight)?")
_ALPHA = ".alpha"
_OTHER_KINDS: Mapping[str, re.Pattern[str]] = {
    "loha": re.compile(r"\.hada_[wt]\d"),
    "lokr": re.compile(r"\.lokr_[wt]\d"),
    "ia3": re.compile(r"\.ia3_l\b"),
    "oft": re.compile(r"\.oft_(r|R|blocks|diag)\b"),
    "vera": re.compile(r"\bvera_(A|B|lambda_[bd])\b"),
}
_KOHYA_PARTS: Mapping[str, str] = {
    "lora_unet": DENOISER,
    "lora_transformer": DENOISER,
    "lora_prior_unet": DENOISER,
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
    "lora_te3": "text_encoder_3",
}
_DIFFUSERS_PARTS: Mapping[str, str] = {
    "unet": DENOISER,
    "transformer": DENOISER,
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
}
_COMPOUNDS = (
    *("down_blocks", "up_blocks", "mid_block", "transformer_blocks", "single_transformer_blocks"),
    *("double_blocks", "single_blocks", "input_blocks", "middle_block", "output_blocks"),
    *("to_q", "to_k", "to_v", "to_out", "to_add_out", "add_q_proj", "add_k_proj", "add_v_proj"),
    *("proj_in", "proj_out", "proj_mlp", "time_emb_proj", "time_embedding", "conv_shortcut"),
    *("conv_in", "conv_out", "linear_1", "linear_2", "ff_context", "norm1_context"),
    *("img_attn", "txt_attn", "img_mlp", "txt_mlp", "img_mod", "txt_mod", "emb_layers"),
    *("text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "skip_connection"),
)
_WORDS = re.compile("|".join(sorted(_COMPOUNDS, key=len, reverse=True)) + r"|[^_]+")
# Blocks as the first release of Stable Diffusion counts them: three to a resolution.
_INPUT = re.compile(r"input_blocks\.(\d{1,2})\.1\.")
_MIDDLE = "middle_block.1."
_OUTPUT = re.compile(r"output_blocks\.(\d{1,2})\.1\.")
_PER_LEVEL = 3


class AdapterTensor(NamedTuple):
    """One tensor of an adapter.

    `part` of a pipeline; `module` of it, as the base names it; `side`: "in", "out", "magnitude"
    or "alpha"; `layout`: whose names these are, "" for sides that all layouts share.
    """

    part: str
    module: str
    side: str
    layout: str


def adapter_tensor(name: str) -> AdapterTensor | None:
    """What a stored name says; None for a tensor that is no part of a low-rank change."""
    for layout, pattern in _LAYOUTS:
        if found := pattern.fullmatch(name):
            return AdapterTensor(*_module(found[1]), _SIDES[found[2]], layout)
    if found := _MAGNITUDE.fullmatch(name):
        return AdapterTensor(*_module(found[1]), "magnitude", "")
    if name.endswith(_ALPHA):
        return AdapterTensor(*_module(name.removesuffix(_ALPHA)), "alpha", "")
    return None


def other_kind(names: Iterable[str]) -> str | None:
    """An adapter of another kind than low rank: loha, lokr, ia3, oft or vera; None for none."""
    for name in names:
        for kind, pattern in _OTHER_KINDS.items():
            if pattern.search(name):
                return kind
    return None


def _module(stem: str) -> tuple[str, str]:
    """(part, module) of what stands before a matrix's name."""
    first, _, rest = stem.partition(".")
    if not rest:
        for prefix in sorted(_KOHYA_PARTS, key=len, reverse=True):
            if stem.startswith(prefix + "_"):
                return _KOHYA_PARTS[prefix], _dotted(stem.removeprefix(prefix + "_"))
    stem = stem.removeprefix("base_model.model.")
    if rest and first in _DIFFUSERS_PARTS and _is_pipeline(rest):
        return _DIFFUSERS_PARTS[first], _diffusers(rest)
    return DENOISER, stem


def _is_pipeline(rest: str) -> bool:
    """Whether a name goes on as diffusers models do: GPT-2's `transformer.h.0` does not."""
    stems = (
        "down_",
        "up_",
        "mid_",
        "transformer_",
        "single_",
        "text_model.",
        "encoder.",
        "blocks.",
    )
    return rest.startswith(stems) or "." not in rest


def _diffusers(module: str) -> str:
    """The module's name in the model: without the processor, with the list of the output."""
    plain = module.replace(".processor.", ".")
    return plain + ".0" if plain.endswith(".to_out") else plain


def _dotted(flat: str) -> str:
    """A module's name with its dots: known words with an underscore are kept whole."""
    dotted = ".".join(_WORDS.findall(flat))
    dotted = dotted.replace(_MIDDLE, "mid_block.attentions.0.")
    dotted = _INPUT.sub(lambda m: _level("down_blocks", int(m[1]) - 1), dotted)
    return _OUTPUT.sub(lambda m: _level("up_blocks", int(m[1])), dotted)


def _level(blocks: str, at: int) -> str:
    return f"{blocks}.{at // _PER_LEVEL}.attentions.{at % _PER_LEVEL}."
