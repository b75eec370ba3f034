"""Every place that may declare a parent, and the relation that the marks around it give."""

from __future__ import annotations

from typing import Any, Final

import pytest

from modelkin.lineage.records import DeclaredParent, Relation
from modelkin.scanners.declared import declared_parents

HUB: Final = "https://huggingface.co"


def quantization(method: str, **more: object) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **more}}


def only(**given: Any) -> DeclaredParent:
    parents = declared_parents(**{"model": "me/child", "card": {}, **given})
    assert len(parents) == 1
    return parents[0]


@pytest.mark.parametrize(
    ("given", "relation"),
    [
        ({}, "finetune"),
        ({"model": "me/base-GGUF"}, "quantized"),
        ({"model": "me/base-4bit", "card": {"library_name": "peft"}}, "adapter"),
        ({"model": "me/Q2.5-800"}, "finetune"),
        ({"model": "me/base-bf16"}, "finetune"),
        ({"tags": ["gguf"]}, "quantized"),
        ({"tags": ["gguf"], "files": ["model.safetensors", "m.Q4_K_M.gguf"]}, "finetune"),
        ({"files": ["m.Q4_K_M.gguf"]}, "quantized"),
        ({"files": ["gptq_model-4bit-128g.safetensors"]}, "quantized"),
        ({"files": ["model.safetensors", "onnx/model_int8.onnx"]}, "finetune"),
        ({"files": ["onnx/model_int8.onnx"]}, "quantized"),
        ({"config": {"quantization": {"bits": 4}}}, "quantized"),
        ({"config": quantization("awq")}, "quantized"),
        ({"config": quantization("fp8")}, None),
        ({"model": "me/base-FP8", "config": quantization("fp8")}, "quantized"),
        ({"config": {"quantization_config": {"load_in_4bit": True}}}, None),
        ({"tags": [" LoRA "]}, "adapter"),
        ({"tags": ["lora"], "files": ["model-00001-of-00002.safetensors"]}, "finetune"),
        ({"tags": ["lora", "gguf"]}, "quantized"),
        ({"files": ["pytorch_lora_weights.safetensors"]}, "adapter"),
        ({"adapter_config": {"peft_type": "LORA"}}, "adapter"),
        ({"adapter_config": {}, "model": "me/base-GPTQ-lora"}, "adapter"),
        ({"card": {"library_name": "adapter-transformers"}}, "finetune"),
        ({"tags": ["merge"]}, "merge"),
        ({"tags": ["merge", "gguf"]}, "quantized"),
        ({"mergekit": "models:\n- model: org/base\nmerge_method: linear\n"}, "merge"),
        ({"tags": ["base_model:org/base", "base_model:merge:org/base"]}, "merge"),
        ({"tags": ["base_model:quantized:org/base"]}, "quantized"),
        ({"tags": ["base_model:quantized:org/base", "lora"]}, "adapter"),
        ({"body": "Finetuned from model : org/base", "tags": ["gguf"]}, "finetune"),
        (
            {
                "body": "- **Finetuned from model :** org/base",
                "card": {"quantized_by": "me"},
                "tags": ["gguf"],
            },
            "quantized",
        ),
        ({"body": "static quants of https://huggingface.co/org/base"}, "quantized"),
        ({"card": {"base_model_relation": " Adapter "}, "tags": ["gguf"]}, "adapter"),
        ({"card": {"base_model_relation": "cousin"}, "tags": ["gguf"]}, "quantized"),
        ({"card": {"base_model_relation": ["merge"]}}, "finetune"),
    ],
)
def test_relation(given: dict[str, Any], relation: str | None) -> None:
    card = {"base_model": "org/base", **given.get("card", {})}
    parent = only(**{**given, "card": card})
    assert parent.name == "org/base"
    assert parent.relation == (relation and Relation(relation))


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (
            "a fine-tuned version of [bert-base-cased](x) on y",
            ["google-bert/bert-base-cased"],
        ),
        ("fine-tuned version of org/base.", ["org/base"]),
        ("a finetuned version of `org/base`, trained", ["org/base"]),
        ("- **Finetuned from model:** [org/base](org/base)", ["org/base"]),
        ("- **Finetuned from model [optional]:** org/base", ["org/base"]),
        ("- **Finetuned from model:** QWEN3-0.6B", [None]),
        ("- **Finetuned from model [optional]:** [More Information Needed]", []),
        ("- **Finetuned from model:** N/A", []),
        ("- **Finetuned from model:** not recorded in the card", []),
        ("fine-tuned version of answerdotai/ModernBERT-base", ["answerdotai/ModernBERT-base"]),
        ("fine-tuned version of the original model theorg/name", ["theorg/name"]),
        (f"* Original model: [The Base]({HUB}/org/base)", ["org/base"]),
        (f"**Original model**: [base]({HUB}/org/base/tree/main)", ["org/base"]),
        ("* Original model: [opus-2022-03-23.zip](https://object.pouta.csc.fi/a.zip)", []),
        ("* Original model: [org/base](https://evil.example/org/base)", []),
        (
            f"converted to GGUF format from [`org/base`]({HUB}/org/base)",
            ["org/base"],
        ),
        (f"Original model: <a href='{HUB}/org/base'>base</a>", ["org/base"]),
        (f"GPTQ format model files for [X's Y]({HUB}/org/base).", ["org/base"]),
        ("weighted/imatrix quants of https://huggingface.co/org/base", ["org/base"]),
        ("These are me/child DreamBooth LoRA weights for org/base.", ["org/base"]),
        (f"fine-tuned version of [data]({HUB}/datasets/org/base)", []),
        ("provided by bartowski based on llama.cpp release b3278", []),
        ("```\nfine-tuned version of org/base\n```", []),
        ("<!-- fine-tuned version of org/base -->", []),
        ("<!-- never closed fine-tuned version of org/base", []),
        ("# Original model card: X\n\nfine-tuned version of org/base", []),
        ("fine-tuned version of me/child", []),
        (f"fine-tuned version of [org/data]({HUB}/datasets/org/data)", []),
        (f"fine-tuned version of [Base-7B]({HUB}/Base-7B)", [None]),
        (f"fine-tuned version of [/m/base]({HUB}//m/base)", [None]),
        ("fine-tuned version of http://169.254.169.254/latest", []),
        ("| **Base model** | [org/base](https://huggingface.co/org/base) |", ["org/base"]),
        (
            "merge of the following models:\r\n* [org/a](x)\r\n* [org/b]()",
            ["org/a", "org/b"],
        ),
        (
            f"merged using the TIES merge method using [org/a]({HUB}/org/a) as a base.\n\n"
            f"The following models were included in the merge:\n\n* [org/b]({HUB}/org/b) + "
            f"[org/lora]({HUB}/org/lora)\n* /data/run-7/out\n\n* [no/more]({HUB}/no/more)\n",
            ["org/b", "org/lora", None, "org/a"],
        ),
    ],
)
def test_prose(body: str, names: list[str | None]) -> None:
    parents = declared_parents(model="me/child", card={}, body=body)
    assert [parent.name for parent in parents] == names
    assert {parent.via for parent in parents} <= {"body"}


