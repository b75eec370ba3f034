"""Prompt sets: the fixed questions of a behavioural probe, with a digest that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...lineage.errors import LimitExceeded, MalformedFile
from ...lineage.safety.clusters import Kin, kin_of

MAX_BYTES = 1 << 20
MAX_PROMPTS = 2_000
MAX_PROMPT_CHARS = 4_000
MAX_MARKERS = 500
MAX_MARKER_CHARS = 200
BUILTIN = "refusal-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityItem:
    """A benign question with one right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts that a safety-trained model refuses, and prompts that it answers.

    `digest` is the sha256 of the canonical JSON of what is asked and how replies are marked; name
    and license are not part of it. Prompts are distinct, in the order of the file.
    `refusal_markers` is empty when the set leaves marking to the default lexicon. `categories`
    names the class of each harmful prompt, empty where the set has none.
    """

    name: str
    license: str | None
    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    refusal_markers: tuple[str, ...]
    capability: tuple[CapabilityItem, ...]
    digest: str
    categories: tuple[str, ...] = ()

    def shuffled(self) -> PromptSet:
        """The same set in an order drawn from its digest, twins side by side.

        Notes
        -----
        Whoever wrote a set put like beside like. A run that stops early must have asked a sample
        of the set and not its first few topics.
        """
        order = [
            sorted(range(n), key=lambda at: hashlib.sha256(f"{self.digest}:{at}".encode()).digest())
            for n in (len(self.harmful), len(self.harmless))
        ]
        return replace(
            self,
            harmful=tuple(self.harmful[at] for at in order[0]),
            harmless=tuple(self.harmless[at] for at in order[1]),
            categories=tuple(self.categories[at] for at in order[0]) if self.categories else (),
        )

    def kin(self) -> tuple[Kin, Kin]:
        """Clusters of the harmful and of the harmless prompts."""
        twins = self.categories if len(self.harmless) == len(self.harmful) else ()
        return kin_of(self.harmful, self.categories), kin_of(self.harmless, twins)

    @property
    def identity(self) -> str:
        """`name@digest`, as scores carry it."""
        return f"{self.name}@{self.digest}"


def load_prompt_set(path: Path) -> PromptSet:
    """Read a prompt set from a JSON file.

    Parameters
    ----------
    path : file with `harmful` and `harmless` (lists of strings) and, each optional, `name`,
        `license`, `categories` (one a harmful prompt), `refusal_markers` (list of strings),
        `capability` (list of objects with `prompt` and `answer`). Other keys are ignored.

    Raises
    ------
    MalformedFile : not such a file.
    LimitExceeded : more than 1 MiB, 2,000 prompts, 500 markers, or a text too long.
    """
    try:
        if not path.is_file():
            raise MalformedFile("no such file", path=str(path))
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise MalformedFile(f"cannot be read: {error.strerror}", path=str(path)) from error
    return parse_prompt_set(data, path=str(path), default_name=path.stem)


def builtin_prompt_set() -> PromptSet:
    """The set that ships with modelkin, `refusal-v2`.

    Eighty pairs of a request that safety-trained models refuse, written without operational
    detail, and a harmless twin of the same form, in random order over 22 categories; a hundred
    benign questions with one exact answer; an English lexicon of refusal markers.
    """
    source = files(__package__).joinpath("prompts", f"{BUILTIN}.json")
    return parse_prompt_set(source.read_bytes(), path=f"{BUILTIN}.json", default_name=BUILTIN)


def parse_prompt_set(data: bytes, *, path: str, default_name: str) -> PromptSet:
    """A prompt set from the bytes of its file; see `load_prompt_set`.

    Raises
    ------
    MalformedFile, LimitExceeded : as for `load_prompt_set`; `path` is what they name.
    """
    if len(data) > MAX_BYTES:
        raise LimitExceeded("prompt set too large", path=path, limit=MAX_BYTES, actual=len(data))
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"not JSON: {error}", path=path) from error
    if not isinstance(content, dict):
        raise MalformedFile("not a JSON object", path=path)
    reader = _Reader(content=content, path=path)
    asked = {key: reader.texts(key, required=True) for key in ("harmful", "harmless")}
    markers = reader.texts("refusal_markers", count=MAX_MARKERS, chars=MAX_MARKER_CHARS)
    capability = reader.items("capability")
    categories = reader.labels("categories", count=len(asked["harmful"]))
    total = len(asked["harmful"]) + len(asked["harmless"]) + len(capability)
    if total > MAX_PROMPTS:
        raise LimitExceeded("too many prompts", path=path, limit=MAX_PROMPTS, actual=total)
    return PromptSet(
        name=reader.label("name") or default_name,
        license=reader.label("license"),
        harmful=asked["harmful"],
        harmless=asked["harmless"],
        refusal_markers=markers,
        capability=capability,
        digest=_digest(asked, markers=markers, capability=capability),
        categories=categories,
    )


def digest_of_set(prompts: PromptSet) -> str:
    """The digest that a set must have, from what it asks."""
    asked = {"harmful": prompts.harmful, "harmless": prompts.harmless}
    return _digest(asked, markers=prompts.refusal_markers, capability=prompts.capability)


def _digest(
    asked: Mapping[str, tuple[str, ...]],
    *,
    markers: tuple[str, ...],
    capability: tuple[CapabilityItem, ...],
) -> str:
    canonical = json.dumps(
        {
            "harmful": asked["harmful"],
            "harmless": asked["harmless"],
            "refusal_markers": markers,
            "capability": [[item.prompt, item.answer] for item in capability],
        },
        sort_keys=True,
        ensure_ascii=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Typed, bounded access to the fields of a parsed file."""

    content: Mapping[str, Any]
    path: str

    def label(self, key: str) -> str | None:
        value = self.content.get(key)
        return None if value is None else self._text(value, key=key, chars=MAX_MARKER_CHARS)

    def texts(
        self,
        key: str,
        *,
        required: bool = False,
        count: int = MAX_PROMPTS,
        chars: int = MAX_PROMPT_CHARS,
    ) -> tuple[str, ...]:
        values = self._list(key, count=count)
        if required and not values:
            raise MalformedFile(f"{key!r} is missing or empty", path=self.path)
        # A prompt asked twice is one observation, not two.
        return tuple(dict.fromkeys(self._text(v, key=key, chars=chars) for v in values))

    def labels(self, key: str, *, count: int) -> tuple[str, ...]:
        """One label a prompt; none where the file has no such list."""
        values = self._list(key, count=MAX_PROMPTS)
        if values and len(values) != count:
            raise MalformedFile(f"{len(values)} {key!r} for {count} prompts", path=self.path)
        return tuple(self._text(value, key=key, chars=MAX_MARKER_CHARS) for value in values)

    def items(self, key: str) -> tuple[CapabilityItem, ...]:
        found = []
        for value in self._list(key, count=MAX_PROMPTS):
            if not isinstance(value, dict):
                raise MalformedFile(f"{key!r} holds something else than objects", path=self.path)
            prompt, answer = (
                self._text(value.get(part), key=f"{key}.{part}", chars=MAX_PROMPT_CHARS)
                for part in ("prompt", "answer")
            )
            found.append(CapabilityItem(prompt=prompt, answer=answer))
        return tuple(dict.fromkeys(found))

    def _list(self, key: str, *, count: int) -> list[Any]:
        values = self.content.get(key)
        if values is None:
            return []
        if not isinstance(values, list):
            raise MalformedFile(f"{key!r} is not a list", path=self.path)
        if len(values) > count:
            raise LimitExceeded(
                f"too many entries in {key!r}", path=self.path, limit=count, actual=len(values)
            )
        return values

    def _text(self, value: object, *, key: str, chars: int) -> str:
        if not isinstance(value, str) or not value.strip():
            raise MalformedFile(f"{key!r} holds something else than text", path=self.path)
        if len(value) > chars:
            raise LimitExceeded(
                f"text too long in {key!r}", path=self.path, limit=chars, actual=len(value)
            )
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise MalformedFile(f"{key!r} holds half a surrogate pair", path=self.path)
        return value
