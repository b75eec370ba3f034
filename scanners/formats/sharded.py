"""Which files of a repository are the model, and what an index says about its shards."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...lineage.errors import LimitExceeded, MalformedFile, UnsupportedFormat
from .bounded_json import JsonLimits, parse_object
from .choosing import (
    choose_component,
    choose_component_folders,
    choose_gguf,
    choose_torch,
)
from .safetensors_file import MAX_TENSORS, Header

MAX_SHARDS = 10_000
MAX_INDEX = 25_000_000

Kind = Literal["single", "sharded", "adapter", "none", "unsupported"]

_WHITE_SPACE = b" \t\r\n"
_LIMITS = JsonLimits(size=MAX_INDEX, depth=16, objects=1_000, elements=MAX_TENSORS * 2 + 10_000)
_NAME_BYTES = 255
_SUFFIX = ".safetensors"
_INDEX = ".safetensors.index.json"
_MODEL = "model.safetensors"
_OLD_ADAPTER = "adapter_model.bin"
_ADAPTERS = ("adapter_model.safetensors", "adapters.safetensors")
_SHARD = re.compile(r"(.+?)[-_]([0-9]{5,6})[-_]of[-_]([0-9]{5,6})\.safetensors")
_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)[._]")
_NOT_MODELS = re.compile(
    r"(training_args|optimizer|scheduler|adapter_model|adapters)\.|consolidated"
)
_FORMATS: Mapping[str, str] = {
    ".gguf": "gguf",
    ".ggml": "ggml",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".ckpt": "pytorch",
    ".h5": "tensorflow",
    ".msgpack": "flax",
    ".onnx": "onnx",
    ".npz": "numpy",
    ".safetensors": "safetensors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLayout:
    """The files that hold a model's weights.

    Attributes
    ----------
    kind : "single" one file; "sharded" several, listed by `index` (None when a repository has a
        full set of shards and no index); "adapter" only a change to another model; "none" no
        weights; "unsupported" weights that cannot be told apart or decoded.
    format : "safetensors", "gguf" or "pytorch".
    files : paths in the repository. With an index it decides; these are the shards of its name
        that the listing has.
    formats : for "unsupported", the formats seen, sorted; "safetensors" among them means several
        files of which none is marked as the model.
    """

    kind: Kind
    format: str = "safetensors"
    files: tuple[str, ...] = ()
    index: str | None = None
    formats: tuple[str, ...] = ()


def choose_weight_files(paths: Sequence[str]) -> WeightLayout:
    """Decide from a listing alone which files are the model.

    `model.safetensors` first, then an index with its shards, then the one other safetensors file
    (or full set of shards) at the root. Optimizer states, training arguments, folders (`original/`
    among them) and the `consolidated` copy of a model are not the model; a `consolidated` file
    that stands alone is. Where no safetensors file is the model, the most precise GGUF file is,
    then the part of a pipeline that does the work, and then a PyTorch checkpoint.
    """
    root = sorted({path for path in paths if "/" not in path})
    if _MODEL in root:
        return WeightLayout(kind="single", files=(_MODEL,))
    shards = _shard_sets(root)
    indexes = [path for path in root if path.endswith(_INDEX) and not _NOT_MODELS.match(path)]
    if indexes:
        index = min(indexes, key=lambda path: (path != _MODEL + ".index.json", path))
        named = [files for (stem, _), files in shards.items() if stem + _INDEX == index]
        files = named[0] if len(named) == 1 else ()
        return WeightLayout(kind="sharded", index=index, files=files)
    candidates = _candidates(root, shards=shards)
    if len(candidates) == 1:
        files = candidates[0]
        return WeightLayout(kind="single" if len(files) == 1 else "sharded", files=files)
    adapters = tuple(path for path in _ADAPTERS if path in root)
    if adapters and not candidates:
        return WeightLayout(kind="adapter", files=adapters[:1])
    if gguf := choose_gguf(paths):
        kind: Kind = "single" if len(gguf) == 1 else "sharded"
        return WeightLayout(kind=kind, format="gguf", files=gguf)
    if component := choose_component(paths):
        return _inside(component, paths)
    torch, torch_index = choose_torch(paths)
    if torch:
        kind = "single" if len(torch) == 1 else "sharded"
        return WeightLayout(kind=kind, format="pytorch", files=torch, index=torch_index)
    if _OLD_ADAPTER in root:
        return WeightLayout(kind="adapter", format="pytorch", files=(_OLD_ADAPTER,))
    return _undecided(paths)


def choose_component_files(paths: Sequence[str]) -> dict[str, WeightLayout]:
    """The models of a pipeline by their folder, each with its files; none that is not decided."""
    found = {folder: _inside(folder, paths) for folder in choose_component_folders(paths)}
    return {name: layout for name, layout in found.items() if layout.kind in ("single", "sharded")}


def _inside(folder: str, paths: Sequence[str]) -> WeightLayout:
    """The model inside of one folder of a pipeline; copies in half precision stand beside it."""
    inside = [path.removeprefix(folder + "/") for path in paths if path.startswith(folder + "/")]
    plain = [path for path in inside if ".fp16." not in path and ".non_ema." not in path]
    found = choose_weight_files(plain or inside)
    return replace(
        found,
        files=tuple(f"{folder}/{path}" for path in found.files),
        index=None if found.index is None else f"{folder}/{found.index}",
    )


def parse_index(data: bytes, *, path: str) -> dict[str, str]:
    """The `weight_map` of an index: tensor name to the path of its shard in the repository.

    Parameters
    ----------
    data : the index file
    path : where it stands; its shards stand in the same folder

    Raises
    ------
    LimitExceeded : over 25 MB, 200,000 tensors or 10,000 shards.
    UnsupportedFormat : it lists shards of another format.
    MalformedFile : not an index, or a shard name that leaves the folder.
    """
    # A header is padded with spaces only; an index is a text file, and most end with a new line.
    text = data.strip(_WHITE_SPACE)
    document = parse_object(text, path=path, limits=_LIMITS, floats=True)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedFile("no weight_map, or an empty one", path=path)
    names = set()
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise MalformedFile(f"tensor {tensor[:200]!r} has no file name", path=path)
        names.add(shard)
    for limit, actual, what in (
        (MAX_TENSORS, len(weight_map), "too many tensors"),
        (MAX_SHARDS, len(names), "too many shards"),
    ):
        if actual > limit:
            raise LimitExceeded(what, path=path, limit=limit, actual=actual)
    folder = path.rpartition("/")[0]
    shards = {name: _shard_path(name, folder=folder, path=path) for name in names}
    return {tensor: shards[shard] for tensor, shard in weight_map.items()}


def check_index(weight_map: Mapping[str, str], headers: Mapping[str, Header]) -> None:
    """Hold an index against the headers of its shards.

    Parameters
    ----------
    weight_map : from `parse_index`
    headers : header by path, of every shard that the index names

    Raises
    ------
    MalformedFile : naming the shard without a header, the tensor that its shard lacks, or the
        tensor that two shards hold. A tensor that no index entry names is no fault.
    """
    held: dict[str, str] = {}
    for path in sorted(headers):
        for spec in headers[path].tensors:
            if spec.name in held:
                raise MalformedFile(
                    f"tensor {spec.name[:200]!r} stands in {held[spec.name]} too",
                    path=path,
                    offset=spec.begin,
                )
            held[spec.name] = path
    for tensor, shard in weight_map.items():
        if shard not in headers:
            raise MalformedFile(f"shard of tensor {tensor[:200]!r} is missing", path=shard)
        if held.get(tensor) != shard:
            raise MalformedFile(f"tensor {tensor[:200]!r} is not in its shard", path=shard)


def _shard_sets(root: Iterable[str]) -> dict[tuple[str, int], tuple[str, ...]]:
    """Complete sets of shards by the name before their numbers and by how many they are."""
    found: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for path in root:
        if match := _SHARD.fullmatch(path):
            found[match[1], int(match[3])][int(match[2])] = path
    return {
        (stem, total): tuple(numbered[i] for i in sorted(numbered))
        for (stem, total), numbered in found.items()
        if len(numbered) == total and min(numbered) == 1 and max(numbered) == total
    }


def _candidates(
    root: Sequence[str], *, shards: Mapping[tuple[str, int], tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """File sets that may each be the model; a copy under a known name only when nothing else is."""
    singles = [path for path in root if path.endswith(_SUFFIX) and not _SHARD.fullmatch(path)]
    sets = [(path,) for path in singles] + list(shards.values())
    plain = [files for files in sets if not _NOT_MODELS.match(files[0])]
    return plain or [files for files in sets if files[0].startswith("consolidated")]


def _undecided(paths: Iterable[str]) -> WeightLayout:
    formats = set()
    for path in paths:
        name = path.rpartition("/")[2]
        suffix = name[name.rfind(".") :].lower() if "." in name else ""
        if suffix in _FORMATS and not _STATE.match(name):
            formats.add(_FORMATS[suffix])
    if not formats:
        return WeightLayout(kind="none")
    return WeightLayout(kind="unsupported", formats=tuple(sorted(formats)))


def _shard_path(name: str, *, folder: str, path: str) -> str:
    bare = name.removeprefix(folder + "/") if folder else name
    # Control and bidirectional characters are not printable; ":" is a drive or a stream.
    safe = bare.isprintable() and not re.search(r'[/\\:*?"<>|]', bare)
    if not safe or not bare or bare.startswith(".") or len(bare.encode()) > _NAME_BYTES:
        raise MalformedFile(f"unsafe shard name {name[:200]!r}", path=path)
    if not bare.endswith((_SUFFIX, ".bin")):
        raise UnsupportedFormat(f"shard {name[:200]!r} is no weight file", path=path)
    return f"{folder}/{bare}" if folder else bare
