"""Graphs as text and as SVG."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from graphs import descriptions
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import GraphNet, Net
from backprop_xp.graph import Input, Linear, Residual
from backprop_xp.graph.description import as_nodes
from backprop_xp.plan.drawing import draw
from backprop_xp.plan.layout import Layout
from backprop_xp.plan.plan import Plan

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
        ["x", "input", "1,000"], ["t_0", "linear", "x", "4", "4,004"], ["z_0", "tanh", "t_0", "4"], ["4,004"],
    ]  # fmt: skip


@given(descriptions(most_nodes=14), st.sampled_from(["down", "right"]))
def test_the_svg_shows_every_node_and_edge_and_no_box_covers_another(description, direction):
    nodes = as_nodes(description)
    root = ET.fromstring(draw(Plan(nodes), {}, direction=direction).svg)
    assert [element.text for element in root.iter(f"{SVG}text") if element.get("font-weight")] == [
        n.name for n in nodes
    ]
    boxes = [[float(e.get(key)) for key in ("x", "y", "width", "height")] for e in root.iter(f"{SVG}rect")]
    assert len(boxes) == len(nodes)
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    left, top, width, height = map(float, root.get("viewBox").split())
    assert all(end - start > 0 for start, end in ends(root, direction))
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


def ends(root, direction):
    """Where every edge starts and ends, along the direction of the picture."""
    for path in root.findall(f"{SVG}path"):
        points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d"))
        yield tuple(float(point[direction == "down"]) for point in (points[0], points[-1]))


def test_values_gradients_and_the_loss_are_shown_and_the_net_stays_as_it_is(random):
    net = Net((3, 2), ("tanh",), "mse", True, rng=0)
    x, y = random.normal(size=3), random.normal(size=2)
    drawing = net.draw(x, y, direction="right")
    assert net.weights[0].grad is None and not net.nonlinear_outputs[0].data.any()
    loss = float(net.loss_and_grad(x, y))
    z, grad = net.nonlinear_outputs[0].data, net.linear_outputs[0].grad
    texts = [element.text for element in ET.fromstring(drawing.svg).iter(f"{SVG}text")]
    assert f"value [{z[0]:.3g} {z[1]:.3g}]" in texts and f"grad [{grad[0]:.3g} {grad[1]:.3g}]" in texts
    assert f"{loss:.6g}" in texts and "linear 2, 8 parameters" in texts
    assert f"[{z[0]:.3g} {z[1]:.3g}]" in str(drawing) and str(drawing).splitlines()[-1].split() == [
        "loss",
        "z_0",
        f"{loss:.6g}",
    ]


def test_a_batch_is_shown_by_its_norm_and_a_wide_value_by_its_first_numbers(random):
    net = Net((100, 2), rng=0)
    x = random.normal(size=(5, 100))
    assert f"value 5 x 100, norm {np.linalg.norm(x):.3g}" in net.draw(x).svg
    svg = net.draw(x[0]).svg
    first = " ".join(f"{number:.3g}" for number in x[0, :4])
    assert f"value [{first} ...]</text>" in svg
    tooltip = next(e.text for e in ET.fromstring(svg).iter(f"{SVG}title") if e.text.startswith("x: "))
    assert tooltip.splitlines()[1].count(" ") == 65


def test_it_can_be_heard():
    root = ET.fromstring(Net((3, 2), rng=0).draw().svg)
    assert root.get("role") == "img" and root.get("aria-label").startswith("Net(3-2, identity, half_sum_sq")
    assert root.find(f"{SVG}title").text == root.get("aria-label")
    assert "t_0   linear" in root.find(f"{SVG}desc").text


def test_dropout_and_batch_norm_stay_as_they_are(random):
    net = GraphNet({"x": Input(3), "n": ("batch_norm", "x"), "d": ("dropout", "n")}, rng=0)
    net.draw(random.normal(size=(4, 3)))
    assert net.draws == 0 and not net.buffers["n.running_mean"].data.any()
    with pytest.raises(ValueError, match="at least 2 samples"):
        net.draw(np.ones(3))
    net.draw(np.ones(3), training=False)


def test_what_dropout_drops_is_what_the_next_call_drops(random):
    x, y = random.normal(size=(4, 3)), random.normal(size=(4, 2))
    net = Net((3, 8, 2), [["tanh", "dropout"], None], loss="mse", rng=0, backend="numpy")
    drawing = net.draw(x, y, direction="right")
    assert f"{float(net.loss_and_grad(x, y)):.6g}" in drawing.text


def test_it_saves_itself(tmp_path):
    drawing = Net((3, 2), rng=0).draw()
    drawing.save(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == drawing.svg
    drawing.save(tmp_path / "net.TXT")
    assert (tmp_path / "net.TXT").read_text(encoding="utf-8") == f"{drawing.text}\n"
    with pytest.raises(ValueError, match=r"unknown ending of a file '\.png'; known are \.svg, \.txt|did you mean"):
        drawing.save(tmp_path / "net.png")
    assert not (tmp_path / "net.png").exists()


def test_what_is_wrong_is_said():
    net = Net((3, 2), loss="mse", rng=0)
    with pytest.raises(ValueError, match="unknown direction 'left'; known are down, right"):
        net.draw(direction="left")
    with pytest.raises(ValueError, match="needs a target"):
        net.draw(np.ones(3))


@pytest.mark.gpu
def test_a_net_on_a_device_is_drawn():
    net = Net((3, 2), rng=0, backend="cupy")
    assert "grad [" in net.draw(np.ones(3)).svg


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
    assert drawing.svg.count("<rect") == 303  # the loss, too
