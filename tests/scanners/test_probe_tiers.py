"""The cheap tiers over a store: what is stored, what is said of what could not be measured."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from faulty_hub import FaultyHub
from small_models import hub_source, infer_once, rows_of, scan_served, utc_now
from small_registry import build_registry

from modelkin.lineage.safety.catalogue import probes_of
from modelkin.lineage.safety.protocol import Tier
from modelkin.scanners.planning import plan_probes, total
from modelkin.scanners.probes.metadata import MetadataProber
from modelkin.scanners.probes.prompt_sets import builtin_prompt_set
from modelkin.scanners.probes.sketches import SketchProber
from modelkin.scanners.probes.weights import WeightsProber
from modelkin.store import Registry

DEMO = Path(__file__).resolve().parents[2] / "dumps" / "demo-hub"
CHAT, DIRECT = "juniper/juniper-chat", "nightheron/direct-chat"
FREED = "dave/freed"


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose models all have their sketch probes."""
    store = build_registry(tmp_path_factory.mktemp("sketched"))
    with Registry.open(store) as registry:
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        names = [row.model for row in registry.sketched()]
        report = SketchProber(registry=registry, now=utc_now).run(scan, [*names, "frank/one"])
        assert report.failed == {"frank/one": "no sketch in the store"}
        registry.finish_scan(scan, status="done", now=utc_now())
    return store


def test_the_edited_one_bears_the_signature(sketched: Path) -> None:
    marks = dict(
        rows_of(
            sketched,
            "SELECT model, environment ->> 'signature' FROM scores WHERE probe = 'edit_strength'",
        )
    )
    assert marks[FREED] == "edit"
    assert marks["alice/chat"] == "none"
    value, low, high = rows_of(
        sketched,
        "SELECT value, ci_low, ci_high FROM scores "
        f"WHERE probe = 'edit_strength' AND model = '{FREED}'",
    )[0]
    assert low <= value <= high
    assert value == pytest.approx(1.0, abs=0.02)


def test_every_probe_has_a_row_and_a_definition(sketched: Path) -> None:
    wanted = {spec.probe for spec in probes_of(Tier.SKETCH)}
    assert {p for (p,) in rows_of(sketched, "SELECT probe FROM probes WHERE tier = 'sketch'")} == (
        wanted
    )
    for model in (FREED, "lab/base", "other/stranger"):
        query = f"SELECT probe, status FROM scores WHERE model = '{model}' AND judge = 'none'"
        found = dict(rows_of(sketched, query))
        assert set(found) == wanted
    # Without an ancestor nothing passes.
    assert set(found.values()) == {"unalignable"}


def test_a_plan_says_what_would_run_and_runs_nothing(sketched: Path) -> None:
    with Registry.open(sketched, read_only=True) as registry:
        names = {"lab/base": "named", FREED: "named"}
        prompts = builtin_prompt_set()
        planned = plan_probes(registry, Tier.SKETCH, names, prompts=prompts)
        runs = {one.model: one.runs for one in planned}
        assert runs == {"lab/base": False, FREED: True}
        assert {p.why for p in planned if not p.runs} == {"none of its ancestors was sketched"}
        asked = plan_probes(registry, Tier.GENERATION, names, prompts=prompts)
    models, _, received, tokens = total(asked)
    assert models == 2
    assert received == 2 * 4 * 12_288
    assert tokens >= 2 * 32 * (len(prompts.harmful) + len(prompts.harmless))


def test_metadata_is_read_and_a_missing_model_is_no_pass(tmp_path: Path) -> None:
    for name in (CHAT, DIRECT):
        shutil.copytree(DEMO / name, tmp_path / "hub" / name)
    card = tmp_path / "hub" / DIRECT / "README.md"
    card.write_text(card.read_text() + "\nUncensored and proud of it.\n")
    facts = json.loads((DEMO / "hub.json").read_text())
    (tmp_path / "hub" / "hub.json").write_text(json.dumps({n: facts[n] for n in (CHAT, DIRECT)}))
    scan_served(tmp_path / "store", tmp_path / "hub")
    shutil.rmtree(tmp_path / "hub" / CHAT)
    with FaultyHub(tmp_path / "hub") as hub, Registry.open(tmp_path / "store") as registry:
        source = hub_source(hub.url)
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        prober = MetadataProber(registry=registry, source=source, now=utc_now)
        try:
            report = prober.run(scan, [CHAT, DIRECT])
        finally:
            asyncio.run(source.close())
        registry.finish_scan(scan, status="done", now=utc_now())
        claims = {name: registry.scores_of(name, probe="claim")[0] for name in (CHAT, DIRECT)}
    assert claims[DIRECT].value == 1.0
    assert claims[CHAT].status == "error"
    assert (report.probed, set(report.failed)) == (1, {CHAT})


def test_whole_weights_bear_the_scar_of_an_edit(tmp_path: Path) -> None:
    edited = "plainspoken/helper-plus"
    for name in (CHAT, edited):
        shutil.copytree(DEMO / name, tmp_path / "hub" / name)
    facts = json.loads((DEMO / "hub.json").read_text())
    (tmp_path / "hub" / "hub.json").write_text(json.dumps({n: facts[n] for n in (CHAT, edited)}))
    scan_served(tmp_path / "store", tmp_path / "hub")
    infer_once(tmp_path / "store")
    with FaultyHub(tmp_path / "hub") as hub, Registry.open(tmp_path / "store") as registry:
        source = hub_source(hub.url)
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        prober = WeightsProber(registry=registry, source=source, now=utc_now, max_bytes=1 << 30)
        small = WeightsProber(registry=registry, source=source, now=utc_now, max_bytes=1000)
        try:
            refused = small.run(scan, [CHAT])
            report = prober.run(scan, [CHAT, edited])
        finally:
            asyncio.run(source.close())
        registry.finish_scan(scan, status="done", now=utc_now())
        scores = {
            (name, probe): registry.scores_of(name, probe=probe)[0]
            for name in (CHAT, edited)
            for probe in ("weight_scar", "delta_direction")
        }
    assert "above the bound" in refused.failed[CHAT]
    assert (report.probed, report.failed) == (2, {})
    plain, scar = scores[CHAT, "weight_scar"], scores[edited, "weight_scar"]
    assert plain.value is not None
    assert scar.value is not None
    assert scar.ci_low is not None
    assert scar.ci_low > 10 * plain.value
    assert scar.environment["null_inner"] < 0.5
    assert scores[CHAT, "delta_direction"].status == "unalignable"
    delta = scores[edited, "delta_direction"]
    assert delta.value is not None
    assert delta.value > 0.9 > delta.environment["null"]
    assert delta.environment["ancestor"] == CHAT
