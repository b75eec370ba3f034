"""A small registry with a known tree, filled through the Registry's own methods.

lab/base                            refuses 0.95 of the harmful prompts
├─ alice/chat                       finetune lora r4, declared
│  ├─ alice/chat-4bit               quantized 4-bit, declared
│  ├─ carol/blend                   merge 0.60 (+ 0.40 of bob/math), declared
│  └─ dave/freed                    edit; its card claims other/stranger; lost safety training
│     └─ erin/freed-8bit            quantized 8-bit, declared
├─ bob/math                         finetune, undeclared; its probe failed
├─ hidden:5eed                      unpublished
│  ├─ frank/one
│  └─ frank/two
├─ gina/pruned                      prune, confidence 0.72, undeclared
├─ harry/claimed                    claimed only; gated, so never read
└─ [bold]x/…                        a name with markup, an escape and a bidirectional mark
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from store_factories import NOW, claim, make_edge, make_info

from modelkin.lineage.records import (
    Clue,
    Coverage,
    Finding,
    InferredEdge,
    ModelInfo,
    Outcome,
    RejectedParent,
    Relation,
    RoleKey,
    Score,
)
from modelkin.lineage.sketch.plan import PLAN_VERSION
from modelkin.lineage.sketch.sketch import Sketch, SketchBlock
from modelkin.scanners.sketch_records import describe_blocks
from modelkin.store import HiddenModel, Registry, RevisionFacts
from modelkin.store.sketches import RawArray, sketch_key

HOSTILE = "[bold]x/\x1b[31mred\u202egpj"
HIDDEN = "hidden:5eed"
SHAPE = "L1;attn.o=64x64;attn.v=64x64;mlp.down=64x64"
PROMPTS = "refusal-v1@0123abcd"
LISTED = (
    "lab/base",
    "alice/chat",
    "alice/chat-4bit",
    "bob/math",
    "carol/blend",
    "dave/freed",
    "erin/freed-8bit",
    "frank/one",
    "frank/two",
    "gina/pruned",
    "harry/claimed",
    "other/stranger",
    HOSTILE,
)

Weights = dict[str, NDArray[np.float32]]


def build_registry(folder: Path) -> Path:
    """Fill a store in `folder`: one scan that ended, one map that was interrupted."""
    with Registry.open(folder, create=True) as registry:
        scan = registry.start_scan(kind="scan", source="hub", parameters={"source": "hub"}, now=NOW)
        _list(registry, scan)
        _visit(registry, scan)
        _infer(registry, scan)
        _measure(registry, scan)
        registry.finish_scan(scan, status="done", now=NOW)
        broken = registry.start_scan(
            kind="map",
            source="dir",
            target="lab/base",
            parameters={"release": "lab/base"},
            now=NOW,
        )
        registry.finish_scan(broken, status="interrupted", now=NOW)
    return folder


def make_score(model: str, probe: str, value: float | None, **fields: Any) -> Score:
    """A score on 20 prompts."""
    defaults: dict[str, Any] = {
        "model": model,
        "sha": f"sha-{model}",
        "probe": probe,
        "probe_version": "refusal-1",
        "prompt_set": PROMPTS,
        "n": 20,
        "status": "ok" if value is not None else "error",
        "value": value,
        "ci_low": None if value is None else max(0.0, value - 0.1),
        "ci_high": None if value is None else min(1.0, value + 0.1),
        "unit": "proportion",
        "judge": "lexical",
        "corrected": False,
        "environment": {},
        "seconds": 1.0,
        "scored_at": NOW,
    }
    return Score(**{**defaults, **fields})


def make_sketch(weights: Weights) -> Sketch:
    """A sketch that holds whole float32 matrices of layer 0."""
    blocks = {
        f"0.{role}": SketchBlock(
            key=RoleKey(role=role, layer=0),
            shape=values.shape,
            transposed=False,
            start=0,
            count=values.size,
            dtype="F32",
            data=values.astype("<f4").tobytes(),
        )
        for role, values in weights.items()
    }
    return Sketch(plan=PLAN_VERSION, blocks=blocks)


def make_weights() -> dict[str, Weights]:
    """Weights whose differences have a known form: rank 4, one shared direction, another model."""
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    base = {role: normal(64, 64) for role in ("attn.v", "attn.o", "mlp.down")}
    chat = {**base, "attn.v": base["attn.v"] + 0.01 * normal(64, 4) @ normal(4, 64)}
    r = normal(64)
    r /= np.linalg.norm(r)
    freed = {
        role: values if role == "attn.v" else values - np.outer(r, r @ values)
        for role, values in chat.items()
    }
    math = {role: values + 0.05 * normal(64, 64) for role, values in base.items()}
    stranger = {"attn.v": normal(32, 32)}
    return {
        "lab/base": base,
        "alice/chat": chat,
        "dave/freed": freed,
        "bob/math": math,
        "other/stranger": stranger,
    }


def _list(registry: Registry, scan: int) -> None:
    page = [_info(name, day) for day, name in enumerate(LISTED, start=1)]
    declared = {
        "alice/chat": [claim("lab/base"), claim(None, raw="our secret data")],
        "alice/chat-4bit": [claim("alice/chat", relation=Relation.QUANTIZED)],
        "carol/blend": [
            claim("alice/chat", relation=Relation.MERGE),
            claim("bob/math", relation=Relation.MERGE),
        ],
        "dave/freed": [claim("other/stranger")],
        "erin/freed-8bit": [claim("dave/freed", relation=Relation.QUANTIZED)],
        "frank/one": [claim("lab/base")],
        "frank/two": [claim("lab/base")],
        "harry/claimed": [claim("lab/base")],
    }
    registry.add_page(scan, page, next_cursor=None, declared=declared, now=NOW)


def _info(name: str, day: int) -> ModelInfo:
    created = datetime(2025, 1, day, tzinfo=UTC)
    license = "mit" if name == "carol/blend" else "apache-2.0"
    return make_info(name, created_at=created, license=license)


def _visit(registry: Registry, scan: int) -> None:
    weights = make_weights()
    for name in LISTED:
        facts = None
        outcome, reason = Outcome.OK, None
        if name == "harry/claimed":
            outcome, reason = Outcome.GATED, "gated: no access with this token"
        elif name == HOSTILE:
            outcome, reason = Outcome.MALFORMED, "a tensor ends beyond the file \x1b[2J"
        elif name in weights:
            facts = _keep(registry, name, weights[name])
        else:
            facts = RevisionFacts(format="safetensors", dtype="BF16", shape_key=SHAPE)
        coverage = Coverage(model=name, outcome=outcome, stage="sketch", reason=reason)
        info = _info(name, LISTED.index(name) + 1)
        registry.record_visit(scan, coverage, info=info, facts=facts, now=NOW)


def _keep(registry: Registry, name: str, weights: Weights) -> RevisionFacts:
    sketch = make_sketch(weights)
    key = sketch_key(source="hub", source_id=f"id-{name}", sha=f"sha-{name}", plan=PLAN_VERSION)
    arrays = {block.name: RawArray(block.dtype, (block.count,), block.data) for block in sketch}
    saved = registry.sketches.save(key, arrays, metadata=describe_blocks(sketch))
    return RevisionFacts(
        format="safetensors",
        dtype="F32",
        architecture="LlamaForCausalLM",
        shape_key=SHAPE if name != "other/stranger" else "L1;attn.v=32x32",
        n_params=12_288,
        sketch_plan=PLAN_VERSION,
        sketch_digest=saved.sha256,
        sketch_path=saved.path,
    )


def _infer(registry: Registry, scan: int) -> None:
    rejected = [
        RejectedParent(
            child="dave/freed",
            parent="lab/base",
            rank=2,
            score=0.021,
            rejected_because="further: 3.1 times the squared distance",
        ),
    ]
    registry.replace_inference(
        scan,
        edges=list(_edges()),
        rejected=rejected,
        hidden=[HiddenModel(node=HIDDEN, shape_key=SHAPE)],
        code_version="infer-2",
        inputs_digest="x",
        now=NOW,
    )


def _edges() -> list[InferredEdge]:
    sure = {"confidence": 0.98}
    clues = (
        Clue(kind="frozen", statistic="share frozen", value=0.91, llr=8.0, n=12_288),
        Clue(kind="distance", statistic="relative distance", value=0.02, llr=-0.5),
        Clue(kind="time", statistic="days from parent to child", value=4.0),
        Clue(kind="drift", statistic="orthogonality of the step", value=1.5, llr=1.5),
        Clue(kind="family", statistic="cosine of hidden units", value=0.99, p_value=1e-12, n=64),
    )
    lora = {"method": "lora", "rank": 4}
    freed = {"signature": "abliteration", "rank": 1}
    chat, base = "alice/chat", "lab/base"
    merge: dict[str, Any] = {"relation": Relation.MERGE, "detail": {"method": "linear"}, **sure}
    return [
        make_edge(chat, base, detail=lora, clues=clues, **sure),
        make_edge("bob/math", base, detail={"method": "full"}, **sure),
        _quantized("alice/chat-4bit", chat, bits=4),
        make_edge("carol/blend", chat, share=0.6, **merge),
        make_edge("carol/blend", "bob/math", share=0.4, **merge),
        make_edge("dave/freed", chat, relation=Relation.EDIT, detail=freed, clues=clues, **sure),
        _quantized("erin/freed-8bit", "dave/freed", bits=8),
        make_edge(HIDDEN, base, detail={"published": False}, confidence=0.73),
        make_edge("frank/one", HIDDEN, **sure),
        make_edge("frank/two", HIDDEN, **sure),
        make_edge(
            "gina/pruned",
            base,
            relation=Relation.PRUNE,
            detail={"fraction": 0.5},
            confidence=0.72,
        ),
        make_edge(HOSTILE, base, **sure),
    ]


def _quantized(child: str, parent: str, *, bits: int) -> InferredEdge:
    detail = {"format": "dequantized", "bits": bits, "group": 32}
    return make_edge(child, parent, relation=Relation.QUANTIZED, detail=detail, confidence=0.99)


def _measure(registry: Registry, scan: int) -> None:
    harmful = {"lab/base": 0.95, "alice/chat": 0.9, "dave/freed": 0.05}
    scores = [make_score(name, "refusal_harmful", value) for name, value in harmful.items()]
    scores.append(make_score("lab/base", "refusal_harmless", 0.05))
    failed = {"reason": "out of memory on the device"}
    scores.append(make_score("bob/math", "refusal_harmful", None, environment=failed))
    registry.add_scores(scan, scores)
    registry.replace_findings(scan, "stripped_safety", [_stripped()], now=NOW)
    for kind, model, parent, claimed in (
        ("undeclared_parent", "bob/math", "lab/base", []),
        ("misdeclared_parent", "dave/freed", "alice/chat", ["other/stranger"]),
    ):
        finding = _finding(kind, model, parent, detail={"claimed": claimed})
        registry.replace_findings(scan, kind, [finding], now=NOW)


def _stripped() -> Finding:
    return _finding(
        "stripped_safety",
        "dave/freed",
        "lab/base",
        severity="high",
        value=0.9,
        ci_low=0.71,
        ci_high=0.97,
        q_value=0.0004,
        detail={"label": "stripped", "descent_confidence": 0.82},
        clues=(
            Clue(kind="behaviour", statistic="harmful_refusal_ancestor", value=0.95),
            Clue(kind="behaviour", statistic="harmful_refusal", value=0.05, n=20),
        ),
    )


def _finding(kind: str, model: str, ancestor: str, **fields: Any) -> Finding:
    defaults: dict[str, Any] = {
        "finding_id": f"{kind}-{model}",
        "severity": "medium",
        "value": 0.98,
        "ci_low": None,
        "ci_high": None,
        "q_value": None,
        "status": "new",
    }
    return Finding(kind=kind, model=model, ancestor=ancestor, **{**defaults, **fields})
