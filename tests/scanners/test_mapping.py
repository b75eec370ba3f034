"""The main job on the demo ecosystem: every descendant, its relation, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import FaultyHub, Naps, status
from small_models import (
    contents,
    coverage,
    hub_source,
    rows_of,
    tiny_weights,
    tuned,
    utc_now,
    write_family,
    write_model,
)
from tiny_chat import one_thread

from modelkin.lineage.compute import Compute
from modelkin.lineage.errors import AccessDenied, ModelNotFound, NotComparable, UnsafeRequest
from modelkin.lineage.records import ModelInfo, Outcome
from modelkin.scanners.limits import Meter, ScanLimits
from modelkin.scanners.mapping import Mapper, MapReport, unlike
from modelkin.scanners.sources.base import Source
from modelkin.scanners.sources.folder import FolderSource
from modelkin.scanners.sources.loopback import LoopbackHub
from modelkin.store import Registry

ROOT = Path(__file__).resolve().parents[2]
HUB = ROOT / "dumps" / "demo-hub"
TRUTH = json.loads((ROOT / "benchmarks" / "demo_truth.json").read_text(encoding="utf-8"))
RELEASE = str(TRUTH["release"])
MODELS: dict[str, dict[str, Any]] = TRUTH["models"]

Edges = dict[str, dict[str, tuple[str, float | None]]]


def ancestors(name: str) -> set[str]:
    parents = set(MODELS[name]["parents"])
    return parents.union(*map(ancestors, parents))


DESCENDANTS = {name for name in MODELS if RELEASE in ancestors(name)}


def map_once(
    store: Path, source: Source, release: str, *, resume: bool = False, **more: Any
) -> MapReport:
    """Map a release without probes."""
    with one_thread(), Registry.open(store, create=True) as registry:
        mapper = Mapper(
            registry=registry,
            source=source,
            now=utc_now,
            compute=Compute(device="cpu"),
            **more,
        )
        try:
            return mapper.map_release(release, resume=resume)
        finally:
            asyncio.run(source.close())


def inferred(store: Path, names: dict[str, str] | None = None) -> Edges:
    """Inferred parents by child: relation and share."""
    back = names or {}
    found: Edges = {}
    for child, parent, relation, share in rows_of(
        store, "SELECT child, parent, relation, share FROM edges WHERE inferred"
    ):
        edge = (relation, share)
        found.setdefault(back.get(child, child), {})[back.get(parent, parent)] = edge
    return found


def check_truth(found: Edges) -> None:
    """Parents, relations and shares of every model of the demo."""
    for name, row in MODELS.items():
        edges = found.get(name, {})
        assert set(edges) == set(row["parents"]), name
        assert {relation for relation, _ in edges.values()} <= {row["relation"]}, name
        for parent, (relation, share) in edges.items():
            if relation == "merge":
                assert share == pytest.approx(row["parents"][parent], abs=0.02), name


def descendants(store: Path, release: str = RELEASE) -> set[str]:
    with Registry.open(store, read_only=True) as registry:
        return {kin.model for kin in registry.descendants(release)}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MapReport]:
    """The store of a map of the demo release over HTTP."""
    store = tmp_path_factory.mktemp("mapped") / "store"
    with LoopbackHub(HUB) as hub:
        report = map_once(store, hub_source(hub.url), RELEASE)
    return store, report


def test_every_descendant_is_found_with_parents_relation_and_shares(
    mapped: tuple[Path, MapReport],
) -> None:
    store, report = mapped
    assert descendants(store) == DESCENDANTS
    assert not any(name.startswith("rowan/") for name in descendants(store))
    check_truth(inferred(store))
    assert report.release == RELEASE
    assert report.scan.outcomes == {Outcome.OK: len(MODELS)}
    assert report.inference is not None
    assert report.inference.models == len(MODELS)
    assert report.inference.unreadable == {}
    assert report.probes is None


def test_claims_that_the_weights_contradict_are_findings(mapped: tuple[Path, MapReport]) -> None:
    store, _ = mapped
    found = {
        (kind, model)
        for kind, model in rows_of(store, "SELECT kind, model FROM findings ORDER BY ALL")
    }
    silent = {n for n, row in MODELS.items() if row["parents"] and not row["declared"]}
    wrong = {n for n, row in MODELS.items() if set(row["declared"]) - ancestors(n)}
    assert wrong == {"tinlantern/rowan-city-guide"}
    assert found == {("undeclared_parent", n) for n in silent} | {
        ("misdeclared_parent", n) for n in wrong
    }


def test_a_second_map_reads_nothing_but_the_listing(
    mapped: tuple[Path, MapReport], tmp_path: Path
) -> None:
    store = Path(shutil.copytree(mapped[0], tmp_path / "store"))
    with FaultyHub(HUB) as hub:
        report = map_once(store, hub_source(hub.url), RELEASE)
        assert not [seen for seen in hub.seen if "/resolve" in seen.path]
        assert not hub.at_cdn()
    assert report.scan.outcomes == {Outcome.UNCHANGED: len(MODELS)}
    assert contents(store) == contents(mapped[0])


def test_names_say_nothing(mapped: tuple[Path, MapReport], tmp_path: Path) -> None:
    chance = random.Random(11)
    new = {n: f"o{chance.getrandbits(40):010x}/m{chance.getrandbits(40):010x}" for n in MODELS}
    for name, other in new.items():
        shutil.copytree(HUB / name, tmp_path / "hub" / other)
    facts = json.loads((HUB / "hub.json").read_text())
    renamed = {new[name]: entry for name, entry in facts.items()}
    (tmp_path / "hub" / "hub.json").write_text(json.dumps(renamed))
    store = tmp_path / "store"
    with LoopbackHub(tmp_path / "hub") as hub:
        map_once(store, hub_source(hub.url), new[RELEASE])
    old = {other: name for name, other in new.items()}
    found = inferred(store, old)
    assert found == inferred(mapped[0])
    kin = descendants(store, new[RELEASE])
    # The cards still claim the old names: those are stored as claims on models nobody has.
    assert {old[name] for name in kin if name in old} == DESCENDANTS


def test_without_dates_the_tree_is_the_same(tmp_path: Path) -> None:
    store = tmp_path / "store"
    map_once(store, FolderSource(HUB), RELEASE)
    assert descendants(store) == DESCENDANTS
    check_truth(inferred(store))


def test_a_map_reads_only_models_of_the_shape(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    base = tiny_weights("base")
    write_model(root, "lab/base", base)
    write_model(root, "ann/child", tuned(base, "child"))
    write_model(root, "big/other", tiny_weights("other", hidden=48))
    write_model(root, "gpt/far", tiny_weights("far"), config={"architectures": ["GPT2LMHeadModel"]})
    write_model(root, "sly/unstated", tuned(base, "sly"), config={"model_type": "llama"})
    with FaultyHub(root) as hub:
        report = map_once(tmp_path / "store", hub_source(hub.url), "lab/base")
        assert not [seen for seen in hub.seen if seen.path.startswith("/cdn/gpt")]
    rows = coverage(tmp_path / "store")
    assert {name: row.outcome for name, row in rows.items()} == {
        "lab/base": "ok",
        "ann/child": "ok",
        "big/other": "skipped",
        "gpt/far": "skipped",
        "sly/unstated": "ok",
    }
    assert rows["big/other"].reason == "another shape"
    assert rows["gpt/far"].reason == "another architecture: GPT2LMHeadModel"
    assert report.scan.coverage == 1.0
    assert set(inferred(tmp_path / "store")) == {"ann/child", "sly/unstated"}


def test_a_model_without_a_stated_architecture_is_looked_at() -> None:
    def info(config: dict[str, Any]) -> ModelInfo:
        return ModelInfo(source="hub", source_id="x", name="x/y", sha="0", config=config)

    llama = info({"architectures": ["LlamaForCausalLM"]})
    assert unlike(llama, info({})) is None
    assert unlike(info({}), llama) is None
    assert unlike(llama, info({"architectures": "LlamaForCausalLM"})) is None
    assert unlike(llama, info({"architectures": ["Other", "LlamaForCausalLM"]})) is None
    assert unlike(llama, info({"architectures": ["Other"]})) == "another architecture: Other"


@pytest.mark.parametrize(
    ("entry", "error"),
    [({"gated": "auto"}, NotComparable), ({"disabled": True}, AccessDenied)],
)
def test_a_closed_release_cannot_be_mapped(
    tmp_path: Path, entry: dict[str, Any], error: type[Exception]
) -> None:
    write_model(tmp_path / "hub", "lab/base")
    (tmp_path / "hub" / "hub.json").write_text(json.dumps({"lab/base": entry}))
    with LoopbackHub(tmp_path / "hub") as hub, pytest.raises(error, match="lab/base"):
        map_once(tmp_path / "store", hub_source(hub.url), "lab/base")


def test_a_missing_or_crafted_release_cannot_be_mapped(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", "lab/base")
    with LoopbackHub(tmp_path / "hub") as hub:
        with pytest.raises(ModelNotFound):
            map_once(tmp_path / "store", hub_source(hub.url), "lab/nothing")
        with pytest.raises(UnsafeRequest):
            map_once(tmp_path / "store", hub_source(hub.url), "../../etc/passwd")


def test_an_unreadable_release_fails_its_scan(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "hub", "lab/base")
    (folder / "model.safetensors").write_bytes(b"\xff" * 80)
    for words in ("header too long", "no readable weights"):
        with LoopbackHub(tmp_path / "hub") as hub, pytest.raises(NotComparable, match=words):
            map_once(tmp_path / "store", hub_source(hub.url), "lab/base")
    found = rows_of(tmp_path / "store", "SELECT status FROM scans ORDER BY scan")
    assert found == [("failed",), ("failed",)]


def test_a_renamed_release_is_mapped_under_its_new_name(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    write_family(root)
    store = tmp_path / "store"
    with LoopbackHub(root) as hub:
        identity = hub.exhibits["lab/base"].facts["_id"]
        map_once(store, hub_source(hub.url), "lab/base")
    shutil.move(root / "lab" / "base", root / "lab" / "renamed")
    with LoopbackHub(root) as hub:
        hub.exhibits["lab/renamed"].facts["_id"] = identity  # type: ignore[index]
        hub.moved["lab/base"] = "lab/renamed"
        report = map_once(store, hub_source(hub.url), "lab/base")
    assert report.release == "lab/renamed"
    assert descendants(store, "lab/base") >= {"ann/chat", "bob/quiet", "cat/later", "dan/copy"}


def test_an_interrupted_map_is_resumed(mapped: tuple[Path, MapReport], tmp_path: Path) -> None:
    store = tmp_path / "store"
    with FaultyHub(HUB) as hub:
        stop = Meter(interrupted=lambda: len(hub.at_cdn()) > 20)
        first = map_once(store, hub_source(hub.url), RELEASE, meter=stop)
        again = map_once(store, hub_source(hub.url), RELEASE, resume=True)
    assert (first.scan.status, again.scan.status) == ("interrupted", "done")
    assert first.inference is None
    assert first.scan.scan == again.scan.scan
    assert contents(store) == contents(mapped[0])


def test_a_map_within_a_budget_places_what_it_read(tmp_path: Path) -> None:
    with LoopbackHub(HUB) as hub:
        meter = Meter(limits=ScanLimits(max_requests=20))
        report = map_once(tmp_path / "store", hub_source(hub.url), RELEASE, meter=meter)
    assert report.scan.status == "exhausted"
    assert report.inference is not None
    assert 1 < report.inference.models < 5
    assert report.inference.models == len(coverage(tmp_path / "store"))


def test_a_release_whose_description_fails_for_now_is_no_release_without_weights(
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "hub", "lab/base")
    with FaultyHub(tmp_path / "hub") as hub:
        hub.plan(r"^/cdn/", status(503), times=99)
        retry = Naps().policy(attempts=2)
        with pytest.raises(NotComparable, match="HTTP 503"):
            map_once(tmp_path / "store", hub_source(hub.url, retry=retry), "lab/base")
        hub._plans.clear()
        report = map_once(tmp_path / "store", hub_source(hub.url), "lab/base")
    assert report.scan.outcomes == {Outcome.OK: 1}
