"""Ready calls of a graph that is a chain: the calls, the bits and the signals of the Net that it is."""

import copy
import pickle

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import GELU, GraphNet, Input, Linear, Net, Tensor
from backprop_xp.ready import calls

pytestmark = needs_compiler

SIZES, NAMES = (5, 10, 4, 7), ("tanh", "leaky_relu", "identity")


def pair(bias=True, **options):
    """A graph of layers, the last without an activation, and the same layers as a Net."""
    nodes = {"x": Input(5), "a": (Linear(10, bias), "x"), "b": ("tanh", "a"), "c": (Linear(4, bias), "b"),
             "d": ("leaky_relu", "c"), "e": (Linear(7, bias), "d")}  # fmt: skip
    graph = GraphNet(nodes, **{"rng": 0, "loss": "huber", "backend": "numpy"} | options)
    net = Net(SIZES, NAMES, bias=bias, **{"rng": 0, "loss": "huber", "backend": "numpy"} | options)
    return graph, net


def places(net):
    if isinstance(net, Net):
        return [t for layer in zip(net.weights, net.biases or [None] * 3) for t in layer if t is not None]
    return list(net.tensors.values())


def numbers(net, x, y):
    return [net.loss_and_grad(x, y), *(tensor.grad for tensor in places(net))]


def batch(shape, dtype="float64"):
    random = np.random.default_rng(0)
    return random.normal(size=(*shape, 5)).astype(dtype), random.normal(size=(*shape, 7)).astype(dtype)


@pytest.mark.parametrize("shape", [(), (1,), (32,), (3000,)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_bits_of_the_net(shape, dtype, bias, reduction):
    graph, net = pair(bias, dtype=dtype, reduction=reduction)
    x, y = batch(shape, dtype)
    for _ in range(2):
        for a, b in zip(numbers(graph, x, y), numbers(net, x, y), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == dtype
        assert calls.find(graph, x, y, None) is not None
        for one in (graph, net):
            places(one)[0].data[0, 1] += 1
    if shape:
        np.testing.assert_array_equal(graph(x), net(x))
        assert shape[0] > 1000 or calls.find_forward(graph, x, None) is not None


def test_one_sample_leaves_every_signal_and_what_backward_starts_from():
    graph, net = pair()
    plain = pair(engine="layered")[0]
    x, y = batch(())
    plain.loss_and_grad(x, y)
    graph.forward(np.ones((3, 5)), keep_signals=True)
    graph.backward(np.ones((3, 7)), input_grad=True)
    assert graph.signals["x"].grad is not None
    graph.loss_and_grad(x, y)
    assert calls.find(graph, x, y, None) is not None
    for name, tensor in graph.signals.items():
        expected = plain.signals[name]
        np.testing.assert_allclose(tensor.data, expected.data, rtol=1e-12)
        if expected.grad is None:
            assert tensor.grad is None
        else:
            np.testing.assert_allclose(tensor.grad, expected.grad, rtol=1e-12, atol=1e-15)
    for other in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        grads = [one.backward(np.arange(7.0), input_grad=True) for one in (other, plain)]
        np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12)
        for a, b in zip(places(other), places(plain), strict=True):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12, atol=1e-15)
    net.loss_and_grad(x, y)
    grad = net.backward(np.arange(7.0), input_grad=True)
    assert grad.shape == grads[0].shape == (5,)
    graph.loss_and_grad(*batch((3,)))
    assert graph.signals["a"].data is None and graph.signals["x"].data is None


CHANGES = {
    "in place": lambda net: places(net)[0].data.__imul__(0.5),
    "rebound": lambda net: setattr(places(net)[2], "data", places(net)[2].data * 0.5),
    "loss": lambda net: setattr(net, "loss", copy.copy(net.loss)),
    "delta": lambda net: setattr(net.loss, "delta", 0.01),
    "reduction": lambda net: setattr(net, "reduction", "mean"),
    "slope": lambda net: setattr(_activation(net), "negative_slope", 0.5),
    "method": lambda net: setattr(_activation(net), "grad", lambda t: np.full_like(t, 7.0)),
}


def _activation(net):
    return net.activations[1] if isinstance(net, Net) else net.nodes[4].operation.activation


@pytest.mark.parametrize("shape", [(), (5,)], ids=["sample", "batch"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_stale(change, shape):
    graph, net = pair()
    x, y = batch(shape)
    for one in (graph, net):
        one.loss_and_grad(x, y)
        change(one)
    for a, b in zip(numbers(graph, x, y), numbers(net, x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(), (5,)], ids=["sample", "batch"])
def test_other_tensors_and_other_activations_are_seen(shape):
    graph, net = pair()
    x, y = batch(shape)
    numbers(graph, x, y)
    graph.tensors["c.weight"] = Tensor(graph.tensors["c.weight"].data * 2)
    net.weights[1].data = net.weights[1].data * 2
    graph.nodes[2].operation.activation = net.activations[0] = GELU()
    for a, b in zip(numbers(graph, x, y), numbers(net, x, y), strict=True):
        np.testing.assert_array_equal(a, b)
    graph.signals["c"] = Tensor(None)
    graph.loss_and_grad(x, y)
    assert (graph.signals["c"].data is None) == bool(shape)


def test_layers_that_share_a_tensor():
    x = np.ones((4, 5))
    tied = GraphNet({"x": Input(5), "a": (Linear(5), "x"), "b": (Linear(5), "a")}, rng=0, backend="numpy")
    tied.tensors["b.weight"] = tied.tensors["a.weight"]
    tied.loss_and_grad(x)
    assert calls.find(tied, x, None, None) is None
    assert calls.find(tied, x[0], None, None) is not None and calls.find_forward(tied, x, None) is not None
    plain = copy.deepcopy(tied)
    plain.engine = "layered"
    for given in (x, x[0]):
        np.testing.assert_allclose(tied(given), plain(given), rtol=1e-13)
        np.testing.assert_allclose(tied.loss_and_grad(given), plain.loss_and_grad(given), rtol=1e-13)
        for a, b in zip(tied.parameters, plain.parameters, strict=True):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12)
