"""Probing a store: who is measured, who cannot be, and what is concluded from it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import FaultyHub
from small_models import hub_source, infer_once, rows_of, scan_served, utc_now
from tiny_chat import one_thread

from modelkin.lineage.records import ModelInfo
from modelkin.scanners.limits import Meter, ScanLimits
from modelkin.scanners.probes.margins import Margins
from modelkin.scanners.probes.prompt_sets import PromptSet, load_prompt_set
from modelkin.scanners.probing import Prober
from modelkin.scanners.progress import Silence
from modelkin.scanners.report import ProbeReport
from modelkin.scanners.verdicts import FINDING, judge_store
from modelkin.store import Registry

DEMO = Path(__file__).resolve().parents[2] / "dumps" / "demo-hub"
CHAT, FREED, TUNED = (
    "juniper/juniper-chat",
    "nightheron/direct-chat",
    "harborlight/juniper-kitchen",
)
ALL = (CHAT, FREED, TUNED)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompt_set(DEMO / "prompts.json")


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Hub of three models of the demo and a store in which they are placed."""
    root = tmp_path_factory.mktemp("placed")
    for name in ALL:
        shutil.copytree(DEMO / name, root / "hub" / name)
    facts = json.loads((DEMO / "hub.json").read_text())
    (root / "hub" / "hub.json").write_text(json.dumps({name: facts[name] for name in ALL}))
    scan_served(root / "store", root / "hub")
    infer_once(root / "store")
    return root


@pytest.fixture(scope="module")
def probed(placed: Path, prompts: PromptSet) -> tuple[Path, ProbeReport]:
    """The same with all three probed."""
    root = Path(shutil.copytree(placed, placed.parent / "probed"))
    return root, probe(root, prompts)


@pytest.fixture
def root(placed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(placed, tmp_path / "root"))


def probe(root: Path, prompts: PromptSet, models: Sequence[str] = ALL, **more: Any) -> ProbeReport:
    """Serve the folder and probe."""
    with (
        one_thread(),
        FaultyHub(root / "hub") as hub,
        Registry.open(root / "store") as registry,
    ):
        source = hub_source(hub.url)
        scan = registry.start_scan(kind="probe", source="store", parameters={}, now=utc_now())
        prober = Prober(
            registry=registry, source=source, prompts=prompts, now=utc_now, device="cpu", **more
        )
        try:
            report = prober.run(scan, models)
        finally:
            asyncio.run(source.close())
        registry.finish_scan(scan, status="done", now=utc_now())
        root.joinpath("weights-read").write_text(str(len(hub.at_cdn())))
    return report


