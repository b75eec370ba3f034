"""From the text of a declaration to a model id, or to "not resolvable from text".

A declaration may hold an id, an address, a cache folder, a path on someone's disk or a bare
name. Only what the text itself says is used; nothing is fetched and no name is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .known_names import (
    CANONICAL_IDS,
    FAMILIES,
    FOLDERS,
    MIRRORS,
    MODEL_FOLDERS,
    NOT_OWNERS,
    OWNERS,
    RELATIVE_FOLDERS,
)

_PART: Final = r"[\w.-]{1,96}"
_ID: Final = re.compile(rf"({_PART})/({_PART})", re.ASCII)
_URL: Final = re.compile(
    rf"https://huggingface\.co/({_PART})(?:/({_PART}))?"
    rf"(?:/(?:tree|blob|resolve|commit)/({_PART})(?:/[^\s?#]*)?)?/?(?:[?#]\S*)?",
    re.ASCII,
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_HUB_CACHE: Final = re.compile(
    r"(?:^|[/\\])models--([\w.-]{1,200})(?:[/\\]+snapshots[/\\]+([\w.-]{1,96}))?", re.ASCII
)
_MODELSCOPE: Final = re.compile(
    rf"[/\\]modelscope[/\\](?:.*[/\\])?({_PART})[/\\]({_PART})", re.ASCII
)
_DRIVE: Final = re.compile(r"[A-Za-z]:[/\\]|\\\\|[^/]*\\")
_MAX_TEXT: Final = 512

_RUN: Final = re.compile(
    r"(?:^|[-_])(?:adapter|checkpoint|ckpt|dpo|epoch|exp|fine-?tuned?|final|ft|full|global_step|"
    r"latest|lora|merged|output|ppo|qlora|run|sft|step|test|train(?:ed)?|v?\d+)(?:$|[-_\d])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedName:
    """What a text names: `name` is an `org/model` id or None; `note` says how or why not."""

    name: str | None
    revision: str | None = None
    note: str | None = None


def is_model_id(text: str) -> bool:
    """Whether `text` has the form of a two-part Hub id (ASCII, no `..`, no `--`)."""
    match = _ID.fullmatch(text)
    return match is not None and all(_good_part(part) for part in match.groups())


def _good_part(part: str) -> bool:
    plain = (part[0].isalnum() or part[0] == "_") and (part[-1].isalnum() or part[-1] == "_")
    return plain and ".." not in part and "--" not in part and not part.endswith(".git")


def _unresolved(note: str) -> ResolvedName:
    return ResolvedName(name=None, note=note)


def _one_part(text: str) -> ResolvedName:
    canonical = CANONICAL_IDS.get(text)
    if canonical is None:
        return _unresolved("a name without its owner")
    return ResolvedName(name=canonical, note=f"legacy id {text}")


def _from_url(match: re.Match[str]) -> ResolvedName:
    owner, name, revision = match.groups()
    if name is None:
        return _one_part(owner)
    if owner in NOT_OWNERS or not is_model_id(f"{owner}/{name}"):
        return _unresolved("an address that is not a model's")
    commit = revision if revision and _COMMIT.fullmatch(revision) else None
    return ResolvedName(name=f"{owner}/{name}", revision=commit)


def _from_hub_cache(match: re.Match[str]) -> ResolvedName:
    parts = match[1].split("--")
    revision = match[2] if match[2] and _COMMIT.fullmatch(match[2]) else None
    if len(parts) == 1 and parts[0] in CANONICAL_IDS:
        return ResolvedName(
            name=CANONICAL_IDS[parts[0]], revision=revision, note=f"Hub cache, legacy id {parts[0]}"
        )
    name = "/".join(parts)
    if len(parts) != 2 or not is_model_id(name):
        return _unresolved("a Hub cache folder of no valid id")
    return ResolvedName(name=name, revision=revision, note="Hub cache path")


def _from_modelscope(match: re.Match[str]) -> ResolvedName:
    owner, name = (part.replace("___", ".") for part in match.groups())
    if owner in MIRRORS:
        return _unresolved("a mirror on ModelScope: the owner on the Hub is another")
    if owner.casefold() in FOLDERS or not is_model_id(f"{owner}/{name}"):
        return _unresolved("a ModelScope cache path of no valid id")
    return ResolvedName(name=f"{owner}/{name}", note="ModelScope cache path")


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())


def _tail_names_model(folder: str, owner: str, name: str) -> bool:
    if folder.casefold() not in MODEL_FOLDERS or not is_model_id(f"{owner}/{name}"):
        return False
    if name.casefold() in FOLDERS | FAMILIES:
        return False
    if owner in OWNERS:
        return True
    if owner.casefold() in FOLDERS | FAMILIES or _RUN.search(owner) or _RUN.search(name):
        return False
    # `llama3-chat/Llama-3-Chat-8B` is a model in a folder of its family, not an owner's.
    return _squeezed(owner) not in _squeezed(name)


def _from_local_path(text: str) -> ResolvedName:
    parts = [part.replace("___", ".") for part in text.split("/") if part]
    if len(parts) >= 3 and _tail_names_model(*parts[-3:]):
        return ResolvedName(name="/".join(parts[-2:]), note="tail of a local path")
    return _unresolved("a local path")


def _from_path(text: str) -> ResolvedName:
    cached = _HUB_CACHE.search(text)
    if cached:
        return _from_hub_cache(cached)
    scope = _MODELSCOPE.search(text)
    if scope and scope.end() == len(text):
        return _from_modelscope(scope)
    if _DRIVE.match(text):
        return _unresolved("a path on a Windows disk")
    if text.startswith(("/", "~/")):
        return _from_local_path(text)
    return _unresolved("a relative path")


@lru_cache(maxsize=65_536)
def resolve_name(raw: str) -> ResolvedName:
    """Read a declaration as a model id, without a look at the world.

    Understood are: an id; `https://huggingface.co/org/name` as text; the fixed table of legacy
    one-part ids, given under the id they redirect to; a folder of the Hub's cache, which names
    the commit too; a folder of ModelScope's cache, whose `___` stands for a dot; and a path that
    ends in `<folder of models>/org/name`, where `org` is no ordinary folder or family name. All
    else stays unresolved: other addresses, Windows and relative paths, bare names.

    Parameters
    ----------
    raw : the text as written; surrounding space and one trailing slash do not count.

    Returns
    -------
    ResolvedName. `revision` is a full commit id where the text holds one.
    """
    text = raw.strip()
    if len(text) > _MAX_TEXT:
        return _unresolved("a text too long for a name")
    url = _URL.fullmatch(text)
    if url:
        return _from_url(url)
    if "://" in text:
        return _unresolved("an address that is not a model's")
    text = text.removesuffix("/") if len(text) > 1 else text
    if is_model_id(text):
        if text.split("/")[0].casefold() in RELATIVE_FOLDERS:
            return _unresolved("a relative path")
        return ResolvedName(name=text)
    if "/" in text or "\\" in text:
        return _from_path(text)
    cached = _HUB_CACHE.fullmatch(text)
    return _from_hub_cache(cached) if cached else _one_part(text)
