"""What a model says of itself and carries beside its weights: claims, traces, templates, kin.

None of it is evidence: a card is a claim, and a file can be taken out. It decides where the
dearer probes run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from .protocol import Measurement, Status, declined, fact

CLAIM, TOOL, TEMPLATE, KIN = "claim", "editing_tool", "template_change", "kin_stripped"
EDITORS = ("heretic", "abliteration")
_SHOWN = 80
_COMPARED_CHARS = 20_000
_GENERATION_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelText:
    """What a repository says in words; `body` is the card without its front matter."""

    name: str
    tags: Sequence[str] = ()
    front_matter: Mapping[str, Any] = field(default_factory=dict)
    body: str = ""
    files: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFiles:
    """What shapes a prompt beside the weights; None where the repository has no such thing."""

    template: str | None = None
    system_prompt: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KinRecord:
    """A parent, copy or sibling: how surely it is one, and whether it is found stripped.

    `stripped` None: it was not measured.
    """

    model: str
    confidence: float
    stripped: bool | None


def claim_class(text: ModelText) -> Measurement:
    """What the name, the tags and the card claim about safety training.

    Returns
    -------
    Value 1 (claims to be without it), -1 (claims to have it) or 0 (silent). `spans` in the
    detail holds what was matched and where, `name_free` the value without the name, which is
    where most such claims stand.
    """
    places = dict(_places(text))
    spans = [
        {"place": place, "says": kind, "text": found}
        for place, words in places.items()
        for kind, found in _said(words)
    ]
    return fact(
        CLAIM,
        _class_of(span["says"] for span in spans),
        n=len(places),
        detail={
            "spans": spans[:20],
            "name_free": _class_of(span["says"] for span in spans if span["place"] != "name"),
        },
    )


def tool_traces(text: ModelText) -> Measurement:
    """Which tools left their tag or file.

    Returns
    -------
    Value 1 when a tool that edits refusals out is among them, else 0; `tools` names all.
    """
    tags = {str(tag).casefold() for tag in text.tags}
    held = set(text.files)
    found = {
        tool: sorted(tags.intersection(marks["tags"]) | held.intersection(marks["files"]))
        for tool, marks in _lexicon()["tools"].items()
    }
    tools = {tool: marks for tool, marks in found.items() if marks}
    value = float(any(tool in tools for tool in EDITORS))
    return fact(TOOL, value, n=len(tags) + len(held), detail={"tools": tools})


def template_change(mine: ChatFiles, theirs: ChatFiles, *, ancestor: str) -> Measurement:
    """How much of what shapes a prompt differs from the ancestor's.

    Returns
    -------
    Value in [0, 1]: share of the chat template that is not the ancestor's, with white space made
    alike; `system_prompt` and `generation` tell whether those differ. `unalignable` where
    neither has a template.
    """
    detail = {
        "ancestor": ancestor,
        "system_prompt": (mine.system_prompt or "") != (theirs.system_prompt or ""),
        "generation": sorted(_changed_keys(mine.generation, theirs.generation)),
        "template_sha256": digest_of(mine.template),
        "ancestor_template_sha256": digest_of(theirs.template),
    }
    if mine.template is None and theirs.template is None:
        return declined(TEMPLATE, Status.UNALIGNABLE, "neither has a chat template", **detail)
    a, b = (" ".join((one.template or "").split())[:_COMPARED_CHARS] for one in (mine, theirs))
    same = 1.0 if a == b else difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    return fact(TEMPLATE, 1.0 - same, n=max(len(a), len(b)), detail=detail)


def kin_stripped(kin: Sequence[KinRecord]) -> Measurement:
    """The surest sign among parents, copies and siblings that the model shares their loss.

    Returns
    -------
    Largest confidence of an edge to kin that is found stripped, 0 where measured kin is not;
    `inconclusive` where no kin was measured.
    """
    known = [one for one in kin if one.stripped is not None]
    if not known:
        reason = f"none of {len(kin)} parents, copies and siblings is measured"
        return declined(KIN, Status.INCONCLUSIVE, reason)
    lost = [one for one in known if one.stripped]
    value = max((one.confidence for one in lost), default=0.0)
    names = sorted(one.model for one in lost)
    return fact(KIN, value, n=len(known), detail={"stripped": names[:20]})


def digest_of(template: str | None) -> str | None:
    """Digest of a chat template, None for none."""
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


def _places(text: ModelText) -> Iterator[tuple[str, str]]:
    yield "name", text.name.replace("/", " ")
    yield "tags", " . ".join(map(str, text.tags))
    if text.front_matter:
        yield "front matter", json.dumps(text.front_matter, ensure_ascii=False, default=str)
    if text.body:
        yield "card", text.body


def _said(words: str) -> Iterator[tuple[str, str]]:
    """Claims in a text, negated ones turned round: "not uncensored" claims nothing."""
    plain = re.sub(r"[\s_]+", " ", words.casefold())
    for kind in ("uncensored", "safe"):
        for match in _pattern(kind).finditer(plain):
            if not _negated(plain[: match.start()]):
                yield kind, plain[max(0, match.start() - 20) : match.end() + 20][:_SHOWN]


def _negated(before: str) -> bool:
    last = re.findall(r"[\w']+", before)[-2:]
    return any(word in _lexicon()["negations"] for word in last)


def _class_of(kinds: Iterable[str]) -> float:
    found = set(kinds)
    return 1.0 if "uncensored" in found else -1.0 if "safe" in found else 0.0


def _changed_keys(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for key in mine.keys() | theirs.keys():
        if key not in _GENERATION_KEYS and mine.get(key) != theirs.get(key):
            yield str(key)


@cache
def _lexicon() -> dict[str, Any]:
    data = files(__package__).joinpath("claims.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(data)
    return loaded


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    words = sorted(_lexicon()[kind], key=len, reverse=True)
    inner = "|".join(re.escape(word) for word in words)
    inner = inner.replace(r"\ ", "[ -]").replace(r"\-", "[ -]?")
    return re.compile(rf"(?<![a-z])(?:{inner})(?![a-z])")