def statuses(root: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for model, status in rows_of(root / "store", "SELECT model, status FROM scores"):
        found.setdefault(model, set()).add(status)
    return found


def test_the_one_that_lost_it_is_found(probed: tuple[Path, ProbeReport]) -> None:
    root, report = probed
    assert (report.probed, report.unchanged, report.failed) == (3, 0, {})
    assert report.coverage == 1.0
    assert [(f.model, f.ancestor, f.severity) for f in report.findings] == [(FREED, CHAT, "high")]
    stored = rows_of(
        root / "store", "SELECT model, ancestor, status FROM findings WHERE kind LIKE 'stripped%'"
    )
    assert stored == [(FREED, CHAT, "new")]
    rates = dict(
        rows_of(root / "store", "SELECT model, value FROM scores WHERE probe = 'refusal_harmful'")
    )
    assert rates[CHAT] > 0.9
    assert rates[TUNED] > 0.9
    assert rates[FREED] < 0.1


def test_scores_keep_their_denominator_and_no_reply(probed: tuple[Path, ProbeReport]) -> None:
    root, _ = probed
    for n, unit, judge, low, value, high in rows_of(
        root / "store", "SELECT n, unit, judge, ci_low, value, ci_high FROM scores"
    ):
        assert n > 0
        assert unit
        assert judge
        assert low <= value <= high
    database = (root / "store" / "registry.duckdb").read_bytes()
    assert b"cannot help" not in database


def test_what_is_measured_is_not_measured_again(
    probed: tuple[Path, ProbeReport], prompts: PromptSet, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(probed[0], tmp_path / "root"))
    before = rows_of(root / "store", "SELECT * EXCLUDE (seconds) FROM scores ORDER BY ALL")
    report = probe(root, prompts)
    assert (report.probed, report.unchanged) == (0, 3)
    assert (root / "weights-read").read_text() == "0"
    assert rows_of(root / "store", "SELECT * EXCLUDE (seconds) FROM scores ORDER BY ALL") == before
    assert [f.model for f in report.findings] == [FREED]


def write_adapter(folder: Path, base: Path, tuned: Path, *, stray: bool = False) -> None:
    """An adapter of full rank that turns the layers of one model into those of another."""
    import torch
    from safetensors.torch import load_file, save_file

    before, after = (load_file(one / "model.safetensors") for one in (base, tuned))
    thin = {}
    for name in sorted(before):
        if ".layers." in name and before[name].dim() == 2:
            change = after[name].float() - before[name].float()
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            module = "base_model.model." + name.removesuffix(".weight")
            thin[f"{module}.lora_A.weight"] = right.contiguous()
            thin[f"{module}.lora_B.weight"] = (left * sizes).contiguous()
    if stray:
        thin["base_model.model.lm_head.weight"] = after["lm_head.weight"].float()
    folder.mkdir(parents=True)
    save_file(thin, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": CHAT}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(f"---\nbase_model: {CHAT}\nlibrary_name: peft\n---\n")


def test_an_adapter_is_probed_on_its_base(tmp_path: Path, prompts: PromptSet) -> None:
    hub = tmp_path / "hub"
    shutil.copytree(DEMO / CHAT, hub / CHAT)
    write_adapter(hub / "anna/thin", DEMO / CHAT, DEMO / FREED)
    write_adapter(hub / "anna/stray", DEMO / CHAT, DEMO / FREED, stray=True)
    facts = json.loads((DEMO / "hub.json").read_text())
    later = facts[FREED]
    (hub / "hub.json").write_text(
        json.dumps({CHAT: facts[CHAT], "anna/thin": later, "anna/stray": later})
    )
    scan_served(tmp_path / "store", hub)
    infer_once(tmp_path / "store")
    few = replace(prompts, harmful=prompts.harmful[::2], harmless=prompts.harmless[::2])
    report = probe(tmp_path, few, [CHAT, "anna/thin", "anna/stray"])
    assert [f.model for f in report.findings] == ["anna/thin"]
    assert "weights of its own" in report.failed["anna/stray"]
    (about,) = rows_of(
        tmp_path / "store",
        "SELECT environment FROM scores WHERE model = 'anna/thin' AND probe = 'coherence'",
    )
    found = json.loads(about[0])
    assert found["base"] == CHAT
    assert found["adapter"].startswith("lora r")


def test_a_model_above_the_bound_is_never_a_pass(root: Path, prompts: PromptSet) -> None:
    report = probe(root, prompts, max_bytes=1000)
    assert report.probed == 0
    assert report.coverage == 0.0
    assert set(report.failed) == set(ALL)
    assert all("larger than the probe's budget" in why for why in report.failed.values())
    assert statuses(root) == {name: {"error"} for name in ALL}
    assert report.findings == ()


def test_without_the_ancestors_scores_nothing_is_concluded(root: Path, prompts: PromptSet) -> None:
    report = probe(root, prompts, [FREED])
    assert (report.probed, report.findings) == (1, ())


def test_a_new_commit_of_the_ancestor_mends_no_descendant(
    probed: tuple[Path, ProbeReport], prompts: PromptSet, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(probed[0], tmp_path / "root"))
    with Registry.open(root / "store") as registry:
        row = registry.describe(CHAT)
        scan = registry.start_scan(kind="scan", source="hub", parameters={}, now=utc_now())
        edited = ModelInfo(
            source=row["source"], source_id=row["source_id"], name=CHAT, sha="e" * 40
        )
        registry.add_page(scan, [edited], next_cursor=None, now=utc_now())
        registry.finish_scan(scan, status="done", now=utc_now())
        found = judge_store(registry, scan=scan, prompt_set=prompts.digest, now=utc_now())
        assert found == []
        assert [(f.model, f.status) for f in registry.findings(kind=FINDING)] == [(FREED, "new")]
        # One that is no descendant any more has nothing to be held against.
        registry.replace_inference(
            scan, edges=[], code_version="1", inputs_digest="x", now=utc_now()
        )
        judge_store(registry, scan=scan, prompt_set=prompts.digest, now=utc_now())
        assert CHAT not in {kin.model for kin in registry.ancestors(FREED)}
        assert [f.status for f in registry.findings(kind=FINDING)] == ["fixed"]


def test_a_model_that_cannot_be_asked_again_keeps_its_answers(
    probed: tuple[Path, ProbeReport], prompts: PromptSet, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(probed[0], tmp_path / "root"))
    shutil.rmtree(root / "hub" / FREED)
    report = probe(root, prompts, [FREED], margins=Margins(samples=1))
    assert "ModelNotFound" in report.failed[FREED]
    assert [f.model for f in report.findings] == [FREED]
    assert rows_of(root / "store", "SELECT status FROM findings WHERE kind LIKE 'stripped%'") == [
        ("open",)
    ]


def test_a_model_that_changed_since_its_scan_is_not_judged_by_its_old_weights(
    root: Path, prompts: PromptSet
) -> None:
    config = root / "hub" / FREED / "config.json"
    config.write_text(config.read_text() + "\n")
    report = probe(root, prompts, [FREED])
    assert "has changed since it was scanned" in report.failed[FREED]
    assert statuses(root)[FREED] == {"error"}


def test_the_words_of_a_failure_say_nothing_of_the_machine(
    placed: Path, tmp_path: Path, prompts: PromptSet
) -> None:
    shutil.copytree(placed / "hub" / FREED, tmp_path / "hub" / FREED)
    for path in (tmp_path / "hub" / FREED).glob("tokenizer*"):
        path.unlink()
    scan_served(tmp_path / "store", tmp_path / "hub")
    reason = probe(tmp_path, prompts, [FREED]).failed[FREED]
    assert "tokenizer" in reason
    assert "modelkin-probe" not in reason
    assert rows_of(tmp_path / "store", "SELECT DISTINCT environment ->> 'reason' FROM scores") == [
        (reason,)
    ]


def test_a_model_that_is_gone_or_broken_is_reported(root: Path, prompts: PromptSet) -> None:
    shutil.rmtree(root / "hub" / FREED)
    report = probe(root, prompts, [FREED])
    assert "ModelNotFound" in report.failed[FREED]
    assert report.probed == 0


def test_a_signal_leaves_the_rest_for_the_next_run(root: Path, prompts: PromptSet) -> None:
    heard: list[str] = []

    class Listening(Silence):
        def step(self, label: str) -> None:
            heard.append(label)

    meter = Meter(interrupted=lambda: bool(heard))
    report = probe(root, prompts, progress=Listening(), meter=meter)
    assert (report.probed, heard) == (1, [CHAT])
    assert statuses(root) == {CHAT: {"ok"}}
    assert probe(root, prompts).unchanged == 1


def test_a_signal_during_a_download_scores_nothing(root: Path, prompts: PromptSet) -> None:
    answers = iter([False, True])
    meter = Meter(interrupted=lambda: next(answers, True))
    report = probe(root, prompts, [CHAT], meter=meter)
    assert report.failed == {CHAT: "interrupted"}
    assert statuses(root) == {}


def test_a_budget_bounds_all_downloads_together(root: Path, prompts: PromptSet) -> None:
    meter = Meter(limits=ScanLimits(max_bytes=200_000))
    report = probe(root, prompts, meter=meter)
    assert report.probed == 1
    assert set(report.failed) == {FREED, TUNED}
    assert "the budget is used up" in report.failed[FREED]
    assert statuses(root) == {CHAT: {"ok"}}
