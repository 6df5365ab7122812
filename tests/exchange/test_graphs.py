"""Graph nets in files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from backprop_xp import Elementwise, Graph
from backprop_xp.exchange import ModelFileError, load, save, to_onnx
from backprop_xp.graph import GraphNet
from backprop_xp.operations import (
    BUILT_IN,
    Activate,
    Add,
    Concatenate,
    Dropout,
    Input,
    LayerNorm,
    Linear,
    Multiply,
    Operation,
    Residual,
)
from backprop_xp.operations.built_in import BuiltInOperation

BUMP = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 2.0})


class Scale(Operation):
    """A node of one's own, with a parameter."""

    name = "scale"

    def initial(self, widths, draw):
        return {"factor": np.full(widths[0], 3.0)}

    def forward(self, z, factor):
        return z * factor

    def backward(self, grad, z, factor):
        return grad * factor, (grad * z).sum(axis=0)


def everything(**options):
    """Every operation, two inputs, shared weights."""
    nodes = {
        "x": Input(4), "u": Input(3),
        "h": (Linear(4), "x"), "k": (Linear(4, share="h"), "h"), "plain": (Linear(4, bias=False), "u"),
        "elu": ("elu", "k"), "norm": (LayerNorm(1e-3), "elu"), "drop": (Dropout(0.25), "norm"),
        "sum": (Add(), "drop", "plain"), "product": (Multiply(), "sum", "x"),
        "res": (Residual(Linear(4), "tanh", Linear(4)), "product"),
        "both": (Concatenate(), "res", "u"), "y": (Linear(2), "both"),
    }  # fmt: skip
    options = {"loss": "mse", "rng": 0, "backend": "numpy", "reduction": "mean", "engine": "layered"} | options
    return GraphNet(nodes, **options)


def batch(n=5):
    random = np.random.default_rng(1)
    return {"x": random.normal(size=(n, 4)), "u": random.normal(size=(n, 3))}, random.normal(size=(n, 2))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_comes_back(path, dtype):
    net = everything(dtype=dtype)
    for tensor in net.parameters:
        tensor.data = tensor.data + np.random.default_rng(2).normal(size=tensor.data.shape).astype(dtype)
    x, y = batch()
    net.loss_and_grad(x, y)  # counts one draw of dropout
    net.save(path)
    again = GraphNet.load(path, backend="numpy")
    again.engine = "layered"
    assert type(again) is GraphNet
    assert repr(again.nodes) == repr(net.nodes)
    assert again.tensors.keys() == net.tensors.keys()
    for name, tensor in net.tensors.items():
        assert again.tensors[name].data.tobytes() == tensor.data.tobytes()
    np.testing.assert_array_equal(again(x), net(x))
    # dropout goes on where it was
    assert again.loss_and_grad(x, y) == net.loss_and_grad(x, y)


def test_your_own_are_kept_by_name(path):
    scale = Scale()
    nodes = {"x": Input(3), "s": (scale, "x"), "b": (Activate(BUMP), "s"), "y": (Linear(2), "b")}
    net = GraphNet(nodes, rng=0, backend="numpy")
    net.tensors["s.factor"].data[:] = 1, 2, 3
    save(net, path)
    again = load(path, custom={"scale": scale, "bump": BUMP}, backend="numpy")
    np.testing.assert_array_equal(again(np.ones((2, 3))), net(np.ones((2, 3))))
    with pytest.raises(ModelFileError, match="its operation 'scale' is not built in"):
        load(path, custom={"bump": BUMP})
    with pytest.raises(ModelFileError, match="its activation 'bump' is not built in"):
        load(path, custom={"scale": scale})
    with pytest.raises(ModelFileError, match=r"custom\['scale'\] must be an Operation, got int"):
        load(path, custom={"scale": 1, "bump": BUMP})


def test_two_of_one_name_are_refused(path):
    one, other = Scale(), Scale()
    other.power = 2
    net = GraphNet({"x": Input(3), "a": (one, "x"), "b": (other, "a")}, backend="numpy")
    with pytest.raises(ValueError, match="two different operations are called 'scale'"):
        save(net, path)


def rewrite(path, change):
    with safe_open(path, "numpy") as file:
        description = json.loads(file.metadata()["backprop_xp"])
    arrays = load_file(path)
    change(description, arrays)
    save_file(arrays, path, {"backprop_xp": json.dumps(description)})


def node(description, name):
    return next(part for part in description["nodes"] if part["name"] == name)


