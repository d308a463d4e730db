"""Plots as SVG text: bars with every round on them, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 760
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 44
COLOURS = (
    *("#0b6e99", "#c2571a", "#3a7d44", "#8a4fa3", "#a68a00", "#b03060"),
    *("#5b6b7b", "#1f9e89", "#7a5230", "#4455bb", "#888888", "#d08080"),
)
# Readers of a dark page see the same plot: text and lines take the colour of the scheme.
_STYLE = """<style>
  text { font: 12px system-ui, sans-serif; fill: #222 }
  .title { font-weight: 600; font-size: 14px }
  .axis { stroke: #999; stroke-width: 1 } .grid { stroke: #ddd; stroke-width: 1 }
  .paper { fill: #fff }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .grid { stroke: #444 } .paper { fill: #1b1b1b }
  }
</style>"""

Point = tuple[float, float]


class Bar(NamedTuple):
    """One bar: its median, and every round, which shows how far to trust it."""

    label: str
    median: float
    rounds: Sequence[float]


class Axis(NamedTuple):
    """What an axis says, and whether its steps are factors."""

    label: str
    log: bool = False


def bars(title: str, unit: str, found: Sequence[Bar]) -> str:
    """Horizontal bars; a dot for each round."""
    step, label = 26, 150
    height = TOP + step * len(found) + BOTTOM
    most = max((max(bar.rounds) for bar in found), default=1) or 1
    width = WIDTH - label - 110
    parts = [_text(12, 22, title, "title")]
    for tick in _ticks(most):
        x = label + tick / most * width
        parts.append(_line(x, TOP - 6, x, height - BOTTOM + 4, "grid"))
        parts.append(_text(x, height - BOTTOM + 20, _short(tick), anchor="middle"))
    for place, bar in enumerate(found):
        y = TOP + place * step
        colour = COLOURS[0] if place == 0 else COLOURS[6]
        long = bar.median / most * width
        parts.append(_text(label - 8, y + 15, bar.label, anchor="end"))
        parts.append(
            f'<rect x="{label}" y="{y + 3}" width="{long:.1f}" height="{step - 8}"'
            f' fill="{colour}" opacity="0.75"/>'
        )
        parts += [_dot(label + value / most * width, y + step / 2 - 1) for value in bar.rounds]
        end = label + max(bar.rounds) / most * width
        parts.append(_text(end + 8, y + 15, _short(bar.median)))
    parts.append(_text(label + width, height - 8, unit, anchor="end"))
    return _document(height, parts)


def curves(
    title: str, across: Axis, up: Axis, series: Mapping[str, Sequence[Point]], *, dots: bool = True
) -> str:
    """One line a series, named at the right."""
    height = 400
    points = [point for line in series.values() for point in line]
    low, high = _range([x for x, _ in points], across)
    floor, top = _range([y for _, y in points], up)
    wide, tall = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM

    def at(x: float, y: float) -> Point:
        return (
            LEFT + _share(x, low, high, across) * wide,
            height - BOTTOM - _share(y, floor, top, up) * tall,
        )

    parts = [_text(12, 22, title, "title")]
    for tick in _axis_ticks(low, high, across):
        x, _ = at(tick, floor)
        parts.append(_line(x, TOP, x, height - BOTTOM, "grid"))
        parts.append(_text(x, height - BOTTOM + 18, _short(tick), anchor="middle"))
    for tick in _axis_ticks(floor, top, up):
        _, y = at(low, tick)
        parts.append(_line(LEFT, y, LEFT + wide, y, "grid"))
        parts.append(_text(LEFT - 6, y + 4, _short(tick), anchor="end"))
    parts.append(_line(LEFT, height - BOTTOM, LEFT + wide, height - BOTTOM, "axis"))
    for place, (name, line) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if dots:
            parts += [_dot(*at(*point), colour) for point in line]
        key = TOP + 16 * place
        parts.append(_line(LEFT + wide + 10, key, LEFT + wide + 26, key, "", colour))
        parts.append(_text(LEFT + wide + 32, key + 4, name))
    parts.append(_text(LEFT + wide, height - 8, across.label, anchor="end"))
    parts.append(_text(LEFT, TOP - 8, up.label))
    return _document(height, parts)


def _range(values: Sequence[float], axis: Axis) -> Point:
    values = [value for value in values if value > 0 or not axis.log] or [1.0]
    if axis.log:
        low = 10 ** math.floor(math.log10(min(values)))
        high = 10 ** math.ceil(math.log10(max(values)))
        return low, max(high, low * 10)
    return min(0.0, *values), max(values) * 1.05 or 1.0


def _share(value: float, low: float, high: float, axis: Axis) -> float:
    if axis.log:
        return math.log(max(value, low) / low) / math.log(high / low)
    return (value - low) / (high - low)


def _axis_ticks(low: float, high: float, axis: Axis) -> list[float]:
    if not axis.log:
        return _ticks(high)
    return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _ticks(most: float) -> list[float]:
    """Round steps, at most six."""
    size = 10 ** math.floor(math.log10(most))
    step = next(size * part for part in (0.2, 0.5, 1, 2) if most / (size * part) <= 6)
    return [step * number for number in range(int(most / step) + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, kind: str, colour: str = "") -> str:
    look = f'class="{kind}"' if kind else f'stroke="{colour}" stroke-width="3"'
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {look}/>'


def _dot(x: float, y: float, colour: str = "#c2571a") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _document(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">'
    paper = f'<rect class="paper" width="{WIDTH}" height="{height:g}"/>'
    return "\n".join([head, _STYLE, paper, *parts, "</svg>\n"])
