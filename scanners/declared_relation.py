"""How a model relates to the parents that it declares, from what its repository says.

The order is: what the author states; adapter files; who quantized it; adapter marks; the phrase
that names the parent; quantization marks; merge marks; the Hub's own inference; fine-tune. Tags
are copied from parent to child along with the card, so format marks go before merge marks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..lineage.records import Relation
from ..lineage.remembered import remembered

_STATED: Final = {
    "adapter": Relation.ADAPTER,
    "finetune": Relation.FINETUNE,
    "merge": Relation.MERGE,
    "quantized": Relation.QUANTIZED,
}
_ADAPTER_FILE: Final = re.compile(
    r"(?:^|/)(?:adapter_config\.json|adapter_model\.\w+|adapters?\.safetensors|adapters\.npz|"
    r"pytorch_lora_weights\.\w+)$"
)
_LORA_FILE: Final = re.compile(r"lora[^/]*\.safetensors$", re.IGNORECASE)
_FULL_FILE: Final = re.compile(
    r"(?:^|/)(?:model|pytorch_model|diffusion_pytorch_model|consolidated|tf_model|flax_model)"
    r"[^/]*\.(?:safetensors|bin|pth|pt|h5|msgpack)$"
)
_QUANTIZED_FILE: Final = re.compile(
    r"\.gguf$|\.ggml[^/]*\.bin$|ggml-model[^/]*\.bin$|"
    r"(?:quantized|q4|q4f16|int8|uint8|bnb4)\.onnx$",
    re.IGNORECASE,
)
_PACKED_FILE: Final = re.compile(r"(?:gptq|awq)[^/]*\.(?:safetensors|bin|pt)$", re.IGNORECASE)
_FILES: Final = {
    "adapter": _ADAPTER_FILE,
    "lora": _LORA_FILE,
    "full": _FULL_FILE,
    "quantized": _QUANTIZED_FILE,
    "packed": _PACKED_FILE,
}
_QUANTIZED_NAME: Final = re.compile(
    r"(?:^|[-_.])(?:gguf|ggml|gptq|awq|exl[23]|mlx|bnb|hqq|aqlm|nf4|nvfp4|mxfp4|fp8|int[48]|"
    r"w\d{1,2}a\d{1,2}|[2-8]-?bits?|bpw\d|imatrix|autoround|q[2-8](?:bits?|_\w+)?(?![.\w]))"
    r"(?:$|[-_.]|(?<=bpw\d))",
    re.IGNORECASE,
)
_CONTAINER_NAME: Final = re.compile(
    r"(?:^|[-_.])(?:gguf|ggml|exl[23]|mlx)(?:$|[-_.])", re.IGNORECASE
)
_CONTAINER_TAGS: Final = frozenset({"gguf", "ggml", "mlx", "exl2", "exl3"})
_QUANTIZED_TAGS: Final = _CONTAINER_TAGS | {
    "aqlm",
    "autoround",
    "awq",
    "fp8",
    "gptq",
    "hqq",
    "imatrix",
    "int4",
    "int8",
    "modelopt",
    "mxfp4",
    "nvfp4",
    "quantized",
}
_ADAPTER_TAGS: Final = frozenset(
    {"lora", "peft", "qlora", "template:diffusion-lora", "template:sd-lora"}
)
_MERGE_TAGS: Final = frozenset({"merge", "mergekit", "lazymergekit", "mergekitty"})
# Methods that also stay behind in the config of a model trained from such weights.
_UNSURE_METHODS: Final = frozenset({"bitsandbytes", "fp8", "mxfp4", "torchao"})
_TAG: Final = re.compile(r"base_model:(?:(adapter|finetune|merge|quantized):)?(\S(?:.*\S)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What bears on the relation, drawn once from a repository."""

    stated: Relation | None = None
    adapter_files: bool = False
    adapter_marks: bool = False
    quantizer_named: bool = False
    quantized: bool = False
    container: bool = False
    merge: bool = False
    unsure: bool = False
    tagged: Mapping[str, Relation] = field(default_factory=dict)
    finetuned_from: Collection[str] = ()
    quantized_from: Collection[str] = ()

    @property
    def is_quantized(self) -> bool:
        """Whether the repository is a quantized or converted copy of another."""
        if self.stated is not None:
            return self.stated is Relation.QUANTIZED
        adapter = self.adapter_files or (self.adapter_marks and not self.container)
        return self.quantizer_named or (self.quantized and not adapter)


