"""What the text of a card says about where a model comes from: the weakest kind of claim.

A small set of set phrases, those that trainers, quantizers and mergekit write, each followed by
a link, an id or a path. Code and comments do not count, nor does what follows a heading
"Original model card": that is the parent's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..lineage.records import Relation
from .declared_paths import resolve_name
from .known_names import CANONICAL_IDS

MAX_BODY_CHARS: Final = 1024 * 1024
MAX_MENTIONS: Final = 64

_SPACE: Final = r"[ \t*_:|]{0,8}"
_PHRASES: Final = (
    (
        Relation.QUANTIZED,
        r"(?:static|imatrix|weighted|weighted/imatrix)[ ]quant(?:ization)?s?[ ]of",
    ),
    (
        Relation.QUANTIZED,
        r"quanti[sz]ed[ ](?:version|variant|model|checkpoint|weights)s?[ ](?:of|from)",
    ),
    (Relation.QUANTIZED, r"quanti[sz]ation[ ]of"),
    (Relation.QUANTIZED, r"format[ ]model[ ]files[ ]for"),
    (Relation.QUANTIZED, r"converted[ ]to[ ][\w-]{1,16}(?:[ ]format)?[ ]from"),
    (Relation.FINETUNE, r"fine-?[ ]?tuned[ ](?:version|variant|checkpoint)[ ](?:of|from)"),
    (Relation.FINETUNE, r"fine-?[ ]?tuned[ ]from(?:[ ]model)?(?:[ ]\[optional\])?"),
    (
        Relation.ADAPTER,
        r"(?:lora|adapter)[ ](?:adapt(?:at)?ion[ ])?(?:weights?|adapters?)[ ](?:for|of)",
    ),
    (Relation.MERGE, r"merge[ ]method[ ]using"),
    (None, r"original[ ]model(?=[ ]?[*_]{0,2}[ ]?:)"),
    (None, r"base[ _]model(?=[ ]?[*_]{0,2}[ ]?[:|])"),
)
_TARGET: Final = (
    r"(?:(?:the|an?|our|original|base|pre-?trained|model|checkpoint|weights)[ \t*_:|]{1,8}){0,4}"
    r"(?:\[(?P<text>[^\]\n]{1,300})\](?:\((?P<url>[^)\s]{0,400})[^)\n]{0,80}\))?"
    r"|<a[ ][^>\n]{0,200}?href=[\"'](?P<href>[^\"'\s>]{1,400})"
    r"|`(?P<code>[^`\n]{1,300})`"
    r"|(?P<bare>[^\s<>()\[\]`\"',;|]{2,400}))"
)
_CLAIM: Final = tuple(
    (relation, re.compile(rf"\b{phrase}{_SPACE}{_TARGET}", re.IGNORECASE))
    for relation, phrase in _PHRASES
)
_CARD_LINK: Final = re.compile(
    r"\[original[ ]model(?:[ ]card)?\]\((?P<url>https://[^)\s]{1,400})\)", re.IGNORECASE
)
_MERGED: Final = re.compile(
    r"(?:following[ ]models[ ]were[ ]included[ ]in[ ]the[ ]merge|"
    r"merge[ ]of[ ]the[ ]following[ ]models)[^\n]{0,200}\n",
    re.IGNORECASE,
)
_BULLET: Final = re.compile(r"[ \t]{0,8}[*+-][ \t]+(?P<item>[^\n]{1,600})(?:\n|$)")
_BLANK: Final = re.compile(r"[ \t]{0,80}\r?\n")
_LINK: Final = re.compile(r"\[(?P<text>[^\]\n]{1,300})\]\((?P<url>[^)\s]{0,400})")
_INHERITED: Final = re.compile(r"^#{1,6}[^\n]{0,80}\boriginal model card", re.MULTILINE | re.I)
_HUB: Final = re.compile(r"https?://(?:huggingface\.co|hf\.co)/")
_FENCE: Final = re.compile(r"[ \t]*(?:```|~~~)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A model that the text names: `relation` is what the phrase says, None where it says none.

    `conversion` tells phrases that a converter writes about its own source from those that may
    have been copied along with the source's card.
    """

    raw: str
    relation: Relation | None
    conversion: bool = False


