"""The benchmark zoo: its plan for many seeds, its transformations and merges."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from toy_language import World, build_tokenizer  # noqa: E402
from toys import Toy, quantize  # noqa: E402
from zoo import __main__ as command  # noqa: E402
from zoo import merging, slimming  # noqa: E402
from zoo.architectures import create  # noqa: E402
from zoo.editing import rewrite_fact  # noqa: E402
from zoo.laundering import WASHES, launder, logit_gap  # noqa: E402
from zoo.makers import WORDS  # noqa: E402
from zoo.menus import ALL, EDITS, MERGES, RANKS, ROUNDS  # noqa: E402
from zoo.menus import WASHES as WASH_MENU  # noqa: E402
from zoo.plan import Item  # noqa: E402
from zoo.shelf import draw_plan, truth_row  # noqa: E402

SEEDS = range(12)


def toy_of(architecture: str, seed: int = 3) -> Toy:
    """An untrained toy with gains, biases and weights that differ from one another."""
    world = World(seed=1, answer="use a {tool} , then {verb} it .", refusal="sorry .")
    toy = create(architecture, world, tokenizer=build_tokenizer([world]), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in toy.model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=draw)
    return toy


@pytest.fixture(scope="module")
def llama() -> Toy:
    return toy_of("llama")


# The plan


@pytest.mark.parametrize("small", [False, True])
def test_a_plan_depends_on_its_arguments_alone(small: bool) -> None:
    assert draw_plan(5, small=small) == draw_plan(5, small=small)
    assert draw_plan(5, small=small) != draw_plan(6, small=small)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_made_or_dated_before_what_it_needs(seed: int) -> None:
    plan = draw_plan(seed)
    done: set[str] = set()
    last = 0
    for item in plan.items:
        assert done.issuperset(item.needs)
        assert last < plan.created[item.key]
        assert plan.names[item.root] in plan.names.values()
        done.add(item.key)
        last = plan.created[item.key]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_full_plan_has_every_kind(seed: int) -> None:
    items = draw_plan(seed).items
    llamas = [item for item in items if item.architecture == "llama"]
    published = [item for item in items if not item.hidden]
    assert 110 <= len(published) <= 150
    assert {item.maker for item in llamas} == WORDS.keys()
    assert sum(item.maker == "base" for item in llamas) == 4
    assert sum(item.hidden for item in items) >= 4
    assert {i.options["rank"] for i in llamas if i.maker == "lora"} == set(RANKS)
    methods = {i.options["method"] for i in llamas if i.maker == "merge"}
    assert methods == {method.rstrip("3") for method in MERGES}
    rounds = {tuple(i.options.values()) for i in llamas if i.maker == "round"}
    assert rounds == set(ROUNDS)
    washed = {tuple(i.options["laundered"]) for i in llamas if "laundered" in i.options}
    assert washed == {tuple(w for w in washes if w != "tuned") for washes in WASH_MENU}
    assert sum(i.maker in ("project", "rewrite") for i in llamas) >= len(EDITS)


@pytest.mark.parametrize("seed", SEEDS)
def test_hidden_models_have_one_to_three_children_and_some_stand_deep(seed: int) -> None:
    items = draw_plan(seed).items
    hidden = [item for item in items if item.hidden]
    counts = {sum(item.key in child.parents for child in items) for item in hidden}
    assert counts == {1, 2, 3}
    assert any(not item.parents[0].endswith(".chat") for item in hidden)


def test_bases_of_one_architecture_read_the_same_batches() -> None:
    bases = [item for item in draw_plan(9).items if item.maker == "base"]
    for architecture in ALL:
        same = [item for item in bases if item.architecture == architecture]
        assert len({json.dumps(item.options) for item in same}) == 1
        assert len({item.seed for item in same}) == len(same)


def test_cards_are_true_silent_and_wrong() -> None:
    plan = draw_plan(12)
    said = {"true": 0, "none": 0, "wrong": 0}
    for item in plan.items:
        parents = {plan.names[key] for key in item.parents}
        declared = set(plan.declared[item.key])
        if not item.hidden and item.parents:
            said["none" if not declared else "true" if declared == parents else "wrong"] += 1
    assert min(said.values()) >= 10


def test_only_some_architectures() -> None:
    assert {item.architecture for item in draw_plan(3, only=["neox"]).items} == {"neox"}
    with pytest.raises(ValueError, match="architectures"):
        draw_plan(3, only=["opt"])


# Transformations


@pytest.mark.parametrize("wash", WASHES)
def test_a_wash_keeps_the_function_of_a_llama(wash: str, llama: Toy) -> None:
    washed = launder(llama, (wash,), seed=1)
    before, after = llama.state(), washed.state()
    assert any(not torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    assert logit_gap(llama, washed) <= 1e-3


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("wash", ["mlp-permutation", "head-permutation"])
def test_a_permutation_keeps_the_function_of_every_architecture(
    architecture: str, wash: str
) -> None:
    toy = toy_of(architecture)
    assert logit_gap(toy, launder(toy, (wash,), seed=2)) <= 1e-3


def test_a_wash_that_does_not_fit_is_caught() -> None:
    with pytest.raises((ArithmeticError, KeyError)):
        launder(toy_of("neox"), ("mlp-rescale",), seed=2)


def test_a_rotation_leaves_gains_of_one(llama: Toy) -> None:
    state = launder(llama, ("rotation",), seed=4).state()
    assert all(bool((w == 1).all()) for name, w in state.items() if w.dim() == 1)


def test_all_washes_together_keep_the_function(llama: Toy) -> None:
    assert logit_gap(llama, launder(llama, tuple(WASHES), seed=7)) <= 1e-3


@pytest.mark.parametrize("architecture", ALL)
def test_removing_neurons_is_zeroing_them(architecture: str) -> None:
    toy = toy_of(architecture)
    zeroed, removed = (f(toy, share=0.2) for f in (slimming.zero_neurons, slimming.remove_neurons))
    assert logit_gap(toy, removed) > 1e-3
    # A unit of zeros answers activation(0) = 0 in all three architectures.
    assert logit_gap(zeroed, removed) <= 1e-3
    assert removed.model.config.intermediate_size < toy.model.config.intermediate_size


def test_removing_a_head_is_zeroing_its_output(llama: Toy) -> None:
    removed = slimming.remove_heads(llama)
    state = llama.state()
    for layer in range(4):
        out = state[f"model.layers.{layer}.self_attn.o_proj.weight"]
        weakest = int(torch.stack([half.norm() for half in out.split(32, dim=1)]).argmin())
        out[:, 32 * weakest : 32 * (weakest + 1)] = 0
    assert logit_gap(llama.clone(state), removed) <= 1e-3


@pytest.mark.parametrize("architecture", ALL)
def test_restacking_all_layers_changes_nothing(architecture: str) -> None:
    toy = toy_of(architecture)
    assert logit_gap(toy, slimming.restack(toy, [0, 1, 2, 3])) == 0
    longer = slimming.restack(toy, [0, 1, 1, 2, 3])
    assert longer.model.config.num_hidden_layers == 5
    assert logit_gap(toy, longer) > 1e-3


def test_more_words_leave_the_old_ones(llama: Toy) -> None:
    longer = slimming.add_words(llama, rows=8, seed=3)
    ids = torch.arange(2, 22)[None]
    words = llama.model.config.vocab_size
    old, new = llama.model(input_ids=ids).logits, longer.model(input_ids=ids).logits
    assert new.shape[-1] == words + 8
    torch.testing.assert_close(new[..., :words], old)


def test_a_rewritten_fact_is_of_rank_one(llama: Toy) -> None:
    edited = rewrite_fact(llama, layer=2, strength=1.0, seed=5).state()
    changed = {n: edited[n] - w for n, w in llama.state().items() if not edited[n].equal(w)}
    assert changed.keys() == {"model.layers.2.mlp.down_proj.weight"}
    values = torch.linalg.svdvals(changed["model.layers.2.mlp.down_proj.weight"])
    assert values[1] < 1e-4 * values[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_rounded_group_has_no_more_values_than_its_bits(
    bits: int, symmetric: bool, llama: Toy
) -> None:
    rounded = quantize(llama, bits=bits, group=32, symmetric=symmetric)
    for _name, weight in rounded.matrices():
        for group in weight.detach().view(-1, 32)[:20]:
            assert len(group.unique()) <= 2**bits - symmetric


# Merges


def test_a_slerp_ends_at_its_parents() -> None:
    one, two = toy_of("llama", 1).state(), toy_of("llama", 2).state()
    for share, end in ((0.0, one), (1.0, two)):
        merged = merging.slerp(one, two, share=share)
        for name in end:
            torch.testing.assert_close(merged[name], end[name], rtol=1e-4, atol=1e-5)


def test_task_vector_merges_of_everything_are_task_arithmetic() -> None:
    base, *states = (toy_of("llama", seed).state() for seed in (1, 2, 3))
    plain = merging.task_arithmetic(base, states, [0.4, 0.5])
    draw = torch.Generator().manual_seed(1)
    kept = merging.dare(base, states, [0.4, 0.5], drop=0.0, elect=False, draw=draw)
    alone = merging.ties(base, states[:1], [0.7], density=1.0)
    for name in base:
        torch.testing.assert_close(kept[name], plain[name])
        torch.testing.assert_close(alone[name], states[0][name], rtol=1e-4, atol=1e-5)


def test_ties_keeps_its_density() -> None:
    base, one = toy_of("llama", 1).state(), toy_of("llama", 2).state()
    merged = merging.ties(base, [one], [1.0], density=0.25)
    name = "model.layers.1.mlp.up_proj.weight"
    assert float((merged[name] != base[name]).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_a_gradient_runs_over_the_layers() -> None:
    one, two = toy_of("llama", 1).state(), toy_of("llama", 2).state()
    merged = merging.gradient(one, two, ends=(0.0, 1.0), layers=4)
    for layer, share in ((0, 0.0), (1, 1 / 3), (3, 1.0)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        torch.testing.assert_close(merged[name], (1 - share) * one[name] + share * two[name])
    torch.testing.assert_close(merged["lm_head.weight"], two["lm_head.weight"])
    torch.testing.assert_close(
        merged["model.embed_tokens.weight"], one["model.embed_tokens.weight"]
    )


# The command


def test_the_cache_answers_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = command.kept(tmp_path / "cache", f"3/True/{['encoder']}")
    assert home is not None
    assert home != command.kept(tmp_path / "cache", f"4/True/{['encoder']}")
    home.mkdir(parents=True)
    (home / "truth.json").write_text("{}\n", encoding="utf-8")
    out = tmp_path / "out"
    options = ["--seed", "3", "--small", "--only", "encoder", "--cache", str(tmp_path / "cache")]
    command.main([str(out), *options])
    assert (out / "truth.json").read_text(encoding="utf-8") == "{}\n"
    assert "from the cache" in capsys.readouterr().err


def test_a_truth_row_speaks_in_public_names() -> None:
    plan = draw_plan(4)
    item: Item = next(item for item in plan.items if item.base is not None)
    row = truth_row(item, plan)
    assert row["detail"]["base"] == plan.names[item.base or ""]
    assert row["parents"] == [plan.names[key] for key in item.parents]
