"""The other models of a pipeline: text encoders, an autoencoder, a pooling head.

A pipeline is several models of which one is trained most of the time, and its sketch is the
pipeline's. Of each of the others a few spans are kept in the same file, under roles that take no
part in the geometry of a family: enough to say which of them a derivative took over, changed, or
has from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..lineage.errors import FormatError, UnsupportedFormat
from ..lineage.infer.components import component_key
from ..lineage.records import ModelInfo
from ..lineage.sketch.sketch import Sketch, SketchBlock
from .bytes import Traffic
from .formats.sharded import WeightLayout, choose_component_files
from .sketching import PART_SPANS, map_weights, read_sketch
from .sources.base import Source

MAX_COMPONENTS = 6


def component_layouts(paths: Sequence[str], main: WeightLayout) -> dict[str, WeightLayout]:
    """Files of the other models of a pipeline, by their folder.

    Parameters
    ----------
    paths : the listing.
    main : the files of the model that the pipeline is placed by.
    """
    found = choose_component_files(paths)
    others = {name: layout for name, layout in found.items() if layout.files != main.files}
    return dict(sorted(others.items())[:MAX_COMPONENTS])


async def with_components(
    sketch: Sketch,
    layouts: Mapping[str, WeightLayout],
    source: Source,
    info: ModelInfo,
    *,
    traffic: Traffic,
) -> tuple[Sketch, FormatError | None]:
    """The sketch of a pipeline with a few spans of each of its other models.

    Each is a model of its own and has the bytes and requests of one, of which it uses few.

    Returns
    -------
    The sketch, and what the first of them failed with that is damaged, else the first of a kind
    that is not decoded: they are left out.

    Raises
    ------
    TransientError, AccessDenied : one was not handed out; the visit is repeated.
    """
    blocks = dict(sketch.blocks)
    failed: FormatError | None = None
    bare = replace(info, config={})
    for name, layout in layouts.items():
        own = Traffic()
        try:
            weights = await map_weights(source, bare, layout, traffic=own)
            part = await read_sketch(weights, traffic=own, spans=PART_SPANS)
        except FormatError as error:
            undecoded = isinstance(failed, UnsupportedFormat)
            if failed is None or (undecoded and not isinstance(error, UnsupportedFormat)):
                failed = error
            continue
        finally:
            traffic.add(requests=own.requests, size=own.bytes)
        held = (_renamed(block, name) for block in part)
        blocks |= {block.name: block for block in held}
    return Sketch(plan=sketch.plan, blocks=blocks, packing=sketch.packing), failed


def _renamed(block: SketchBlock, component: str) -> SketchBlock:
    return replace(block, key=component_key(component, block.key))
