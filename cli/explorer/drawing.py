"""The map in the forms that are sent: a layout to draw, names to search, a picture to keep."""

from __future__ import annotations

from ...store.explorer import PublicReader
from ..output import clean
from .answers import JSON_TYPE, to_json
from .cache import Body, pack
from .layout import as_svg, lay_out

MOST_NODES = 250_000
MAP_FORMS = ("layout", "names", "picture.svg")


def map_body(reader: PublicReader, model: str, *, form: str) -> Body:
    """The map of a model: `layout` as bytes, `names` as JSON in the same order, or a picture.

    Raises
    ------
    NotInRegistry : the store does not hold the model.
    """
    nodes = reader.map_nodes(model, limit=MOST_NODES)
    if form == "names":
        return pack(to_json([clean(name)[:200] for name in nodes.names]), JSON_TYPE)
    drawing = lay_out(nodes)
    if form == "layout":
        return pack(drawing.as_bytes(), "application/octet-stream")
    title = f"{nodes.names[0][:120]} and {len(nodes.names) - 1:,} descendants"
    return pack(as_svg(drawing, title=title), "image/svg+xml")
