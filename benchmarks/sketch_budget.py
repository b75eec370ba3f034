"""Count what a sketch costs: every request and every byte, for models of published shapes.

    python benchmarks/sketch_budget.py [--folder DIR]

Writes repositories with real safetensors headers, indexes, configs and cards of the shapes below;
the weights are holes in sparse files. They are served by the loopback Hub, each is visited once as
a scan visits it, and the table on stdout has the client's counts and the server's, which do not
depend on the machine. The budget is 2,000,000 bytes and 40 requests a model, one resolve a file.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkin.lineage.records import Coverage, Outcome
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.exhibits import read_exhibits
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.hub import HubSource
from modelkin.scanners.sources.loopback import HubHandler, LoopbackHub
from modelkin.scanners.visiting import Visitor
from modelkin.store.sketches import SketchStore

ITEMSIZE = {"BF16": 2, "F16": 2, "F32": 4}
COLUMNS = ("shape", "dtype", "shards", "outcome", "spans", "resolves", "requests", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperShape:
    """A decoder of the Llama layout: widths, layers, vocabulary, and how it is stored."""

    name: str
    hidden: int = 4096
    inner: int = 11008
    layers: int = 32
    key_value: int = 4096
    vocabulary: int = 32000
    dtype: str = "BF16"
    shards: int = 1

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the order in which the Hub's large models store them."""
        wide, inner = self.hidden, self.inner
        yield "model.embed_tokens.weight", (self.vocabulary, wide)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield f"{at}.input_layernorm.weight", (wide,)
            yield f"{at}.mlp.down_proj.weight", (wide, inner)
            yield f"{at}.mlp.gate_proj.weight", (inner, wide)
            yield f"{at}.mlp.up_proj.weight", (inner, wide)
            yield f"{at}.post_attention_layernorm.weight", (wide,)
            yield f"{at}.self_attn.k_proj.weight", (self.key_value, wide)
            yield f"{at}.self_attn.o_proj.weight", (wide, wide)
            yield f"{at}.self_attn.q_proj.weight", (wide, wide)
            yield f"{at}.self_attn.v_proj.weight", (self.key_value, wide)
        yield "model.norm.weight", (wide,)
        yield "lm_head.weight", (self.vocabulary, wide)


LLAMA_3_8B: dict[str, Any] = {"inner": 14336, "key_value": 1024, "vocabulary": 128256}
LLAMA_70B: dict[str, Any] = {"hidden": 8192, "inner": 28672, "layers": 80, "key_value": 1024}
SHAPES = (
    PaperShape(name="7b"),
    PaperShape(name="7b-f32", dtype="F32"),
    PaperShape(name="7b-2", shards=2),
    PaperShape(name="7b-2-f32", shards=2, dtype="F32"),
    PaperShape(name="7b-4", shards=4),
    PaperShape(name="7b-4-f32", shards=4, dtype="F32"),
    PaperShape(name="llama-3-8b", shards=4, **LLAMA_3_8B),
    PaperShape(name="llama-3-8b-f32", shards=7, dtype="F32", **LLAMA_3_8B),
    PaperShape(name="70b", shards=30, **LLAMA_70B),
    PaperShape(name="70b-f32", shards=61, dtype="F32", **LLAMA_70B),
)


def write_repository(root: Path, shape: PaperShape) -> str:
    """Write one repository under `root`; its name."""
    folder = root / "paper" / shape.name
    folder.mkdir(parents=True)
    parts = _split(list(shape.tensors()), shape.shards)
    total = len(parts)
    names = ["model.safetensors"]
    if total > 1:
        names = [f"model-{at:05}-of-{total:05}.safetensors" for at in range(1, total + 1)]
        weight_map = {t: n for n, part in zip(names, parts, strict=True) for t, _ in part}
        size = sum(_nbytes(s, shape.dtype) for part in parts for _, s in part)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for name, part in zip(names, parts, strict=True):
        write_sparse(folder / name, part, dtype=shape.dtype)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": shape.hidden}))
    # No base_model: the card's text is read as well, which costs the most.
    (folder / "README.md").write_text("---\nlicense: mit\n---\n" + "A card of some length. " * 400)
    return f"paper/{shape.name}"


