"""Publish every model of a zoo in every packed format and ask which model each copy was made from.

    python benchmarks/format_zoo.py ZOO [--models N] [--formats a,b] [--easy]

ZOO is a folder that `python -m benchmarks.zoo` wrote. Every Llama-shaped model of it that was
trained, merged or edited (a copy or a rounded model is no source of its own) is written in each
format of `tests/packers.py` and as GGUF by the reference library, as a repository of its own under
a name that says nothing. `scan dir` and `infer` then go over the copies and the whole zoo, copies,
rounded, pruned and permuted models among it. Nothing is dated and nothing is declared. A copy is
right when its source was named as what it is a quantized copy of, or a model whose weights are
equal to the source's, and its format and bits. With `--easy` the candidates are the sources alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from gguf_files import write_gguf
from packers import PACKINGS, write_packed
from stripped import verb

from modelkin.lineage.infer.specimen import Specimen, specimen
from modelkin.lineage.records import Relation
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.formats.sharded import choose_weight_files
from modelkin.scanners.sketching import map_weights, read_sketch
from modelkin.scanners.sources.folder import FolderSource
from modelkin.store import Registry

GGUF = {"Q8_0": 8, "Q5_1": 5, "Q4_1": 4, "Q4_0": 4, "MXFP4": 4}
NO_SOURCES = frozenset({"copy", "quantize", "permute", "prune", "lora-adapter"})


def sources_of(zoo: Path) -> dict[str, Mapping[str, Any]]:
    """Llama-shaped models of the zoo that can be the source of a copy, with their truth."""
    truth = json.loads((zoo / "truth.json").read_text())
    return {
        name: told
        for name, told in truth.items()
        if told["how"] not in NO_SOURCES
        and told["architecture"] == "llama"
        and (zoo / name / "model.safetensors").is_file()
    }


def sketched(source: FolderSource, name: str) -> Specimen:
    """One model as inference sees it, without a date."""

    async def read() -> Specimen:
        info = source.info(name, traffic=Traffic())
        path = source.locate(info, "config.json")
        held = json.loads(path.read_text())
        info = replace(info, config=held)
        layout = choose_weight_files([file.path for file in info.files])
        weights = await map_weights(source, info, layout, traffic=Traffic())
        return specimen(name, await read_sketch(weights, traffic=Traffic()), created=None)

    return asyncio.run(read())


def shape_of(one: Specimen) -> tuple[object, ...]:
    """What models must have in common to be compared."""
    return tuple(sorted((name, one.blocks[name].shape) for name in one.matrices()))


def packed_copies(
    zoo: Path, name: str, formats: Sequence[str], root: Path
) -> Iterator[tuple[str, str, str, int]]:
    """Write a model's copies: (name of the copy, label, format, bits)."""
    config = json.loads((zoo / name / "config.json").read_text())
    weights = {
        key: value.float().numpy()
        for key, value in load_file(zoo / name / "model.safetensors").items()
    }
    for label in formats:
        copy = f"packed/{name.replace('/', '--')}--{label}"
        if label in GGUF:
            folder = root / copy
            folder.mkdir(parents=True)
            heads = int(config["num_attention_heads"])
            write_gguf(folder / f"m-{label}.gguf", weights, label, heads=heads)
            (folder / "config.json").write_text("{}")
            yield copy, label, "gguf", GGUF[label]
        else:
            write_packed(root / copy, weights, label, config)
            yield copy, label, *PACKINGS[label][2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One packed repository: what it was made of, and how."""

    source: str
    label: str
    packing: tuple[str, int]


def shelve(zoo: Path, models: int, formats: Sequence[str], root: Path) -> dict[str, Copy]:
    """Write the copies of some of a zoo's models below `root`, by their new names."""
    names = list(sources_of(zoo))
    made: dict[str, Copy] = {}
    for name in names[:: max(1, len(names) // models)][:models]:
        for written, label, form, bits in packed_copies(zoo, name, formats, root):
            public = f"packed/m{len(made):05}"
            (root / written).rename(root / public)
            made[public] = Copy(source=name, label=label, packing=(form, bits))
    return made


def add_candidates(zoo: Path, root: Path, *, easy: bool) -> None:
    """Put the zoo's own models beside the copies; its truth and its dates stay behind."""
    chosen = sources_of(zoo) if easy else json.loads((zoo / "truth.json").read_text())
    for name in chosen:
        if (zoo / name).is_dir():
            shutil.copytree(zoo / name, root / name)


def inferred(root: Path, store: Path) -> dict[str, tuple[str, str, Mapping[str, Any]]]:
    """`scan dir` and `infer` on the command line: (parent, relation, detail) by child."""
    verb("scan", "dir", str(root), "--no-infer", "--store", str(store))
    verb("infer", "--store", str(store))
    with Registry.open(store, read_only=True) as registry:
        rows = registry.sql(
            "SELECT child, parent, relation, detail FROM v1.edges WHERE inferred"
        ).fetchall()
    return {child: (parent, kind, json.loads(told or "{}")) for child, parent, kind, told in rows}


def equals_of(zoo: Path) -> dict[str, frozenset[str]]:
    """For each model of a zoo all models with the same weights, itself among them."""
    truth = json.loads((zoo / "truth.json").read_text())
    alike: dict[str, set[str]] = defaultdict(set)
    for name in truth:
        if (file := zoo / name / "model.safetensors").is_file():
            held = load_file(file)
            digest = hashlib.sha256()
            for key in sorted(held):
                digest.update(key.encode() + held[key].float().numpy().tobytes())
            alike[digest.hexdigest()].add(name)
    return {name: frozenset(group) for group in alike.values() for name in group}


def main() -> None:
    """Print a table by format and by bits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--formats", default=",".join([*GGUF, *PACKINGS]))
    parser.add_argument("--easy", action="store_true", help="sources alone are candidates")
    asked = parser.parse_args()
    alike = equals_of(asked.zoo)
    right: dict[str, list[tuple[int, bool, bool]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="format-zoo-") as folder:
        root = Path(folder) / "models"
        copies = shelve(asked.zoo, asked.models, asked.formats.split(","), root)
        add_candidates(asked.zoo, root, easy=asked.easy)
        edges = inferred(root, Path(folder) / "store")
    for public, copy in copies.items():
        parent, kind, detail = edges.get(public, ("no parent", "", {}))
        found = kind == Relation.QUANTIZED and parent in alike[copy.source]
        told = (detail.get("format"), detail.get("bits")) == copy.packing
        right[copy.label].append((copy.packing[1], found, told))
        if not found or not told:
            print(
                f"{copy.source} as {copy.label}: {kind} of {parent} {dict(detail)}", file=sys.stderr
            )
    _report(right)


def _report(right: Mapping[str, list[tuple[int, bool, bool]]]) -> None:
    print("| format | bits | copies | right parent | format and bits right |")
    print("| --- | --- | --- | --- | --- |")
    by_bits: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
    for label, found in right.items():
        bits = found[0][0]
        by_bits[bits] += [(parent, told) for _, parent, told in found]
        _row(label, bits, [(parent, told) for _, parent, told in found])
    for bits in sorted(by_bits, reverse=True):
        _row("all", bits, by_bits[bits])


def _row(label: str, bits: int, found: Sequence[tuple[bool, bool]]) -> None:
    parents, told = (sum(one[at] for one in found) / len(found) for at in (0, 1))
    print(f"| {label} | {bits} | {len(found)} | {parents:.1%} | {told:.1%} |")


if __name__ == "__main__":
    main()
