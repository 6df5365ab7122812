"""Ready calls of graphs that are no chains: the bits of the engine's call, and never stale."""

import copy
import pickle

import numpy as np
import pytest
from here import needs_compiler
from own import Doubled

from backprop_xp import GELU, GraphNet, Input, Linear, Residual, Tensor
from backprop_xp.graph import LayerNorm
from backprop_xp.ready import calls

pytestmark = needs_compiler

GRAPHS = {
    "residual": {"x": Input(5), "a": (Residual(Linear(5), "leaky_relu"), "x"), "y": (Linear(3), "a")},
    "everything": {
        "x": Input(5), "a": (Linear(17, bias=False), "x"), "b": ("tanh", "a"), "c": ("concatenate", "b", "x"),
        "d": (LayerNorm(), "c"), "e": (Linear(33), "d"), "f": ("leaky_relu", "e"), "g": ("multiply", "f", "e"),
        "h": ("add", "g", "f", "e"), "i": ("concatenate", "h", "a"), "y": (Linear(3), "i"),
    },
}  # fmt: skip


def make(name="everything", **options):
    return GraphNet(GRAPHS[name], **{"rng": 0, "backend": "numpy", "loss": "huber", "engine": "fused"} | options)


def batch(n, loss="huber", dtype="float64"):
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 5)).astype(dtype)
    y = {
        "half_sum_sq": None,
        "huber": random.normal(size=(n, 3)).astype(dtype),
        "classes": random.integers(0, 3, n),
        "probabilities": random.dirichlet(np.ones(3), n).astype(dtype),
    }[loss]
    return x, y


def numbers(net, x, y):
    return [net.loss_and_grad(x, y), *(tensor.grad for tensor in net.parameters)]


def by_the_engine(net, x, y):
    """An input of another kind of memory: the call with all checks."""
    wide = np.empty((len(x), 2 * x.shape[1]), x.dtype)[:, ::2]
    wide[:] = x
    assert calls.find(net, wide, y, None) is None and calls.find_forward(net, wide, None) is None
    return [*numbers(net, wide, y), net(wide)]


@pytest.mark.parametrize("dtype, reduction", [("float32", "sum"), ("float64", "mean")])
@pytest.mark.parametrize("loss", ["half_sum_sq", "huber", "probabilities", "classes"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_bits_of_the_engine(name, loss, reduction, dtype):
    named = "softmax_cross_entropy" if loss in ("classes", "probabilities") else loss
    net = make(name, loss=named, reduction=reduction, dtype=dtype)
    for n in (1, 2, 17, 100):
        x, y = batch(n, loss, dtype)
        expected = by_the_engine(net, x, y)
        assert calls.find(net, x, y, None) is not None and calls.find_forward(net, x, None) is not None
        for _ in range(2):
            for a, b in zip(expected, [*numbers(net, x, y), net(x)], strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape
                np.testing.assert_array_equal(a, b)
        net.parameters[0].data[0, 1] += 1
    large = batch(5000, loss, dtype)
    assert calls.find(net, *large, None) is None
    for a, b in zip(by_the_engine(net, *large), [*numbers(net, *large), net(large[0])], strict=True):
        np.testing.assert_array_equal(a, b)


CHANGES = {
    "in place": lambda net: net.tensors["e.weight"].data.__imul__(0.5),
    "rebound": lambda net: setattr(net.tensors["e.bias"], "data", net.tensors["e.bias"].data + 2),
    "another Tensor": lambda net: net.tensors.update({"e.weight": Tensor(net.tensors["e.weight"].data * 2)}),
    "one Tensor twice": lambda net: net.tensors.update({"d.bias": net.tensors["d.gain"]}),
    "eps": lambda net: setattr(operation(net, "d"), "eps", 0.5),
    "slope": lambda net: setattr(operation(net, "f").activation, "negative_slope", 0.5),
    "activation": lambda net: setattr(operation(net, "f"), "activation", GELU()),
    "delta": lambda net: setattr(net.loss, "delta", 0.01),
    "reduction": lambda net: setattr(net, "reduction", "mean"),
    "a method": lambda net: setattr(operation(net, "h"), "forward", lambda *inputs: 2 * inputs[0]),
}


def operation(net, name):
    return next(node.operation for node in net.nodes if node.name == name)


@pytest.mark.parametrize("rows", [0, slice(9)], ids=["sample", "batch"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_stale(change, rows):
    nets = [make(engine=engine) for engine in ("auto", "layered")]
    x, y = (array[rows] for array in batch(9))
    for net in nets:
        numbers(net, x, y)
        net(x)
        change(net)
    for a, b in zip(*([*numbers(net, x, y), net(x)] for net in nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_what_was_handed_out_is_not_overwritten_and_signals_are_forgotten():
    net = make()
    x, y = batch(4)
    net.forward(x, keep_signals=True)
    net.loss_and_grad(x, y)
    assert all(tensor.data is None for tensor in net.signals.values())
    grad = net.parameters[0].grad
    before = grad.copy()
    net.loss_and_grad(3 * x, y)
    np.testing.assert_array_equal(grad, before)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(numbers(other, x, y)[1], before)


def test_classes_are_checked():
    net = make(loss="softmax_cross_entropy")
    x, y = batch(4, "classes")
    net.loss_and_grad(x, y)
    before = net.parameters[0].grad
    for bad in (3, -1):
        y[2] = bad
        assert calls.find(net, x, y, None) is not None
        with pytest.raises(ValueError, match=f"class indices must be from 0 to 2, got {bad}"):
            net.loss_and_grad(x, y)
        assert net.parameters[0].grad is before


def test_code_of_the_users_is_not_ready():
    net = GraphNet({"x": Input(5), "a": (Doubled(), "x"), "b": ("add", "a", "x")}, rng=0, backend="numpy")
    net.loss_and_grad(np.ones((3, 5)))
    for x in (np.ones((3, 5)), np.ones(5)):
        assert calls.find(net, x, None, None) is None and calls.find_forward(net, x, None) is None


def test_shared_weights_and_several_inputs():
    shared = {"x": Input(5), "a": (Linear(5), "x"), "b": ("add", "a", "x"), "c": (Linear(5, share="a"), "b")}
    two = {"x": Input(5), "z": Input(5), "b": ("add", "x", "z"), "c": (Linear(5), "b")}
    for nodes, x in ((shared, np.ones((3, 5))), (two, {"x": np.ones((3, 5)), "z": np.ones((3, 5))})):
        net, fused, plain = (GraphNet(nodes, rng=0, backend="numpy", engine=e) for e in ("auto", "fused", "layered"))
        assert calls.find(net, x, None, None) is not None and calls.find_forward(net, x, None) is not None
        weight = np.ones(3)  # for which no call is ready
        expected = [fused.loss_and_grad(x, sample_weight=weight), *(tensor.grad for tensor in fused.parameters)]
        for a, b, c in zip(numbers(net, x, None), numbers(plain, x, None), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
            np.testing.assert_allclose(a, c, rtol=1e-15)
        np.testing.assert_allclose(net(x), plain(x), rtol=1e-12)
