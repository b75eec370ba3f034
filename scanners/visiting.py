"""One visit of one model: card, files, sketch, and what became of it.

A visit never raises for what a repository holds: every way it can end is a `Coverage` row with
the stage, the file and the reason, and the scan goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..lineage.errors import (
    AccessDenied,
    FormatError,
    ModelkinError,
    ModelNotFound,
    TransientError,
    UnsafePickle,
    UnsafeRequest,
    UnsupportedFormat,
)
from ..lineage.records import Coverage, DeclaredParent, ModelFile, ModelInfo, Outcome
from ..lineage.sketch.plan import PLAN_VERSION, kindred_shapes
from ..lineage.sketch.sketch import Sketch
from ..store.facts import RevisionFacts, Visit
from ..store.sketches import RawArray, SketchFile, sketch_key
from .bounded_json import parse_json_object
from .bytes import Traffic
from .cards import Card, parse_card
from .components import component_layouts, with_components
from .declared import declared_in_file, declared_parents
from .formats.gguf_file import declared_bases
from .formats.sharded import WeightLayout, choose_weight_files
from .sketch_records import describe_blocks, sketch_arrays
from .sketching import map_adapter, map_weights, read_sketch
from .sources.base import Source
from .unsafe import find_unsafe, unsafe_finding

CARD_LIMIT = 1 << 20
CONFIG_LIMIT = 1 << 20


class _NotSketched(Exception):
    """A visit that ends before a sketch, with the outcome to record."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class SketchSink(Protocol):
    """Where a visit leaves a sketch: the folder of a store, or memory."""

    def save(
        self, key: str, arrays: Mapping[str, RawArray], *, metadata: Mapping[str, str]
    ) -> SketchFile:
        """Keep a sketch under its key."""
        ...


