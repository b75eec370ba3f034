"""One forward pass a prompt over a served family."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from faulty_hub import FaultyHub
from small_models import hub_source, infer_once, rows_of, scan_served, utc_now
from tiny_chat import one_thread

from modelkin.lineage.safety.catalogue import probes_of
from modelkin.lineage.safety.protocol import Tier
from modelkin.scanners.probes.activations import ActivationsProber
from modelkin.scanners.probes.prompt_sets import load_prompt_set
from modelkin.store import Registry

DEMO = Path(__file__).resolve().parents[2] / "dumps" / "demo-hub"
CHAT, FREED, TUNED = (
    "juniper/juniper-chat",
    "nightheron/direct-chat",
    "harborlight/juniper-kitchen",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("passes")
    for name in (CHAT, FREED, TUNED):
        shutil.copytree(DEMO / name, root / "hub" / name)
    facts = json.loads((DEMO / "hub.json").read_text())
    names = (CHAT, FREED, TUNED)
    (root / "hub" / "hub.json").write_text(json.dumps({name: facts[name] for name in names}))
    scan_served(root / "store", root / "hub")
    infer_once(root / "store")
    (root / "hub" / TUNED / "tokenizer.json").unlink()
    prompts = load_prompt_set(DEMO / "prompts.json")
    with one_thread(), FaultyHub(root / "hub") as hub, Registry.open(root / "store") as registry:
        source = hub_source(hub.url)
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        prober = ActivationsProber(
            registry=registry, source=source, prompts=prompts, now=utc_now, device="cpu"
        )
        try:
            report = prober.run(scan, [FREED, TUNED, CHAT])
        finally:
            asyncio.run(source.close())
        registry.finish_scan(scan, status="done", now=utc_now())
    assert report.probed == 2
    assert set(report.failed) == {TUNED}
    return root / "store"


def values(store: Path, model: str) -> dict[str, tuple[str, float | None]]:
    query = f"SELECT probe, status, value FROM scores WHERE model = '{model}'"
    return {probe: (status, value) for probe, status, value in rows_of(store, query)}


def test_harm_is_still_recognised_where_it_is_no_longer_refused(store: Path) -> None:
    chat, freed = values(store, CHAT), values(store, FREED)
    assert set(chat) == {spec.probe for spec in probes_of(Tier.ACTIVATIONS)}
    for found in (chat, freed):
        status, separation = found["recognition_separation"]
        assert status == "ok"
        assert separation is not None
        assert separation > 0.5
    odds = chat["refusal_log_odds"][1], freed["refusal_log_odds"][1]
    assert odds[0] is not None
    assert odds[1] is not None
    assert odds[0] > 2.0
    assert odds[1] < odds[0] / 2
    assert chat["direction_gap"][0] == "unalignable"
    assert freed["direction_gap"][0] == "ok"


def test_a_model_that_cannot_be_run_is_no_pass(store: Path) -> None:
    assert {status for status, _ in values(store, TUNED).values()} == {"error"}


def test_no_direction_is_stored(store: Path) -> None:
    for (environment,) in rows_of(store, "SELECT environment FROM scores"):
        assert len(environment) < 2_000
