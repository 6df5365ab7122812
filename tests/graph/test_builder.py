"""Graphs written down step by step."""

import numpy as np
import pytest

from backprop_xp import Graph, GraphNet, Operation, Residual
from backprop_xp.graph import Concatenate, Dropout, Input, LayerNorm, Linear


def test_it_is_the_declarative_form():
    g = Graph()
    x, z = g.input(4, name="x"), g.input(3, name="z")
    h = g.linear(x, 3, name="h")
    s = g.add(g.apply("tanh", h, name="a"), z, name="s")
    m = g.multiply(s, z, name="m")
    d = g.dropout(g.layer_norm(g.concatenate(m, s, name="c"), name="n"), 0.2, name="d")
    y = g.linear(d, 3, bias=False, name="y")
    w = g.linear(g.chain(x, Residual("tanh"), name="r"), 3, share=h, name="w")
    built = g.net(g.add(y, w, name="end"), rng=0, loss="mse")
    written = GraphNet(
        {
            "end": ("add", "y", "w"), "w": (Linear(3, share="h"), "r"), "r": (Residual("tanh"), "x"),
            "y": (Linear(3, bias=False), "d"), "d": (Dropout(0.2), "n"), "n": (LayerNorm(), "c"),
            "c": (Concatenate(), "m", "s"), "m": ("multiply", "s", "z"), "s": ("add", "a", "z"), "a": ("tanh", "h"),
            "h": (Linear(3), "x"), "x": Input(4), "z": Input(3),
        },
        rng=0, loss="mse",
    )  # fmt: skip
    inputs = {"x": np.ones((5, 4)), "z": np.linspace(0, 1, 15).reshape(5, 3)}
    target = np.zeros((5, 3))
    assert built.loss_and_grad(inputs, target) == written.loss_and_grad(inputs, target)
    assert [node.name for node in built.nodes] == [node.name for node in written.nodes]


def test_nodes_without_a_name_are_numbered_and_handles_can_be_added_and_multiplied():
    g = Graph()
    x = g.input(2)
    y = g.linear(x, 2) + x * g.linear(x, 2)
    net = g.net(y)
    assert sorted(node.name for node in net.nodes) == ["add0", "input0", "linear0", "linear1", "multiply0"]
    assert "5 nodes" in repr(g)


def test_an_operation_of_the_users_is_applied_like_any():
    class Half(Operation):
        def forward(self, x):
            return x / 2

        def backward(self, grad, x):
            return grad / 2

    g = Graph()
    net = g.net(g.apply(Half(), g.input(3)))
    np.testing.assert_array_equal(net(np.ones((2, 3))), np.full((2, 3), 0.5))
    assert net.nodes[-1].name == "half0"


def test_mistakes_are_seen_at_once():
    g, other = Graph(), Graph()
    x = g.input(3, name="x")
    with pytest.raises(ValueError, match="two nodes are called 'x'"):
        g.linear(x, 3, name="x")
    with pytest.raises(TypeError, match="must be handles of the same graph, got Handle"):
        g.add(x, other.input(3))
    with pytest.raises(TypeError, match="must be handles of the same graph, got 'x'"):
        g.linear("x", 3)
