"""The measurements of `benchmarks/gpu.py`, one function each."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from large_family import RELEASE, SIZES, grow
from make_demo_hub import Prompts
from torch import Tensor

from modelkin.lineage.behaviour import fingerprint
from modelkin.lineage.compute import Compute
from modelkin.lineage.safety.protocol import Tier
from modelkin.lineage.similarity.search import nearest
from modelkin.scanners.full_compare import compare_full
from modelkin.scanners.mapping import Mapper
from modelkin.scanners.probe_run import ProbeRun
from modelkin.scanners.probes.prompt_sets import PromptSet, load_prompt_set
from modelkin.scanners.probes.transformers_backend import TransformersBackend
from modelkin.scanners.sources.folder import FolderSource
from modelkin.store import Registry

COUNT = 16
SCALES = (1e-4, 1e-3, 1e-2, 1e-1)
MODELS = "models"
STORE = "store"
FEW = [RELEASE, "gus/edited", "other/base"]
CLASSES = ("harmful", "harmless")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement: what, the value in words, and the bar it stands beside."""

    what: str
    value: str
    bar: str = ""

    def line(self) -> str:
        """As it is printed."""
        return f"{self.what:<44} {self.value}" + (f"   [bar: {self.bar}]" if self.bar else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the machine does by itself: FLOP/s of bfloat16 products, bytes/s to the device and
    from disk."""

    products: float
    carried: float
    disk: float


def seconds(work: Callable[[], object], *, device: str, runs: int = 3) -> float:
    """The shortest of some runs, the device waited for."""
    found = []
    for _ in range(runs):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rates(folder: Path, *, device: str, smoke: bool) -> Rates:
    """Measure and print the machine's own rates."""
    n = 256 if smoke else 16_384
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
    products = 2 * n**3 / seconds(lambda: a @ b, device=device, runs=5)
    host = torch.empty(1 << (22 if smoke else 31), dtype=torch.uint8, pin_memory=device == "cuda")
    carried = host.numel() / seconds(
        lambda: host.to(device, non_blocking=True, copy=True), device=device
    )
    path = folder / "disk"
    path.write_bytes(os.urandom(1 << 22) * (1 if smoke else 512))
    forget(path)
    began = time.perf_counter()
    with path.open("rb") as file:
        while file.read(64 << 20):
            pass
    disk = path.stat().st_size / (time.perf_counter() - began)
    path.unlink()
    found = Rates(products=products, carried=carried, disk=disk)
    told = f"{products / 1e12:.2f} TFLOP/s ({kind}), host to device {carried / 1e9:.2f} GB/s"
    print(Figure(what="machine", value=f"{told}, disk {disk / 1e9:.2f} GB/s").line())
    return found


def forget(path: Path) -> None:
    """Take a file out of the page cache, so that reading it is reading the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def family_rows(rows: int, width: int, *, device: str, seed: int = 3) -> Tensor:
    """Rows of one shape: 2,000 families at most, changes of 1e-3 to 1e-1, families together."""
    draw = torch.Generator(device=device).manual_seed(seed)
    families = max(1, min(2_000, rows // 50))
    bases = torch.randn(families, width, generator=draw, device=device)
    out = torch.empty(rows, width, dtype=torch.bfloat16, device=device)
    owner = (torch.arange(rows, device=device) * families) // rows
    for start in range(0, rows, 65_536):
        part = slice(start, min(start + 65_536, rows))
        n = part.stop - part.start
        size = 10 ** (-3 + 2 * torch.rand(n, 1, generator=draw, device=device))
        step = torch.randn(n, width, generator=draw, device=device)
        out[part] = bases[owner[part]] + size * step
    return out


def candidates(asked: argparse.Namespace, machine: Rates, *, device: str) -> list[Figure]:
    """New models against all of one shape: on the device, then from the host."""
    rows = family_rows(asked.rows, asked.width, device=device)
    own = np.sort(np.random.default_rng(1).choice(asked.rows, asked.queries, replace=False))
    queries = rows[torch.from_numpy(own).to(device)]
    compute = Compute(device=device)  # type: ignore[arg-type]
    found = []

    def search(corpus: Tensor) -> None:
        found.append(
            nearest(queries, corpus, count=COUNT, compute=compute, itself=own, budget=asked.budget)
        )

    work = 2 * asked.queries * asked.rows * asked.width
    resident = seconds(lambda: search(rows), device=device)
    host = rows.cpu()
    streamed = seconds(lambda: search(host), device=device, runs=1)
    moved = host.numel() * host.element_size() / streamed / 1e9
    what = f"candidates {asked.queries:,} x {asked.rows:,}, d {asked.width}"
    share = work / resident / machine.products
    told = f"{resident:.3f} s, {share:.0%} of the product rate, settled {found[0].settled:,}"
    return [
        Figure(what=what, value=told, bar="0.6 s compute on an H200, 60 %"),
        Figure(what="  from the host", value=f"{streamed:.3f} s end to end, {moved:.1f} GB/s"),
    ]


def all_pairs(asked: argparse.Namespace, machine: Rates, *, device: str) -> list[Figure]:
    """Every row of one shape against all others."""
    rows = family_rows(asked.pairs, asked.width, device=device, seed=4)
    compute = Compute(device=device)  # type: ignore[arg-type]
    own = np.arange(asked.pairs)
    took = seconds(
        lambda: nearest(rows, rows, count=COUNT, compute=compute, itself=own, budget=asked.budget),
        device=device,
        runs=1,
    )
    share = 2 * asked.pairs**2 * asked.width / took / machine.products
    value = f"{took:.2f} s, {share:.0%} of the product rate (both triangles)"
    return [Figure(what=f"all pairs of {asked.pairs:,}", value=value, bar="stated")]


def delta_norms(*, device: str, width: int = 4096) -> list[Figure]:
    """Largest relative error of a distance, by scale, against float64."""
    rng = np.random.default_rng(5)
    parents = rng.standard_normal((64, width)).astype(np.float32)
    errors = []
    for scale in SCALES:
        step = rng.standard_normal(parents.shape)
        step *= (
            scale * np.linalg.norm(parents, axis=1)[:, None] / np.linalg.norm(step, axis=1)[:, None]
        )
        children = (parents + step).astype(np.float32)
        true = np.linalg.norm(children.astype(np.float64) - parents.astype(np.float64), axis=1)
        found = nearest(
            children,
            parents,
            count=1,
            compute=Compute(device=device),  # type: ignore[arg-type]
        )
        errors.append(float(np.abs(np.sqrt(found.square[:, 0]) / true - 1).max()))
    told = ", ".join(f"{s:g}: {e:.1e}" for s, e in zip(SCALES, errors, strict=True))
    return [Figure(what="relative error of delta norms", value=told, bar="1 % at each")]


def family(folder: Path, size: str, *, device: str) -> list[Figure]:
    """A family at size: edges from sketches, probes, behavioural kin."""
    shape = SIZES[size]
    began = time.perf_counter()
    truth = grow(folder / MODELS, shape, device=device)
    grown = time.perf_counter() - began
    prompts = _prompts(folder, each=10 if size == "smoke" else 64)
    with Registry.open(folder / STORE, create=True) as registry:
        source = FolderSource(folder / MODELS)
        compute = Compute(device=device)  # type: ignore[arg-type]
        Mapper(registry=registry, source=source, now=_now, compute=compute).map_release(RELEASE)
        edges = registry.sql(
            "SELECT child, parent, relation FROM edges WHERE inferred ORDER BY child, share DESC"
        ).fetchall()
        names = FEW if size == "smoke" else [*truth, "grown/base", "other/base"]
        run = ProbeRun(registry=registry, source=source, prompts=prompts, now=_now, device=device)  # type: ignore[arg-type]
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=_now())
        for tier in (Tier.SKETCH, Tier.ACTIVATIONS, Tier.GENERATION):
            run.run(scan, tier, names)
        registry.finish_scan(scan, status="done", now=_now())
        figures = [_edges(edges, truth), *_scores(registry)]
    head = Figure(
        what=f"family of {size}",
        value=f"{_parameters(folder):,} parameters each, grown in {grown:.1f} s",
        bar="sketches, activations and probes hold at size",
    )
    return [head, *figures]


def _edges(found: list[tuple[str, str, str]], truth: dict[str, Any]) -> Figure:
    mine = {(child, parent) for child, parent, _ in found}
    true = {(child, parent) for child, (_, parents) in truth.items() for parent in parents}
    right = sum(
        truth[child][0] == relation for child, parent, relation in found if (child, parent) in true
    )
    hit = len(mine & true)
    value = f"{hit}/{len(true)} true found, {hit}/{len(mine)} found true, relation {right}/{hit}"
    return Figure(what="  edges from sketches", value=value)


def _scores(registry: Registry) -> list[Figure]:
    wanted = ("selective_refusal", "direction_auc", "direction_cosine", "projection_consistency")
    figures = []
    for probe in wanted:
        rows = registry.sql(
            "SELECT model, value FROM scores WHERE probe = ? AND status = 'ok' AND "
            "(judge = 'none' OR judge LIKE 'lexical%') ORDER BY model",
            [probe],
        ).fetchall()
        value = ", ".join(f"{model} {value:.2f}" for model, value in rows) or "no answer"
        figures.append(Figure(what=f"  {probe}", value=value))
    kin = registry.sql(
        "SELECT coalesce(kin, 'unrelated'), min(debiased_cka), max(debiased_cka), count(*) "
        "FROM behavioural_kin GROUP BY ALL ORDER BY 1"
    ).fetchall()
    value = "; ".join(f"{name} {low:.2f} to {high:.2f} (n={n})" for name, low, high, n in kin)
    return [*figures, Figure(what="  debiased CKA by kin", value=value)]


def full_compare(folder: Path, machine: Rates, *, device: str) -> list[Figure]:
    """All weights of two models of the family, read from the disk."""
    names = ("ann/garden", RELEASE)
    for name in names:
        forget(folder / MODELS / name / "model.safetensors")
    compute = Compute(device=device)  # type: ignore[arg-type]
    began = time.perf_counter()
    report = asyncio.run(compare_full(FolderSource(folder / MODELS), *names, compute=compute))
    took = time.perf_counter() - began
    rate = report.bytes_read / took
    share = rate / min(machine.disk, machine.carried)
    value = f"{took:.2f} s, {rate / 1e9:.2f} GB/s, {share:.0%} of the slower of disk and bus"
    return [Figure(what="full compare of two", value=value, bar="50 %")]


def activations(folder: Path, *, device: str) -> list[Figure]:
    """Which share of a fingerprint's time is the model's forward pass."""
    backend = TransformersBackend.load(folder / MODELS / RELEASE, device=device)
    prompts = load_prompt_set(folder / "prompts.json")
    asked = [*prompts.harmful, *prompts.harmless]
    backend.first_pass(asked[:8])
    spent: list[float] = []

    def before(*_: object) -> None:
        _wait(device)
        spent.append(-time.perf_counter())

    def after(*_: object) -> None:
        _wait(device)
        spent[-1] += time.perf_counter()

    hooks = [
        backend._model.register_forward_pre_hook(before),
        backend._model.register_forward_hook(after),
    ]
    _wait(device)
    began = time.perf_counter()
    fingerprint(backend.first_pass(asked).states)
    took = time.perf_counter() - began
    for hook in hooks:
        hook.remove()
    value = f"{sum(spent) / took:.0%} of {took:.3f} s for {len(asked)} prompts"
    return [Figure(what="forward pass of a fingerprint", value=value, bar="50 %")]


def _prompts(folder: Path, *, each: int) -> PromptSet:
    path = folder / "prompts.json"
    drawn = Prompts.draw().as_json()
    few = {name: drawn[name][:: len(drawn[name]) // each][:each] for name in CLASSES}
    path.write_text(json.dumps(drawn | few))
    return load_prompt_set(path)


def _parameters(folder: Path) -> int:
    return (folder / MODELS / RELEASE / "model.safetensors").stat().st_size // 2


def _now() -> datetime:
    return datetime.now(UTC)
