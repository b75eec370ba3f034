"""The models that a mergekit configuration names.

Read are `models`, `slices`, `modules`, `experts` and `base_model`, at any place in the document;
a reference may carry a revision and an adapter (`path@rev+lora@rev`). Several documents in one
text (mergekit-multi) may refer to one another by `name`; such references are no parents.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..lineage.errors import FormatError
from .bounded_yaml import MAX_YAML_BYTES, parse_yaml_mapping

_KEYS: Final = ("model", "source_model", "base_model")
_MARKS: Final = re.compile(
    r"^[ \t]*+(?:merge_method|slices|models|experts|modules)[ \t]*+:", re.MULTILINE
)
_DOCUMENT: Final = re.compile(r"^[ \t]*+---[ \t]*+\r?$", re.MULTILINE)
_LINE: Final = re.compile(
    r"^[ \t]*+(?:-[ \t]++)*+(?:model|source_model|base_model)[ \t]*+:[ \t]*+(\S[^#\r\n]{0,400})",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSource:
    """One ingredient of a merge: `raw` without revision; `note` tells its part."""

    raw: str
    revision: str | None = None
    note: str | None = None


def is_mergekit(text: str) -> bool:
    """Whether a block of YAML looks like a merge configuration."""
    return (
        len(text) <= MAX_YAML_BYTES
        and _MARKS.search(text) is not None
        and _LINE.search(text) is not None
    )


def _split_reference(text: str) -> Iterator[MergeSource]:
    path, _, adapter = text.partition("+")
    for part, note in ((path, None), (adapter, "an adapter applied before the merge")):
        raw, _, revision = part.strip().partition("@")
        if raw:
            yield MergeSource(raw=raw, revision=revision or None, note=note)


def _reference(value: Any) -> Iterator[MergeSource]:
    if isinstance(value, str):
        yield from _split_reference(value)
    elif isinstance(value, Mapping):
        # The long form: {model: {path, revision}, lora: {path, revision}}, or its inner part.
        if isinstance(value.get("path"), str):
            revision = value.get("revision")
            yield MergeSource(
                raw=value["path"], revision=revision if isinstance(revision, str) else None
            )
        yield from _reference(value.get("model"))
        for source in _reference(value.get("lora")):
            yield MergeSource(
                raw=source.raw,
                revision=source.revision,
                note="an adapter applied before the merge",
            )


def _walk(value: Any) -> Iterator[MergeSource]:
    if isinstance(value, list):
        for item in value:
            yield from _walk(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key in _KEYS:
                yield from _reference(item)
            elif key == "models" and isinstance(item, list):
                for model in item:
                    yield from _reference(model) if isinstance(model, str) else _walk(model)
            elif key != "parameters":
                yield from _walk(item)


def _method_base(document: Mapping[str, Any]) -> str | None:
    base = document.get("base_model")
    return base if isinstance(base, str) else None


def _read_document(text: str) -> tuple[list[MergeSource], str | None]:
    try:
        document = parse_yaml_mapping(text, path="mergekit_config.yml")
    except FormatError:
        # Anchors and templates are common in hand-written merges; their model lines still count.
        lines = (match[1].strip().strip("\"'") for match in _LINE.finditer(text))
        return [source for line in lines for source in _split_reference(line)], None
    name = document.get("name")
    base = _method_base(document)
    sources = [
        MergeSource(raw=source.raw, revision=source.revision, note="base of the merge method")
        if source.note is None and base and base.split("@")[0].split("+")[0] == source.raw
        else source
        for source in _walk(document)
    ]
    return sources, name if isinstance(name, str) else None


def merge_sources(text: str) -> tuple[MergeSource, ...]:
    """List what a merge configuration merges, in order of appearance, each text once.

    Parameters
    ----------
    text : the text of mergekit_config.yml, or of a YAML block of the same form. Of a text longer
        than 64 KiB nothing is read. Text that is no plain YAML is read line by line.

    Returns
    -------
    tuple of MergeSource.
    """
    if not text or len(text) > MAX_YAML_BYTES:
        return ()
    read = [_read_document(textwrap.dedent(part)) for part in _DOCUMENT.split(text)]
    inner = {name for _, name in read if name}
    found: dict[str, MergeSource] = {}
    for sources, _ in read:
        for source in sources:
            if source.raw not in inner:
                found.setdefault(source.raw, source)
    return tuple(found.values())
