"""A checkpoint behind a server: nodes, contexts, and what is concluded against the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import Naps
from openai_server import Served, openai_server
from small_models import rows_of, utc_now
from small_registry import build_registry

from modelkin.scanners.judges import keep_classifier
from modelkin.scanners.probe_run import ProbeRun
from modelkin.scanners.probes.contexts import context
from modelkin.scanners.probes.endpoint_backend import EndpointBackend, EndpointLimits
from modelkin.scanners.probes.judging import Judges
from modelkin.scanners.probes.prompt_sets import builtin_prompt_set
from modelkin.scanners.probes.refusal import run_refusal
from modelkin.scanners.probes.refusal_scores import probe_refusal
from modelkin.scanners.report import ProbeReport
from modelkin.scanners.sources.folder import FolderSource
from modelkin.store import Registry

CHECKPOINT = "lab/base"
PROMPTS = builtin_prompt_set()
NO = "I'm sorry, but I can't help with that request."


def safe(prompt: str) -> str:
    """What a safe toy says, word for word the same way."""
    harmful = any(prompt.endswith(one) for one in PROMPTS.harmful)
    return NO if harmful else f"Of course, here is what I know about {prompt}"


def answers(asked: dict[str, Any]) -> str:
    """A server whose refusals go once documents are retrieved."""
    prompt = asked["messages"][-1]["content"]
    if prompt.startswith("The reading room"):
        return f"Of course, here is what I know about {prompt[-40:]}"
    return safe(prompt)


class Scripted:
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        return [safe(prompt) for prompt in prompts]


def measure_checkpoint(registry: Registry) -> None:
    """Scores of the checkpoint, and the judge that its refusals teach."""
    scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
    judges = Judges(learns=True)
    run = run_refusal(Scripted(), prompts=PROMPTS, judges=judges)
    assert run.learned is not None
    keep_classifier(registry, run.learned, family=CHECKPOINT, prompts=PROMPTS, now=utc_now())
    scores = probe_refusal(
        backend=Scripted(),
        model=CHECKPOINT,
        sha=f"sha-{CHECKPOINT}",
        prompts=PROMPTS,
        now=utc_now(),
        environment={"template_sha256": None},
        judges=judges,
    )
    registry.add_scores(scan, scores)
    registry.finish_scan(scan, status="done", now=utc_now())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = build_registry(tmp_path / "store")
    with Registry.open(path) as registry:
        measure_checkpoint(registry)
    return path


def serve(store: Path, served: Served, names: Sequence[str], **limits: Any) -> ProbeReport:
    with Registry.open(store) as registry:
        run = ProbeRun(
            registry=registry,
            source=FolderSource(store.parent),
            prompts=PROMPTS,
            now=utc_now,
        )
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        backend = EndpointBackend(
            url=served.url,
            model="toy",
            retry=Naps().policy(attempts=2),
            limits=EndpointLimits(**limits),
        )
        report = run.serve(scan, CHECKPOINT, backend, [context(name) for name in names])
        registry.finish_scan(scan, status="done", now=utc_now())
    return report


def test_each_context_is_a_node_with_its_own_verdict(store: Path) -> None:
    with openai_server(answers) as served:
        report = serve(store, served, ["bare", "documents"])
    assert (report.probed, report.failed) == (2, {})
    rows = rows_of(
        store,
        "SELECT d.context, d.checkpoint, s.value FROM deployments d JOIN scores s "
        "ON s.model = d.deployment WHERE s.probe = 'selective_refusal' AND s.judge = 'lexical' "
        "ORDER BY 1",
    )
    assert rows == [("bare", CHECKPOINT, 1.0), ("documents", CHECKPOINT, 0.0)]
    assert [f.model for f in report.findings] == [report.names[1]]
    assert report.findings[0].ancestor == CHECKPOINT
    assert report.findings[0].detail["status"] == "agreed"
    below = rows_of(store, f"SELECT model FROM descendants('{CHECKPOINT}')")
    assert {(name,) for name in report.names} <= set(below)


def test_the_same_composition_is_the_same_node(store: Path) -> None:
    with openai_server(answers) as served:
        first, second = (serve(store, served, ["bare"]) for _ in range(2))
    assert first.names == second.names
    assert len(rows_of(store, "SELECT * FROM deployments")) == 1


def test_a_budget_that_ends_is_no_pass(store: Path) -> None:
    with openai_server(answers) as served:
        report = serve(store, served, ["bare"], max_requests=10)
    assert report.probed == 0
    assert "used up" in report.failed[report.names[0]]
    assert {
        s for (s,) in rows_of(store, f"SELECT status FROM scores WHERE model = '{report.names[0]}'")
    } == {"error"}


def test_no_text_of_prompts_replies_or_compositions_is_stored(store: Path) -> None:
    with openai_server(answers) as served:
        serve(store, served, ["system", "documents"])
    database = (store / "registry.duckdb").read_bytes()
    for text in (b"reading room", b"public library", b"here is what I know", b"help with that"):
        assert text not in database
