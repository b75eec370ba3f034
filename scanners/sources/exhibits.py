"""What a Hub would say about the models of a folder: the facts that the loopback Hub serves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...lineage.errors import ModelkinError
from ...lineage.records import ModelFile, ModelInfo
from ..bounded_json import parse_json_object
from ..bytes import Traffic
from ..cards import parse_card
from .base import ListingFilter
from .folder import FolderSource
from .hub_records import parse_time

_LFS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx")
_CONFIG_KEYS = ("architectures", "model_type", "quantization_config")
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """One served model: its files, the listing's facts about it, its entry in `hub.json`."""

    info: ModelInfo
    facts: Mapping[str, Any]
    entry: Mapping[str, Any]

    def file(self, path: str) -> ModelFile | None:
        """The readable file of that name, if there is one."""
        found = next((file for file in self.info.files if file.path == path), None)
        return found if found is not None and found.sha256 is not None else None

    def described(self, *, blobs: bool) -> dict[str, Any]:
        """The JSON of the model, with sizes and digests of its files when asked for."""
        files = [_sibling(file) if blobs else {"rfilename": file.path} for file in self.info.files]
        return {**self.facts, "siblings": files}

    def tree(self) -> list[dict[str, Any]]:
        """The JSON of its file tree."""
        return [
            {"type": "file", "path": file.path, "size": file.size or 0, **_identity(file, "oid")}
            for file in self.info.files
        ]

    @property
    def closed(self) -> bool:
        """Whether its files stand behind a gate."""
        return bool(self.entry.get("gated"))

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names it had before."""
        names = self.entry.get("moved_from")
        return tuple(map(str, names)) if isinstance(names, list) else ()


def is_large(path: str) -> bool:
    """Whether the Hub keeps such a file in LFS, behind a redirect to its content host."""
    return path.endswith(_LFS)


def read_exhibits(
    root: Path, *, source: FolderSource, created: Mapping[str, datetime]
) -> list[Exhibit]:
    """The models of `source`, newest first; those without a creation time last, then by name.

    Parameters
    ----------
    root : Path
        Folder that may hold a `hub.json`.
    source : FolderSource
        Of the same folder.
    created : mapping
        Creation times by model name; they come before those of `hub.json`.

    Raises
    ------
    MalformedFile, LimitExceeded : `hub.json` is not a small JSON object.
    """
    manifest = root / "hub.json"
    entries = parse_json_object(_head(manifest), path="hub.json") if manifest.is_file() else {}
    found: list[Exhibit] = []
    for page in source.pages(narrow=ListingFilter(), traffic=Traffic()):
        for info in page.models:
            entry = _mapping(entries.get(info.name))
            moment = created.get(info.name) or parse_time(entry.get("created"))
            found.append(_exhibit(info, source=source, entry=entry, created=moment))
    return sorted(found, key=lambda exhibit: exhibit.facts.get("createdAt", ""), reverse=True)


def _exhibit(
    info: ModelInfo, *, source: FolderSource, entry: Mapping[str, Any], created: datetime | None
) -> Exhibit:
    card, config = _card(info, source), _config(info, source)
    facts: dict[str, Any] = {
        "_id": hashlib.sha256(info.name.encode()).hexdigest()[:24],
        "id": info.name,
        "modelId": info.name,
        "sha": info.sha,
        "private": entry.get("private") is True,
        "gated": entry.get("gated", False),
        "disabled": entry.get("disabled") is True,
        "downloads": entry.get("downloads", 0),
        "library_name": card.get("library_name", "transformers"),
        "tags": _tags(card, info=info, config=config),
        "cardData": card,
        "config": {key: config[key] for key in _CONFIG_KEYS if key in config},
    }
    if created is not None:
        stamp = created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        facts |= {"createdAt": stamp, "lastModified": stamp}
    return Exhibit(info=info, facts=facts, entry=entry)


def _tags(card: Mapping[str, Any], *, info: ModelInfo, config: Mapping[str, Any]) -> list[str]:
    """The tags that the Hub derives: declared bases with the relation, library, licence."""
    stated = card.get("tags")
    tags = [str(tag) for tag in stated] if isinstance(stated, list) else []
    if any(file.path.endswith(".safetensors") for file in info.files):
        tags.append("safetensors")
    bases = card.get("base_model") or []
    bases = [str(base) for base in (bases if isinstance(bases, list) else [bases])]
    relation = str(card.get("base_model_relation") or _relation(bases, info=info, config=config))
    tags += [f"base_model:{base}" for base in bases]
    tags += [f"base_model:{relation}:{base}" for base in bases]
    if "license" in card:
        tags.append(f"license:{card['license']}")
    return [*tags, "region:us"]


def _relation(bases: list[str], *, info: ModelInfo, config: Mapping[str, Any]) -> str:
    paths = [file.path for file in info.files]
    if len(bases) > 1:
        return "merge"
    if "adapter_config.json" in paths:
        return "adapter"
    packed = any(path.endswith(".gguf") for path in paths)
    return "quantized" if packed or "quantization_config" in config else "finetune"


def _card(info: ModelInfo, source: FolderSource) -> dict[str, Any]:
    try:
        return parse_card(_head(source.locate(info, "README.md"))).front_matter
    except (ModelkinError, OSError):
        return {}


def _config(info: ModelInfo, source: FolderSource) -> dict[str, Any]:
    try:
        return parse_json_object(_head(source.locate(info, "config.json")), path="config.json")
    except (ModelkinError, OSError):
        return {}


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_LARGEST)


def _sibling(file: ModelFile) -> dict[str, Any]:
    return {"rfilename": file.path, "size": file.size, **_identity(file, "sha256", blob="blobId")}


def _identity(file: ModelFile, key: str, *, blob: str = "oid") -> dict[str, Any]:
    if file.sha256 is None:
        return {}
    found: dict[str, Any] = {blob: file.sha256[:40]}
    if is_large(file.path):
        found["lfs"] = {key: file.sha256, "size": file.size, "pointerSize": 134}
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
