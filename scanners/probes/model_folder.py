"""What must be true of a model's folder before a framework is let near it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...lineage.errors import ProbeError
from .backend import UnsupportedModel

_MAX_CONFIG_BYTES = 4 << 20
_MAX_INDEX_BYTES = 64 << 20
_MAX_LAYERS = 1_000
_LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder that may be loaded: its path, its config and the bytes of its weights."""

    path: Path
    config: Mapping[str, Any]
    weight_bytes: int


def check_model_folder(path: Path) -> ModelFolder:
    """Look at a folder without running or allocating anything.

    Raises
    ------
    UnsupportedModel : it needs code from its repository, is an adapter without its base, or has
        no safetensors weights.
    ProbeError : there is no readable config, or it asks for something absurd.
    """
    if not path.is_dir():
        raise ProbeError(f"{path}: no such folder")
    config = read_object(path / "config.json", limit=_MAX_CONFIG_BYTES)
    if config is None:
        raise ProbeError(f"{path}: no config.json")
    tokenizer = read_object(path / "tokenizer_config.json", limit=_MAX_CONFIG_BYTES) or {}
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if content.get("auto_map"):
            raise UnsupportedModel(f"{path}: needs remote code (auto_map in {name})")
    if (path / "adapter_config.json").exists():
        raise UnsupportedModel(f"{path}: an adapter; it runs only on top of its base model")
    _check_layers(config, path=path)
    _check_index(path)
    return ModelFolder(path=path, config=config, weight_bytes=_weight_bytes(path))


def _weight_bytes(path: Path) -> int:
    sizes = [file.stat().st_size for file in path.glob("*.safetensors") if file.is_file()]
    if sizes:
        return sum(sizes)
    others = [
        file.name for kind in ("*.bin", "*.pt", "*.pth", "*.gguf") for file in path.glob(kind)
    ]
    found = f"only {', '.join(sorted(others)[:3])}" if others else "no weights"
    raise UnsupportedModel(f"{path}: no safetensors weights ({found})")


def _check_layers(config: Mapping[str, Any], *, path: Path) -> None:
    inner = [part for part in config.values() if isinstance(part, dict)]
    for part in (config, *inner):
        for key in _LAYER_KEYS:
            layers = part.get(key, 0)
            if isinstance(layers, int) and layers > _MAX_LAYERS:
                raise ProbeError(f"{path}: config asks for {layers:,} layers")


def _check_index(path: Path) -> None:
    index = read_object(path / _INDEX, limit=_MAX_INDEX_BYTES)
    if index is None:
        return
    shards = index.get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else {""}
    if not all(name and Path(name).name == name for name in names):
        raise ProbeError(f"{path}: {_INDEX} names shards outside the folder")


def read_object(file: Path, *, limit: int) -> dict[str, Any] | None:
    """The JSON object in a file, None when there is no such file."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(limit + 1)
        content = json.loads(data) if len(data) <= limit else None
    except (OSError, ValueError, RecursionError) as error:
        raise ProbeError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ProbeError(f"{file}: not a JSON object of at most {limit:,} bytes")
    return content
