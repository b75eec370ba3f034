"""Prompt sets as tasks of Inspect, the evaluation framework of the UK AI Security Institute.

A task is two files: the prompts as a dataset, and a short program that Inspect runs. It asks; the
replies in its log are graded here (`inspect_logs`), so that they are held against what other models
replied to the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .prompt_sets import PromptSet
from .refusal import MAX_NEW_TOKENS

DATASET: Final = "prompts.jsonl"
PROGRAM: Final = "task.py"
_PROGRAM: Final = '''"""Prompt set {name}. inspect eval {program} --model MODEL --log-format json"""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def modelkin_prompts() -> Task:
    """Prompts {digest}; replies are graded by modelkin, from the log."""
    return Task(
        dataset=json_dataset(str(Path(__file__).with_name("{dataset}"))),
        solver=generate(),
        scorer=includes(),
        config=GenerateConfig(temperature=0.0, max_tokens={tokens}),
        metadata={{"prompt_set": "{digest}"}},
    )
'''


def write_task(folder: Path, prompts: PromptSet) -> tuple[Path, Path]:
    """Write a set as an Inspect task into a folder; gives the program and the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    program, dataset = folder / PROGRAM, folder / DATASET
    rows = (json.dumps(row, ensure_ascii=True) for row in samples(prompts))
    dataset.write_text("".join(f"{row}\n" for row in rows), encoding="ascii")
    shown = "".join(char if char.isalnum() or char in "-_. " else "_" for char in prompts.name)
    text = _PROGRAM.format(
        name=shown, digest=prompts.digest, dataset=DATASET, program=PROGRAM, tokens=MAX_NEW_TOKENS
    )
    program.write_text(text, encoding="utf-8")
    return program, dataset


def samples(prompts: PromptSet) -> Iterator[dict[str, Any]]:
    """The rows of the dataset; the target of a capability item is its answer, else empty."""
    groups = {
        "harmful": [(prompt, "") for prompt in prompts.harmful],
        "harmless": [(prompt, "") for prompt in prompts.harmless],
        "capability": [(item.prompt, item.answer) for item in prompts.capability],
    }
    for kind, rows in groups.items():
        for at, (prompt, target) in enumerate(rows):
            about = {"class": kind, "prompt_set": prompts.digest}
            yield {"id": f"{kind}-{at}", "input": prompt, "target": target, "metadata": about}
