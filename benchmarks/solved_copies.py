"""Write copies of a zoo's models that a real solver packed: GPTQ and AWQ of llm-compressor.

    python benchmarks/solved_copies.py ZOO OUT [--models N] [--kinds gptq-4,awq-4,...]

Needs `llmcompressor` (CPU is enough), which pins versions of its own: run it in an environment of
its own; nothing of modelkin is imported. Calibrated on sequences that each model samples itself.
OUT gets one repository a copy, `org/name--KIND`, and `sources.json`: {copy: source}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.awq import AWQModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

NO_SOURCES = frozenset({"copy", "quantize", "permute", "prune", "lora-adapter"})
SAMPLES, LENGTH, GROUP = 64, 64, 32


def scheme(bits: int, *, symmetric: bool, actorder: str | None = None) -> dict[str, Any]:
    """A weight-only scheme of one group of modules."""
    weights = {
        **{"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group"},
        **{"group_size": GROUP, "actorder": actorder},
    }
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def recipes() -> dict[str, Any]:
    """What packs a model, by the name of the kind."""
    kept = ["lm_head"]
    plain = {
        f"gptq-{bits}": GPTQModifier(
            ignore=kept, config_groups=scheme(bits, symmetric=True), dampening_frac=0.01
        )
        for bits in (8, 4, 3, 2)
    }
    ordered = scheme(4, symmetric=True, actorder="weight")
    return {
        **plain,
        "gptq-4-act": GPTQModifier(ignore=kept, config_groups=ordered, dampening_frac=0.01),
        "awq-4": AWQModifier(ignore=kept, config_groups=scheme(4, symmetric=False)),
        "awq-4-symmetric": AWQModifier(ignore=kept, config_groups=scheme(4, symmetric=True)),
        "awq-3": AWQModifier(ignore=kept, config_groups=scheme(3, symmetric=False)),
    }


def sources(zoo: Path) -> Iterator[str]:
    """Llama-shaped models that are no copy of another."""
    for name, told in json.loads((zoo / "truth.json").read_text()).items():
        config = zoo / name / "config.json"
        if told["how"] in NO_SOURCES or not config.is_file():
            continue
        if json.loads(config.read_text()).get("architectures") == ["LlamaForCausalLM"]:
            yield name


def calibration(model: Any) -> DataLoader[dict[str, torch.Tensor]]:
    """Sequences that the model samples, beginning with each a token of its own."""
    first = torch.arange(SAMPLES)[:, None] % model.config.vocab_size
    torch.manual_seed(0)
    with torch.no_grad():
        ids = model.generate(
            first,
            attention_mask=torch.ones_like(first),
            do_sample=True,
            max_length=LENGTH,
            min_length=LENGTH,
            pad_token_id=0,
        )
    whole = torch.ones_like(ids[:1])
    return DataLoader([{"input_ids": row, "attention_mask": whole[0]} for row in ids])


def write(zoo: Path, name: str, kind: str, out: Path) -> str:
    """Pack one model; the name of the copy."""
    # Nothing to pin memory for without an accelerator, and AWQ asks without looking.
    torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign]
    model = AutoModelForCausalLM.from_pretrained(zoo / name, dtype=torch.float32)
    oneshot(
        model=model,
        dataset=calibration(model),
        # Asked for, and not used: the sequences are numbers already.
        processor=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"": 0}, ""))),
        recipe=recipes()[kind],
        num_calibration_samples=SAMPLES,
        max_seq_length=LENGTH,
        pipeline="basic",
    )
    copy = f"packed/{name.replace('/', '--')}--{kind}"
    model.to(torch.float16).save_pretrained(out / copy, save_compressed=True)
    return copy


def main() -> None:
    """Write the copies, and whose they are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--kinds", default=",".join(recipes()))
    asked = parser.parse_args()
    names = list(sources(asked.zoo))
    chosen = names[:: max(1, len(names) // asked.models)][: asked.models]
    kinds = asked.kinds.split(",")
    whose = {write(asked.zoo, name, kind, asked.out): name for name in chosen for kind in kinds}
    (asked.out / "sources.json").write_text(json.dumps(whose, indent=1))


if __name__ == "__main__":
    main()
