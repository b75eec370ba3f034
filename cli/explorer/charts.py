"""Plots as SVG, drawn here so that they need no script. Text takes the colour of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from ..output import clean
from .answers import Answer

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 120, 20, 16, 44
INK, MARK = "currentColor", "#3b7dd8"

Row = Mapping[str, Any]
Scale = Callable[[float], float]

PLOTS = {
    "relation": "Retention by relation",
    "bits": "Retention by bits of quantization",
    "delta": "Size of the step against retention",
    "growth": "Descendants published, by month",
}


def draw(name: str, answer: Answer) -> str:
    """A plot of the answer to the question `plots`, by its name in `PLOTS`."""
    match name:
        case "relation" | "bits":
            return _intervals(name, answer.about[f"by_{name}"])
        case "delta":
            return _scatter(answer.rows)
    return _steps(answer.about["growth"])


def _intervals(key: str, groups: Sequence[Row]) -> str:
    if not groups:
        return _empty("no measured descendant")
    high = max(1.0, *(group["ci_high"] for group in groups))
    low = min(0.0, *(group["ci_low"] for group in groups))
    x = _linear(low, high, LEFT, WIDTH - RIGHT)
    height = TOP + 34 * len(groups) + BOTTOM
    parts = _axis(x, _ticks(low, high), height, "retained share of the ancestor's value")
    for at, group in enumerate(groups):
        y = TOP + 34 * at + 17
        label = f"{group[key]} bits" if key == "bits" else group[key]
        parts.append(_text(LEFT - 8, y + 4, f"{label} (n={group['models']})", anchor="end"))
        ends = (x(group["ci_low"]), x(group["ci_high"]))
        parts.append(_line(ends[0], y, ends[1], y, width=3))
        parts.append(f'<circle cx="{x(group["retained"]):.1f}" cy="{y}" r="6" fill="{MARK}"/>')
    return _svg(parts, height, PLOTS[key])


def _scatter(rows: Sequence[Row]) -> str:
    points = [(r["delta_size"], r["retained"], r["model"]) for r in rows if _is_point(r)]
    if not points:
        return _empty("no descendant with both a step and a score")
    logs = [math.log10(size) for size, _, _ in points]
    span = (math.floor(min(logs)), math.ceil(max(logs)) if max(logs) > min(logs) else min(logs) + 1)
    x = _linear(span[0], span[1], LEFT, WIDTH - RIGHT)
    high, low = (pick([0.0, 1.0, *(y for _, y, _ in points)]) for pick in (max, min))
    y = _linear(low, high, HEIGHT - BOTTOM, TOP)
    ticks = [(10.0**k, x(k)) for k in range(int(span[0]), int(span[1]) + 1)]
    parts = _frame(ticks, "size of the step: norm of the delta relative to the parent")
    parts += [_text(LEFT - 8, y(v) + 4, f"{v:g}", anchor="end") for v in _ticks(low, high)]
    for size, retained, model in points[:5000]:
        title = f"<title>{escape(clean(str(model))[:120])}</title>"
        where = f'cx="{x(math.log10(size)):.1f}" cy="{y(retained):.1f}"'
        parts.append(f'<circle {where} r="4" fill="{MARK}" fill-opacity=".6">{title}</circle>')
    return _svg(parts, HEIGHT, PLOTS["delta"])


def _steps(months: Sequence[Row]) -> str:
    if not months:
        return _empty("no descendant with a date")
    first = months[0]["month"].timestamp()
    last = max(months[-1]["month"].timestamp(), first + 86_400 * 31)
    x = _linear(first, last, LEFT, WIDTH - RIGHT)
    y = _linear(0, months[-1]["so_far"], HEIGHT - BOTTOM, TOP)
    shown = months if len(months) <= 6 else [months[i * (len(months) - 1) // 5] for i in range(6)]
    ticks = [(f"{m['month']:%Y-%m}", x(m["month"].timestamp())) for m in shown]
    parts = _frame(ticks, "month of publication")
    top = months[-1]["so_far"]
    for value in sorted({0, top // 2, top}):
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:,}", anchor="end"))
    path = f"M{x(first):.1f} {y(0):.1f}"
    for month in months:
        path += f"H{x(month['month'].timestamp()):.1f}V{y(month['so_far']):.1f}"
    path += f"H{WIDTH - RIGHT}"
    parts.append(f'<path d="{path}" fill="none" stroke="{MARK}" stroke-width="2"/>')
    return _svg(parts, HEIGHT, PLOTS["growth"])


def _is_point(row: Row) -> bool:
    size, retained = row["delta_size"], row["retained"]
    return bool(size and size > 0 and math.isfinite(size) and retained is not None)


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def _ticks(low: float, high: float) -> list[float]:
    step = 0.25 if high - low <= 2 else math.ceil((high - low) / 4)
    first = math.ceil(low / step)
    return [step * k for k in range(first, math.floor(high / step) + 1)]


def _axis(x: Scale, ticks: Sequence[float], height: float, label: str) -> list[str]:
    bottom = height - BOTTOM
    parts = [_line(x(tick), TOP, x(tick), bottom, ink=INK, faint=True) for tick in ticks]
    parts += [_text(x(tick), bottom + 16, f"{tick:g}") for tick in ticks]
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, label)]


def _frame(ticks: Sequence[tuple[object, float]], label: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [
        _line(LEFT, bottom, WIDTH - RIGHT, bottom, ink=INK),
        _line(LEFT, TOP, LEFT, bottom, ink=INK),
    ]
    for value, at in ticks:
        words = f"{value:g}" if isinstance(value, float) else str(value)
        parts.append(_text(at, bottom + 16, words))
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, label)]


def _line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    ink: str = MARK,
    width: int = 1,
    faint: bool = False,
) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{ink}" stroke-width="{width}" opacity="{0.2 if faint else 1}"/>'


def _text(x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} fill="{INK}" font-size="12">{escape(clean(words)[:80])}</text>'


def _empty(words: str) -> str:
    return _svg([_text(WIDTH / 2, 40, words)], 80, words)


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'font-family="sans-serif" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
