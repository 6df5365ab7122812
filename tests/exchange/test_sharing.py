"""Tensors in several places of a net: kept as one in files, in PyTorch and in ONNX."""

import json

import numpy as np
import pytest

pytest.importorskip("safetensors")
from safetensors.numpy import load_file, save_file

from backprop_xp import GraphNet, Input, Linear, Net
from backprop_xp.exchange import ModelFileError, load, save
from backprop_xp.exchange.container import read


def chain():
    net = Net((3, 3, 3, 3), loss="mse", bias=True, rng=0, backend="numpy")
    net.weights[2], net.biases[1] = net.weights[0], net.biases[0]
    return net


def graph():
    nodes = {"x": Input(3), "a": (Linear(3), "x"), "f": ("tanh", "a"), "b": (Linear(3), "f")}
    net = GraphNet(nodes, loss="mse", rng=0, backend="numpy")
    net.tensors["b.weight"] = net.tensors["a.weight"]
    return net


@pytest.mark.parametrize("make", [chain, graph])
def test_a_file_keeps_it(make, tmp_path):
    net, x = make(), np.arange(6.0).reshape(2, 3)
    save(net, tmp_path / "net")
    again = load(tmp_path / "net", backend="numpy")
    np.testing.assert_array_equal(again(x), net(x))
    assert len(again.parameters) == len(net.parameters) == len(load_file(tmp_path / "net"))
    for one in (net, again):
        one.loss_and_grad(x, x)
    for p, q in zip(net.parameters, again.parameters, strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)


def test_a_net_without_it_is_described_as_before(tmp_path):
    save(Net((3, 3, 3), rng=0), tmp_path / "net")
    assert "shared" not in read(tmp_path / "net")[0]


@pytest.mark.parametrize(
    "shared, message",
    [
        ({"weights.2": "weights.9"}, "must map places without an array to places with one"),
        ({"weights.2": "weights.2"}, "must map places without"),
        ({"weights.2": 0}, "must map places without"),
        ({"weights.0": "weights.1"}, "must map places without"),
        ({"weights.2": "weights.0", "weights.7": "weights.0"}, "'weights.7' is not part of the net"),
        ({"weights.2": "biases.0"}, "'weights.2' must be float64"),
        ({}, "'weights.2' is missing"),
        (["weights.2"], "'shared' of its description must be of type dict, got list"),
    ],
)
def test_a_damaged_file(shared, message, tmp_path):
    net = chain()
    net.biases[1] = type(net.biases[0])(net.biases[1].data)
    save(net, tmp_path / "net")
    description, arrays = read(tmp_path / "net")
    save_file(arrays, tmp_path / "net", {"backprop_xp": json.dumps(description | {"shared": shared})})
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "net")


def test_pytorch_keeps_it():
    torch = pytest.importorskip("torch")
    from backprop_xp.exchange import from_torch, to_torch

    net, x = chain(), np.ones((2, 3))
    model = to_torch(net)
    assert model[4].weight is model[0].weight and model[2].bias is model[0].bias
    assert len(list(model.parameters())) == len(net.parameters) == 4
    again = from_torch(model, loss="mse", backend="numpy")
    assert again.weights[2] is again.weights[0] and again.biases[1] is again.biases[0]
    np.testing.assert_array_equal(again(x), net(x))
    linear = torch.nn.Linear(2, 2)
    twice = from_torch(torch.nn.Sequential(linear, torch.nn.Tanh(), linear))
    assert twice.weights[1] is twice.weights[0] and len(twice.parameters) == 2


@pytest.mark.parametrize("make", [chain, graph])
def test_onnx_has_the_array_once(make, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from backprop_xp.exchange import to_onnx

    net, x = make(), np.ones((2, 3))
    to_onnx(net, tmp_path / "net.onnx")
    initialisers = onnx.load(tmp_path / "net.onnx").graph.initializer
    assert sum(1 for array in initialisers if len(array.dims) == 2) == len({id(p) for p in net.parameters if p.data.ndim == 2})  # fmt: skip
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], net(x), rtol=1e-12)
