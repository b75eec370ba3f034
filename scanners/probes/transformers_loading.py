"""Loading with transformers: what is checked before a framework allocates, and how it decodes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...lineage.errors import ProbeError
from .backend import UnsupportedModel
from .model_folder import ModelFolder

_FLOAT32_BYTES = 4 << 30
# One bit a weight is the tightest packing that loads; a model larger than that is not all there.
_MAX_WEIGHTS_PER_BYTE = 8
_SLACK_WEIGHTS = 1 << 24
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a framework raises when a repository does not fit it."""


def pick_device(wanted: str) -> str:
    """The torch device for `auto`, `cpu` or `cuda`; `ProbeError` where it is not there."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise ProbeError(f"unknown device {wanted!r}: use auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ProbeError("no CUDA device is available")
    return wanted


def pick_dtype(folder: ModelFolder, device: str) -> str:
    """Half precision is slow on many CPUs; float32 is exact for what it costs in memory."""
    return "float32" if device == "cpu" and folder.weight_bytes <= _FLOAT32_BYTES else "auto"


def load_config(folder: ModelFolder) -> Any:
    """The config of a folder that generates text; `UnsupportedModel` for any other."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    kind = folder.config.get("model_type")
    # Without a known type the framework would guess one from the folder's name.
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UnsupportedModel(f"{folder.path}: unknown architecture {kind!r}")
    try:
        config = AutoConfig.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
    except (StrictDataclassError, *FAILURES) as error:
        raise ProbeError(f"{folder.path}: {first_line(error)}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModel(f"{folder.path}: {kind} does not generate text")
    return config


def check_size(config: Any, folder: ModelFolder) -> None:
    """Build the model without memory, so that a config cannot ask for more than the files hold."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except FAILURES as error:
        raise ProbeError(f"{folder.path}: {first_line(error)}") from error
    wanted = sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in model.buffers())
    held = _MAX_WEIGHTS_PER_BYTE * folder.weight_bytes + _SLACK_WEIGHTS
    if wanted > held:
        raise ProbeError(f"{folder.path}: config asks for {wanted:,} weights, files hold fewer")


def load_model(folder: ModelFolder, *, config: Any, dtype: str) -> Any:
    """The weights of a folder under its config, complete or not at all (`ProbeError`)."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except ImportError as error:
        raise UnsupportedModel(f"{folder.path}: {first_line(error)}") from error
    except (SafetensorError, *FAILURES) as error:
        raise ProbeError(f"{folder.path}: {first_line(error)}") from error
    # What a checkpoint lacks is filled with random numbers: that would be another model.
    missing = sorted([*info["missing_keys"], *map(str, info["mismatched_keys"])])
    if missing:
        raise ProbeError(f"{folder.path}: {len(missing)} tensors are missing, first {missing[0]}")
    return model


def load_tokenizer(folder: ModelFolder) -> Any:
    """The tokenizer of a folder; `ProbeError` without one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
    except FAILURES as error:
        raise ProbeError(f"{folder.path}: no tokenizer: {first_line(error)}") from error
    return tokenizer


def greedy(model: Any, tokenizer: Any) -> Any:
    """Greedy decoding whatever the repository's generation config says, but for its stop tokens."""
    from transformers import GenerationConfig

    stops: set[int] = set()
    for owner in (model.generation_config, model.config.get_text_config(), tokenizer):
        value = getattr(owner, "eos_token_id", None)
        values = value if isinstance(value, (list, tuple)) else [value]
        stops.update(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = min(stops, default=0)
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        pad_token_id=pad,
        eos_token_id=sorted(stops) or None,
        use_cache=True,
    )


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the framework's bars and advice off stderr, and put its settings back."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
