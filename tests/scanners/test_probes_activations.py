"""One forward pass a prompt over a served family."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from faulty_hub import FaultyHub
from small_models import hub_source, infer_once, rows_of, scan_served, utc_now
from tiny_chat import one_thread

from modelkin.cli.main import cli
from modelkin.lineage.compute import Compute
from modelkin.lineage.safety.catalogue import probes_of
from modelkin.lineage.safety.protocol import Tier
from modelkin.scanners.behaviour import VERSION, _families, compare_behaviour
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


def test_the_direction_is_told_from_its_ancestors(store: Path) -> None:
    chat, freed = values(store, CHAT), values(store, FREED)
    for found in (chat, freed):
        assert found["direction_auc"][0] == "ok"
        assert found["direction_auc"][1] > 0.6
    assert chat["direction_cosine"][0] == "unalignable"
    status, cosine = freed["direction_cosine"]
    assert status == "ok"
    assert -1.0 <= cosine <= 1.0
    (detail,) = rows_of(
        store, f"SELECT environment FROM scores WHERE model = '{CHAT}' AND probe = 'direction_auc'"
    )[0]
    assert len(json.loads(detail)["layers"]) == 4


def test_behavioural_kin_stand_both_ways_and_without_a_null_have_no_p(store: Path) -> None:
    columns = "model, other, debiased_cka, cka, p_value, n, kin"
    rows = rows_of(store, f"SELECT {columns} FROM behavioural_kin ORDER BY model")
    assert [row[:2] for row in rows] == [(CHAT, FREED), (FREED, CHAT)]
    for _, _, debiased, biased, p_value, n, _ in rows:
        assert 0.2 < debiased <= biased <= 1.0
        assert p_value is None
        assert n == len(json.loads((DEMO / "prompts.json").read_text())["harmful"]) * 2
    assert {row[6] for row in rows} == {"descendant", "ancestor"}


def test_all_ancestors_are_asked_for_at_once_and_join_families(store: Path) -> None:
    (identity,) = rows_of(store, "SELECT DISTINCT prompt_set FROM behavioural_kin")[0]
    with Registry.open(store) as registry:
        lines = registry.fingerprinted_lines(prompt_set=identity, version=VERSION)
        for model in (CHAT, FREED):
            found = {ancestor for one, ancestor in lines if one == model}
            assert found == {kin.model for kin in registry.ancestors(model)}
        assert (FREED, CHAT) in lines
        assert registry.fingerprinted_lines(prompt_set=identity, version="none") == []
    assert len(set(_families([CHAT, FREED, "org/other"], lines))) == 2
    apart = _families(["a", "b", "c"], [("a", "gone"), ("unread", "c"), ("c", "gone")])
    assert apart[0] == apart[2] != apart[1]


def test_a_damaged_fingerprint_is_named_and_the_rest_compared(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    (identity,) = rows_of(copy, "SELECT DISTINCT prompt_set FROM behavioural_kin")[0]
    with Registry.open(copy) as registry:
        rows = registry.fingerprints(prompt_set=identity, version=VERSION)
        assert [row.model for row in rows] == [CHAT, FREED]
        (copy / "activations" / rows[0].path).write_bytes(b"short")
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        failed = compare_behaviour(
            registry, scan, prompt_set=identity, compute=Compute(device="cpu")
        )
        assert set(failed) == {CHAT}
        assert registry.behavioural_kin(FREED) == []
        registry.redact(FREED, reason="asked", now=utc_now())
        assert not (copy / "activations" / rows[1].path).exists()
        assert registry.fingerprints(prompt_set=identity, version=VERSION) == rows[:1]


def test_similar_shows_behaviour(store: Path) -> None:
    asked = ["similar", CHAT, "--by", "activations", "--store", str(store)]
    assert CliRunner().invoke(cli, [*asked, "-q"]).stdout == f"{FREED}\n"
    (row,) = json.loads(CliRunner().invoke(cli, [*asked, "--format", "json"]).stdout)
    assert row["kin"] == "descendant"
    nothing = CliRunner().invoke(cli, [*asked[:1], TUNED, *asked[2:]])
    assert nothing.exit_code == 0
    assert "no hidden states" in nothing.stderr
