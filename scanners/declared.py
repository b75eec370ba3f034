"""Declared parents: what a repository itself says it was made from.

Claims stand in many places and contradict one another. Each is kept once, under the most
authoritative place that makes it: the front matter, adapter_config.json, a merge configuration,
the Hub's tags, config.json, the card's text, and last what an author wrote in the form of the
Hub's tags. A text that names no id stays as an unresolved claim; nothing is guessed, looked up or
fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from ..lineage.records import DeclaredParent, Relation
from .bounded_json import clean_text
from .declared_mergekit import is_mergekit, merge_sources
from .declared_paths import is_model_id, resolve_name
from .declared_prose import Mention, find_mentions, split_code
from .declared_relation import Facts, gather_facts, parse_base_tag, relation_to

MAX_PARENTS: Final = 64

_MAX_RAW: Final = 512
_MAX_CLAIMS: Final = 10_000
_MAX_BLOCKS: Final = 64
_MERGE_TAGS: Final = frozenset({"merge", "mergekit", "lazymergekit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repository:
    """Everything that may hold a claim, with the odd values left out."""

    model: str | None
    card: Mapping[str, Any]
    tags: Sequence[str]
    prose: str
    blocks: Sequence[str]
    config: Mapping[str, Any]
    adapter_config: Mapping[str, Any]
    mergekit: str | None

    @property
    def author_tags(self) -> list[str]:
        return _strings(self.card.get("tags"))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if not isinstance(value, list | tuple):
        return []
    return [item.strip() for item in value if isinstance(item, str) and item.strip()]


def _claim(
    raw: str,
    via: str,
    *,
    hint: Relation | None = None,
    revision: Any = None,
    note: str | None = None,
) -> DeclaredParent:
    """A claim with its name resolved; `relation` holds only the hint of its place."""
    found = resolve_name(raw)
    notes = [text for text in (note, found.note) if text]
    stated = clean_text(revision)[:_MAX_RAW] if isinstance(revision, str) else None
    return DeclaredParent(
        raw=clean_text(raw)[:_MAX_RAW],
        name=found.name,
        relation=hint,
        via=via,
        revision=found.revision or stated or None,
        note="; ".join(notes) or None,
    )


def _key(claim: DeclaredParent) -> str:
    return (claim.name or claim.raw).casefold()


def _front_matter(repository: _Repository) -> Iterator[DeclaredParent]:
    for raw in _strings(repository.card.get("base_model")):
        yield _claim(raw, "front_matter")
    for raw in _strings(repository.card.get("model_link")):
        yield _claim(raw, "front_matter", note="field model_link")


def _adapter_config(repository: _Repository) -> Iterator[DeclaredParent]:
    config = repository.adapter_config
    trimmed = repository.config.get("peft")
    for block in (config, trimmed if isinstance(trimmed, Mapping) else {}):
        for raw in _strings(block.get("base_model_name_or_path")):
            yield _claim(raw, "adapter_config", revision=block.get("revision"))
    if "lora_parameters" in config:  # as mlx-lm writes it
        for raw in _strings(config.get("model")):
            yield _claim(raw, "adapter_config")


def _mergekit(repository: _Repository) -> Iterator[DeclaredParent]:
    inside = islice(filter(is_mergekit, repository.blocks), _MAX_BLOCKS)
    texts = [(block, "configuration in the card") for block in inside]
    for text, where in [(repository.mergekit or "", None), *texts]:
        for source in merge_sources(text):
            notes = "; ".join(note for note in (source.note, where) if note)
            yield _claim(
                source.raw,
                "mergekit",
                hint=Relation.MERGE,
                revision=source.revision,
                note=notes or None,
            )


def _hub_tags(repository: _Repository) -> Iterator[DeclaredParent]:
    written = set(repository.author_tags)
    for tag in repository.tags:
        parsed = parse_base_tag(tag)
        if parsed and tag not in written:
            yield _claim(parsed[1], "tag")


def _author_tags(repository: _Repository) -> Iterator[DeclaredParent]:
    """What an author wrote in the form of the Hub's own tags: kept, never taken for an id."""
    for tag in repository.author_tags:
        parsed = parse_base_tag(tag)
        if parsed:
            claim = _claim(parsed[1], "tag")
            yield replace(claim, name=None, revision=None, note="tag written by the author")


def _plain_tags(repository: _Repository) -> Iterator[DeclaredParent]:
    """LazyMergekit lists the parents as tags of their own, ids and nothing else."""
    tags = dict.fromkeys([*repository.author_tags, *repository.tags])
    if _MERGE_TAGS.isdisjoint(tag.casefold() for tag in tags):
        return
    for tag in tags:
        if is_model_id(tag):
            yield _claim(tag, "tag", hint=Relation.MERGE, note="id as a plain tag")


def _config(repository: _Repository) -> Iterator[DeclaredParent]:
    for key in ("_name_or_path", "base_model", "base_model_name_or_path"):
        for raw in _strings(repository.config.get(key)):
            yield _claim(raw, "config", note=None if key == "_name_or_path" else f"field {key}")


def _prose(mentions: Sequence[Mention]) -> Iterator[DeclaredParent]:
    for mention in mentions:
        yield _claim(mention.raw, "body", hint=mention.relation)


