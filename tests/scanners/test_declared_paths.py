"""Names from paths: what resolves by its own text, and what must stay open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.scanners.declared_paths import is_model_id, resolve_name
from modelkin.scanners.known_names import CANONICAL_IDS

SHA = "0aa3e45ea64e15703b268d2eb3627f422be9bd18"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("org/name", "org/name"),
        (" org/name/ ", "org/name"),
        ("0-hero/Matter-0.1-7B_x", "0-hero/Matter-0.1-7B_x"),
        ("devmeta8/A", "devmeta8/A"),
        ("https://huggingface.co/org/name", "org/name"),
        ("https://huggingface.co/org/name/", "org/name"),
        ("https://huggingface.co/org/name/tree/main", "org/name"),
        ("https://huggingface.co/org/name/blob/main/README.md?code=true#x", "org/name"),
        ("https://huggingface.co/gpt2", "openai-community/gpt2"),
        ("gpt2", "openai-community/gpt2"),
        ("roberta-large", "FacebookAI/roberta-large"),
        ("models--org--name", "org/name"),
        ("models--gpt2", "openai-community/gpt2"),
        ("/root/.cache/huggingface/hub/models--org--name/snapshots/main", "org/name"),
        ("D:\\hub\\models--org--name\\snapshots\\" + SHA, "org/name"),
        ("/x/.cache/modelscope/hub/Qwen/Qwen2___5-7B", "Qwen/Qwen2.5-7B"),
        ("/x/.cache/modelscope/hub/models/someone/My-Model-v1___5", "someone/My-Model-v1.5"),
        ("C:\\u\\.cache\\modelscope\\hub\\Qwen\\Qwen2___5-7B", "Qwen/Qwen2.5-7B"),
        ("/home/seva/data/ai/models/mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1"),
        ("~/models/Qwen/Qwen2___5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("/mnt/hf_models/NousResearch/Hermes-3-8B", "NousResearch/Hermes-3-8B"),
        ("/data/LLMs/meta-llama/Llama-3.1-8B/", "meta-llama/Llama-3.1-8B"),
        ("/data/models/Sao10K/Stheno-L3-8B", "Sao10K/Stheno-L3-8B"),
        ("huggingface/CodeBERTa-small-v1", "huggingface/CodeBERTa-small-v1"),
    ],
)
def test_resolved(raw: str, name: str) -> None:
    found = resolve_name(raw)
    assert found.name == name
    if raw.startswith(("/", "~")) and "cache" not in raw:
        assert found.note == "tail of a local path"


@pytest.mark.parametrize(
    "raw",
    [
        "/data/vllm/CodeLlama-13b-Instruct-hf",
        "/datas/huggingface/chatglm3-6b",
        "/corenas/Model/LLM/Mistral-7B-v0.1",
        "/workspace/process/adaptllm_medicine-llm/source",
        "/root/autodl-tmp/models/Qwen2.5-VL-3B-Instruct",
        "/home/zhang/Qwen2-7B",
        "/home/models/llama/llama-2-7b-hf",
        "/models/Llama-3/Llama-3-8B-Instruct",
        "/models/qwen2.5/Qwen2.5-7B",
        "/models/my-sft/checkpoint-500",
        "/models/experiments/llama-x",
        "/models/run_7/llama-x",
        "/models/lora-out/best",
        "/models/someone/merged",
        "/root/Qwen/sft_v3",
        "/home/me/unsloth/my-run",
        "/Qwen/Qwen2-7B",
        "/",
        "/name",
        "~",
        "./sft_cgh_dataop/outputs/train/qwen15_hq_full_sft",
        "../models/mistralai/Mistral-7B-v0.1",
        "models/mistralai/Mistral-7B-v0.1",
        "outputs/llama-sft",
        "checkpoints/last",
        "saves/llama3",
        "D:\\Model\\bloom-560m",
        "D:/models/mistralai/Mistral-7B-v0.1",
        "C:\\models\\mistralai\\Mistral-7B-v0.1",
        "\\\\nas\\models\\mistralai\\Mistral-7B-v0.1",
        "Qwen2.5-7B-Instruct",
        "GPT2",
        "gpt2-GPTQ",
        "/x/.cache/modelscope/hub/AI-ModelScope/Mistral-7B",
        "/x/.cache/modelscope/hub/LLM-Research/Meta-Llama-3-8B",
        "/x/.cache/modelscope/hub/models/Qwen2___5-7B",
        "/x/modelscope/hub/models",
        "/hub/models--org--na--me/snapshots/x",
        "/hub/models--unknown",
        "https://huggingface.co/datasets/org",
        "https://huggingface.co/spaces/org/name",
        "https://huggingface.co/collections/org/name",
        "https://huggingface.co/someone",
        "https://huggingface.co//datas/x",
        "http://huggingface.co/org/name",
        "https://hf-mirror.example/org/name",
        "",
    ],
)
def test_unresolved(raw: str) -> None:
    found = resolve_name(raw)
    assert found.name is None
    assert found.note


@pytest.mark.parametrize(
    ("raw", "revision"),
    [
        (f"/hub/models--org--name/snapshots/{SHA}", SHA),
        (f"/hub/models--org--name/snapshots/{SHA}/", SHA),
        (f"models--bert-base-uncased/snapshots/{SHA}", SHA),
        ("/hub/models--org--name/snapshots/main", None),
        (f"https://huggingface.co/org/name/tree/{SHA}", SHA),
        ("https://huggingface.co/org/name/tree/main", None),
        ("org/name", None),
    ],
)
def test_only_full_commits_are_revisions(raw: str, revision: str | None) -> None:
    assert resolve_name(raw).revision == revision


def test_the_legacy_table_is_sound() -> None:
    assert len(CANONICAL_IDS) > 60
    for old, new in CANONICAL_IDS.items():
        assert "/" not in old
        assert is_model_id(new)
        assert new.endswith(f"/{old}")


@given(st.text(st.characters(), max_size=60) | st.text("models--abc/\\.:_~@ ", max_size=60))
def test_any_text_resolves_to_an_id_or_to_a_reason(raw: str) -> None:
    found = resolve_name(raw)
    assert (found.name is None and found.note) or (found.name and is_model_id(found.name))


@given(
    st.from_regex(r"\A[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,5}){0,2}\Z"),
    st.from_regex(r"\A[A-Za-z][A-Za-z0-9]{0,9}([-_.][A-Za-z0-9]{1,5}){0,3}\Z"),
)
def test_cache_paths_round_trip(owner: str, name: str) -> None:
    path = f"/home/u/.cache/huggingface/hub/models--{owner}--{name}/snapshots/{SHA}"
    found = resolve_name(path)
    if is_model_id(f"{owner}/{name}"):
        assert (found.name, found.revision) == (f"{owner}/{name}", SHA)
