"""Fixed tables of names: legacy ids, and the words that tell an owner from a folder.

Early models had no owner in their name; the Hub still answers their one-part ids with a redirect.
That list is closed: any other name without an owner is a folder on somebody's disk, however much
it looks like a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_BY_OWNER: Final = {
    "FacebookAI": (
        "roberta-base roberta-large roberta-large-mnli xlm-clm-ende-1024 xlm-clm-enfr-1024 "
        "xlm-mlm-100-1280 xlm-mlm-17-1280 xlm-mlm-en-2048 xlm-mlm-ende-1024 xlm-mlm-enfr-1024 "
        "xlm-mlm-enro-1024 xlm-mlm-tlm-xnli15-1024 xlm-mlm-xnli15-1024 xlm-roberta-base "
        "xlm-roberta-large xlm-roberta-large-finetuned-conll02-dutch "
        "xlm-roberta-large-finetuned-conll02-spanish xlm-roberta-large-finetuned-conll03-english "
        "xlm-roberta-large-finetuned-conll03-german"
    ),
    "Salesforce": "ctrl",
    "albert": (
        "albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v1 "
        "albert-xlarge-v2 albert-xxlarge-v1 albert-xxlarge-v2"
    ),
    "almanach": "camembert-base",
    "distilbert": (
        "distilbert-base-cased distilbert-base-cased-distilled-squad distilbert-base-german-cased "
        "distilbert-base-multilingual-cased distilbert-base-uncased "
        "distilbert-base-uncased-distilled-squad "
        "distilbert-base-uncased-finetuned-sst-2-english distilgpt2 distilroberta-base"
    ),
    "google-bert": (
        "bert-base-cased bert-base-cased-finetuned-mrpc bert-base-chinese bert-base-german-cased "
        "bert-base-multilingual-cased bert-base-multilingual-uncased bert-base-uncased "
        "bert-large-cased bert-large-cased-whole-word-masking "
        "bert-large-cased-whole-word-masking-finetuned-squad bert-large-uncased "
        "bert-large-uncased-whole-word-masking "
        "bert-large-uncased-whole-word-masking-finetuned-squad"
    ),
    "google-t5": "t5-11b t5-3b t5-base t5-large t5-small",
    "openai-community": (
        "gpt2 gpt2-large gpt2-medium gpt2-xl openai-gpt roberta-base-openai-detector "
        "roberta-large-openai-detector"
    ),
    "transfo-xl": "transfo-xl-wt103",
    "xlnet": "xlnet-base-cased xlnet-large-cased",
}

CANONICAL_IDS: Final[Mapping[str, str]] = MappingProxyType(
    {name: f"{owner}/{name}" for owner, names in _BY_OWNER.items() for name in names.split()}
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOT_OWNERS: Final = _words(
    "api blog collections datasets docs join login models new organizations papers posts settings "
    "spaces tasks"
)
"""First parts of addresses on the Hub that are no owners of models."""

MODEL_FOLDERS: Final = _words(
    "base_models hf hf_models hub huggingface huggingface_models llm llms model model_zoo models "
    "modelzoo pretrained pretrained_models weights"
)
"""Folders that hold models by owner and name."""

FOLDERS: Final = MODEL_FOLDERS | _words(
    "adapter adapters archive autodl-tmp base cache checkpoint checkpoints ckpt ckpts code content "
    "data dataset datasets datas disk drive experiments exp final fine-tuned finetuned "
    "finetuned_models home hpc input kaggle local logs lora lustre media merged merges mnt "
    "modelscope my_models nas nfs notebooks opt out output outputs process project projects "
    "public repo repos results root run runs save saved saved_models saves scratch share shared "
    "snapshots source src ssd storage target temp tmp train training transformers user users usr "
    "var vllm volume work working workspace workspaces"
)
"""Folders that are nobody's name."""

RELATIVE_FOLDERS: Final = _words(
    "checkpoint checkpoints ckpt ckpts data finetuned_models hub logs merged merges model models "
    "out output outputs pretrained pretrained_models results run runs save saved saved_models "
    "saves tmp weights"
)
"""First parts of relative paths that have the form of an id."""

FAMILIES: Final = _words(
    "alpaca baichuan bert bloom chatglm codellama deepseek falcon flux gemma gemma2 gemma3 glm gpt "
    "gpt2 internlm llama llama-2 llama-3 llama2 llama3 llama3.1 llama3.2 llama3.3 llava mistral "
    "mixtral mpt opt phi phi3 pythia qwen qwen1.5 qwen2 qwen2.5 qwen3 roberta sd sdxl t5 vicuna "
    "whisper yi"
)
"""Families of models, by which people sort their folders."""

OWNERS: Final = _words(
    "01-ai BAAI CohereForAI CohereLabs CompVis EleutherAI FacebookAI HuggingFaceH4 HuggingFaceTB "
    "NousResearch OpenGVLab Qwen Salesforce THUDM TheBloke TinyLlama allenai answerdotai "
    "baichuan-inc bigcode bigscience black-forest-labs codellama databricks deepseek-ai facebook "
    "google google-bert google-t5 huggyllama ibm-granite internlm intfloat llava-hf lmsys "
    "meta-llama microsoft mistralai moonshotai mosaicml nvidia openai openai-community openbmb "
    "sentence-transformers stabilityai state-spaces teknium tiiuae togethercomputer unsloth "
    "upstage xai-org zai-org"
)
"""Owners on the Hub whose exact spelling settles that a folder is named after them."""

MIRRORS: Final = _words(
    "AI-ModelScope LLM-Research Shanghai_AI_Laboratory ZhipuAI damo iic modelscope"
)
"""Owners on ModelScope that re-publish models which other owners hold on the Hub."""