def _collect(
    repository: _Repository, mentions: Sequence[Mention], *, quantized: bool
) -> list[DeclaredParent]:
    """All claims in order of authority, without those that a copied card or config carries."""
    front = list(islice(_front_matter(repository), _MAX_CLAIMS))
    claims = [*front, *_adapter_config(repository)]
    if not (quantized and any(claim.name for claim in front)):
        claims += _mergekit(repository)
    claims += _hub_tags(repository)
    if not quantized:
        claims += _plain_tags(repository)
    known = {_key(claim) for claim in claims if claim.name}
    # A config is copied from parent to child: once something better names a parent, a config
    # that names another is the parent's own.
    claims += [claim for claim in _config(repository) if not known or _key(claim) in known]
    own = [m for m in mentions if m.conversion] if quantized and known else mentions
    return [*claims, *_prose(own), *_author_tags(repository)]


def _unique(claims: Sequence[DeclaredParent], *, model: str | None) -> list[DeclaredParent]:
    """Each claim once and none of a model about itself; later claims may add the commit."""
    itself = {(model or "").casefold(), (model or "").rpartition("/")[2].casefold()} - {""}
    seen: dict[str, DeclaredParent] = {}
    texts: dict[str, str] = {}
    for claim in claims:
        if _key(claim) in itself:
            continue
        key = texts.setdefault(claim.raw.casefold(), _key(claim))
        first = seen.setdefault(key, claim)
        if first.revision is None and claim.revision is not None:
            seen[key] = replace(first, revision=claim.revision)
    return list(seen.values())


def _named(mentions: Sequence[Mention], relation: Relation) -> frozenset[str]:
    found = (m for m in mentions if m.relation is relation)
    return frozenset((resolve_name(m.raw).name or m.raw).casefold() for m in found)


def _tagged(repository: _Repository) -> dict[str, Relation]:
    written = set(repository.author_tags)
    parsed = (parse_base_tag(tag) for tag in repository.tags if tag not in written)
    return {pair[1].casefold(): pair[0] for pair in parsed if pair and pair[0]}


def _complete(facts: Facts, repository: _Repository, mentions: Sequence[Mention]) -> Facts:
    several = len(_strings(repository.card.get("base_model"))) > 1
    return replace(
        facts,
        merge=facts.merge or several or repository.mergekit is not None,
        tagged=_tagged(repository),
        finetuned_from=_named(mentions, Relation.FINETUNE),
        quantized_from=_named(mentions, Relation.QUANTIZED),
    )


def declared_parents(
    *,
    model: str | None,
    card: Mapping[str, Any],
    tags: Sequence[str] = (),
    body: str = "",
    config: Mapping[str, Any] | None = None,
    adapter_config: Mapping[str, Any] | None = None,
    mergekit: str | None = None,
    files: Sequence[str] = (),
) -> tuple[DeclaredParent, ...]:
    """List the parents that a repository declares.

    Parameters
    ----------
    model : id of the repository, to drop what it says of itself and to read marks in its name.
    card : parsed front matter.
    body : text after it, of which the first 1 MiB counts.
    tags : the tags as the source lists them; those that also stand in `card["tags"]` are the
        author's own words and never make a name.
    config : config.json, or the trimmed one of the Hub's listing.
    adapter_config : adapter_config.json.
    mergekit : text of mergekit_config.yml.
    files : paths in the repository; empty where they are not known.

    Returns
    -------
    tuple of at most 64 DeclaredParent, most authoritative first, each parent once. `name` is None
    where the text resolves to no id. Where more were named, the last one's note says how many
    were left out. `relation` is the author's `base_model_relation` where there is one; else see
    `declared_relation`. It is None where the marks allow two readings.

    Notes
    -----
    `new_version` is no parent. In a quantized copy whose front matter names its source, merge
    configurations and phrases other than a converter's are the source's own and are left out.
    """
    prose, blocks = split_code(body)
    repository = _Repository(
        model=model,
        card=card,
        tags=_strings(tuple(tags)),
        prose=prose,
        blocks=blocks,
        config=config or {},
        adapter_config=adapter_config or {},
        mergekit=mergekit,
    )
    facts = gather_facts(
        model=model,
        card=card,
        tags=[*repository.tags, *repository.author_tags],
        config=repository.config,
        has_adapter_config=adapter_config is not None,
        files=files,
    )
    mentions = find_mentions(prose)
    facts = _complete(facts, repository, mentions)
    claims = _unique(_collect(repository, mentions, quantized=facts.is_quantized), model=model)
    kept = [
        replace(claim, relation=relation_to(_key(claim), hint=claim.relation, facts=facts))
        for claim in claims[:MAX_PARENTS]
    ]
    if len(claims) > MAX_PARENTS:
        left_out = f"{len(claims) - MAX_PARENTS:,} more claims left out"
        kept[-1] = replace(kept[-1], note="; ".join(filter(None, (kept[-1].note, left_out))))
    return tuple(kept)


def declared_in_file(
    texts: Sequence[str], known: Sequence[DeclaredParent], *, model: str | None
) -> tuple[DeclaredParent, ...]:
    """Claims with those added that a weight file's own metadata makes.

    Parameters
    ----------
    texts : ids or addresses, as the file has them.
    known : what the repository declares elsewhere; it goes before.

    Notes
    -----
    A converter copies the base of its source, so the relation is left open.
    """
    note = "metadata of the weight file"
    claims = [*known, *(_claim(text, "weight_file", note=note) for text in texts)]
    return tuple(_unique(claims, model=model)[:MAX_PARENTS])
