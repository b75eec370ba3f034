"""Fetch what a probe needs of a model into a folder of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..lineage.errors import LimitExceeded, MalformedFile, TransientError, UnsupportedFormat
from ..lineage.records import ModelInfo
from .bytes import ByteSource, Traffic
from .formats.sharded import choose_weight_files
from .sources.base import Source

CHUNK = 8 << 20
SMALL = 64 << 20
MAX_ADAPTER = 2 << 30
ADAPTER_FILES = ("adapter_model.safetensors", "adapters.safetensors")
TOKENIZER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
)


async def fetch_model(
    source: Source,
    info: ModelInfo,
    folder: Path,
    *,
    max_bytes: int,
    traffic: Traffic,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Copy weights, config and tokenizer of one revision into an empty folder.

    Only names from a fixed list and the weight files that the listing shows at the root are
    written, so nothing in a repository chooses where on the disk it lands. Digests are checked
    where the source knows them. `stopped` is asked between chunks of 8 MiB.

    Raises
    ------
    UnsupportedFormat : no safetensors weights.
    LimitExceeded : the model is larger than `max_bytes`, or a config or tokenizer than 64 MiB.
    MalformedFile : a file's content does not have the digest that was listed.
    TransientError : `stopped` said so.
    """
    layout = choose_weight_files([file.path for file in info.files])
    if layout.kind not in ("single", "sharded") or layout.format != "safetensors":
        raise UnsupportedFormat("no safetensors weights to run", path=info.name)
    by_path = {file.path: file for file in info.files}
    wanted = [*layout.files, *([layout.index] if layout.index else [])]
    wanted += [name for name in TOKENIZER_FILES if name in by_path]
    inner = next((path for path in wanted if "/" in path or path.startswith(".")), None)
    if inner is not None:
        raise UnsupportedFormat("weights in a subfolder are not run", path=inner)
    _check_total(info, sum(by_path[path].size or 0 for path in wanted), max_bytes)
    fetched = 0
    for path in wanted:
        if path.endswith(".safetensors"):
            remote = await source.open(info, path, traffic=traffic)
            # A listing need not say how long a file is.
            _check_total(info, fetched + remote.size, max_bytes)
            digest = await _copy(remote, folder / path, stopped=stopped)
            _check_digest(path, digest, by_path[path].sha256)
            fetched += remote.size
        else:
            data = await source.read(info, path, limit=SMALL, traffic=traffic)
            (folder / path).write_bytes(data)
            fetched += len(data)


async def fetch_adapter(source: Source, info: ModelInfo, folder: Path, *, traffic: Traffic) -> None:
    """Copy the configuration and the weights of an adapter into an empty folder.

    Raises
    ------
    UnsupportedFormat : no safetensors weights.
    LimitExceeded : an adapter larger than 2 GiB, or a configuration than 64 MiB.
    MalformedFile : a file's content does not have the digest that was listed.
    """
    by_path = {file.path: file for file in info.files}
    weights = next((name for name in ADAPTER_FILES if name in by_path), None)
    if weights is None:
        raise UnsupportedFormat("no safetensors weights to run", path=info.name)
    remote = await source.open(info, weights, traffic=traffic)
    _check_total(info, remote.size, MAX_ADAPTER)
    digest = await _copy(remote, folder / weights, stopped=lambda: False)
    _check_digest(weights, digest, by_path[weights].sha256)
    if "adapter_config.json" in by_path:
        data = await source.read(info, "adapter_config.json", limit=SMALL, traffic=traffic)
        (folder / "adapter_config.json").write_bytes(data)


def _check_total(info: ModelInfo, total: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise LimitExceeded(
            "the model is larger than the probe's budget",
            path=info.name,
            limit=max_bytes,
            actual=total,
        )


async def _copy(remote: ByteSource, target: Path, *, stopped: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for begin in range(0, remote.size, CHUNK):
            if stopped():
                raise TransientError(f"{remote.path}: stopped by a signal")
            data = await remote.read(begin, min(begin + CHUNK, remote.size))
            digest.update(data)
            out.write(data)
    return digest.hexdigest()


def _check_digest(path: str, found: str, listed: str | None) -> None:
    if listed is not None and found != listed:
        raise MalformedFile(f"content has the digest {found}, not {listed}", path=path)