@dataclass(slots=True, kw_only=True)
class Visitor:
    """Visits models of one source.

    Parameters
    ----------
    source : where descriptions and files come from.
    sketches : where sketches are kept.
    known : facts of revisions already sketched under this plan, by weights digest: a model whose
        weight files have the digests of a known one is a copy, and none of its bytes is read.
    shapes : when not empty, only models of these shape keys, or kindred to one, are sketched.
    clock : monotonic seconds.
    reading : locks by weights digest, so that of two copies visited at once one is read.
    """

    source: Source
    sketches: SketchSink
    known: dict[str, RevisionFacts] = field(default_factory=dict)
    shapes: frozenset[str] = frozenset()
    clock: Callable[[], float] = time.monotonic
    reading: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def visit(self, listed: ModelInfo) -> Visit:
        """Visit one listed model.

        Returns
        -------
        Visit with the outcome; facts only when the weights' headers could be read.

        Raises
        ------
        AccessDenied : the token itself is refused, which says nothing about the model.
        """
        started, traffic = self.clock(), Traffic()
        work = _Work(info=listed)
        try:
            await self._follow(work, traffic)
            outcome, reason = Outcome.OK, None
            if work.blemish is not None:
                # The weights were read all the same; what the card claims is not known, or a part
                # beside them is not read.
                undecoded = isinstance(work.blemish, UnsupportedFormat)
                outcome = Outcome.OK if undecoded else Outcome.MALFORMED
                reason = str(work.blemish)
                work.stage = work.stage if work.blemish.path in work.files else "card"
                work.failed = work.blemish
        except _NotSketched as end:
            outcome, reason = end.outcome, end.reason
        except (ModelkinError, OSError) as error:
            if isinstance(error, AccessDenied) and error.reason == "token":
                raise
            outcome, reason = _outcome(error, described=work.described), str(error)
            work.failed = error
            if isinstance(error, UnsafePickle):
                work.unsafe.append(error)
        if work.described:
            walked = work.files
            work.unsafe += await find_unsafe(self.source, work.info, read=walked, traffic=traffic)
        path = next(iter(work.files), None)
        if work.failed is not None:
            path = getattr(work.failed, "path", None)
        coverage = Coverage(
            model=work.info.name,
            outcome=outcome,
            stage=work.stage,
            reason=reason,
            path=path,
            offset=getattr(work.failed, "offset", None),
            requests=traffic.requests,
            bytes_read=traffic.bytes,
            seconds=self.clock() - started,
        )
        return Visit(
            coverage=coverage,
            info=work.info if work.described else None,
            facts=work.facts,
            declared=work.declared,
            plan=PLAN_VERSION,
            hidden=isinstance(work.failed, ModelNotFound) and work.failed.hidden,
            findings=tuple(unsafe_finding(work.info.name, error) for error in work.unsafe),
        )

    async def _follow(self, work: _Work, traffic: Traffic) -> None:
        listed = work.info
        found = await asyncio.to_thread(self.source.info, listed.name, traffic=traffic)
        work.info = _merged(found, listed)
        work.described = True
        work.stage = "card"
        try:
            await self._read_card(work, traffic)
        except FormatError as error:
            work.blemish = error
        work.stage = "files"
        layout = choose_weight_files([file.path for file in work.info.files])
        _check_layout(layout)
        work.components = component_layouts([file.path for file in work.info.files], layout)
        others = [path for one in work.components.values() for path in one.files]
        work.files = (*layout.files, *others)
        digest = _weights_digest(work.files, work.info.files)
        if digest is None:
            await self._sketch(work, layout, traffic)
            return
        async with self.reading.setdefault(digest, asyncio.Lock()):
            copied = self.known.get(digest)
            if copied is None:
                await self._sketch(work, layout, traffic, digest=digest)
            else:
                work.facts = replace(copied, config=work.config)

    async def _sketch(
        self, work: _Work, layout: WeightLayout, traffic: Traffic, *, digest: str | None = None
    ) -> None:
        work.stage = "header"
        if layout.kind == "adapter":
            await self._sketch_adapter(work, layout, traffic, digest=digest)
            return
        weights = await map_weights(self.source, work.info, layout, traffic=traffic)
        bases = declared_bases(weights.metadata)
        if bases and work.declared is not None:
            work.declared = declared_in_file(bases, work.declared, model=work.info.name)
        work.facts = RevisionFacts(
            format=layout.format if weights.packing is None else weights.packing.format,
            dtype=weights.dtype,
            architecture=_architecture(work.config),
            shape_key=weights.shape_key,
            n_params=weights.n_params,
            weights_digest=digest,
            config=work.config,
        )
        if self.shapes and not any(kindred_shapes(weights.shape_key, s) for s in self.shapes):
            raise _NotSketched(Outcome.SKIPPED, "another shape")
        work.stage = "sketch"
        sketch = await read_sketch(weights, traffic=traffic)
        sketch, failed = await with_components(
            sketch, work.components, self.source, work.info, traffic=traffic
        )
        # The model that the pipeline is placed by was read, whatever became of the others.
        work.blemish = work.blemish or failed
        work.facts = self._keep(work, sketch)
        if digest is not None and work.blemish is None:
            self.known[digest] = work.facts

    async def _sketch_adapter(
        self, work: _Work, layout: WeightLayout, traffic: Traffic, *, digest: str | None
    ) -> None:
        """An adapter has no shape of its own: its sketch is of the change that it makes."""
        weights = await map_adapter(self.source, work.info, layout, work.adapter, traffic=traffic)
        packing = weights.packing
        work.facts = RevisionFacts(
            format=packing.format if packing else layout.format,
            dtype=packing.type if packing else None,
            weights_digest=digest,
            config=work.config,
        )
        if not weights.shapes:
            raise _NotSketched(Outcome.SKIPPED, "an adapter: placed by what it declares")
        work.stage = "sketch"
        work.facts = self._keep(work, await read_sketch(weights, traffic=traffic))

    async def _read_card(self, work: _Work, traffic: Traffic) -> None:
        """Claims of the card and the configs; what cannot be read is noted, not fatal."""
        info = work.info
        names = {file.path for file in info.files}
        card = Card(front_matter=dict(info.card), body="")
        # The Hub hands over the front matter itself; the text is read where that names no base.
        if "README.md" in names and "base_model" not in info.card:
            card = parse_card(await self._small(info, "README.md", CARD_LIMIT, traffic))
            work.info = replace(info, card=card.front_matter)
        config = dict(info.config)
        if "config.json" in names:
            config |= await self._json(info, "config.json", traffic)
        work.config = config
        work.info = replace(work.info, config=config)
        adapter, mergekit = None, None
        if "adapter_config.json" in names:
            adapter = await self._json(info, "adapter_config.json", traffic)
            work.adapter = adapter
        if "mergekit_config.yml" in names:
            text = await self._small(info, "mergekit_config.yml", CARD_LIMIT, traffic)
            mergekit = text.decode("utf-8", "replace")
        work.declared = declared_parents(
            model=info.name,
            card=card.front_matter,
            tags=info.tags,
            body=card.body,
            config=config,
            adapter_config=adapter,
            mergekit=mergekit,
            files=tuple(names),
        )

    async def _small(self, info: ModelInfo, path: str, limit: int, traffic: Traffic) -> bytes:
        return await self.source.read(info, path, limit=limit, traffic=traffic)

    async def _json(self, info: ModelInfo, path: str, traffic: Traffic) -> dict[str, Any]:
        data = await self._small(info, path, CONFIG_LIMIT, traffic)
        return parse_json_object(data, path=path)

    def _keep(self, work: _Work, sketch: Sketch) -> RevisionFacts:
        info = work.info
        key = sketch_key(
            source=info.source, source_id=info.source_id, sha=info.sha, plan=PLAN_VERSION
        )
        saved = self.sketches.save(key, sketch_arrays(sketch), metadata=describe_blocks(sketch))
        facts = work.facts or RevisionFacts()
        return replace(
            facts, sketch_plan=PLAN_VERSION, sketch_digest=saved.sha256, sketch_path=saved.path
        )


