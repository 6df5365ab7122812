"""Boxes in layers, with arrows between them, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape  # xml.sax's imports all of http
from itertools import pairwise

from .layout import Layout, Point

CHARACTER, LINE, PADDING, BETWEEN, MARGIN, FONT = 7.2, 14.0, 8.0, 34.0, 16.0, 12
COLOURS = {"input": "#e8f0fe", "linear": "#fff4dd", "loss": "#fde7ec"}
OTHER_COLOUR = "#f3f3f3"


@dataclass(frozen=True)
class Box:
    """A box of a picture.

    Attributes:
        name: which no other box has.
        title, lines: what is written in it, the first in bold.
        tooltip: what is shown where one points at it.
        inputs: names of the boxes from which arrows come.
        kind: says its colour.
    """

    name: str
    title: str
    lines: Sequence[str]
    tooltip: str
    inputs: tuple[str, ...]
    kind: str

    @property
    def width(self) -> float:
        return 2 * PADDING + CHARACTER * max(map(len, (self.title, *self.lines)))

    @property
    def height(self) -> float:
        return PADDING + LINE * (1 + len(self.lines))


def picture(boxes: Sequence[Box], direction: str, title: str, description: str) -> str:
    """Boxes in topological order, one layer after another downwards or to the right.

    Every layer takes as much room along that direction as its largest box; across it, :class:`Layout` says where boxes
    stand.
    """
    down = direction == "down"
    across = {box.name: box.width if down else box.height for box in boxes}
    along = {box.name: box.height if down else box.width for box in boxes}
    layout = Layout({box.name: box.inputs for box in boxes}, across)
    places, size, at = dict[Point, tuple[float, float]](), dict[Point, float](), MARGIN
    for layer in layout.layers:
        deep = max((along[point] for point in layer if isinstance(point, str)), default=0.0)
        for point in layer:
            places[point], size[point] = (at, layout.x[point]), deep
        at += deep + BETWEEN
    half = {point: across.get(point, 0.0) / 2 if isinstance(point, str) else 0.0 for point in layout.x}
    start = min(layout.x[point] - half[point] for point in half) - MARGIN
    breadth = max(layout.x[point] + half[point] for point in half) + MARGIN - start
    length = at - BETWEEN + MARGIN
    view = (start, 0.0, breadth, length) if down else (0.0, start, length, breadth)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
        f'width="{view[2]:.0f}" height="{view[3]:.0f}" viewBox="{" ".join(f"{v:.1f}" for v in view)}" '
        f'font-family="monospace" font-size="{FONT}">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>",
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M1,1 L7,4 L1,7 z" fill="#555"/></marker></defs>',
    ]
    for path in layout.edges.values():
        curve = _curve(path, places, size, down)
        lines.append(f'<path d="{curve}" fill="none" stroke="#555" marker-end="url(#tip)"/>')
    for box in boxes:
        near, middle = places[box.name]
        lines += _drawn(box, middle - half[box.name], near, 2 * half[box.name], size[box.name], down)
    return "\n".join([*lines, "</svg>", ""])


def _drawn(box: Box, low: float, near: float, breadth: float, deep: float, down: bool) -> list[str]:
    x, y, width, height = (low, near, breadth, deep) if down else (near, low, deep, breadth)
    top, middle = y + (height - LINE * (1 + len(box.lines))) / 2 + 0.75 * LINE, x + width / 2
    lines = [
        f"<g><title>{escape(box.tooltip)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
        f'fill="{COLOURS.get(box.kind, OTHER_COLOUR)}" stroke="#555"/>',
        f'<text x="{middle:.1f}" y="{top:.1f}" text-anchor="middle" font-weight="bold">{escape(box.title)}</text>',
    ]
    for i, line in enumerate(box.lines, 1):
        lines.append(f'<text x="{middle:.1f}" y="{top + i * LINE:.1f}" text-anchor="middle">{escape(line)}</text>')
    return [*lines, "</g>"]


def _curve(
    path: Sequence[Point], places: Mapping[Point, tuple[float, float]], size: Mapping[Point, float], down: bool
) -> str:
    """From the far side of the first box through the middles of points to the near side of the last."""

    def at(along: float, across: float) -> str:
        return f"{across:.1f},{along:.1f}" if down else f"{along:.1f},{across:.1f}"

    first = path[0]
    parts = [f"M{at(places[first][0] + size[first], places[first][1])}"]
    for start, end in pairwise(path):
        (begin, low), (stop, high) = places[start], places[end]
        middle = (begin + size[start] + stop) / 2
        parts.append(f"C{at(middle, low)} {at(middle, high)} {at(stop, high)}")
        if end != path[-1]:
            parts.append(f"L{at(stop + size[end], high)}")
    return " ".join(parts)
