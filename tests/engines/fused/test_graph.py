"""Graphs in one compiled pass: the same numbers as layer by layer, the same bits for any number of threads."""

import numpy as np
import pytest
from graphs import arrays, descriptions
from here import failing_compiler, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from own import Doubled

from backprop_xp import Graph, GraphNet, Net
from backprop_xp.engines import tiled
from backprop_xp.graph import Dropout, Input, LayerNorm, Linear, Residual
from backprop_xp.programs import graph, narrow
from backprop_xp.toolchain import cache, compiler

pytestmark = [needs_compiler, pytest.mark.filterwarnings("error:running without compiled kernels")]

#: Every operation, widths that fill registers and that don't, values used more than once, pieces of pieces.
EVERYTHING = {
    "x": Input(5), "z": Input(16),
    "a": (Linear(16), "x"), "b": ("tanh", "a"), "c": ("add", "b", "z", "b"),
    "d": ("concatenate", "x", "c", "x"), "e": ("concatenate", "d", "a"), "f": (Linear(7, bias=False), "e"),
    "g": ("concatenate", "f", "x"), "h": ("gelu", "g"), "i": (LayerNorm(), "h"), "j": (Dropout(0.3), "i"),
    "k": ("multiply", "j", "j", "g"), "l": (Linear(16, share="a"), "x"), "m": (Residual(Linear(16), "relu"), "l"),
    "n": ("multiply", "m", "c"), "o": ("concatenate", "k", "n", "f"), "p": ("identity", "o"), "q": (Linear(33), "p"),
    "r": ("softplus", "q"), "s": (Linear(33), "r"), "t": ("add", "s", "q"), "u": ("silu", "t"),
}  # fmt: skip

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def both(description, **options):
    given = {"rng": 0, "init": "glorot_normal", "loss": "mse"}
    return [GraphNet(description, engine=engine, **given | options) for engine in ("layered", "fused")]


def assert_agree(nets, x, y, **call):
    tolerance = TOLERANCE[nets[0].dtype.name]
    found = []
    for net in nets:
        loss = net.loss_and_grad(x, y, **call)
        loss, grads = loss if call.get("input_grad") else (loss, {})
        grads = grads if isinstance(grads, dict) else {"x0": grads}
        tensors = {name: tensor.grad for name, tensor in net.tensors.items()}
        found.append({"the loss": loss, "the output": net.forward(x)} | grads | tensors)
    for name, expected in found[0].items():
        scale = max(1e-3, np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(found[1][name], expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)
        assert found[1][name].dtype == nets[0].dtype


@settings(max_examples=12)
@given(descriptions(), st.sampled_from([1, 5, 700]), st.booleans(), st.booleans())
def test_random_graphs(description, samples, input_grad, training):
    nets = both(description)
    assert_agree(nets, *arrays(nets[0], samples), input_grad=input_grad, training=training)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [1, 6, 479, 481, 5000])
def test_every_operation_and_every_batch_size(dtype, samples):
    nets = both(EVERYTHING, dtype=dtype, reduction="mean")
    x, y = arrays(nets[0], samples)
    weight = np.random.default_rng(1).uniform(0.5, 2, samples)
    assert_agree(nets, x, y, sample_weight=weight, input_grad=True)


def test_arrays_of_any_strides():
    nets = both(EVERYTHING)
    x, y = arrays(nets[0], 100)
    assert_agree(nets, {"x": x["x"][::-2], "z": np.asfortranarray(x["z"])[::2]}, y[1::2], input_grad=True)


def test_the_same_bits_for_any_number_of_threads_and_any_time():
    x, y = arrays(both(EVERYTHING)[0], 20_000)
    found = []
    for threads in (1, 2, 5, 1):
        net = both(EVERYTHING, threads=threads, dtype="float32")[1]
        found.append([net.loss_and_grad(x, y), net.forward(x), *(t.grad for t in net.parameters)])
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "huber", "half_sum_sq"])
def test_losses(loss):
    nets = both({"x": Input(9), "y": (Residual(Linear(9), "tanh"), "x")}, loss=loss, reduction="mean")
    random = np.random.default_rng(0)
    x = random.normal(size=(700, 9))
    y = {"softmax_cross_entropy": random.integers(0, 9, 700), "huber": x[::-1], "half_sum_sq": None}[loss]
    assert_agree(nets, x, y)


def test_parameters_of_activations_are_read_at_each_call():
    from backprop_xp import LeakyReLU

    steep = LeakyReLU(negative_slope=0.3)
    nets = both({"x": Input(9), "y": (Residual(Linear(9), steep), "x")})
    x, y = arrays(nets[0], 50)
    assert_agree(nets, x, y)
    steep.negative_slope = 0.7
    assert_agree(nets, x, y)