def _own_text(body: str) -> str:
    text = body[:MAX_BODY_CHARS].replace("\r\n", "\n")
    inherited = _INHERITED.search(text)
    return text[: inherited.start()] if inherited else text


def _without_comments(text: str) -> str:
    kept, position = [], 0
    while (start := text.find("<!--", position)) >= 0:
        kept.append(text[position:start])
        end = text.find("-->", start)
        if end < 0:
            return "".join(kept)
        position = end + 3
    return "".join(kept) + text[position:]


def split_code(body: str) -> tuple[str, tuple[str, ...]]:
    """Take the card's own text apart: prose, and the contents of fenced code blocks."""
    if not body:
        return "", ()
    prose: list[str] = []
    blocks: list[list[str]] = []
    inside = False
    for line in _own_text(body).split("\n"):
        if _FENCE.match(line):
            inside = not inside
            if inside:
                blocks.append([])
        elif inside:
            blocks[-1].append(line)
        else:
            prose.append(line)
    return _without_comments("\n".join(prose)), tuple("\n".join(block) for block in blocks)


def _is_name(text: str) -> bool:
    """Whether an unresolved text still names something: a path, or a name such as QWEN3-0.6B."""
    if "://" in text or text.casefold() in {"none", "n/a"}:
        return False
    if "/" in text or "\\" in text:
        return text.startswith(("/", "./", "../", "~/")) or text[1:2] == ":"
    return " " not in text and any(character.isdigit() for character in text)


def _pick(text: str | None, url: str | None, bare: str | None) -> str | None:
    """The first of address, link text and bare word that names a model, as written.

    Where a link leads elsewhere, its text is no id, however it looks.
    """
    address = (url or "").strip()
    words = [(text or "").strip().strip("`*_"), (bare or "").rstrip(".:*_!")]
    if address.startswith(("https://", "http://")):
        if resolve_name(address).name:
            return address
        if not _HUB.match(address):
            return None
    else:
        for word in (address, *words):
            if word and not _is_short(word) and resolve_name(word).name:
                return word
    return next((word for word in words if _is_name(word)), None)


def _is_short(word: str) -> bool:
    """`n/a`, `w/o`: two letters and a slash are no id in running text."""
    return word not in CANONICAL_IDS and len(word.partition("/")[0]) < 2


def _claims(prose: str) -> Iterator[Mention]:
    for relation, pattern in _CLAIM:
        for match in pattern.finditer(prose):
            raw = _pick(
                match["text"], match["url"] or match["href"], match["code"] or match["bare"]
            )
            if raw:
                original = match[0][:14].casefold() == "original model"
                yield Mention(
                    raw=raw,
                    relation=relation,
                    conversion=relation is Relation.QUANTIZED or original,
                )
    for match in _CARD_LINK.finditer(prose):
        if resolve_name(match["url"]).name:
            yield Mention(raw=match["url"], relation=None, conversion=True)


def _merged(prose: str) -> Iterator[Mention]:
    for match in _MERGED.finditer(prose):
        position = match.end()
        while blank := _BLANK.match(prose, position):
            position = blank.end()
        while bullet := _BULLET.match(prose, position):
            position = bullet.end()
            item = bullet["item"].strip()
            links = [(link["text"], link["url"]) for link in _LINK.finditer(item)]
            for text, url in links or [(item, None)]:
                raw = _pick(text, url, None)
                if raw:
                    yield Mention(raw=raw, relation=Relation.MERGE)


def find_mentions(prose: str) -> tuple[Mention, ...]:
    """List the models that set phrases in a card's text name.

    Parameters
    ----------
    prose : text without code, as `split_code` gives it.

    Returns
    -------
    tuple of at most 64 Mention, merge lists first; one text may come with several relations.
    """
    found: dict[tuple[str, Relation | None], Mention] = {}
    if not prose:
        return ()
    for source in (_merged(prose), _claims(prose)):
        for mention in source:
            found.setdefault((mention.raw, mention.relation), mention)
            if len(found) >= MAX_MENTIONS:
                return tuple(found.values())
    return tuple(found.values())
