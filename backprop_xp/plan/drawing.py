"""A plan as text and as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from .layout import Layout, Point
from .plan import Node

CHARACTER, HEIGHT, BETWEEN, MARGIN, FONT = 7.2, 36.0, 34.0, 16.0, 12
COLOURS = {"input": "#e8f0fe", "linear": "#fff4dd"}
OTHER_COLOUR = "#f3f3f3"


@dataclass(frozen=True)
class Drawing:
    """A picture of a net: ``print`` it, or take ``svg``; a notebook shows it by itself."""

    text: str
    svg: str

    def __str__(self) -> str:
        return self.text

    def _repr_svg_(self) -> str:
        return self.svg


def draw(nodes: Sequence[Node], parameters: Mapping[str, int]) -> Drawing:
    """Nodes in topological order, with how many numbers the parameters of each hold."""
    return Drawing(_text(nodes, parameters), _svg(nodes))


def _text(nodes: Sequence[Node], parameters: Mapping[str, int]) -> str:
    rows = [("node", "operation", "inputs", "width", "parameters")]
    for node in nodes:
        count = f"{parameters[node.name]:,}" if node.name in parameters else ""
        if node.owner != node.name:
            count = f"of {node.owner}"
        rows.append((node.name, _called(node), ", ".join(node.inputs), f"{node.width:,}", count))
    rows.append(("", "", "", "", f"{sum(parameters.values()):,}"))
    wide = [max(map(len, column)) for column in zip(*rows)]
    right = (False, False, False, True, True)
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, wide, right)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _svg(nodes: Sequence[Node]) -> str:
    labels = {node.name: (node.name, f"{_called(node)} {node.width}") for node in nodes}
    widths = {name: 16 + CHARACTER * max(map(len, lines)) for name, lines in labels.items()}
    layout = Layout({node.name: node.inputs for node in nodes}, widths)
    left = min(x - widths.get(p, 0) / 2 if isinstance(p, str) else x for p, x in layout.x.items()) - MARGIN
    right = max(x + widths.get(p, 0) / 2 if isinstance(p, str) else x for p, x in layout.x.items()) + MARGIN
    top = {point: MARGIN + i * (HEIGHT + BETWEEN) for i, layer in enumerate(layout.layers) for point in layer}
    width, height = right - left, 2 * MARGIN + len(layout.layers) * (HEIGHT + BETWEEN) - BETWEEN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{left:.1f} 0 {width:.1f} {height:.1f}" font-family="monospace" font-size="{FONT}">',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M1,1 L7,4 L1,7 z" fill="#555"/></marker></defs>',
    ]
    for path in layout.edges.values():
        lines.append(f'<path d="{_curve(path, layout.x, top)}" fill="none" stroke="#555" marker-end="url(#tip)"/>')
    for node in nodes:
        x, y, w = layout.x[node.name], top[node.name], widths[node.name]
        colour = COLOURS.get(node.operation.name, OTHER_COLOUR)
        name, what = (escape(label, quote=False) for label in labels[node.name])
        lines += [
            f'<rect x="{x - w / 2:.1f}" y="{y:.1f}" width="{w:.1f}" height="{HEIGHT:.0f}" rx="5" '
            f'fill="{colour}" stroke="#555"/>',
            f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle" font-weight="bold">{name}</text>',
            f'<text x="{x:.1f}" y="{y + 29:.1f}" text-anchor="middle">{what}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _curve(path: Sequence[Point], x: Mapping[Point, float], top: Mapping[Point, float]) -> str:
    """From the bottom of the first node through the middles of points to the top of the last."""
    parts = [f"M{x[path[0]]:.1f},{top[path[0]] + HEIGHT:.1f}"]
    for start, end in pairwise(path):
        above, below = top[start] + HEIGHT, top[end]
        middle = (above + below) / 2
        parts.append(f"C{x[start]:.1f},{middle:.1f} {x[end]:.1f},{middle:.1f} {x[end]:.1f},{below:.1f}")
        if end != path[-1]:
            parts.append(f"V{below + HEIGHT:.1f}")
    return " ".join(parts)


def _called(node: Node) -> str:
    name = node.operation.name or type(node.operation).__name__
    return f"{name}, shared" if node.owner != node.name else name
