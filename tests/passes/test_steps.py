"""The two loops over a graph, by PyTorch's autograd and by finite differences."""

import numpy as np
import pytest
from arrays import assert_central_differences
from graphs import arrays, descriptions, in_torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import GraphNet, Net
from backprop_xp.check import ACTIVATIONS
from backprop_xp.graph import Input, LayerNorm, Linear, Operation


def net_of(description, **options):
    given = {"rng": 0, "init": "glorot_normal", "loss": "mse", "backend": "numpy", "engine": "layered"}
    return GraphNet(description, **given | options)


def assert_like_torch(net, x, y, rtol=1e-9):
    """Loss, output and every gradient, without dropout."""
    expected, output, gradients = in_torch(net, x, y)
    loss, grads = net.loss_and_grad(x, y, input_grad=True, training=False)
    grads = grads if isinstance(grads, dict) else dict.fromkeys(x, grads)
    np.testing.assert_allclose(loss, expected, rtol=rtol)
    np.testing.assert_allclose(net.forward(x), output, rtol=rtol, atol=rtol)
    for name, gradient in gradients.items():
        got = net.tensors[name].grad if name in net.tensors else grads[name]
        scale = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(got, gradient, rtol=rtol, atol=rtol * scale, err_msg=name)


@settings(deadline=None, max_examples=60)
@given(descriptions(), st.integers(1, 5))
def test_random_graphs_have_pytorchs_gradients(description, samples):
    net = net_of(description)
    assert_like_torch(net, *arrays(net, samples))


class Rotated(Operation):
    """A node of the user's: features shifted by one, times a parameter."""

    arity = 2

    def initial(self, widths, draw):
        return {"factor": np.full(widths[0], 1.5)}

    def forward(self, a, b, factor):
        return np.roll(a, 1, axis=1) * factor + b**2

    def backward(self, grad, a, b, factor):
        return np.roll(grad * factor, -1, axis=1), 2 * b * grad, (grad * np.roll(a, 1, axis=1)).sum(axis=0)


OPERATIONS = {
    "linear": (Linear(3), "x"),
    "linear without bias": (Linear(3, bias=False), "x"),
    "add": ("add", "x", "z", "x"),
    "multiply": ("multiply", "x", "z", "x"),
    "concatenate": ("concatenate", "x", "z", "x"),
    "layer_norm": (LayerNorm(), "x"),
    "dropout": ("dropout", "x"),
    "a user's": (Rotated(), "x", "z"),
    **{name: (name, "x") for name in ACTIVATIONS},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_nodes_gradient_is_that_of_finite_differences(name):
    description = {"x": Input(4), "z": Input(4), "n": OPERATIONS[name], "end": ("concatenate", "n", "x", "z")}
    net = net_of(description)
    x, y = arrays(net, 3)
    draws = net.draws  # each step of dropout draws anew

    def loss():
        net.draws = draws
        return float(net.loss_and_grad(x, y))

    _, grads = net.loss_and_grad(x, y, input_grad=True)
    gradients = {name: tensor.grad for name, tensor in net.tensors.items()} | grads
    tensors = {name: tensor.data for name, tensor in net.tensors.items()} | x
    assert_central_differences(gradients, tensors, loss)


def test_a_chain_is_a_net_to_the_bit():
    net = Net((5, 10, 4, 12), bias=True, rng=0, backend="numpy", engine="layered")
    graph = GraphNet(
        {
            "x": Input(5),
            "t0": (Linear(10), "x"), "z0": ("tanh", "t0"),
            "t1": (Linear(4), "z0"), "z1": ("tanh", "t1"),
            "t2": (Linear(12), "z1"),
        },
        rng=0, backend="numpy", engine="layered",
    )  # fmt: skip
    x = np.random.default_rng(1).normal(size=(50, 5))
    assert graph.loss_and_grad(x) == net.loss_and_grad(x)
    for i in range(3):
        np.testing.assert_array_equal(graph.tensors[f"t{i}.weight"].grad, net.weights[i].grad)
        np.testing.assert_array_equal(graph.tensors[f"t{i}.bias"].grad, net.biases[i].grad)


def test_a_value_that_is_used_three_times_gets_the_sum_of_three_gradients():
    net = net_of({"x": Input(2), "t": (Linear(2), "x"), "y": ("add", "t", "t", "t")}, loss="half_sum_sq")
    x = np.array([[1.0, -2.0]])
    net.loss_and_grad(x, keep_signals=True)
    np.testing.assert_allclose(net.signals["t"].grad, 3 * net.signals["y"].data)
    np.testing.assert_allclose(net.tensors["t.weight"].grad, 9 * np.outer(net.signals["t"].data, x))


def test_shared_weights_get_the_sum_of_the_gradients_of_their_uses():
    shared = {"x": Input(3), "a": (Linear(3), "x"), "b": ("tanh", "a"), "c": (Linear(3, share="a"), "b")}
    twice = {"x": Input(3), "a": (Linear(3), "x"), "b": ("tanh", "a"), "c": (Linear(3), "b")}
    net, other = net_of(shared), net_of(twice)
    assert list(net.tensors) == ["a.weight", "a.bias"]
    for kind in ("weight", "bias"):
        other.tensors[f"a.{kind}"].data = other.tensors[f"c.{kind}"].data = net.tensors[f"a.{kind}"].data
    x, y = arrays(net, 4)
    assert net.loss_and_grad(x, y) == other.loss_and_grad(x, y)
    for kind in ("weight", "bias"):
        both = other.tensors[f"a.{kind}"].grad + other.tensors[f"c.{kind}"].grad
        np.testing.assert_allclose(net.tensors[f"a.{kind}"].grad, both, rtol=1e-12)


class Careless(Operation):
    def __init__(self, forward, backward):
        self.forward, self.backward = forward, backward


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (lambda a: a[:, :1], lambda g, a: g, r"node 'mine' returned shape \(3, 1\), expected \(3, 2\)"),
        (lambda a: 1.0, lambda g, a: g, r"node 'mine' returned shape float, expected \(3, 2\)"),
        (lambda a: a, lambda g, a: g.sum(0), r"node 'mine' returned a gradient of shape \(2,\), expected \(3, 2\)"),
        (lambda a: a, lambda g, a: (g, g), r"node 'mine' returned 2 gradient\(s\) for its 1 input\(s\)"),
    ],
)
def test_a_users_node_that_returns_something_odd_is_named(forward, backward, message):
    net = net_of({"x": Input(2), "mine": (Careless(forward, backward), "x")}, loss="half_sum_sq")
    with pytest.raises(ValueError, match=message):
        net.loss_and_grad(np.ones((3, 2)), input_grad=True)


def test_a_users_node_careless_about_dtypes_does_no_harm():
    node = Careless(lambda a: a.astype(np.float64) * 2, lambda g, a: g.astype(np.float64) * 2)
    net = net_of({"x": Input(2), "mine": (node, "x"), "y": (Linear(2), "mine")}, loss="half_sum_sq", dtype="float32")
    _, grad = net.loss_and_grad(np.ones((3, 2)), input_grad=True)
    assert grad.dtype == np.float32
    assert net.forward(np.ones((3, 2))).dtype == np.float32


def test_infinities_and_nan_go_through():
    net = net_of({"x": Input(2), "a": ("relu", "x"), "y": ("add", "a", "x")}, loss="half_sum_sq")
    out = net.forward(np.array([[np.inf, np.nan], [-np.inf, -0.0]]))
    np.testing.assert_array_equal(out, [[np.inf, np.nan], [-np.inf, 0.0]])
