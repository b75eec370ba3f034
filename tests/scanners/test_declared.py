"""Declared parents of 110 public models, each with the trap that it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from modelkin.lineage.records import DeclaredParent, Relation
from modelkin.scanners.bounded_json import parse_json_object
from modelkin.scanners.cards import parse_card
from modelkin.scanners.declared import declared_parents
from modelkin.scanners.declared_paths import is_model_id
from modelkin.scanners.known_names import CANONICAL_IDS

CASES: Final = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "dumps/hub-answers/cards_real.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
HUB: Final = "https://huggingface.co"
MASTERARBEIT: Final = (
    "D:/Uni/Masterarbeit Code/jakob_finetuning/finetuned_models/meta_llama_full_colab_remerge_2"
)
SAUERKRAUT_COMMIT: Final = "221e5f92f9dc5fedaf4556b1be6b20642638643c"
SAUERKRAUT: Final = (
    "D:/Huggingface/hub/models--VAGOsolutions--Llama-3.1-SauerkrautLM-8b-Instruct/snapshots/"
    + SAUERKRAUT_COMMIT
)


def mlx_body(base: str, link: str = "") -> str:
    return (
        f"# this model\nThis model was converted to MLX format from [`{base}`]({link}).\n"
        f"Refer to the [original model card]({HUB}/{base}) for more details on the model.\n"
        f'## Use with mlx\n```bash\npython -m mlx_lm.generate --model "someone/else"\n```\n'
    )


def merge_body(*models: str, base: str) -> str:
    bullets = "\n".join(
        f"* [{name}]({HUB}/{name})" if is_model_id(name) else f"* {name}" for name in models
    )
    lines = "\n".join(f'  - model: "{name}"' for name in models)
    return (
        "# merge\n\nThis is a merge of pre-trained language models created using "
        "[mergekit](https://github.com/cg123/mergekit).\n\n### Models Merged\n\n"
        f"The following models were included in the merge:\n{bullets}\n\n### Configuration\n\n"
        f'```yaml\nmodels:\n{lines}\nbase_model: "{base}"\nmerge_method: slerp\n'
        "dtype: bfloat16\nparameters:\n  t: 0.4\n```\n"
    )


def quantization(method: str, **more: object) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **more}}


# What the repository holds beside the fields of the case, in the form the tools write it.
BESIDE: Final[dict[str, dict[str, Any]]] = {
    "mlabonne/gpt2-GPTQ-4bit": {"config": quantization("gptq", bits=4)},
    "seonglae/llama-2-13b-chat-hf-gptq": {"config": quantization("gptq", bits=4)},
    "kaitchup/Llama-2-7b-gptq-3bit": {"config": quantization("gptq", bits=3)},
    "PrunaAI/Meta-Llama-3-70b-instruct-AWQ-smashed": {"config": quantization("awq", bits=4)},
    "unsloth/llama-3-8b-bnb-4bit": {"config": quantization("bitsandbytes", load_in_4bit=True)},
    "TheBloke/medicine-LLM-GPTQ": {"config": quantization("gptq", bits=4)},
    "aiknight87/llama-2-7b-hf-tuned-200": {
        "config": quantization("bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")
    },
    "blockblockblock/TinyLlama_v1.1-bpw2.25-exl2": {"config": quantization("exl2", bits=2.25)},
    "cortecs/Meta-Llama-3-70B-Instruct-GPTQ-8b": {
        "body": "This is a quantized version of [Meta-Llama-3-70B-Instruct]"
        f"({HUB}/meta-llama/Meta-Llama-3-70B-Instruct) using GPTQ.\n"
    },
    "mergekit-community/mergekit-slerp-xqcetfe": {
        "mergekit": "models:\n  - model: mergekit-community/mergekit-model_stock-hwudfad\n"
        "  - model: mergekit-community/mergekit-sce-xgsvvmh\nmerge_method: slerp\n"
        "base_model: mergekit-community/mergekit-sce-xgsvvmh\ndtype: bfloat16\n"
        "parameters:\n  t: [0, 0.5, 1, 0.5, 0]\n"
    },
    "birgermoell/Llama-3-dare_ties": {
        "body": "# Llama-3-dare_ties\n\nLlama-3-dare_ties is a merge of the following models using "
        "[LazyMergekit](https://colab.research.google.com/drive/1):\n"
        f"* [meta-llama/Meta-Llama-3-8B-Instruct]({HUB}/meta-llama/Meta-Llama-3-8B-Instruct)\n\n"
        "## Configuration\n\n```yaml\nmodels:\n  - model: meta-llama/Meta-Llama-3-8B\n"
        "    # No parameters necessary for base model\n"
        "  - model: meta-llama/Meta-Llama-3-8B-Instruct\n    parameters:\n      density: 0.53\n"
        "merge_method: dare_ties\nbase_model: meta-llama/Meta-Llama-3-8B\n```\n"
    },
    "SyedAbdul/test-7B-slerp": {
        "body": "# test-7B-slerp\n\ntest-7B-slerp is a merge of the following models using "
        "[mergekit](https://github.com/cg123/mergekit):\n\n## Configuration\n"
    },
    "manojkumarvohra/llama2-7B-Chat-hf-8bit-guanaco-pico-finetuned": {
        "body": "This model is a fine-tuned version of **meta-llama/Llama-2-7b-chat-hf**: the "
        "adapter manojkumarvohra/llama2-7B-Chat-8bit-guanaco-pico-adapter-hf merged into it.\n"
    },
    "daitavan/Qwen2.5-7B-Instruct_lora_unsloth_law_adapter": {
        "files": ("adapter_config.json", "adapter_model.safetensors")
    },
    "mlx-community/EuroLLM-22B-Instruct-Preview-mlx-bf16": {
        "body": f"The Model [bibproj/EuroLLM-22B-Instruct-Preview-mlx-fp16]({HUB}/bibproj/"
        "EuroLLM-22B-Instruct-Preview-mlx-fp16) was converted to MLX format from "
        "[utter-project/EuroLLM-22B-Instruct-Preview]"
        f"({HUB}/utter-project/EuroLLM-22B-Instruct-Preview) using mlx-lm version **0.28.3**.\n"
    },
    "mlx-community/Mistral-7B-Instruct-v0.2-8-bit-mlx": {
        "body": mlx_body("mistralai/Mistral-7B-Instruct-v0.2")
    },
    "Ice1/my-mistral-q-finetune": {"body": mlx_body("mistralai/Mistral-7B-v0.1")},
    "sugatoray/mlx-mistral-7b-v0.1-q4bits": {"body": mlx_body("mistralai/Mistral-7B-v0.1")},
    "Mit1208/Florence-2-DocLayNet": {
        "body": "This model is a fine-tuned version of [microsoft/Florence-2-base-ft]"
        f"({HUB}/microsoft/Florence-2-base-ft) on the DocLayNet dataset.\n"
    },
    "jamander/Project-Frankenstein": {"body": "base_model: mistralai/Mistral-7B-v0.1\n\n# Title\n"},
    "Emuixom/MySelfEmil": {
        "config": {"base_model": "black-forest-labs/FLUX.1-dev"},
        "files": ("model_index.json", "MySelfEmil_lora.safetensors"),
    },
    "ghfile:58096813750": {"tags": ["abliterated", "modelopt", "nvfp4", "fp8", "vllm"]},
    "ghfile:55296063880": {"tags": ["onnx", "int8", "bart"]},
    "pt_gl_slerp_t_05": {
        "body": merge_body("Nos-PT/Llama-Carvalho-PT-GL", MASTERARBEIT, base=MASTERARBEIT)
    },
    "slerp_t_04": {"body": merge_body(SAUERKRAUT, MASTERARBEIT, base=MASTERARBEIT)},
    "ghfile:53192904182": {
        "body": f"This model is a fine-tuned version of [None]({HUB}/None).\n"
        "It has been trained using [TRL](https://github.com/huggingface/trl).\n"
    },
    "ghfile:22889452496": {
        "tags": ["llama-factory", "lora", "generated_from_trainer"],
        "body": "This model is a fine-tuned version of [/datas/huggingface/chatglm3-6b]"
        f"({HUB}//datas/huggingface/chatglm3-6b) on the sen dataset.\n",
    },
    "ghfile:37143886815": {
        "body": "This model is a fine-tuned version of [D:\\Model\\bloom-560m]"
        f"({HUB}/D:\\Model\\bloom-560m) on the oaast_sft_zh dataset.\n"
    },
    "ghfile:37054068579": {
        "body": "# Orca Mini v3 13B - GGML\n"
        f"- Original model: [Orca Mini v3 13B]({HUB}/psmathur/orca_mini_v3_13b)\n\n"
        "This repo contains GGML format model files for [Pankaj Mathur's Orca Mini v3 13B]"
        f"({HUB}/psmathur/orca_mini_v3_13b).\n\n# Original model card: Orca Mini\n\n"
        "This model is a fine-tuned version of meta-llama/Llama-2-13b-hf\n"
    },
}

# Where the text names other parents than the truth, or none: what it can say, and why.
TEXT_SAYS: Final[dict[str, tuple[list[str | None], str]]] = {
    "TheBloke/medicine-LLM-GPTQ": ([None], "a builder's work path, owner and name run together"),
    "blockblockblock/TinyLlama_v1.1-bpw2.25-exl2": ([], "only the repository's own name hints"),
    "birgermoell/Llama-3-dare_ties": (
        ["meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B"],
        "the base of the method stands only in the configuration",
    ),
    "daitavan/Qwen2.5-7B-Instruct_lora_unsloth_law_adapter": ([None], "a folder, not a legacy id"),
    "pt_gl_slerp_t_05": (
        ["Nos-PT/Llama-Carvalho-PT-GL", None],
        "the second parent is a folder on a Windows disk",
    ),
    "slerp_t_04": (
        ["VAGOsolutions/Llama-3.1-SauerkrautLM-8b-Instruct", None],
        "one cache path and one folder on a Windows disk",
    ),
    "ghfile:53192904182": ([None], "an empty field and a tag written by the author"),
    "ghfile:69288822231": ([None], "a path without an owner"),
    "ghfile:37143886815": ([None], "a Windows path"),
    "ghfile:55023991388": ([None], "a relative path"),
    "ghfile:22889452496": ([None], "a path without an owner"),
    "ghfile:26740913406": (["Qwen/Qwen2.5-3B-Instruct"], "a ModelScope cache path"),
    "ghfile:37054068579": (["psmathur/orca_mini_v3_13b"], "field model_link"),
    "ghfile:23551827489": (["Gryphe/MythoMax-L2-13b"], "field model_link"),
}

# Where the text cannot tell the relation.
RELATION_SAYS: Final[dict[str, tuple[Relation | None, str]]] = {
    "aiknight87/llama-2-7b-hf-tuned-200": (
        None,
        "a bitsandbytes block in config.json: 4-bit weights, or a leftover of QLoRA training",
    ),
}


def case_key(case: Mapping[str, Any]) -> str:
    return str(case["id"] or case["source"])


def write_card(case: Mapping[str, Any], beside: Mapping[str, Any]) -> bytes:
    front = {
        key: case[key]
        for key in ("license", "library_name", "quantized_by", "model_link", "new_version")
        if case.get(key)
    }
    front["tags"] = [*(case["tags"] or ()), *beside.get("tags", ())]
    if case["relation_declared"]:
        front["base_model_relation"] = case["relation_declared"]
    text = yaml.safe_dump(front, allow_unicode=True)
    if case["via"] == "front_matter":
        base = case.get("base_model_raw", case["base_model"])
        folded = case["trap"] and "folded" in case["trap"]
        text += f"base_model: >-\n  {base}\n" if folded else yaml.safe_dump({"base_model": base})
    body = beside.get("body", case.get("body", ""))
    return f"---\n{text}---\n\n# {case['id']}\n\n{body}".encode()


def hub_tags(case: Mapping[str, Any]) -> tuple[str, ...]:
    if case["via"] != "api_capture":
        return tuple(case["tags"] or ())
    bases = case["base_model"] if isinstance(case["base_model"], list) else [case["base_model"]]
    relation = case["relation_expected"]
    return tuple(
        tag
        for base in bases
        for tag in (f"base_model:{base}", f"base_model:{relation}:{base}", "region:us")
    )


def read_case(case: Mapping[str, Any]) -> tuple[DeclaredParent, ...]:
    beside = BESIDE.get(case_key(case), {})
    card = parse_card(write_card(case, beside))
    config = dict(beside.get("config", {}))
    adapter = None
    if case["via"].startswith("config"):
        config["_name_or_path"] = case.get("name_or_path", case["base_model"])
    if case["via"] == "adapter_config":
        base = case.get("name_or_path", case["base_model"])
        written = json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
        adapter = parse_json_object(written.encode(), path="adapter_config.json")
    return declared_parents(
        model=case["id"],
        card=card.front_matter,
        tags=hub_tags(case),
        body=card.body,
        config=config,
        adapter_config=adapter,
        mergekit=beside.get("mergekit"),
        files=beside.get("files", ()),
    )


def expected_names(case: Mapping[str, Any]) -> list[str | None]:
    if case_key(case) in TEXT_SAYS:
        return TEXT_SAYS[case_key(case)][0]
    base = case["base_model"]
    names = base if isinstance(base, list) else [base] if base else []
    return [CANONICAL_IDS.get(name, name) for name in names]


@pytest.mark.parametrize("case", CASES, ids=[case_key(case) for case in CASES])
def test_a_real_card(case: dict[str, Any]) -> None:
    parents = read_case(case)
    assert [parent.name for parent in parents] == expected_names(case)
    relation, _ = RELATION_SAYS.get(case_key(case), (Relation(case["relation_expected"]), ""))
    assert {parent.relation for parent in parents} <= {relation}
    truth = case.get("base_model_truth")
    assert truth is None or all(parent.name in (None, truth) for parent in parents)


def test_every_case_and_exception_is_used() -> None:
    keys = {case_key(case) for case in CASES}
    assert len(CASES) == 110
    assert keys >= BESIDE.keys() | TEXT_SAYS.keys() | RELATION_SAYS.keys()


@pytest.mark.parametrize(
    ("key", "vias"),
    [
        ("PrunaAI/Meta-Llama-3-70b-instruct-AWQ-smashed", ["config"]),
        ("jsfs11/DDPOO-7B-slerp", ["tag", "tag"]),
        ("birgermoell/Llama-3-dare_ties", ["front_matter", "mergekit"]),
        ("jamander/Project-Frankenstein", ["body"]),
        ("Qwen/Qwen2.5-7B-Instruct", ["tag"]),
        ("vsevolodl/mistral_b_finance_finetuned_test", ["adapter_config"]),
        ("slerp_t_04", ["mergekit", "mergekit"]),
        ("ghfile:53192904182", ["tag"]),
        ("ghfile:37054068579", ["front_matter"]),
    ],
)
def test_via_names_the_most_authoritative_place(key: str, vias: list[str]) -> None:
    case = next(case for case in CASES if case_key(case) == key)
    assert [parent.via for parent in read_case(case)] == vias


def test_a_cache_path_gives_the_commit() -> None:
    case = next(case for case in CASES if case["id"] == "slerp_t_04")
    assert read_case(case)[0].revision == SAUERKRAUT_COMMIT
    case = next(case for case in CASES if "smashed" in case_key(case))
    assert read_case(case)[0].revision == "0aa3e45ea64e15703b268d2eb3627f422be9bd18"


EARLIER: Final = [case for case in CASES if case.get("base_model_before")]


@pytest.mark.parametrize("case", EARLIER, ids=[case_key(case) for case in EARLIER])
def test_an_earlier_revision_declares_what_it_then_said(case: dict[str, Any]) -> None:
    before = case["base_model_before"]
    parents = declared_parents(
        model=case["id"], card={"base_model": before, "tags": case["tags"] or []}
    )
    assert [parent.name for parent in parents] == [CANONICAL_IDS.get(before, before)]


@pytest.mark.parametrize(
    ("model", "before", "names"),
    [
        ("seonglae/llama-2-13b-chat-hf-gptq", "llama-2-13b-chat-hf-gptq", []),
        ("mlabonne/gpt2-GPTQ-4bit", "gpt2-GPTQ", [None]),
        ("DariaaaS/mistral_fiction_generation2", None, []),
        ("DariaaaS/mistral_fiction_generation2", "", []),
        ("koorukuroo/CT-7b-instruct-peft", "/corenas/Model/LLM/Mistral-7B-v0.1", [None]),
    ],
)
def test_earlier_paths(model: str, before: str | None, names: list[str | None]) -> None:
    named = {"_name_or_path": before, "base_model_name_or_path": before}
    for place in ({"config": named}, {"adapter_config": named}):
        parents = declared_parents(model=model, card={}, **place)
        assert [parent.name for parent in parents] == names


def test_a_mistyped_key_is_no_declaration() -> None:
    assert declared_parents(model="stets/n", card={"base_mode": "org/name"}) == ()
