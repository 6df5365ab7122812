"""Where the nodes of a drawing stand: in layers, each below those it computes from (after Sugiyama et al., 1981)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean

#: A point of a layer: a node by its name, or where an edge passes through, as (from, to, layer).
Point = str | tuple[str, str, int]

SWEEPS = 8
GAP = 24.0


class Layout:
    """A layered layout.

    Attributes:
        layers: the points of each layer from left to right.
        x: the middle of every point.
        edges: for every edge (from, to) the points it goes through, both ends among them.
    """

    def __init__(self, inputs: Mapping[str, tuple[str, ...]], width: Mapping[str, float]) -> None:
        """Lay out nodes with these inputs, given in topological order, and these widths."""
        self._width = width
        depth: dict[str, int] = {}
        for name, sources in inputs.items():
            depth[name] = 1 + max((depth[source] for source in sources), default=-1)
        self.layers: list[list[Point]] = [[] for _ in range(1 + max(depth.values()))]
        for name in inputs:
            self.layers[depth[name]].append(name)
        self.edges: dict[tuple[str, str], list[Point]] = {}
        self._above: dict[Point, list[Point]] = {}
        self._below: dict[Point, list[Point]] = {}
        for name, sources in inputs.items():
            for source in dict.fromkeys(sources):
                path: list[Point] = [source]
                for layer in range(depth[source] + 1, depth[name]):
                    path.append((source, name, layer))
                    self.layers[layer].append(path[-1])
                path.append(name)
                self.edges[source, name] = path
                for upper, lower in pairwise(path):
                    self._below.setdefault(upper, []).append(lower)
                    self._above.setdefault(lower, []).append(upper)
        self.x: dict[Point, float] = {}
        for points in self.layers:
            self._pack(points, dict.fromkeys(points, 0.0))
        for sweep in range(SWEEPS):
            downwards = sweep % 2 == 0
            for points in self.layers if downwards else reversed(self.layers):
                self._align(points, self._above if downwards else self._below)

    def _align(self, layer: list[Point], neighbours: Mapping[Point, list[Point]]) -> None:
        """Order a layer by the middle of its neighbours, and bring each point as near to it as there is room."""
        wanted = {point: self._middle(point, neighbours) for point in layer}
        layer.sort(key=lambda point: wanted[point])  # stable
        self._pack(layer, wanted)

    def _middle(self, point: Point, neighbours: Mapping[Point, list[Point]]) -> float:
        around = neighbours.get(point, [])
        return fmean(self.x[other] for other in around) if around else self.x[point]

    def _pack(self, layer: list[Point], wanted: Mapping[Point, float]) -> None:
        """Each point at its wanted place, or to the right of it where another is in the way; then the whole centred."""
        right = float("-inf")
        for point in layer:
            half = self._width.get(point, 0.0) / 2 if isinstance(point, str) else 0.0
            self.x[point] = max(wanted[point], right + half)
            right = self.x[point] + half + GAP
        if layer:
            shift = fmean(self.x[point] - wanted[point] for point in layer)
            for point in layer:
                self.x[point] -= shift