HOSTILE = [
    (lambda d, a: d.update(nodes=[]), "there is no node"),
    (lambda d, a: d.update(nodes=[1]), "its nodes must be JSON objects"),
    (lambda d, a: d["nodes"].append(dict(d["nodes"][0])), "two of its nodes are called 'u'"),
    (lambda d, a: node(d, "h").update(inputs=["y"]), "form a cycle"),
    (lambda d, a: node(d, "h").update(inputs=["nowhere"]), "takes an input that is not there"),
    (lambda d, a: node(d, "h").update(inputs=[["x"]]), "must be names of nodes"),
    (lambda d, a: node(d, "h").update(name="__init__\n"), "printable"),
    (lambda d, a: node(d, "y")["operation"].update(features=1 << 60), "'y.weight' must be float64"),
    (lambda d, a: node(d, "h")["operation"].update(features=1 << 60), "can't share the weights"),
    (lambda d, a: node(d, "h")["operation"].update(features=-1), "must be an integer from 1 on"),
    (lambda d, a: node(d, "h")["operation"].update(name="eval"), "unknown operation 'eval'"),
    (lambda d, a: node(d, "y")["operation"].update(name="add"), "is not part of the net"),
    (lambda d, a: node(d, "drop")["operation"].update(p=2), "Dropout needs 0 <= p <= 1, got p=2.0"),
    (lambda d, a: node(d, "elu")["operation"].update(activation=None), "its activation must be a JSON object"),
    (lambda d, a: node(d, "k")["operation"].update(share="plain"), "can't share the weights"),
    (lambda d, a: d.update(seed="1"), "'seed' of its description must be of type int"),
    (lambda d, a: d.update(seed=1 << 200), "'seed' of its description must be from 0 to"),
    (lambda d, a: d.update(draws=-1), "'draws' of its description must be from 0 to"),
    (lambda d, a: a.pop("h.bias"), "the array 'h.bias' is missing"),
    (lambda d, a: a.update(more=np.zeros(1)), "'more' is not part of the net"),
]


@pytest.mark.parametrize("change, message", HOSTILE, ids=[message for _, message in HOSTILE])
def test_a_hostile_description_is_one_sentence(change, message, path):
    save(everything(), path)
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=message) as caught:
        load(path, backend="numpy")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_widths_without_arrays_lead_to_no_allocation(path):
    """A file of a few hundred bytes must not ask for a terabyte."""
    save(GraphNet({"x": Input(3), "n": (LayerNorm(), "x")}, backend="numpy"), path)
    rewrite(path, lambda d, a: node(d, "x")["operation"].update(features=1 << 40))
    with pytest.raises(ModelFileError, match=r"'n\.gain' must be"):
        load(path, backend="numpy")


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "net"
    save(everything(), path)
    return path, path.read_bytes()


@given(st.data())
def test_mutated_bytes(good_bytes, data):
    path, content = good_bytes
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        assert isinstance(load(path, backend="numpy"), GraphNet)
    except ModelFileError as error:
        assert "\n" not in str(error)


@pytest.mark.gpu
def test_a_net_on_a_device(path):
    cupy = pytest.importorskip("cupy")
    net = everything(backend="cupy")
    save(net, path)
    for backend in ("numpy", "cupy"):
        again = load(path, backend=backend)
        assert isinstance(again.parameters[0].data, cupy.ndarray if backend == "cupy" else np.ndarray)
        for p, q in zip(net.to("numpy").parameters, again.to("numpy").parameters, strict=True):
            np.testing.assert_array_equal(p.data, q.data)


def test_an_operation_without_compiled_code_or_a_form_in_onnx_is_refused_there(monkeypatch, tmp_path):
    """It is built in all the same: as the next one will be, before it has either."""
    pytest.importorskip("onnx")

    class Subtract(BuiltInOperation):
        name = "subtract"
        arity = 2

        def forward(self, a, b):
            return a - b

        def backward(self, grad, a, b):
            return grad, -grad

    monkeypatch.setitem(BUILT_IN, "subtract", Subtract)
    g = Graph()
    x = g.input(4)
    net = g.net(g.linear(g.apply("subtract", g.linear(x, 4, bias=False), x), 2, bias=False), rng=0, backend="numpy")
    x = np.random.default_rng(0).normal(size=(7, 4))
    first, last = (p.data for p in net.parameters)
    np.testing.assert_allclose(net(x), (x @ first.T - x) @ last.T, rtol=1e-12)
    assert "not fused: node" in str(net.plan(x))
    net.save(tmp_path / "net.safetensors")
    assert load(tmp_path / "net.safetensors", backend="numpy").loss_and_grad(x) == net.loss_and_grad(x)
    with pytest.raises(TypeError, match=r"has no form in ONNX here: Subtract\(\)"):
        to_onnx(net, tmp_path / "net.onnx")
