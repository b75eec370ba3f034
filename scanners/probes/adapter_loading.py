"""An adapter put onto the loaded base that it belongs to: its change added to each weight."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from ...lineage.errors import ModelkinError, ProbeError
from ..bytes import LocalBytes
from ..formats.adapters import LoraWeight, adapter_weights
from ..formats.base import WeightFile
from ..formats.safetensors_file import read_header
from .backend import UnsupportedModel
from .model_folder import read_object

WEIGHTS: Final = ("adapter_model.safetensors", "adapters.safetensors")
CONFIG: Final = "adapter_config.json"
_MAX_CONFIG: Final = 4 << 20
_MAX_WEIGHT: Final = 8 << 30


def apply_adapter(model: Any, folder: Path) -> str:
    """Add an adapter's changes to the weights of a loaded model, in place.

    Parameters
    ----------
    model : a causal language model of transformers, the adapter's base.
    folder : with the adapter's configuration and its safetensors file.

    Returns
    -------
    str, what it is: `lora r8`.

    Raises
    ------
    UnsupportedModel : its changes cannot be computed without its library (DoRA, other kinds).
    ProbeError : the file is broken, or changes weights that the base does not have.
    """
    import torch

    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UnsupportedModel("an adapter without a safetensors file")
    config = read_object(folder / CONFIG, limit=_MAX_CONFIG) or {}
    source = LocalBytes(path, name=path.name)
    try:
        header = asyncio.run(read_header(source))
        file = adapter_weights({spec.name: spec for spec in header.tensors}, config)
        changes = _changes(file, tensors=len(header.tensors))
        named = dict(model.named_parameters())
        for change in changes:
            weight = named.get(change.name)
            if weight is None or tuple(weight.shape) != change.shape:
                raise ProbeError(f"the adapter changes {change.name[:200]!r}, which its base lacks")
            with torch.no_grad():
                weight.add_(torch.from_numpy(_read(source, change)).to(weight))
    except ProbeError:
        raise
    except (ModelkinError, OSError) as error:
        raise ProbeError(f"the adapter does not load: {error}") from error
    return "adapter" if file.packing is None else file.packing.type


def _changes(file: WeightFile, *, tensors: int) -> list[LoraWeight]:
    changes = [weight for weight in file.weights.values() if isinstance(weight, LoraWeight)]
    if not changes:
        raise UnsupportedModel("an adapter of a kind that is not computed here")
    if 2 * len(changes) + sum(change.alpha is not None for change in changes) < tensors:
        # What it changes beside (heads, norms, embeddings) would be left out silently.
        raise UnsupportedModel("an adapter that also holds weights of its own")
    return changes


def _read(source: LocalBytes, change: LoraWeight) -> Any:
    import numpy as np

    rows, columns = change.shape
    located = change.locate(0, rows * columns, budget=_MAX_WEIGHT)
    if located is None:
        raise UnsupportedModel("an adapter with a matrix above 8 GiB")
    parts = [asyncio.run(source.read(part.begin, part.end)) for part in located.ranges]
    decoded = located.decoded(parts, name=change.name)
    return np.frombuffer(decoded.data, dtype="<f4").reshape(rows, columns).copy()
