"""Small real model repositories on disk, and what a scan of them left in a registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faulty_hub import FaultyHub, drop, rate_limited, status
from hostile_safetensors import entry, pack
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tiny_chat import one_thread

from modelkin.lineage.compute import Compute
from modelkin.scanners.claims import judge_claims
from modelkin.scanners.inference import InferenceReport, infer_store
from modelkin.scanners.scan import Scanner, ScanPlan, ScanReport
from modelkin.scanners.sources.base import Source
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.loopback import HubHandler, LoopbackHub
from modelkin.store import Registry

Weights = dict[str, NDArray[np.float32]]
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
WEIGHTS = "model.safetensors"
SHARD = "model-{:05}-of-{:05}.safetensors"


class Row(NamedTuple):
    """What a scan says became of one model."""

    outcome: str
    stage: str
    path: str | None
    reason: str | None
    requests: int
    bytes: int


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def tiny_weights(seed: int | str = 0, *, hidden: int = 32, layers: int = 2) -> Weights:
    """Weights of a Llama of a few thousand parameters, drawn from a seed."""
    digest = hashlib.sha256(str(seed).encode()).digest()
    chance = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    inner, vocabulary = 2 * hidden, 40

    def draw(*shape: int) -> NDArray[np.float32]:
        return chance.normal(0, 0.1, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": draw(vocabulary, hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{at}.self_attn.{name}.weight"] = draw(hidden, hidden)
        weights[f"{at}.mlp.gate_proj.weight"] = draw(inner, hidden)
        weights[f"{at}.mlp.up_proj.weight"] = draw(inner, hidden)
        weights[f"{at}.mlp.down_proj.weight"] = draw(hidden, inner)
        weights[f"{at}.input_layernorm.weight"] = np.ones(hidden, np.float32)
        weights[f"{at}.post_attention_layernorm.weight"] = np.ones(hidden, np.float32)
    weights["model.norm.weight"] = np.ones(hidden, np.float32)
    weights["lm_head.weight"] = draw(vocabulary, hidden)
    return weights


def tuned(weights: Weights, seed: int | str, *, scale: float = 0.01) -> Weights:
    """A copy with every matrix moved a little, as fine-tuning does."""
    steps = tiny_weights(seed, hidden=weights["model.norm.weight"].size)
    return {
        name: value if value.ndim < 2 else value + scale * steps[name]
        for name, value in weights.items()
    }


def write_model(
    root: Path,
    name: str,
    weights: Weights | None = None,
    *,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
    card: str = "---\nlicense: mit\n---\nA model.\n",
    base: str | None = None,
) -> Path:
    """Write a repository of weights (drawn from its name without any), config and card."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tiny_weights(name) if weights is None else weights
    if shards == 1:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    else:
        _write_shards(folder, tensors, shards)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    front = card if base is None else f"---\nlicense: mit\nbase_model: {base}\n---\nA child.\n"
    (folder / "README.md").write_text(front)
    return folder


