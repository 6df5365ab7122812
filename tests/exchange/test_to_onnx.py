"""ONNX files, run by onnxruntime: the outputs are the net's."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx

from backprop_xp import ACTIVATIONS, Activation, Elementwise, Net
from backprop_xp.exchange import to_onnx
from backprop_xp.exchange.to_onnx import COMPOSED, DIRECT, OPERATORS
from backprop_xp.formulas.language import FUNCTIONS
from backprop_xp.graph import GraphNet
from backprop_xp.operations import Dropout, Input, LayerNorm, Linear, Operation, Residual

TOLERANCE = {"float32": 1e-5, "float64": 1e-14}


@pytest.fixture
def run(tmp_path):
    runtime = pytest.importorskip("onnxruntime")

    def run(net, x, **more):
        to_onnx(net, tmp_path / "net.onnx")
        session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x} | more)[0]

    return run


def points(dtype):
    """A sweep, fine near zero, as a batch of one feature."""
    t = np.concatenate([np.linspace(-12, 12, 401), np.logspace(-7, 2, 60), -np.logspace(-7, 2, 60), [0.0]])
    return t.astype(dtype)[:, None]


def through_identity(f, dtype):
    """A net that is f alone."""
    net = Net((1, 1), (f,), dtype=dtype, rng=0, engine="layered")  # nothing to compile
    net.weights[0].data[:] = 1
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name, dtype, run):
    net, x = through_identity(ACTIVATIONS[name](), dtype), points(dtype)
    got = run(net, x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, net(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name, params",
    [
        ("leaky_relu", {"negative_slope": 0.3}), ("elu", {"alpha": 0.7}), ("celu", {"alpha": 2.0}),
        ("softplus", {"beta": 3.0, "threshold": 5.0}), ("hard_tanh", {"min_val": -2.0, "max_val": 0.5}),
    ],
)  # fmt: skip
def test_parameters(name, params, dtype, run):
    net, x = through_identity(ACTIVATIONS[name](**params), dtype), points(dtype)
    np.testing.assert_allclose(run(net, x), net(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(OPERATORS)))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formulas_keep_their_limits(name, dtype, run):
    net, x = through_identity(ACTIVATIONS[name](), dtype), np.array([[np.inf], [-np.inf], [np.nan]], dtype)
    np.testing.assert_allclose(run(net, x), ACTIVATIONS[name]()(x), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "text",
    ["erf(t)", "normal_cdf(t)", "normal_pdf(t)", "expm1(t / 9)", "log1p(abs(t) / 9)", "where(t != 0, sign(t) / 7, 2)",
     "sqrt(abs(t)) - log(1 + t * t) * w", "clip(-t, -w, 2 * w) + sigmoid(t) ** 3"],
)  # fmt: skip
def test_your_formulas(text, dtype, run):
    net, x = through_identity(Elementwise("own", text, grad="1", params={"w": 1.7}), dtype), points(dtype)
    np.testing.assert_allclose(run(net, x), net(x), rtol=10 * TOLERANCE[dtype], atol=1e-30)


def test_the_language_is_covered():
    assert set(FUNCTIONS) <= set(DIRECT) | set(COMPOSED)
    assert set(OPERATORS) <= set(ACTIVATIONS)


@pytest.mark.parametrize("bias", [False, True])
def test_a_chain_of_any_batch_size(bias, run, random):
    net = Net((4, 6, 5, 3), ("relu", "gelu", "identity"), "softmax_cross_entropy", bias, "float32", 0, engine="layered")
    for b in net.biases:
        b.data[:] = random.normal(size=b.data.shape)
    for n in (1, 33):
        x = random.normal(size=(n, 4)).astype("float32")
        np.testing.assert_allclose(run(net, x), net(x), rtol=1e-4, atol=1e-5)


def test_the_file(tmp_path):
    path = tmp_path / "net.onnx"
    to_onnx(Net((4, 6, 3), ("relu", "tanh"), bias=True, dtype="float32", rng=0), path)
    graph = onnx.load(path).graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm", "Tanh", "Identity"]
    assert sorted(array.name for array in graph.initializer) == ["W0", "W1", "b0", "b1"]
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == ["n", 4]
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_graph(dtype, run, random):
    nodes = {
        "x": Input(4), "h.weight": Input(4), "v0": Input(3),  # names that the file's own must not clash with
        "h": (Linear(4), "x"), "k": (Linear(4, share="h"), "h"), "f": ("mish", "k"), "n": (LayerNorm(1e-3), "f"),
        "d": (Dropout(0.5), "n"), "s": ("add", "d", "h.weight", "x"), "p": ("multiply", "s", "f"),
        "r": (Residual(Linear(4), "tanh"), "p"), "c": ("concatenate", "r", "v0"), "y": (Linear(2, bias=False), "c"),
    }  # fmt: skip
    net = GraphNet(nodes, dtype=dtype, rng=0, backend="numpy", engine="layered")
    for tensor in net.parameters:
        tensor.data = tensor.data + random.normal(size=tensor.data.shape).astype(dtype)
    feeds = {name: random.normal(size=(7, width)).astype(dtype) for name, width in net.inputs.items()}
    tolerance = 1e-4 if dtype == "float32" else 1e-9  # ONNX has the eps of a layer_norm in float32
    np.testing.assert_allclose(run(net, **feeds), net(feeds), rtol=tolerance, atol=tolerance)


def test_graphs_that_are_no_file(tmp_path):
    class Twice(Operation):
        name = "twice"

    with pytest.raises(TypeError, match=r"node 'y' is code, Twice\(\); ONNX takes built-in operations"):
        to_onnx(GraphNet({"x": Input(2), "y": (Twice(), "x")}, backend="numpy"), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="output is its input 'x'"):
        to_onnx(GraphNet({"x": Input(2)}, backend="numpy"), tmp_path / "net.onnx")
    with pytest.raises(TypeError, match="takes a Net or a GraphNet, got int"):
        to_onnx(1, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_code_is_refused(tmp_path):
    class Cube(Activation):
        pass

    with pytest.raises(TypeError, match="the activation Cube is code, of which ONNX has no form: write it as a"):
        to_onnx(Net((2, 2), (Cube(),)), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"backprop-xp\[exchange\]"):
        to_onnx(Net((2, 2)), tmp_path / "net.onnx")


@pytest.mark.gpu
def test_a_net_on_a_device(run):
    pytest.importorskip("cupy")
    net, x = Net((3, 4, 2), rng=0, backend="cupy", bias=True), np.ones((5, 3))
    np.testing.assert_allclose(run(net, x), net(x).get(), rtol=1e-12)
