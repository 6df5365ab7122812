"""Layers with a bias and layers without one in a net: in every engine, in files, in PyTorch and ONNX.

The truth is a net whose every layer has a bias, zero where the other has none.
"""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
from arrays import batch_of, host
from here import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from backprop_xp import GraphNet, Input, Linear, Net, Tensor, check
from backprop_xp.exchange import ModelFileError, from_torch, load, save, to_torch
from backprop_xp.programs import fused
from backprop_xp.ready import calls
from backprop_xp.toolchain import compiler

FLAGS = (True, False, True)
WIDTHS = {"narrow": (5, 4, 3, 2), "wide": (70, 65, 64, 33)}
SHAPES = {"sample": (), "small": (7,), "empty": (0,), "many": (fused.NARROW_SAMPLES + 3,)}


def make(bias=FLAGS, sizes=(5, 4, 3, 2), **options):
    """The net, and one with all biases."""
    names = ("tanh", "sigmoid", "softplus", "gelu")[: len(sizes) - 1]
    options = {"loss": "mse", "backend": "numpy", "init": "glorot_normal", "rng": 1} | options
    net, whole = (Net(sizes, names, bias=flags, **options) for flags in (bias, True))
    random = np.random.default_rng(5)
    for (_, b, _), other in zip(net.layers, whole.biases, strict=True):
        numbers = net.backend.asarray(random.normal(size=other.data.shape), net.dtype, "b")
        if b is not None:
            b.data, other.data = numbers, numbers.copy()
    return net, whole


def assert_alike(net, whole, tolerance=1e-11):
    """The gradients of what both have."""
    pairs = [(w, v) for w, v in zip(net.weights, whole.weights, strict=True)]
    pairs += [(b, c) for (_, b, _), (_, c, _) in zip(net.layers, whole.layers, strict=True) if b is not None]
    for ours, theirs in pairs:
        np.testing.assert_allclose(host(ours.grad), host(theirs.grad), rtol=tolerance, atol=tolerance)


def test_which_layers_have_one():
    net, whole = make()
    assert [b.name for b in net.biases] == ["b0", "b2"] and [b.data.shape for b in net.biases] == [(4,), (2,)]
    assert net.bias == FLAGS and whole.bias == (True,) * 3 and make(False)[0].bias == (False,) * 3
    assert net.layers == [
        (net.weights[0], net.biases[0], net.activations[0]),
        (net.weights[1], None, net.activations[1]),
        (net.weights[2], net.biases[1], net.activations[2]),
    ]
    assert net.parameters == [*net.weights, *net.biases]
    assert make(np.array(FLAGS))[0].bias == make([1, 0, 1])[0].bias == FLAGS
    np.testing.assert_array_equal(net.weights[1].data, whole.weights[1].data)  # drawn alike


