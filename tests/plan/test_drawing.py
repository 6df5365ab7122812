"""Graphs as text and as SVG."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest
from graphs import descriptions
from hypothesis import given

from backprop_xp import GraphNet, Net
from backprop_xp.graph import Input, Linear, Residual
from backprop_xp.graph.description import as_nodes
from backprop_xp.plan.drawing import draw
from backprop_xp.plan.layout import Layout

SVG = "{http://www.w3.org/2000/svg}"


def test_the_text_is_a_table_in_topological_order():
    net = GraphNet({"y": (Linear(6, share="h"), "a"), "x": Input(6), "h": (Linear(6), "x"), "a": ("add", "h", "x")})
    assert str(net.draw()) == "\n".join([
        "node  operation       inputs  width  parameters",
        "x     input                       6",
        "h     linear          x           6          42",
        "a     add             h, x        6",
        "y     linear, shared  a           6        of h",
        "                                             42",
    ])  # fmt: skip


def test_a_chain_is_drawn_as_its_signals():
    text = str(Net((1000, 4), ("tanh",), bias=True).draw())
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["x", "input", "1,000"], ["t0", "linear", "x", "4", "4,004"], ["z0", "tanh", "t0", "4"], ["4,004"],
    ]  # fmt: skip


@given(descriptions(most_nodes=14))
def test_the_svg_shows_every_node_and_edge_and_no_box_covers_another(description):
    nodes = as_nodes(description)
    root = ET.fromstring(draw(nodes, {}).svg)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[::2] == [node.name for node in nodes]
    boxes = [[float(e.get(key)) for key in ("x", "y", "width", "height")] for e in root.iter(f"{SVG}rect")]
    assert len(boxes) == len(nodes)
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    left, top, width, height = map(float, root.get("viewBox").split())
    assert all(x >= left and y >= top and x + w <= left + width and y + h <= top + height for x, y, w, h in boxes)
    edges = list(root.findall(f"{SVG}path"))
    assert len(edges) == len({(source, node.name) for node in nodes for source in node.inputs})


@given(descriptions(most_nodes=14))
def test_every_edge_goes_down_layer_by_layer_and_points_keep_their_distance(description):
    nodes = as_nodes(description)
    layout = Layout({node.name: node.inputs for node in nodes}, {node.name: 50.0 for node in nodes})
    depth = {point: i for i, layer in enumerate(layout.layers) for point in layer}
    for (source, target), path in layout.edges.items():
        assert path[0] == source and path[-1] == target
        assert [depth[point] for point in path] == list(range(depth[source], depth[target] + 1))
    for layer in layout.layers:
        for a, b in itertools.pairwise(layer):
            assert layout.x[b] - layout.x[a] >= 24 - 1e-6


def test_a_name_is_text_whatever_it_says():
    name = '</text><script>alert("&")</script>'
    svg = GraphNet({"x": Input(2), name: (Linear(2), "x")}).draw().svg
    root = ET.fromstring(svg)
    assert name in [element.text for element in root.iter(f"{SVG}text")]
    assert not list(root.iter(f"{SVG}script"))
    with pytest.raises(TypeError, match="a node's name must be a printable string"):
        as_nodes({"x\x00": Input(2)})


def test_a_deep_net_is_drawn_quickly_and_a_notebook_shows_it():
    net = GraphNet({"x": Input(2), "y": (Residual(*[Linear(2)] * 300), "x")})
    drawing = net.draw()
    assert drawing._repr_svg_() == drawing.svg
    assert drawing.svg.count("<rect") == 302
