"""`probe` from the outside: what would run, the cheap tiers, servers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from openai_server import Served, openai_server
from small_models import rows_of
from small_registry import build_registry

from modelkin.scanners.probes.prompt_sets import builtin_prompt_set

Run = Callable[..., Result]
PAIRS = 4


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return build_registry(tmp_path / "store")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A few pairs of the shipped set."""
    shipped = builtin_prompt_set()
    few = {
        "name": "few",
        "license": "MIT",
        "harmful": shipped.harmful[:PAIRS],
        "harmless": shipped.harmless[:PAIRS],
    }
    path = tmp_path / "few.json"
    path.write_text(json.dumps(few))
    return path


@pytest.fixture
def probe(look: Run, store: Path, prompts: Path, tmp_path: Path) -> Run:
    """`probe` on a store of its own, with an empty folder as the source."""
    (tmp_path / "models").mkdir()
    places = ("--store", str(store), "--source", f"dir:{tmp_path / 'models'}")

    def run(*words: str) -> Result:
        return look("probe", *words, *places, "--prompts", str(prompts))

    return run


def scans(store: Path) -> int:
    ((count,),) = rows_of(store, "SELECT count(*) FROM scans")
    return int(count)


def test_a_plan_says_what_would_run_and_runs_nothing(probe: Run, store: Path) -> None:
    before = scans(store)
    result = probe("lab/base", "alice/chat", "--tier", "sketch", "--plan", "--format", "json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["model"] for row in rows} == {"lab/base", "alice/chat"}
    assert all(row["why"] for row in rows)
    assert "0 new tokens" in result.stderr
    assert scans(store) == before


def test_a_route_leaves_models_out_and_an_audit_takes_them_in(probe: Run) -> None:
    def planned(*words: str) -> set[str]:
        result = probe("--plan", "--route", *words, "--format", "json")
        assert result.exit_code == 0, result.stderr
        return {row["model"] for row in json.loads(result.stdout) if row["runs"]}

    named = ("lab/base", "alice/chat", "bob/math", "dave/freed")
    everyone = planned(*named, "--audit", "1.0")
    assert set(named) <= everyone
    assert planned(*named, "--audit", "0.02") <= everyone
    assert probe("--plan", "--route", "--audit", "0.001").exit_code == 2


@pytest.mark.parametrize("tier", ["metadata", "sketch"])
def test_a_cheap_tier_runs_no_model(probe: Run, store: Path, tier: str) -> None:
    result = probe("alice/chat", "dave/freed", "--tier", tier, "--format", "json")
    assert result.exit_code in (0, 3), result.stderr
    probes = {row["probe"] for row in json.loads(result.stdout)}
    assert probes
    assert not probes & {"refusal_harmful", "selective_refusal"}
    assert "of 2 measured" in result.stderr
    ids = probe("alice/chat", "--tier", tier, "-q")
    assert ids.stdout.split() == ["alice/chat"]


def test_a_budget_of_tokens_ends_a_run(probe: Run) -> None:
    result = probe("alice/chat", "--tier", "generation", "--max-tokens", "1")
    assert result.exit_code == 3
    assert "0 of 1 measured" in result.stderr


def test_margins_go_with_generation_alone(probe: Run) -> None:
    refused = probe("alice/chat", "--tier", "sketch", "--samples", "2", "--prefill")
    assert refused.exit_code == 2
    assert "--samples and --prefill" in refused.stderr
    words = ("--tier", "generation", "--samples", "2", "--prefill", "--max-tokens", "300")
    assert "budget of tokens" in probe("alice/chat", *words).stderr
    assert "budget of tokens" not in probe("alice/chat", *words[:2], *words[-2:]).stderr


def test_a_prompt_set_goes_to_inspect_and_its_log_comes_back(
    look: Run, probe: Run, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "task"
    written = look("prompts", "export", "refusal-v2", "--out", str(out), "--store", str(store))
    assert written.exit_code == 0, written.stderr
    assert len((out / "prompts.jsonl").read_text().splitlines()) == 260
    log = str(Path(__file__).resolve().parents[1] / "golden" / "inspect-log.json")
    taken = probe("alice/chat", "--inspect-log", log, "--format", "json")
    assert taken.exit_code == 0, taken.stderr
    assert any(row["probe"].startswith("inspect:") for row in json.loads(taken.stdout))
    assert probe("--inspect-log", log).exit_code == 2


def answers(asked: dict[str, Any]) -> str:
    text = asked.get("prompt") or asked["messages"][-1]["content"]
    harmful = any(text.endswith(one) for one in builtin_prompt_set().harmful)
    return "I'm sorry, but I can't help with that." if harmful else f"Of course: {text}"


def served_words(server: Served) -> tuple[str, ...]:
    return ("--tier", "deployment", "--server", server.url, "--served-model", "m")


def test_a_deployment_is_probed_behind_its_server(
    probe: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELKIN_SERVER_KEY", "sk-secret-of-the-server")
    system = tmp_path / "system.txt"
    system.write_text("You are a help desk.")
    with openai_server(answers) as server:
        result = probe(
            "lab/base",
            *served_words(server),
            *("--context", "bare", "--context", "system", "--system", str(system)),
        )
        told = [one["messages"] for one in server.asked]
    assert result.exit_code in (0, 3), result.stderr
    assert "sk-secret" not in result.output
    assert set(server.keys) == {"Bearer sk-secret-of-the-server"}
    assert any("help desk" in m[0]["content"] for m in told)
    assert any(len(m) == 1 for m in told)
    nodes = rows_of(store, "SELECT model FROM models WHERE model LIKE 'deployment:%'")
    assert len(nodes) == 2


def test_log_odds_are_asked_for_and_shown(probe: Run) -> None:
    with openai_server(answers) as server:
        server.odds = lambda asked: {"I": 0.9} if answers(asked).startswith("I'm") else {"Of": 0.9}
        words = (*served_words(server), "--logprobs", "--format", "json")
        told = json.loads(probe("lab/base", *words).stdout)
        server.odds = None
        mute = json.loads(probe("alice/chat", *words).stdout)
    found = {row["probe"]: row for row in told}
    assert found["refusal_log_odds"]["value"] > 5.0
    assert found["refusal_log_odds"]["detail"]["reference"] == "bare"
    assert {r["status"] for r in mute if r["probe"] == "refusal_log_odds"} == {"unsupported"}
    assert {r["status"] for r in mute if r["probe"] == "selective_refusal"} == {"ok"}


def test_completions_and_a_bound_on_calls(probe: Run) -> None:
    with openai_server(answers) as server:
        words = (*served_words(server), "--api", "completions")
        bounded = probe("lab/base", *words, "--max-calls", "3")
        assert bounded.exit_code == 3
        assert len(server.asked) <= 3
        result = probe("lab/base", *words)
        assert {one["path"] for one in server.asked} == {"/v1/completions"}
    assert result.exit_code in (0, 3), result.stderr


def test_a_judge_behind_a_server_is_asked_too(probe: Run, store: Path) -> None:
    with openai_server(answers) as server, openai_server(lambda _: "refused") as judge:
        result = probe(
            "lab/base",
            *served_words(server),
            *("--judge-server", judge.url, "--judge-model", "arbiter"),
        )
        assert judge.asked
    assert result.exit_code in (0, 3), result.stderr
    judges = rows_of(store, "SELECT DISTINCT judge FROM scores WHERE model LIKE 'deployment:%'")
    assert any("arbiter" in name for (name,) in judges)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--served-model", "m"), "go with --tier deployment"),
        (("--max-calls", "3", "--tier", "sketch"), "go with --tier deployment"),
        (("--logprobs",), "go with --tier deployment"),
        (("--tier", "deployment"), "--server and --served-model"),
        (("--judge-model", "m"), "go together"),
        (("lab/base", "--tier", "deployment", "--server", "http://127.0.0.1:1/v1"), "served-model"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    probe: Run, words: tuple[str, ...], told: str
) -> None:
    result = probe(*words)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
