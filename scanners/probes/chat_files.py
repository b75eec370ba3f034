"""The small files of a repository that shape a prompt: chat template, defaults of decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...lineage.errors import FormatError
from ...lineage.records import ModelInfo
from ...lineage.safety.metadata import ChatFiles
from ..bounded_json import parse_json_object
from ..bytes import Traffic
from ..sources.base import Source

MAX_FILE = 1 << 20
_TEMPLATE_FILE, _TOKENIZER, _GENERATION = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "generation_config.json",
)


async def read_chat_files(source: Source, info: ModelInfo, *, traffic: Traffic) -> ChatFiles:
    """Read the chat template, default system prompt and generation defaults of a model.

    Nothing is rendered. A file that breaks its own format counts as absent: a model runs without
    it, or not at all.

    Raises
    ------
    AccessDenied, ModelNotFound, TransientError : from the source.
    """
    held = {file.path for file in info.files}
    tokenizer = await _json(source, info, _TOKENIZER, held=held, traffic=traffic)
    template: object = tokenizer.get("chat_template")
    if _TEMPLATE_FILE in held:
        try:
            data = await source.read(info, _TEMPLATE_FILE, limit=MAX_FILE, traffic=traffic)
            template = data.decode("utf-8", "replace")
        except FormatError:
            template = None
    system = tokenizer.get("default_system_prompt")
    return ChatFiles(
        template=_default_template(template),
        system_prompt=system if isinstance(system, str) else None,
        generation=await _json(source, info, _GENERATION, held=held, traffic=traffic),
    )


async def _json(
    source: Source, info: ModelInfo, path: str, *, held: set[str], traffic: Traffic
) -> Mapping[str, Any]:
    if path not in held:
        return {}
    try:
        data = await source.read(info, path, limit=MAX_FILE, traffic=traffic)
        return parse_json_object(data, path=path)
    except FormatError:
        return {}


def _default_template(value: object) -> str | None:
    """The one template, or of several named ones that called `default`."""
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
