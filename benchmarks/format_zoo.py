"""Publish every model of a zoo in every packed format and ask which model each copy was made from.

    python benchmarks/format_zoo.py ZOO [--models N] [--formats a,b]

ZOO is a folder that `python -m benchmarks.zoo` wrote. Every Llama-shaped model of it that was
trained, merged or edited (a copy or a rounded model is no source of its own) is written in each
format of `tests/packers.py` and as GGUF by the reference library, sketched as a scan sketches it,
and placed among all models of its shape: its siblings are its rivals. Nothing is dated and nothing
is declared. A model is right when its source was named, and its format and bits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from gguf_files import write_gguf
from packers import PACKINGS, write_packed

from modelkin.lineage.infer.packed import place_packed
from modelkin.lineage.infer.specimen import Specimen, specimen
from modelkin.lineage.records import Relation
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.formats.sharded import choose_weight_files
from modelkin.scanners.sketching import map_weights, read_sketch
from modelkin.scanners.sources.folder import FolderSource

GGUF = {"Q8_0": 8, "Q5_1": 5, "Q4_1": 4, "Q4_0": 4, "MXFP4": 4}
NO_SOURCES = frozenset({"copy", "quantize", "permute", "prune", "lora-adapter"})
Weights = dict[str, Any]


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


def placed(child: Specimen, candidates: Sequence[Specimen]) -> tuple[str | None, Mapping[str, Any]]:
    """The parent that is named for a copy, and the detail; None without one."""
    for edge in place_packed([child], candidates, []).edges:
        if edge.child == child.node and edge.relation is Relation.QUANTIZED:
            return edge.parent, edge.detail
    return None, {}


def main() -> None:
    """Print a table by format and by bits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--formats", default=",".join([*GGUF, *PACKINGS]))
    asked = parser.parse_args()
    sources = sources_of(asked.zoo)
    names = list(sources)
    plain = {name: sketched(FolderSource(asked.zoo), name) for name in names}
    chosen = names[:: max(1, len(names) // asked.models)][: asked.models]
    right: dict[str, list[tuple[int, bool, bool]]] = defaultdict(list)
    rivals = []
    with tempfile.TemporaryDirectory(prefix="format-zoo-") as folder:
        root = Path(folder)
        for name in chosen:
            group = [o for o in plain.values() if shape_of(o) == shape_of(plain[name])]
            rivals.append(len(group) - 1)
            for copy, label, form, bits in packed_copies(
                asked.zoo, name, asked.formats.split(","), root
            ):
                child = sketched(FolderSource(root), copy)
                parent, detail = placed(child, group)
                told = (detail.get("format"), detail.get("bits")) == (form, bits)
                right[label].append((bits, parent == name, told))
                if parent != name:
                    print(f"{copy}: {parent} and not {name}", file=sys.stderr)
                shutil.rmtree(root / copy)
    _report(right, rivals)


def _report(right: Mapping[str, list[tuple[int, bool, bool]]], rivals: Sequence[int]) -> None:
    print(f"rivals of the same shape, median: {int(np.median(rivals))}")
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