@dataclass(slots=True, kw_only=True)
class _Work:
    """How far a visit has come."""

    info: ModelInfo
    stage: str = "describe"
    described: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[DeclaredParent, ...] | None = None
    facts: RevisionFacts | None = None
    failed: ModelkinError | OSError | None = None
    blemish: FormatError | None = None
    files: tuple[str, ...] = ()
    components: Mapping[str, WeightLayout] = field(default_factory=dict)
    unsafe: list[UnsafePickle] = field(default_factory=list)


def _merged(found: ModelInfo, listed: ModelInfo) -> ModelInfo:
    """The description, with what only the listing said."""
    return replace(
        found,
        created_at=found.created_at or listed.created_at,
        card=found.card or listed.card,
        config=found.config or listed.config,
        tags=found.tags or listed.tags,
    )


def _check_layout(layout: WeightLayout) -> None:
    match layout.kind:
        case "none":
            raise _NotSketched(Outcome.NO_WEIGHTS, "no weight file")
        case "unsupported":
            seen = ", ".join(layout.formats)
            raise _NotSketched(Outcome.UNSUPPORTED, f"weights in a format not read here: {seen}")


def _weights_digest(paths: Sequence[str], files: Sequence[ModelFile]) -> str | None:
    """A digest over the content digests of the weight files, None where one is unknown."""
    digests = {file.path: file.sha256 for file in files}
    found = [digests.get(path) for path in paths]
    if not found or any(d is None for d in found):
        return None
    return hashlib.sha256("".join(sorted(d for d in found if d)).encode()).hexdigest()


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return None


def _outcome(error: ModelkinError | OSError, *, described: bool) -> Outcome:
    match error:
        case AccessDenied():
            return Outcome.GATED
        case ModelNotFound() if not described:
            # Of a model that is there, only a file or a revision can be gone.
            return Outcome.NOT_FOUND
        case UnsupportedFormat():
            return Outcome.UNSUPPORTED
        case FormatError() | UnsafeRequest():
            return Outcome.MALFORMED
        case TransientError():
            return Outcome.TIMEOUT
    return Outcome.FAILED