def parse_base_tag(tag: str) -> tuple[Relation | None, str] | None:
    """Take a tag `base_model:X` or `base_model:<relation>:X` apart; None for any other tag."""
    if "base_model:" not in tag:
        return None
    match = _TAG.fullmatch(tag.strip())
    return (_STATED.get(match[1] or ""), match[2]) if match else None


def stated_relation(card: Mapping[str, Any]) -> Relation | None:
    """The `base_model_relation` of a card, where it is one of the Hub's four words."""
    value = card.get("base_model_relation")
    return _STATED.get(value.strip().casefold()) if isinstance(value, str) else None


def _quantization(config: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a config says quantized, and whether it says so without proving it."""
    block = config.get("quantization_config")
    if not isinstance(block, Mapping):
        return isinstance(config.get("quantization"), Mapping), False
    method = str(block.get("quant_method") or "bitsandbytes").casefold()
    return method not in _UNSURE_METHODS, method in _UNSURE_METHODS


@remembered
def _marks_of_file(path: str) -> frozenset[str]:
    """What the name of one file says; most repositories have the same few."""
    return frozenset(mark for mark, pattern in _FILES.items() if pattern.search(path))


def _adapter_files(config: Mapping[str, Any], has_config: bool, marks: Collection[str]) -> bool:
    if has_config or isinstance(config.get("peft"), Mapping):
        return True
    return "adapter" in marks or ("lora" in marks and "full" not in marks)


def gather_facts(
    *,
    model: str | None,
    card: Mapping[str, Any],
    tags: Sequence[str],
    config: Mapping[str, Any],
    has_adapter_config: bool,
    files: Sequence[str],
) -> Facts:
    """Draw from a repository what bears on the relation to its parents.

    Parameters
    ----------
    model : id of the repository; marks in its name (`GGUF`, `4bit`) count.
    card : front matter.
    tags : all tags, the author's and the source's.
    config : config.json.
    has_adapter_config : whether there is an adapter_config.json.
    files : paths in the repository; empty where they are not known, and then tags are taken at
        their word.

    Returns
    -------
    Facts without `tagged`, `finetuned_from` and `quantized_from`.
    """
    words = {tag.strip().casefold() for tag in tags}
    name = (model or "").rpartition("/")[2]
    library = str(card.get("library_name") or "").strip().casefold()
    marks = frozenset().union(*map(_marks_of_file, files))
    full = "full" in marks
    says, unsure = _quantization(config)
    container_tags = words & _CONTAINER_TAGS - ({"gguf", "ggml"} if full else set())
    loose = not full and "quantized" in marks
    quantized_name = _QUANTIZED_NAME.search(name) is not None
    return Facts(
        stated=stated_relation(card),
        adapter_files=_adapter_files(config, has_adapter_config, marks),
        adapter_marks=library == "peft"
        or any(word.startswith("base_model:adapter:") for word in words)
        or (not full and bool(words & _ADAPTER_TAGS)),
        quantizer_named=bool(card.get("quantized_by")),
        quantized=says
        or "packed" in marks
        or loose
        or quantized_name
        or library in {"gguf", "mlx"}
        or bool(container_tags or words & _QUANTIZED_TAGS - _CONTAINER_TAGS),
        container=loose
        or library in {"gguf", "mlx"}
        or bool(container_tags)
        or _CONTAINER_NAME.search(name) is not None,
        merge=bool(words & _MERGE_TAGS),
        unsure=unsure,
    )


def relation_to(key: str, *, hint: Relation | None, facts: Facts) -> Relation | None:
    """The relation to one declared parent.

    Parameters
    ----------
    key : the parent's id, or the text that names it, case-folded.
    hint : what the place of the declaration says (a merge configuration, a phrase).
    facts : what the repository says.

    Returns
    -------
    Relation, or None where the marks allow two readings: a bitsandbytes or FP8 block in a config
    stays behind when a model is trained from quantized weights.
    """
    if facts.stated is not None:
        return facts.stated
    if facts.adapter_files:
        return Relation.ADAPTER
    if facts.quantizer_named:
        return Relation.QUANTIZED
    if facts.adapter_marks and not facts.container:
        return Relation.ADAPTER
    if hint in (Relation.MERGE, Relation.QUANTIZED) or key in facts.quantized_from:
        return hint if hint is Relation.MERGE else Relation.QUANTIZED
    if key in facts.finetuned_from:
        return Relation.FINETUNE
    if facts.quantized:
        return Relation.QUANTIZED
    if facts.merge:
        return Relation.MERGE
    if facts.unsure:
        return None
    return facts.tagged.get(key, hint or Relation.FINETUNE)