def test_two_graphs_of_one_form_with_other_names_and_other_sharing():
    g = Graph()
    x = g.input(4, name="in")
    h = g.linear(x, 4, name="first")
    other = g.net(g.linear(g.apply("tanh", h + x, name="act"), 4, share=h, name="second"), rng=1, loss="mse")
    same = both(
        {"x": Input(4), "h": (Linear(4), "x"), "s": ("add", "h", "x"), "a": ("tanh", "s"), "y": (Linear(4), "a")}
    )
    x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
    assert_agree(same, x, y)
    other.engine = "fused"
    fused = [other.loss_and_grad(x, y), *(t.grad for t in other.parameters)]
    other.engine = "layered"
    for a, b in zip(fused, [other.loss_and_grad(x, y), *(t.grad for t in other.parameters)]):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_infinities_and_nan_go_through_and_stay_in_their_sample():
    nets = both({"x": Input(3), "a": (Linear(3), "x"), "r": ("relu", "a"), "y": ("add", "r", "x")})
    x, y = arrays(nets[0], 5)
    x["x"][1], x["x"][3] = np.nan, np.inf
    layered, fused = (net.forward(x) for net in nets)
    np.testing.assert_array_equal(np.isnan(fused), np.isnan(layered))
    np.testing.assert_allclose(fused, layered, equal_nan=True)
    losses = [net.loss_and_grad(x, y) for net in nets]
    assert np.isnan(losses).all()
    assert all(np.isnan(net.tensors["a.weight"].grad).any() for net in nets)


def test_a_graph_that_is_a_chain_is_run_as_the_net_that_it_is():
    net = Net((5, 10, 4), ("tanh", "sigmoid"), bias=True, rng=0, engine="fused")
    g = Graph()
    graph = g.net(g.chain(g.input(5), Linear(10), "tanh", Linear(4), "sigmoid"), rng=0, engine="fused")
    x = np.random.default_rng(0).normal(size=(5000, 5))
    assert graph.loss_and_grad(x) == net.loss_and_grad(x)
    for tensor, other in zip(graph.parameters, [t for pair in zip(net.weights, net.biases) for t in pair]):
        np.testing.assert_array_equal(tensor.grad, other.grad)
    np.testing.assert_array_equal(graph(x), net(x))


def test_what_it_refuses_runs_on_tiles():
    x = np.ones((5, 3))
    mine = GraphNet({"x": Input(3), "y": (Linear(3), "x"), "mine": (Doubled(), "y")}, rng=0)
    assert mine.plan(x).engine == "tiled"
    assert "node 'mine' is written in Python" in mine.plan(x).reason
    mine.engine = "fused"
    with pytest.raises(ValueError, match="the fused engine can't run this call: node 'mine' is written in Python"):
        mine.loss_and_grad(x)
    vast = GraphNet({"x": Input(3), "y": (Residual(Linear(9000), "tanh", Linear(3)), "x")}, rng=0)
    assert "the nodes are together wider than 8192" in vast.plan(x).reason
    narrow = GraphNet({"x": Input(3), "y": (Residual(Linear(5), "tanh", Linear(3)), "x")}, rng=0)
    assert narrow.plan(x).engine == "fused"


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_on_processors_with_narrower_registers(width, dtype, monkeypatch, new_functions):
    monkeypatch.setenv("CXX", f"{' '.join(compiler.find().command)} -DBPX_VECTOR_BYTES={width}")
    for module, name in ((cache, "_loaded"), (graph, "_programs"), (narrow, "_programs")):
        monkeypatch.setattr(module, name, {})  # what was compiled for the registers of this one
    nets = both(EVERYTHING, dtype=dtype)
    assert_agree(nets, *arrays(nets[0], 100), input_grad=True)
    wide = [
        Net((64, 64, 10), rng=0, engine=engine, dtype=dtype, init="glorot_normal") for engine in ("layered", "fused")
    ]
    x = np.random.default_rng(0).normal(size=(500, 64))
    for net in wide:
        net.loss_and_grad(x)
    scale = np.abs(wide[0].weights[0].grad).max()
    for expected, got in zip(wide[0].weights, wide[1].weights):
        np.testing.assert_allclose(got.grad, expected.grad, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


def test_without_a_compiler_it_runs_on_tiles(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    net = GraphNet({"x": Input(3), "y": (Residual(Linear(3), "tanh"), "x")}, rng=0)
    for rows, engine in ((tiled.MOST_ROWS + 1, "tiled"), (tiled.MOST_ROWS, "layered")):
        plan = net.plan(np.ones((rows, 3)))
        assert plan.engine == engine
        assert "no C++ compiler was found" in plan.reason
    assert "not tiled: the batch is one tile" in plan.reason


@pytest.mark.filterwarnings("default:running without compiled kernels")
def test_a_compiler_that_fails_leaves_tiles(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", failing_compiler(tmp_path))
    nets = both({"x": Input(3), "y": (Residual(Linear(3), "tanh", Linear(3)), "x")})
    graph._programs.clear()
    with pytest.warns(UserWarning, match="error: broken"):
        assert_agree(nets, *arrays(nets[0], 20))