@pytest.mark.parametrize("flags", [*itertools.product([False, True], repeat=3)], ids=str)
def test_every_pattern_is_right(flags, random):
    net, _ = make(flags, engine="layered")
    x, y = batch_of(net, (4,))
    proofs = [check.check_gradients(net, x, y)]
    if pytest.importorskip("torch"):
        proofs.append(check.check_against_torch(net, x, y))
    for report in proofs:
        assert report.ok, report
        names = ["W0", "W1", "W2", *(f"b{i}" for i, has in enumerate(flags) if has), "x"]
        assert [row.name for row in report.rows if row.name != "loss"] == names


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("sizes", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_engine(engine, dtype, sizes, shape):
    net, whole = make(sizes=sizes, engine=engine, dtype=dtype)
    x, y = batch_of(net, shape)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    for options in ({}, {"input_grad": True}, {"sample_weight": np.ones(shape)}):
        ours, theirs = (each.loss_and_grad(x, y, **options) for each in (net, whole))
        for a, b in zip(ours, theirs) if "input_grad" in options else [(ours, theirs)]:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        assert_alike(net, whole, tolerance * max(1, *shape, 1))
    np.testing.assert_allclose(net(x), whole(x), rtol=tolerance, atol=tolerance)
    for each in (net, whole):
        each.backward(each.forward(x, keep_signals=True) - y)
    assert_alike(net, whole, tolerance * max(1, *shape, 1))


@needs_compiler
@pytest.mark.parametrize("sizes", WIDTHS.values(), ids=WIDTHS)
def test_ready_calls_are_found_and_right(sizes):
    net, whole = make(sizes=sizes)
    for shape in SHAPES.values():
        x, y = batch_of(net, shape)
        whole.loss_and_grad(x, y)
        if shape != (0,) and not (sizes == WIDTHS["wide"] and shape == ()):  # BLAS is faster there
            assert calls.find(net, x, y, None) is not None
        net.loss_and_grad(x, y)
        assert_alike(net, whole, 1e-9)
    x, _ = batch_of(net, (7,))
    assert calls.find_forward(net, x, None) is not None
    np.testing.assert_allclose(net(x), whole(x), rtol=1e-12)
    x, y = batch_of(net, ())
    net.loss_and_grad(x, y)
    net.backward(np.ones(net.sizes[-1]))  # from the signals that the compiled call kept
    whole.loss_and_grad(x, y)
    whole.backward(np.ones(net.sizes[-1]))
    assert_alike(net, whole)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_net(data):
    depth = data.draw(st.integers(1, 4))
    sizes = tuple(data.draw(st.lists(st.integers(1, 9), min_size=depth + 1, max_size=depth + 1)))
    flags = tuple(data.draw(st.lists(st.booleans(), min_size=depth, max_size=depth)))
    engines = ["layered", "tiled", *([] if compiler.missing() else ["auto"])]
    net, whole = make(flags, sizes, engine=data.draw(st.sampled_from(engines)))
    x, y = batch_of(net, data.draw(st.sampled_from([(), (1,), (40,)])))
    np.testing.assert_allclose(net.loss_and_grad(x, y), whole.loss_and_grad(x, y), rtol=1e-11)
    assert_alike(net, whole)


@needs_compiler
def test_a_chain_as_a_graph_has_the_same_bits():
    net, _ = make()
    description = {"x": Input(5)}
    for i, (flag, name) in enumerate(zip(FLAGS, ("tanh", "sigmoid", "softplus"))):
        description[f"t{i}"] = Linear(net.sizes[i + 1], flag), f"z{i - 1}" if i else "x"
        description[f"z{i}"] = name, f"t{i}"
    graph = GraphNet(description, loss="mse", backend="numpy")
    for i, (weight, bias, _) in enumerate(net.layers):
        graph.tensors[f"t{i}.weight"].data = weight.data
        if bias is not None:
            graph.tensors[f"t{i}.bias"].data = bias.data
    x, y = batch_of(net, (2000,))
    assert graph._plan().chain is not None
    assert graph.loss_and_grad(x, y) == net.loss_and_grad(x, y)
    for i, (weight, bias, _) in enumerate(net.layers):
        np.testing.assert_array_equal(graph.tensors[f"t{i}.weight"].grad, weight.grad)
        if bias is not None:
            np.testing.assert_array_equal(graph.tensors[f"t{i}.bias"].grad, bias.grad)


@pytest.mark.parametrize("engine", ["auto", "layered"])
def test_it_trains(engine):
    torch = pytest.importorskip("torch")
    net, _ = make(engine=engine, reduction="mean")
    model = to_torch(net)
    x, y = batch_of(net, (32,))
    net.fit(x, y, epochs=5, batch_size=32, shuffle=False, optimiser="adam")
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    for _ in range(5):
        optimizer.zero_grad()
        ((model(torch.tensor(x)) - torch.tensor(y)) ** 2).mean().backward()
        optimizer.step()
    for (weight, bias, _), linear in zip(net.layers, model[::2]):
        np.testing.assert_allclose(weight.data, linear.weight.detach(), rtol=1e-8)
        assert (bias is None) == (linear.bias is None)
        if bias is not None:
            np.testing.assert_allclose(bias.data, linear.bias.detach(), rtol=1e-8, atol=1e-12)


def test_in_files_with_shared_tensors_and_as_before(tmp_path):
    net, _ = make((False, True, True, False), (4, 4, 4, 4, 4))
    net.biases[1] = net.biases[0]
    net.weights[3] = net.weights[1]
    save(net, tmp_path / "net")
    with safe_open(str(tmp_path / "net"), framework="numpy") as file:
        description = json.loads(file.metadata()["backprop_xp"])
        assert sorted(file.keys()) == ["biases.1", "weights.0", "weights.1", "weights.2"]
    assert description["bias"] == [False, True, True, False]
    assert description["shared"] == {"weights.3": "weights.1", "biases.2": "biases.1"}
    again = load(tmp_path / "net", backend="numpy")
    assert again.bias == net.bias and again.biases[1] is again.biases[0] and again.weights[3] is again.weights[1]
    x, _ = batch_of(net, (3,))
    np.testing.assert_array_equal(again(x), net(x))
    for flags in (False, True):
        save(make(flags)[0], tmp_path / "net")
        with safe_open(str(tmp_path / "net"), framework="numpy") as file:
            assert json.loads(file.metadata()["backprop_xp"])["bias"] is flags
        assert load(tmp_path / "net").bias == (flags,) * 3


@pytest.mark.parametrize("bias", [[True, False], [True, False, 2], [True, None, False], "yes", None, {}, []])
def test_files_that_say_something_else(bias, tmp_path):
    from safetensors.numpy import load_file, save_file

    save(make()[0], tmp_path / "net")
    with safe_open(str(tmp_path / "net"), framework="numpy") as file:
        description = json.loads(file.metadata()["backprop_xp"]) | {"bias": bias}
    save_file(load_file(tmp_path / "net"), tmp_path / "net", {"backprop_xp": json.dumps(description)})
    with pytest.raises(ModelFileError, match="bias"):
        load(tmp_path / "net")


def test_pytorch_there_and_back_and_as_a_layer():
    torch = pytest.importorskip("torch")
    from backprop_xp.torch_layer import as_torch

    net, _ = make((False, True, True), (4, 4, 4, 4))
    net.biases[1] = net.biases[0]
    model = to_torch(net)
    assert [linear.bias is None for linear in model[::2]] == [True, False, False]
    again = from_torch(model)
    assert isinstance(again, Net) and again.bias == net.bias and again.biases[1] is again.biases[0]
    x, _ = batch_of(net, (3,))
    np.testing.assert_allclose(again(x), net(x), rtol=1e-12)
    layer = as_torch(net)
    assert [*layer.state_dict()] == ["weights.0", "weights.1", "weights.2", "biases.0", "biases.1"]
    other = copy.deepcopy(layer)
    for module in (layer, other):
        np.testing.assert_allclose(module(torch.tensor(x)).detach(), net(x), rtol=1e-12)
        x_ = torch.tensor(x, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *_, module=module: module(x), (x_, *module.parameters()))


def test_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    from backprop_xp.exchange import to_onnx

    net, _ = make()
    to_onnx(net, tmp_path / "net.onnx")
    x, _ = batch_of(net, (3,))
    (z,) = ReferenceEvaluator(onnx.load(tmp_path / "net.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(z, net(x), rtol=1e-12)


def test_copies_and_drawings():
    net, _ = make()
    x, _ = batch_of(net, (3,))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other(x), net(x))
        assert other.bias == FLAGS
    assert str(net.draw()).split()[-1] == str(20 + 12 + 6 + 4 + 2)


def test_lists_that_are_replaced():
    net, whole = make()
    x, _ = batch_of(net, (3,))
    net(x)
    net.biases = [Tensor(b.data.copy()) for b in whole.biases]  # one a layer
    assert net.bias == (True,) * 3
    np.testing.assert_allclose(net(x), whole(x), rtol=1e-12)
    net.biases = []
    assert net.bias == (False,) * 3
    assert not np.allclose(net(x), whole(x))
    net.biases = whole.biases[:1]
    with pytest.raises(
        ValueError, match=r"net\.biases must be empty or hold 2, one for each layer that has one, got 1"
    ):
        net(x)
    plain, _ = make(False)
    plain.biases = whole.biases[:1]
    with pytest.raises(ValueError, match=r"net\.biases must be empty or hold 3, one a layer, got 1"):
        plain(x)
    net, _ = make()
    net.biases[1].data = np.ones(3)
    with pytest.raises(ValueError, match=r"biases\[1\].data must have shape \(2,\), got \(3,\)"):
        net(x)


@pytest.mark.parametrize(
    "bias, message",
    [
        ((True, False), "bias must be True or False, or 3 of them, one a layer, got 2"),
        ((), "or 3 of them, one a layer, got 0"),
        ((True, False, 2), "every bias must be True or False, got 2"),
        ("yes", "bias must be True or False, got 'yes'"),
        (None, "bias must be True or False, got None"),
        ((True, "no", False), "every bias must be True or False, got 'no'"),
    ],
)
def test_what_is_no_truth_value_a_layer(bias, message):
    with pytest.raises(ValueError, match=message):
        make(bias)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["layered", "fused", "cooperative"])
@pytest.mark.parametrize("flags", [FLAGS, (False, True, False)])
def test_on_a_device(engine, flags):
    pytest.importorskip("cupy")
    net, whole = make(flags, engine=engine, backend="cupy")
    x, y = batch_of(net, (70,))
    for options in ({}, {"input_grad": True}):
        for each in (net, whole):
            each.loss_and_grad(x, y, **options)
        assert_alike(net, whole, 1e-10)
    np.testing.assert_allclose(host(net(x)), host(whole(x)), rtol=1e-10)
    step = net.repeated(x, y)
    for _ in range(2):
        step()
        assert_alike(net, whole, 1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["layered", "fused"])
def test_streamed_to_a_device(engine, monkeypatch):
    pytest.importorskip("cupy")
    from backprop_xp.passes import streamed

    monkeypatch.setattr(streamed, "HOST_BYTES", 1 << 12)
    monkeypatch.setattr(streamed, "PIECE_BYTES", 1 << 13)
    net, whole = make(engine=engine, backend="cupy")
    x, y = (host(a) for a in batch_of(net, (3000,)))
    for each in (net, whole):
        each.loss_and_grad(x, y)
    assert_alike(net, whole, 1e-9)
