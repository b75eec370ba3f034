"""Writes a zoo: repositories as a Hub holds them, creation times and the truth."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from toys import Adapters

from .architectures import layout_of
from .makers import WORDS, Made, Workshop
from .menus import ALL, draw_items
from .plan import Item, dates, in_order, names

_SAYINGS = (
    "Weights and configuration; see the files.",
    "A small assistant for everyday questions.",
    "Experimental. Feedback is welcome.",
    "Second release with better answers.",
    "Made over a long weekend.",
    "",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The items of a zoo in the order of publication, each with its public name and its time."""

    items: tuple[Item, ...]
    names: Mapping[str, str]
    created: Mapping[str, int]
    declared: Mapping[str, tuple[str, ...]]


def draw_plan(seed: int, *, small: bool = False, only: Collection[str] = ALL) -> Plan:
    """Everything about a zoo that is known before it is trained.

    Raises
    ------
    ValueError : `only` names an unknown architecture.
    """
    draw = random.Random(f"{seed}/plan")
    items = in_order(draw_items(seed, small=small, only=only), draw)
    public = dict(zip((item.key for item in items), names(len(items), draw), strict=True))
    created = dict(zip(public, dates(len(items), draw), strict=True))
    declared = {
        item.key: _declared(item, items[:at], public, draw) for at, item in enumerate(items)
    }
    return Plan(items=tuple(items), names=public, created=created, declared=declared)


def _declared(
    item: Item, before: list[Item], public: Mapping[str, str], draw: random.Random
) -> tuple[str, ...]:
    """What a repository says it comes from: the truth, nothing, or some other model."""
    if item.hidden:
        return ()
    if item.maker == "adapter" or item.card == "true":
        return tuple(public[key] for key in item.parents)
    others = [other for other in before if other.key not in item.parents and not other.hidden]
    if item.card == "none" or not others:
        return ()
    near = [other for other in others if other.root == item.root]
    pool = near if near and draw.random() < 0.7 else others
    return (public[draw.choice(pool).key],)


def build(
    out: Path,
    *,
    seed: int,
    small: bool = False,
    only: Collection[str] = ALL,
    effort: float | None = None,
    log: bool = False,
) -> dict[str, Any]:
    """Train a zoo into the empty folder `out`; returns the truth that it writes there.

    Parameters
    ----------
    out : Path
        Is made if it is not there.
    seed : int
        Everything random is drawn from it.
    small, only
        As on the command line.
    effort : float, optional
        Multiplies every number of training steps; 1 for a full zoo, 0.5 for a small one.
    log : bool
        Whether to print a line a model.

    Raises
    ------
    ValueError : `only` names an unknown architecture.
    ArithmeticError : a laundered model is not its parent's function.
    """
    torch.set_num_threads(1)
    plan = draw_plan(seed, small=small, only=only)
    shop = Workshop(seed=seed, effort=effort if effort is not None else 0.5 if small else 1.0)
    truth: dict[str, Any] = {}
    for item in plan.items:
        begin = time.perf_counter()
        made = shop.make(item)
        name = plan.names[item.key]
        truth[name] = truth_row(item, plan)
        if not item.hidden:
            write_repository(out / name, item, made, plan)
        if log:
            print(f"{time.perf_counter() - begin:6.2f}s {name:40s} {item.key}", flush=True)
    published = [item for item in plan.items if not item.hidden]
    hub = {plan.names[i.key]: {"created": _iso(plan.created[i.key])} for i in published}
    write_json(out / "hub.json", hub)
    write_json(out / "truth.json", truth)
    return truth


def truth_row(item: Item, plan: Plan) -> dict[str, Any]:
    """The truth-file row of one item, in public names."""
    how, relation = WORDS[item.maker]
    detail = dict(item.options)
    if item.base is not None:
        detail["base"] = plan.names[item.base]
    shares = None if item.shares is None else {plan.names[k]: v for k, v in item.shares.items()}
    return {
        "parents": [plan.names[key] for key in item.parents],
        "shares": shares,
        "how": how,
        "relation": relation,
        "detail": detail,
        "created": plan.created[item.key],
        "hidden": item.hidden,
        "declared": list(plan.declared[item.key]),
        "family": plan.names[item.root],
        "split_class": item.split,
        "architecture": item.architecture,
        "dtype": item.dtype,
        "refusal_harmful": None,
        "refusal_harmless": None,
    }


def write_repository(home: Path, item: Item, made: Made, plan: Plan) -> None:
    """Write one repository: weights, configuration and card."""
    home.mkdir(parents=True)
    (home / "README.md").write_text(_card(item, plan), encoding="utf-8")
    if made.adapters is not None:
        _write_adapter(home, item, made.adapters, parent=plan.names[item.parents[0]])
        return
    dtype = getattr(torch, item.dtype)
    tied = layout_of(made.toy).tied
    state = {name: w for name, w in made.toy.state(dtype).items() if name not in tied}
    write_weights(home, state, shards=item.shards)
    config = made.toy.model.config.to_diff_dict() | {
        "architectures": [type(made.toy.model).__name__],
        "torch_dtype": item.dtype,
    }
    for volatile in ("dtype", "transformers_version"):
        config.pop(volatile, None)
    write_json(home / "config.json", config)


def write_weights(home: Path, state: Mapping[str, Tensor], *, shards: int) -> None:
    """Write a state as one safetensors file, or as `shards` files and their index."""
    ordered = sorted(state)
    if shards == 1:
        _save({name: state[name] for name in ordered}, home / "model.safetensors")
        return
    where = {name: at * shards // len(ordered) for at, name in enumerate(ordered)}
    files = [f"model-{at + 1:05d}-of-{shards:05d}.safetensors" for at in range(shards)]
    for at, file in enumerate(files):
        _save({name: state[name] for name in ordered if where[name] == at}, home / file)
    size = sum(weight.nbytes for weight in state.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": {name: files[where[name]] for name in ordered},
    }
    write_json(home / "model.safetensors.index.json", index)


def _save(state: dict[str, Tensor], path: Path) -> None:
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _write_adapter(home: Path, item: Item, adapters: Adapters, *, parent: str) -> None:
    """The two files of a PEFT adapter."""
    state = {}
    for name, (down, up) in adapters.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        state[f"{stem}.lora_A.weight"] = down.detach().clone()
        state[f"{stem}.lora_B.weight"] = up.detach().clone()
    _save(state, home / "adapter_model.safetensors")
    rank = item.options["rank"]
    modules = sorted({name.split(".")[-2] for name in adapters})
    config = {
        "base_model_name_or_path": parent,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
    }
    write_json(home / "adapter_config.json", config)


def _card(item: Item, plan: Plan) -> str:
    lines = ["---", "license: apache-2.0"]
    if declared := plan.declared[item.key]:
        lines += ["base_model:", *(f"- {name}" for name in declared)]
    title = plan.names[item.key].partition("/")[2]
    saying = _SAYINGS[item.seed % len(_SAYINGS)]
    return "\n".join([*lines, "---", "", f"# {title}", "", saying, ""])


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
