"""What probing costs beyond a bare `model.generate` loop over the same prompts and batch.

    python benchmarks/probe_speed.py [FOLDER] [--prompts FILE] [--copies 3] [--rounds 7]

A chat model (by default the released one of the demo) answers its prompts with the `transformers`
backend of the probes, with the whole refusal probe (replies graded, a judge taught on them), and
with a plain loop: template, tokenize, pad, `generate`, decode, in batches of the same size. The
three take turns in one process, so that whatever else the machine does meets them alike; a ratio
is of one turn to the bare loop of the same round. The replies must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelkin.scanners.probes.judging import Judges
from modelkin.scanners.probes.prompt_sets import load_prompt_set
from modelkin.scanners.probes.refusal import MAX_NEW_TOKENS, run_refusal
from modelkin.scanners.probes.transformers_backend import BATCH_SIZE, TransformersBackend

DEMO = Path(__file__).resolve().parents[1] / "dumps" / "demo-hub"
BAR = 1.3


def main() -> None:
    """Run the three in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEMO / "juniper" / "juniper-chat")
    parser.add_argument("--prompts", type=Path, default=DEMO / "prompts.json")
    parser.add_argument("--copies", type=int, default=3, help="times each prompt is asked")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = load_prompt_set(asked.prompts)
    prompts = replace(
        found,
        harmful=found.harmful * asked.copies,
        harmless=found.harmless * asked.copies,
        capability=(),
    )
    texts = [*prompts.harmful, *prompts.harmless]
    backend = TransformersBackend.load(asked.folder, device="cpu")
    bare = bare_loop(asked.folder)
    if backend.generate(texts, MAX_NEW_TOKENS) != bare(texts):
        raise SystemExit("the backend and the bare loop reply differently")
    run_refusal(backend, prompts=prompts, judges=Judges(learns=True))
    ways = {
        "bare": lambda: bare(texts),
        "generate": lambda: backend.generate(texts, MAX_NEW_TOKENS),
        "probe": lambda: run_refusal(backend, prompts=prompts, judges=Judges(learns=True)),
    }
    taken = [{name: seconds(way) for name, way in ways.items()} for _ in range(asked.rounds)]
    print(f"{len(texts)} prompts, {MAX_NEW_TOKENS} new tokens, batches of {BATCH_SIZE}")
    print("| way | seconds, median | ratio to bare, median | least | most |")
    print("|---|---|---|---|---|")
    for name in ways:
        ratios = sorted(one[name] / one["bare"] for one in taken)
        print(
            f"| {name} | {statistics.median(one[name] for one in taken):.2f} | "
            f"{statistics.median(ratios):.2f} | {ratios[0]:.2f} | {ratios[-1]:.2f} |"
        )
    print(f"the bar is {BAR}")


def bare_loop(folder: Path) -> Callable[[Sequence[str]], list[str]]:
    """Greedy replies as a user of transformers writes them, in the order of the prompts."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(prompts: Sequence[str]) -> list[str]:
        replies: list[str] = []
        for start in range(0, len(prompts), BATCH_SIZE):
            turns = [[{"role": "user", "content": p}] for p in prompts[start : start + BATCH_SIZE]]
            texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=MAX_NEW_TOKENS,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            width = batch["input_ids"].shape[1]
            replies += tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return replies

    return answer


def seconds(way: Callable[[], object]) -> float:
    """Wall seconds of one turn."""
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
