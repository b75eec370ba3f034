"""Which of several files in other formats than safetensors is the one to read.

Of pickles a repository may have many that are no model: states of optimizers, arguments.

A repository often holds one model in many precisions. The most precise copy says most about its
parents, so it is the one that is read; the others are the same model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_SPLIT = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_PRECISION = re.compile(r"(?:^|[-._/])(BF16|F16|F32|FP16|FP32|I?T?Q(\d)[0-9A-Z_]*|MXFP(\d))", re.I)
_NO_MODEL = re.compile(
    r"(^|[-._/])(mmproj|imatrix|clip|vae|lora|adapter|projector|control-?vector)", re.IGNORECASE
)

_MODULE = re.compile(r"\d+_[A-Za-z]+")
_COMPONENTS = ("transformer", "unet", "prior", "decoder", "text_encoder", "vae")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)[._]")
_SHARD = re.compile(r"(.+?)[-_]([0-9]{5,6})[-_]of[-_]([0-9]{5,6})\.(bin|pt|pth)")
_NO_WEIGHTS = re.compile(r"(adapter_model|ggml|vocab|tokenizer|spiece|sentencepiece|consolidated)")


def choose_torch(paths: Iterable[str]) -> tuple[tuple[str, ...], str | None]:
    """The PyTorch model of a listing: its files, and its index where it has one.

    `pytorch_model.bin` first, then an index with its shards, then a full set of shards or the one
    other checkpoint at the root; ((), None) where none can be told from the others.
    """
    root = sorted({path for path in paths if "/" not in path and not _STATE.match(path)})
    if "pytorch_model.bin" in root:
        return ("pytorch_model.bin",), None
    shards: dict[tuple[str, str], list[str]] = defaultdict(list)
    singles = []
    for path in root:
        if found := _SHARD.fullmatch(path):
            shards[f"{found[1]}.{found[4]}", found[3]].append(path)
        elif path.lower().endswith((".bin", ".pt", ".pth", ".ckpt")):
            singles.append(path)
    full = [(stem, files) for (stem, total), files in shards.items() if len(files) == int(total)]
    if len(full) == 1:
        stem, files = full[0]
        index = f"{stem}.index.json"
        return tuple(files), index if index in root else None
    singles = [path for path in singles if not _NO_WEIGHTS.match(path)]
    return ((singles[0],), None) if len(singles) == 1 and not shards else ((), None)


def choose_component(paths: Iterable[str]) -> str | None:
    """The folder of a diffusers pipeline that holds the model which is trained, or None.

    A pipeline is several models. The denoiser is what derivatives change; text encoders and the
    autoencoder are mostly taken over as they are.
    """
    listed = set(paths)
    if "model_index.json" not in listed:
        return None
    folders = {path.partition("/")[0] for path in listed if path.endswith(".safetensors")}
    return next((name for name in _COMPONENTS if name in folders), None)


def choose_component_folders(paths: Iterable[str]) -> tuple[str, ...]:
    """Folders of a pipeline, of diffusers or of sentence-transformers, that hold weights."""
    listed = set(paths)
    weights = [path for path in listed if path.endswith((".safetensors", ".bin"))]
    folders = {path.partition("/")[0] for path in weights if path.count("/") == 1}
    if "model_index.json" in listed:
        return tuple(sorted(folders))
    if "modules.json" in listed:
        return tuple(sorted(name for name in folders if _MODULE.fullmatch(name)))
    return ()


def pickles_of(paths: Iterable[str]) -> list[str]:
    """Every file that may be unpickled by whoever loads the repository, weights first."""
    found = [path for path in set(paths) if path.lower().endswith(_PICKLES)]
    return sorted(found, key=lambda path: (bool(_STATE.match(path)), path.count("/"), path))


def choose_gguf(paths: Iterable[str]) -> tuple[str, ...]:
    """The most precise GGUF model of a listing: one file, or a whole set of shards; () for none.

    Projectors, importance matrices and adapters are no models. Nothing but the choice among
    copies of one model hangs on the names.
    """
    sets = [files for files in _gguf_sets(paths) if not _NO_MODEL.search(files[0])]
    if not sets:
        return ()
    return min(sets, key=lambda files: (-_precision(files[0]), files[0].count("/"), files))


def _gguf_sets(paths: Iterable[str]) -> list[tuple[str, ...]]:
    sets: list[tuple[str, ...]] = []
    shards: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for path in sorted(set(paths)):
        if found := _SPLIT.fullmatch(path):
            shards[found[1], int(found[3])][int(found[2])] = path
        elif path.lower().endswith(".gguf"):
            sets.append((path,))
    sets += [
        tuple(numbered[at] for at in sorted(numbered))
        for (_, total), numbered in shards.items()
        if sorted(numbered) == list(range(1, total + 1))
    ]
    return sets


def _precision(path: str) -> int:
    """Bits of a weight by the name of the file; 16 where it does not say."""
    found = list(_PRECISION.finditer(path.rpartition("/")[2]))
    if not found:
        return 16
    digits = found[-1][2] or found[-1][3]
    return int(digits) if digits else 32 if found[-1][1].endswith("32") else 17