def test_a_quantizers_card_is_not_read_for_the_parents_of_its_source() -> None:
    body = (
        "static quants of org/source\n\nThis model is a fine-tuned version of org/grandparent\n"
        "```yaml\nmodels:\n  - model: org/other\nmerge_method: slerp\n```\n"
    )
    given = {"tags": ["gguf", "merge", "org/other"], "config": {"_name_or_path": "org/older"}}
    parent = only(card={"base_model": "org/source"}, body=body, **given)
    assert (parent.name, parent.relation) == ("org/source", Relation.QUANTIZED)


def test_each_parent_once_with_the_commit_from_wherever_it_stands() -> None:
    sha = "0aa3e45ea64e15703b268d2eb3627f422be9bd18"
    parent = only(
        card={"base_model": ["org/Base", "org/base"]},
        tags=["base_model:org/base", "base_model:finetune:org/base"],
        config={"_name_or_path": f"/c/hub/models--org--base/snapshots/{sha}"},
        body="fine-tuned version of org/base",
    )
    assert (parent.raw, parent.via, parent.revision) == ("org/Base", "front_matter", sha)


def test_a_config_that_names_another_than_the_card_is_inherited() -> None:
    assert only(card={"base_model": "org/base"}, config={"_name_or_path": "org/old"}).raw == (
        "org/base"
    )
    parent = only(card={"base_model": ""}, config={"_name_or_path": "org/old"})
    assert (parent.name, parent.via) == ("org/old", "config")