def _write_shards(folder: Path, tensors: Weights, shards: int) -> None:
    names = list(tensors)
    files = {
        name: SHARD.format(at * shards // len(names) + 1, shards) for at, name in enumerate(names)
    }
    for file in sorted(set(files.values())):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_family(root: Path) -> dict[str, tuple[str, str] | None]:
    """Seven repositories; the parent and relation of each, or None.

    A release, a declared and an undeclared child, a grandchild in two shards, an exact copy, and
    two strangers of the same shape, one of which claims the release.
    """
    base = tiny_weights("base")
    chat = tuned(base, "chat")
    write_model(root, "lab/base", base)
    write_model(root, "ann/chat", chat, base="lab/base")
    write_model(root, "bob/quiet", tuned(base, "quiet"))
    write_model(root, "cat/later", tuned(chat, "later", scale=0.005), shards=2, base="ann/chat")
    write_model(root, "dan/copy", base)
    write_model(root, "eve/stranger", tiny_weights("stranger"))
    write_model(root, "fay/claims", tiny_weights("claims"), base="lab/base")
    date_in_order(
        root,
        *("lab/base", "ann/chat", "bob/quiet", "cat/later", "dan/copy", "eve/stranger"),
        "fay/claims",
    )
    return {
        "lab/base": None,
        "ann/chat": ("lab/base", "finetune"),
        "bob/quiet": ("lab/base", "finetune"),
        "cat/later": ("ann/chat", "finetune"),
        "dan/copy": ("lab/base", "copy"),
        "eve/stranger": None,
        "fay/claims": None,
    }


def date_in_order(root: Path, *names: str) -> None:
    """Let a loopback Hub say that these models were created on successive days."""
    dates = {name: {"created": f"2026-01-{at:02}T00:00:00Z"} for at, name in enumerate(names, 1)}
    (root / "hub.json").write_text(json.dumps(dates))


def scan_served(store: Path, root: Path, **more: Any) -> ScanReport:
    """Serve a folder and scan it once."""
    with LoopbackHub(root) as hub:
        return scan_once(store, hub_source(hub.url), **more)


def scan_once(
    store: Path,
    source: Source,
    *,
    plan: ScanPlan | None = None,
    resume: bool = False,
    **more: Any,
) -> ScanReport:
    """One scan into a store, without inference; the source is closed afterwards."""

    async def work(registry: Registry) -> ScanReport:
        scanner = Scanner(registry=registry, source=source, now=utc_now, **more)
        try:
            return await scanner.run(plan or ScanPlan(), resume=resume)
        finally:
            await source.close()

    with Registry.open(store, create=True) as registry:
        return asyncio.run(work(registry))


def hub_source(url: str, **more: Any) -> HubSource:
    """A client of a loopback Hub."""
    return HubSource(endpoint=url, **more)


def infer_once(store: Path, **more: Any) -> InferenceReport:
    """Infer parents of everything in a store."""
    with one_thread(), Registry.open(store) as registry:
        now = utc_now()
        scan = registry.start_scan(kind="infer", source="store", parameters={}, now=now)
        report = infer_store(registry, scan=scan, now=now, compute=Compute(device="cpu"), **more)
        judge_claims(registry, scan=scan, now=now)
        registry.finish_scan(scan, status="done", now=now)
    return report


def ask(store: Path, question: Callable[[Registry], Any]) -> Any:
    """The answer of a store that nobody writes to."""
    with Registry.open(store, read_only=True) as registry:
        return question(registry)


def rows_of(store: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query on schema v1."""
    return list(ask(store, lambda registry: registry.sql(query).fetchall()))


def coverage(store: Path, scan: int | None = None) -> dict[str, Row]:
    """What became of each model in a scan, the last one by default."""
    wanted = "(SELECT max(scan) FROM scans)" if scan is None else str(scan)
    found = rows_of(
        store,
        "SELECT model, outcome, stage, path, reason, requests, bytes FROM coverage "
        f"WHERE scan = {wanted}",
    )
    assert len({row[0] for row in found}) == len(found)
    return {row[0]: Row(*row[1:]) for row in found}


def contents(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What a store knows, without the numbers of scans and times: equal for equal results."""
    return dict(ask(store, _contents))


def _contents(registry: Registry) -> dict[str, list[tuple[Any, ...]]]:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return list(registry.sql(query).fetchall())

    return {
        "models": rows(
            "SELECT model, sha, format, dtype, shape_key, n_params, weights_digest, sketched, "
            "tombstone_reason FROM models WHERE source <> 'inferred' ORDER BY model",
        ),
        "sketches": sorted((row.model, row.sketch_digest) for row in registry.sketched()),
        "edges": rows(
            "SELECT child, parent, relation, detail, declared, inferred, round(confidence, 6), "
            "share FROM edges ORDER BY child, parent",
        ),
        "findings": rows(
            "SELECT finding_id, kind, model, ancestor FROM findings ORDER BY finding_id"
        ),
    }


class ShakyHub(FaultyHub):
    """Fails a share of all requests, each in one of four ways, from a seed."""

    def __init__(self, root: Path, *, share: float, seed: int) -> None:
        super().__init__(root)
        self._share = share
        self._chance = random.Random(seed)

    def intercept(self, request: HubHandler) -> bool:
        """Answer wrongly once in a while."""
        super().intercept(request)
        if self._chance.random() >= self._share:
            return False
        faults = (status(503), status(500), drop, rate_limited(1))
        self._chance.choice(faults)(request)
        return True


Change = Callable[[Path], object]


def _with_nan(folder: Path) -> None:
    weights = tiny_weights(folder.name)
    weights["model.layers.0.self_attn.v_proj.weight"][0, 0] = np.nan
    save_file(weights, folder / WEIGHTS)


def _cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:300])


def _overlapping(folder: Path) -> None:
    second = {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}
    (folder / WEIGHTS).write_bytes(pack({"a": entry(), "b": second}, bytes(12)))


def _same_name_twice(folder: Path) -> None:
    fields = b'"dtype":"F32","shape":[2],"data_offsets":[0,8]'
    raw = b'{"a":{' + fields + b'},"a":{' + fields + b"}}"
    (folder / WEIGHTS).write_bytes(pack(raw, bytes(8)))


def _unknown_dtype(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pack({"a": entry(dtype="F31")}, bytes(8)))


def _lost_shard(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    write_model(folder.parents[1], f"{folder.parent.name}/{folder.name}", shards=2)
    (folder / SHARD.format(2, 2)).unlink()


def _only(*files: str) -> Change:
    """Keep nothing but files of these names, with some bytes in each."""

    def change(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name in files:
            (folder / name).write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')

    return change


BAD: dict[str, tuple[Change, tuple[str, str, str | None]]] = {
    "no weights": (_only("README.md", "config.json"), ("no_weights", "files", None)),
    "gguf only": (_only("model-Q4_K_M.gguf"), ("malformed", "header", "model-Q4_K_M.gguf")),
    "pickle only": (_only("pytorch_model.bin"), ("unsupported", "header", "pytorch_model.bin")),
    "adapter": (
        _only("adapter_config.json", "adapter_model.safetensors"),
        ("malformed", "header", "adapter_model.safetensors"),
    ),
    "truncated header": (_cut, ("malformed", "header", WEIGHTS)),
    "lying header": (_overlapping, ("malformed", "header", WEIGHTS)),
    "a name twice": (_same_name_twice, ("malformed", "header", WEIGHTS)),
    "unknown dtype": (_unknown_dtype, ("malformed", "header", WEIGHTS)),
    "NaN weights": (_with_nan, ("malformed", "sketch", WEIGHTS)),
    "lost shard": (_lost_shard, ("malformed", "header", SHARD.format(2, 2))),
}
"""What is done to a good repository, and the outcome, stage and path in which a visit ends."""