def write_sparse(file: Path, tensors: Iterable[tuple[str, tuple[int, ...]]], *, dtype: str) -> None:
    """A safetensors file whose weights are a hole: zeros that take no room."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors:
        end = at + _nbytes(shape, dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        out.truncate(8 + len(raw) + at)


def _split(
    tensors: Sequence[tuple[str, tuple[int, ...]]], shards: int
) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Shards of about the same size, as a writer fills them one after the other."""
    total = sum(math.prod(shape) for _, shape in tensors)
    parts: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in range(shards)]
    done = 0
    for name, shape in tensors:
        parts[min(shards - 1, done * shards // total)].append((name, shape))
        done += math.prod(shape)
    return parts


def _nbytes(shape: Sequence[int], dtype: str) -> int:
    return math.prod(shape) * ITEMSIZE[dtype]


class SparseFolder(FolderSource):
    """A folder whose large files are known by name and size; to digest holes would take hours."""

    def _digest(self, file: Path, status: object) -> str:
        identity = f"{file.parent.name}/{file.name}:{file.stat().st_size}"
        return hashlib.sha256(identity.encode()).hexdigest()


class PaperHub(LoopbackHub):
    """Serves the repositories of a folder of sparse files and remembers each request's path."""

    def __init__(self, root: Path) -> None:
        empty = root / ".none"
        empty.mkdir()
        super().__init__(empty)
        self.source = SparseFolder(root)
        found = read_exhibits(root, source=self.source, created={})
        self.exhibits = {exhibit.info.name: exhibit for exhibit in found}
        self.seen: list[str] = []

    def intercept(self, request: HubHandler) -> bool:
        """Remember the request; it is answered as usual."""
        self.seen.append(f"{request.command} {request.path.partition('?')[0]}")
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one visit cost: the client's coverage row, and what the server saw.

    `resolves` counts the resolves of each weight file; `spans` the blocks of the sketch.
    """

    coverage: Coverage
    spans: int
    resolves: Mapping[str, int]
    served: int


def measure(hub: PaperHub, name: str, *, sketches: SketchStore) -> Cost:
    """Visit one repository."""
    hub.seen.clear()

    async def visit() -> tuple[Coverage, str | None]:
        source = HubSource(endpoint=hub.url)
        listed = hub.source.info(name, traffic=Traffic())
        try:
            found = await Visitor(source=source, sketches=sketches).visit(listed)
        finally:
            await source.close()
        return found.coverage, found.facts.sketch_path if found.facts else None

    coverage, path = asyncio.run(visit())
    resolves: dict[str, int] = {}
    for seen in hub.seen:
        if "/resolve/" in seen and seen.endswith(".safetensors"):
            resolves[seen] = resolves.get(seen, 0) + 1
    arrays = sketches.load(path) if path is not None else {}
    spans = sum(not name.endswith("#step") for name in arrays)
    return Cost(coverage=coverage, spans=spans, resolves=resolves, served=len(hub.seen))


def rows(root: Path, shapes: Sequence[PaperShape] = SHAPES) -> Iterator[tuple[PaperShape, Cost]]:
    """Write all shapes under `root`, serve them, and measure one after the other."""
    served = root / "served"
    served.mkdir(parents=True)
    names = [write_repository(served, shape) for shape in shapes]
    sketches = SketchStore(root / "sketches")
    with PaperHub(served) as hub:
        for shape, name in zip(shapes, names, strict=True):
            yield shape, measure(hub, name, sketches=sketches)


def _line(shape: PaperShape, cost: Cost) -> str:
    coverage = cost.coverage
    cells = (
        *(shape.name, shape.dtype, shape.shards, coverage.outcome, cost.spans),
        *(len(cost.resolves), coverage.requests, f"{coverage.bytes_read:,}"),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder without it")
    asked = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="sketch-budget-") as folder:
        costs = list(rows(Path(folder)))
        for shape, cost in costs:
            print(_line(shape, cost))
    if any(cost.coverage.outcome is not Outcome.OK for _, cost in costs):
        raise SystemExit("a model could not be sketched")


if __name__ == "__main__":
    main()
