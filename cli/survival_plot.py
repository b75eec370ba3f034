"""What survived, as a picture: a dot each group with its interval, as SVG or as PNG.

The layout is made once, in points from the upper left corner, and then written either way.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..lineage.errors import ModelkinError
from .output import clean

SUFFIXES = (".svg", ".png")
_WIDTH, _ROW, _LEFT, _TOP = 720, 22, 250, 48
_MOST = 1.25
_SCALE = 2
"""Pixels of a PNG a point, so that it is sharp on dense screens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A straight line from one point to another."""

    start: tuple[float, float]
    end: tuple[float, float]
    colour: str
    width: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A filled circle of radius 4."""

    centre: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A line of text; `at` is the foot of its start, middle or end."""

    at: tuple[float, float]
    words: str
    size: int = 12
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Line | Dot | Text
_INK, _GRID = "#335577", "#cccccc"


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw groups into a file whose name says the format.

    Parameters
    ----------
    rows : with `axis`, `group`, `retained`, `ci_low`, `ci_high`, `models` and `lines`.

    Raises
    ------
    ModelkinError : PNG without Pillow.
    """
    height = _TOP + _ROW * len(rows) + 30
    shapes = list(shapes_of(rows, title=title, height=height))
    if path.suffix.lower() == ".png":
        write_png(path, shapes, height=height)
    else:
        path.write_text(as_svg(shapes, height=height), encoding="utf-8")


def shapes_of(rows: Sequence[Mapping[str, Any]], *, title: str, height: int) -> Iterator[Shape]:
    """Everything that is drawn, from the back to the front."""
    yield Text(at=(10, 20), words=_line(title), size=14)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, bottom = _x(share), height - 24
        yield Line(start=(x, _TOP - 12), end=(x, bottom), colour=_GRID)
        yield Text(at=(x, bottom + 16), words=f"{share:g}", anchor="middle")
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number
        words = f"{row['axis']}: {row['group']} ({row['models']} in {row['lines']})"
        yield Text(at=(_LEFT - 12, y + 4), words=_line(words), anchor="end")
        if row["ci_low"] is not None:
            ends = (_x(row["ci_low"]), y), (_x(row["ci_high"]), y)
            yield Line(start=ends[0], end=ends[1], colour=_INK, width=2)
        yield Dot(centre=(_x(row["retained"]), y))


def _line(words: str) -> str:
    return " ".join(clean(words).split())


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 30) * min(max(share, -0.1), _MOST) / _MOST


def as_svg(shapes: Sequence[Shape], *, height: int) -> str:
    """The shapes as an SVG document."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        *map(_svg, shapes),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _svg(shape: Shape) -> str:
    match shape:
        case Line(start=(x, y), end=(right, bottom), colour=colour, width=width):
            path = f"M{x:.1f} {y:.1f} L{right:.1f} {bottom:.1f}"
            return f'<path d="{path}" stroke="{colour}" stroke-width="{width}"/>'
        case Dot(centre=(x, y)):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_INK}"/>'
        case Text(at=(x, y), words=words, size=size, anchor=anchor):
            place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
            return f"<text {place}>{html.escape(words)}</text>"


def write_png(path: Path, shapes: Sequence[Shape], *, height: int) -> None:
    """The shapes as a PNG of two pixels a point.

    Raises
    ------
    ModelkinError : Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise ModelkinError(
            "a PNG needs `pip install modelkin[plots]`; SVG needs nothing"
        ) from None
    image = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        match shape:
            case Line(start=start, end=end, colour=colour, width=width):
                draw.line([_pixels(start), _pixels(end)], fill=colour, width=width * _SCALE)
            case Dot(centre=centre):
                draw.circle(_pixels(centre), 4 * _SCALE, fill=_INK)
            case Text(at=at, words=words, size=size, anchor=anchor):
                font = ImageFont.load_default(size * _SCALE)
                draw.text(_pixels(at), words, fill="black", font=font, anchor=_ANCHORS[anchor])
    image.save(path, format="PNG")


_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def _pixels(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * _SCALE, point[1] * _SCALE
