"""Every peer of the benchmark gives a sane answer on a tiny family; its scripts report it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import families as made
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import CONFIG
from tiny_chat import one_thread

from modelkin.lineage.compute import Compute
from modelkin.lineage.infer.kinship import measure_kinship

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
if BENCHMARKS not in sys.path:
    sys.path.append(BENCHMARKS)

import independence  # noqa: E402
import peers  # noqa: E402
import zoo_figures as figures  # noqa: E402
import zoo_scoring as scoring  # noqa: E402
from peer_methods.blinding import blind  # noqa: E402
from peer_methods.csu import Csu, pair_p_value  # noqa: E402
from peer_methods.loading import load, mean_cosines, square_distances  # noqa: E402
from peer_methods.modeldna_peer import ModelDna, is_installed  # noqa: E402
from peer_methods.modelkin_peer import Modelkin, common_root  # noqa: E402
from peer_methods.mother import Mother  # noqa: E402
from peer_methods.nearest import Nearest  # noqa: E402
from peer_methods.protocol import Peer  # noqa: E402
from peer_methods.tensorlock import TensorLock  # noqa: E402

PARENTS = {
    "lab/base": [],
    "lab/chat": ["lab/base"],
    "ann/tuned": ["lab/chat"],
    "bob/tuned": ["lab/chat"],
    "cat/merged": ["ann/tuned", "bob/tuned"],
    "eve/stranger": [],
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six models, one of them a stranger and one a merge, with a truth file and cards."""
    root = tmp_path_factory.mktemp("zoo")
    base = made.published(made.fresh(1))
    chat = made.published(made.trained(base, seed=2, size=0.2))
    ann, bob = (made.published(made.trained(chat, seed=s, size=0.06)) for s in (3, 4))
    merged = made.published(made.merged([ann, bob], [0.6, 0.4]))
    weights = dict(
        zip(PARENTS, (base, chat, ann, bob, merged, made.published(made.fresh(9))), strict=True)
    )
    truth = {}
    for at, (name, one) in enumerate(weights.items()):
        folder = root / name
        folder.mkdir(parents=True)
        rounded = {key: torch.from_numpy(value).bfloat16() for key, value in one.items()}
        save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
        config = CONFIG | {"hidden_size": 64, "num_hidden_layers": 4, "_name_or_path": "lab/base"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "README.md").write_text("---\nbase_model: lab/base\n---\n")
        how = "merge" if len(PARENTS[name]) > 1 else "finetune"
        truth[name] = {
            "parents": PARENTS[name],
            "how": how,
            "created": 1_700_000_000 + 86_400 * at,
            "hidden": False,
        }
    (root / "truth.json").write_text(json.dumps(truth))
    return root


def test_blinding_hides_names_cards_and_times(zoo: Path, tmp_path: Path) -> None:
    hidden = blind(zoo, tmp_path, seed=3)
    assert set(hidden.models) == set(hidden.truth.shown) == set(hidden.dates)
    assert not set(hidden.models) & set(PARENTS)
    assert not list(tmp_path.rglob("README.md"))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.stat().st_mtime for file in files} == {0.0}
    assert all(b"lab/base" not in file.read_bytes() for file in files)
    assert common_root(hidden.models) == tmp_path
    first = datetime.fromtimestamp(1_700_000_000, UTC)
    assert hidden.dates[hidden.names["lab/chat"]] == first + timedelta(days=1)