def test_adapter_configs_of_other_tools_and_of_listings() -> None:
    parent = only(adapter_config={"base_model_name_or_path": "org/base", "revision": "v2"})
    assert (parent.revision, parent.relation) == ("v2", Relation.ADAPTER)
    parent = only(config={"peft": {"base_model_name_or_path": "org/base"}})
    assert (parent.via, parent.relation) == ("adapter_config", Relation.ADAPTER)
    assert only(adapter_config={"model": "org/base", "lora_parameters": {}}).name == "org/base"
    assert declared_parents(model="a/b", card={}, adapter_config={"model": "org/base"}) == ()


def test_tags_that_the_author_wrote_name_nothing() -> None:
    tag = "base_model:adapter:org/base"
    parent = only(card={"tags": [tag]}, tags=[tag])
    assert (parent.name, parent.raw, parent.note) == (None, "org/base", "tag written by the author")
    assert only(card={"tags": [tag], "base_model": "org/base"}, tags=[tag]).via == "front_matter"
    assert only(card={"tags": [tag]}, config={"_name_or_path": "org/base"}).via == "config"
    path = "base_model:adapter:/root/models/base"
    hub = ["base_model:org/base", "base_model:adapter:org/base"]
    first, second = declared_parents(model="me/c", card={"tags": [path]}, tags=[path, *hub])
    assert (first.name, first.via, first.relation) == ("org/base", "tag", Relation.ADAPTER)
    assert (second.name, second.raw) == (None, "/root/models/base")


def test_ids_as_plain_tags_count_for_merges_only() -> None:
    assert declared_parents(model="a/b", card={"tags": ["org/base"]}) == ()
    parent = only(card={"tags": ["merge", "org/base", "arxiv:2507.01006", "license:mit"]})
    assert (parent.name, parent.relation) == ("org/base", Relation.MERGE)


def test_a_new_version_is_no_parent() -> None:
    assert declared_parents(model="a/b", card={"new_version": "a/c"}) == ()


def test_mergekit_references() -> None:
    text = (
        "slices:\n"
        "  - sources:\n      - model: org/a@v1+org/lora@main\n        layer_range: [0, 8]\n"
        "  - sources:\n      - model: {model: {path: org/b, revision: r2}}\n"
        "models:\n  - org/c\n"
        "experts:\n  - source_model: org/d\n    positive_prompts: ['model: no/prompt']\n"
        "modules: {text: {slices: [{sources: [{model: org/e}]}]}}\n"
        "base_model: org/f\ntokenizer_source: union\nparameters: {model: no/parameter}\n"
    )
    parents = declared_parents(model="me/merge", card={}, mergekit=text)
    found = {parent.raw: (parent.revision, parent.note) for parent in parents}
    assert found == {
        "org/a": ("v1", None),
        "org/lora": ("main", "an adapter applied before the merge"),
        "org/b": ("r2", None),
        "org/c": (None, None),
        "org/d": (None, None),
        "org/e": (None, None),
        "org/f": (None, "base of the merge method"),
    }
    assert {parent.relation for parent in parents} == {Relation.MERGE}


def test_several_mergekit_documents_refer_to_one_another() -> None:
    body = (
        "  ```yml\n    name: core\n    merge_method: nuslerp\n    models:\n"
        "      - model: org/a\n      - model: org/b\n    ---\n    merge_method: passthrough\n"
        "    slices:\n    - sources:  # base\n      - model: core\n        layer_range: [0, 5]\n"
        "    - sources:\n      - model: org/c\n  ```\n"
    )
    parents = declared_parents(model="me/merge", card={}, body=body)
    assert [parent.name for parent in parents] == ["org/a", "org/b", "org/c"]
    assert parents[0].note == "configuration in the card"


def test_mergekit_text_that_is_not_plain_yaml_is_read_by_lines() -> None:
    text = 't: &t [0, 1]\nmodels:\n  - model: "org/a"  # first\n  - model: org/b\nbad: *t\n'
    parents = declared_parents(model="me/merge", card={}, mergekit=text)
    assert [parent.name for parent in parents] == ["org/a", "org/b"]
