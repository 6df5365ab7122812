"""How tensors and nets look in a notebook."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from backprop_xp import Graph, Net, Tensor


def cells(html):
    """Of every table its rows."""
    root = ET.fromstring(html)
    return [[[cell.text or "" for cell in row] for row in table.iter("tr")] for table in root.iter("table")]


def test_a_tensor_shows_its_numbers():
    tensor = Tensor(np.array([[1.0, -0.25], [1e-7, 3.14159]]), "W0")
    assert cells(tensor._repr_html_()) == [[["1", "-0.25"], ["1e-07", "3.142"]], [["None"]]]
    tensor.grad = np.zeros((2, 2))
    assert cells(tensor._repr_html_())[1] == [["0", "0"], ["0", "0"]]
    assert "Tensor(W0: float64[2, 2], grad=set)" in tensor._repr_html_()


@pytest.mark.parametrize(("array", "rows"), [
    (np.zeros((100, 50)), [["0"] * 8 + ["…"]] * 8 + [["…"]]),
    (np.arange(3), [["0", "1", "2"]]),
    (np.array(2.5), [["2.5"]]),
    (np.zeros((0, 3)), []),
    ([1, 2], [["[1, 2]"]]),
    (None, [["None"]]),
])  # fmt: skip
def test_any_array(array, rows):
    assert cells(Tensor(array)._repr_html_())[0] == rows


def test_a_net_shows_how_its_parameters_are_spread():
    net = Net((3, 2), bias=True, rng=0)
    net.loss_and_grad(np.ones(3))
    weight, grad = net.weights[0].data, net.weights[0].grad
    (table,) = cells(net._repr_html_())
    assert table[0] == ["parameter", "shape", "mean", "deviation", "smallest", "largest", "norm of gradient"]
    spread = [weight.mean(), weight.std(), weight.min(), weight.max(), np.linalg.norm(grad)]
    assert table[1] == ["W0", "2 x 3", *(f"{number:.4g}" for number in spread)]
    assert table[2][:2] == ["b0", "2"]
    net.weights[0].grad = None
    assert cells(net._repr_html_())[0][1][-1] == ""


def test_a_tensor_in_two_places_stands_there_once_and_names_are_text():
    g = Graph()
    x = g.input(2, "x")
    first = g.linear(x, 2, name="<b>")
    net = g.net(g.linear(first, 2, share=first), rng=0)
    (table,) = cells(net._repr_html_())
    assert [row[0] for row in table[1:]] == ["<b>.weight", "<b>.bias"]


@pytest.mark.gpu
def test_on_a_device():
    net = Net((3, 2), rng=0, backend="cupy")
    assert len(cells(net._repr_html_())[0]) == 2
    assert len(cells(net.weights[0]._repr_html_())[0]) == 2