METHODS: dict[str, Peer] = {
    "modelkin": Modelkin(),
    "mother": Mother(families=lambda names: 2),
    "mother-max": Mother(families=lambda names: 2, distance="max", falling=False),
    "tensorlock": TensorLock(),
    "csu": Csu(),
    "mst": Nearest(rule="mst"),
    "nearest": Nearest(rule="nearest"),
    "cosine": Nearest(rule="cosine"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dated", [True, False])
def test_every_peer_answers(zoo: Path, tmp_path: Path, name: str, dated: bool) -> None:
    hidden = blind(zoo, tmp_path)
    result = METHODS[name].edges(hidden.models, hidden.dates if dated else None)
    assert result.bytes_read > 0
    assert result.unread == ()
    nodes = {node for claim in result.claims for node in (claim.child, claim.parent)}
    assert {node for node in nodes if not node.startswith("hidden:")} <= set(hidden.models)
    one = scoring.score(result.claims, hidden.truth)
    assert one.undirected.right >= LEAST.get(name, 3)
    if dated:
        edges = scoring.resolve(result.claims, hidden.truth.shown)
        assert all(hidden.dates[parent] < hidden.dates[child] for child, parent in edges)
    if result.related is not None and name != "tensorlock":
        kin, strangers = figures.kin_figures(result.related, hidden.truth)
        assert kin.value == 1.0
        assert strangers.right == 0


LEAST = {"csu": 0, "mother-max": 2, "modelkin": 5}


@pytest.mark.parametrize("name", ["mother", "nearest", "mst"])
def test_answers_do_not_depend_on_the_order_of_models(zoo: Path, tmp_path: Path, name: str) -> None:
    hidden = blind(zoo, tmp_path)
    one = METHODS[name].edges(hidden.models, hidden.dates)
    other = METHODS[name].edges(dict(reversed(hidden.models.items())), hidden.dates)
    assert {(c.child, c.parent) for c in one.claims} == {(c.child, c.parent) for c in other.claims}


@pytest.mark.skipif(not is_installed(), reason="modeldna is an optional extra")
def test_the_published_peer_answers(zoo: Path, tmp_path: Path) -> None:
    hidden = blind(zoo, tmp_path)
    result = ModelDna().edges(hidden.models, hidden.dates)
    one = scoring.score(result.claims, hidden.truth)
    assert result.unread == ()
    assert result.bytes_read > 0
    assert one.undirected.right >= 3


def test_a_missing_peer_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    names = peers.chosen(["modeldna", "nearest"])
    assert "nearest" in names
    assert is_installed() or names == ["nearest"]
    assert is_installed() or "MISSING" in capsys.readouterr().err


def test_the_report_of_one_zoo(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The script's name is that of a floor of the house; it is no part of it.
    spec = spec_from_file_location("benchmark_lineage", Path(BENCHMARKS) / "lineage.py")
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    run = script.run_zoo(zoo, Modelkin(), dated=True)
    assert run.score.f1 == 1.0
    assert {claim.child for claim in run.claims} <= set(PARENTS)
    text = "\n".join(script.report([run, run]))
    assert "| all | 12 (0) | 1.000 [1.000, 1.000] | 1.000 |" in text
    assert "Wrong edges: 0" in text
    assert json.dumps(script.as_json(run))


@pytest.mark.slow
def test_strangers_and_children_are_told_apart(tmp_path: Path) -> None:
    with one_thread():
        for name, toy in independence.grow(models=4, steps=3, hidden=64, seed=1):
            independence.write(tmp_path / "zoo" / name, toy)
        group = independence.specimens(tmp_path / "zoo", tmp_path / "store")
        outcome = independence.judge(group, measure_kinship(group, compute=Compute(device="cpu")))
    assert (outcome.models, outcome.pairs, outcome.false, outcome.strange) == (4, 6, 0, 0)
    assert len(outcome.found) == 6
    assert all(kin for kin, _ in outcome.found.values())
    assert "at most" in "\n".join(independence.report(outcome))


def test_distances_and_p_values_of_whole_weights(zoo: Path, tmp_path: Path) -> None:
    hidden = blind(zoo, tmp_path)
    loaded = load(hidden.models)
    (bucket,) = loaded.buckets
    at = {old: bucket.names.index(new) for old, new in hidden.names.items()}
    a, b = at["lab/base"], at["lab/chat"]
    whole = [
        np.concatenate([stack[i].ravel() for stack in bucket.matrices.values()]).astype(float)
        for i in (a, b)
    ]
    plain = float(((whole[0] - whole[1]) ** 2).sum())
    assert square_distances(bucket)[a, b] == pytest.approx(plain)
    assert mean_cosines(bucket)[a, b] > 0.9 > 0.1 > mean_cosines(bucket)[a, at["eve/stranger"]]
    assert pair_p_value(bucket, a, b) < 1e-100
    assert pair_p_value(bucket, a, at["eve/stranger"]) > 1e-4


def test_tables_hold_every_method(zoo: Path, tmp_path: Path) -> None:
    hidden = blind(zoo, tmp_path)
    runs = [
        peers.best_run(peer, hidden, zoo="z", dated=dated)
        for dated in (True, False)
        for peer in ("nearest", "csu")
    ]
    text = "\n".join(peers.tables(runs))
    assert "With dates" in text
    assert "nearest, l2" in text
    assert text.count("| csu |") == 1
    assert json.dumps([peers.as_json(run) for run in runs])


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(SystemExit, match="no peer nobody"):
        peers.chosen(["modelkin", "nobody"])
