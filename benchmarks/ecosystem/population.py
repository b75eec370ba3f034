"""Millions of synthetic models: who they are, whom they claim, and how nights change them.

Shares of relations, cards, formats and gates are those measured on the real Hub (a parent is
claimed by 30 % of models: 42 % adapters, 33 % fine-tunes, 18 % quantized, 7 % merges; two in three
have a card; trees are shallow). Everything follows from the model's number and the seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

FIRST = datetime(2022, 3, 2, tzinfo=UTC)
STEP = timedelta(seconds=40)
NONE, ADAPTER, FINETUNE, QUANTIZED, MERGE = range(5)
RELATIONS = ("", "adapter", "finetune", "quantized", "merge")
SHARES = (0.70, 0.126, 0.099, 0.053, 0.022)
FORMATS = ("safetensors", "gguf", "torch", "none")
FORMAT_SHARES = (0.62, 0.12, 0.14, 0.12)
FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM", "GemmaForCausalLM")
ROOTS = 2_000


@dataclass(slots=True)
class Population:
    """All models of a simulated Hub; `version`, `name_of` and the sets change from night to night.

    `order` holds what was modified after the beginning, newest last: (time, model).
    """

    size: int
    seed: int = 0
    step: timedelta = STEP
    relation: NDArray[np.uint8] = field(init=False)
    parent: NDArray[np.int32] = field(init=False)
    format: NDArray[np.uint8] = field(init=False)
    downloads: NDArray[np.int32] = field(init=False)
    version: dict[int, int] = field(default_factory=dict)
    renamed: dict[int, int] = field(default_factory=dict)
    gated: dict[int, bool] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    order: list[tuple[datetime, int]] = field(default_factory=list)
    modified: dict[int, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._grow(self.size, np.random.default_rng(self.seed))

    def _grow(self, size: int, chance: np.random.Generator) -> None:
        relation = chance.choice(5, size=size, p=SHARES).astype(np.uint8)
        # Few models have most of the children: a parent is an early one, more often a root.
        limit = np.maximum(1, np.arange(size))
        near = (limit * chance.random(size) ** 8).astype(np.int32)
        most = min(ROOTS, size // 10 + 1)
        roots = chance.zipf(1.3, size).clip(1, most).astype(np.int32) - 1
        parent = np.where(chance.random(size) < 0.8, np.minimum(roots, limit - 1), near)
        relation[:most] = NONE
        kinds = chance.choice(4, size=size, p=FORMAT_SHARES).astype(np.uint8)
        downloads = (chance.pareto(0.6, size) * 10).clip(0, 2**30).astype(np.int32)
        self.relation, self.parent, self.format = relation, parent.astype(np.int32), kinds
        self.downloads = downloads

    def created(self, model: int) -> datetime:
        """When a model appeared."""
        return FIRST + self.step * model

    def last_modified(self, model: int) -> datetime:
        """When it last changed."""
        return self.modified.get(model) or self.created(model)

    def name(self, model: int) -> str:
        """`user/model` now."""
        again = self.renamed.get(model, 0)
        return f"user{model % 99_991}/model-{model}" + (f"-r{again}" if again else "")

    def sha(self, model: int) -> str:
        """The commit it stands at."""
        return f"{model:032x}{self.version.get(model, 0):08x}"

    def identity(self, model: int) -> str:
        """The `_id` that outlives renames."""
        return f"{model:024x}"

    def item(self, model: int) -> str:
        """One entry of the listing, JSON."""
        relation, name = int(self.relation[model]), self.name(model)
        kind = FORMATS[self.format[model]]
        family = FAMILIES[model % len(FAMILIES)]
        tags = ["transformers", kind, "text-generation", "conversational", "en", "license:mit"]
        card = '{"license":"mit","language":["en"],"pipeline_tag":"text-generation"}'
        files = _FILES[kind]
        config = f'{{"architectures":["{family}"],"model_type":"llama"}}'
        if relation != NONE:
            base = self.name(int(self.parent[model]))
            tags += [f"base_model:{base}", f"base_model:{RELATIONS[relation]}:{base}"]
            card = f'{{"license":"mit","base_model":"{base}","language":["en"]}}'
        if relation == ADAPTER:
            files = _FILES["adapter"]
            config = f'{{"peft":{{"base_model_name_or_path":"{base}","task_type":"CAUSAL_LM"}}}}'
        elif model % 3 == 0 and relation == NONE:
            card = "{}"
        gate = '"auto"' if self.gated.get(model, model % 33 == 0) else "false"
        return (
            f'{{"_id":"{self.identity(model)}","id":"{name}","sha":"{self.sha(model)}",'
            f'"createdAt":"{_stamp(self.created(model))}",'
            f'"lastModified":"{_stamp(self.last_modified(model))}",'
            f'"tags":{json.dumps(tags)},"cardData":{card},"config":{config},"siblings":{files},'
            f'"gated":{gate},"disabled":false,"library_name":"transformers",'
            f'"downloads":{self.downloads[model]}}}'
        )

    def newest_first(self, start: int, limit: int) -> tuple[list[int], int | None]:
        """Models in the order of `createdAt` from a position; the position after them."""
        found: list[int] = []
        at = start
        while at >= 0 and len(found) < limit:
            if at not in self.deleted:
                found.append(at)
            at -= 1
        return found, at if at >= 0 else None

    def modified_first(self, start: int, limit: int) -> tuple[list[int], int | None]:
        """As `newest_first` by `lastModified`: what changed since the beginning, then the rest."""
        live = [m for t, m in reversed(self.order) if self.modified.get(m) == t]
        live = [m for m in live if m not in self.deleted]
        found = live[start : start + limit]
        at = start + len(found)
        changed = set(self.modified)
        while len(found) < limit:
            model = self.size - 1 - (at - len(live))
            if model < 0:
                return found, None
            if model not in self.deleted and model not in changed:
                found.append(model)
            at += 1
        return found, at

    def night(self, number: int, *, added: int, edited: int, renamed: int, removed: int) -> None:
        """Let one day pass: additions, edits (some gate flips among them), renames, deletions."""
        chance = np.random.default_rng((self.seed, number))
        before = self.size
        self._extend(added, chance)
        moment = self.created(self.size - 1)
        for model in chance.choice(before, size=edited, replace=False).tolist():
            moment += timedelta(milliseconds=7)
            self.version[model] = self.version.get(model, 0) + 1
            if model % 20 == 0:
                self.gated[model] = not self.gated.get(model, model % 33 == 0)
            self.modified[model] = moment
            self.order.append((moment, model))
        for model in chance.choice(before, size=renamed, replace=False).tolist():
            moment += timedelta(milliseconds=7)
            self.renamed[model] = self.renamed.get(model, 0) + 1
            self.modified[model] = moment
            self.order.append((moment, model))
        self.deleted.update(chance.choice(before, size=removed, replace=False).tolist())

    def _extend(self, added: int, chance: np.random.Generator) -> None:
        old = (self.relation, self.parent, self.format, self.downloads)
        self._grow(added, chance)
        fresh = (self.relation, self.parent, self.format, self.downloads)
        joined = [np.concatenate(pair) for pair in zip(old, fresh, strict=True)]
        self.relation, self.parent, self.format, self.downloads = joined
        self.size += added


def _siblings(*names: str) -> str:
    return json.dumps([{"rfilename": name} for name in names])


_COMMON = (".gitattributes", "README.md", "config.json", "generation_config.json")
_TOKENS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_FILES = {
    "safetensors": _siblings(*_COMMON, "model.safetensors", *_TOKENS),
    "gguf": _siblings(".gitattributes", "README.md", *(f"m-Q{q}_K.gguf" for q in range(2, 7))),
    "torch": _siblings(*_COMMON, "pytorch_model.bin", *_TOKENS),
    "none": _siblings(".gitattributes", "README.md"),
    "adapter": _siblings("README.md", "adapter_config.json", "adapter_model.safetensors", *_TOKENS),
}


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
