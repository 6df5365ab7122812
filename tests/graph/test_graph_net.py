"""Nets that are graphs: calls, engines, signals, devices of numbers, and what they refuse."""

import copy
import pickle

import numpy as np
import pytest
from graphs import arrays, descriptions, in_torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import GraphNet, Loss, Net
from backprop_xp.graph import Input, Linear, Residual

TWO = {
    "x": Input(3), "z": Input(2), "h": (Linear(2), "x"), "a": ("tanh", "h"), "m": ("multiply", "a", "z"),
    "d": ("dropout", "m"), "c": ("concatenate", "d", "x"), "n": ("layer_norm", "c"), "y": (Linear(4), "n"),
}  # fmt: skip


def two(**options):
    return GraphNet(TWO, **{"rng": 0, "loss": "mse"} | options)


@settings(deadline=None, max_examples=15)
@given(descriptions(), st.sampled_from(["float32", "float64"]), st.sampled_from([1, 5, 3000]))
def test_tiles_agree_with_the_whole(description, dtype, samples):
    options = {"rng": 0, "init": "glorot_normal", "loss": "mse", "reduction": "mean", "dtype": dtype}
    whole, tiles = (GraphNet(description, engine=engine, **options) for engine in ("layered", "tiled"))
    x, y = arrays(whole, samples)
    weight = np.random.default_rng(1).uniform(0.5, 2, samples)
    tolerance = 2e-4 if dtype == "float32" else 1e-10
    results = [net.loss_and_grad(x, y, sample_weight=weight, input_grad=True) for net in (whole, tiles)]
    for a, b in zip(*[[loss, *(grads.values() if isinstance(grads, dict) else [grads]), *(t.grad for t in net.parameters)]
                      for (loss, grads), net in zip(results, (whole, tiles))]):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(a).max()))
    np.testing.assert_allclose(whole.forward(x), tiles.forward(x), rtol=tolerance, atol=tolerance)


def test_the_same_bits_for_any_number_of_threads():
    x, y = arrays(two(), 20_000)
    found = []
    for threads in (1, 2, 3):
        net = two(engine="tiled", threads=threads, dtype="float32")
        found.append([net.loss_and_grad(x, y), *(t.grad for t in net.parameters)])
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


def test_one_sample_is_a_batch_of_one():
    net, batch = two(), two()
    x, y = arrays(net, 1)
    loss, grads = net.loss_and_grad({name: a[0] for name, a in x.items()}, y[0], input_grad=True)
    assert loss == pytest.approx(batch.loss_and_grad(x, y), rel=1e-12)
    assert grads["x"].shape == (3,)
    assert net.signals["c"].data.shape == net.signals["c"].grad.shape == (5,)
    for a, b in zip(net.parameters, batch.parameters):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    assert net.forward({name: a[0] for name, a in x.items()}).shape == (4,)


def test_backward_starts_from_kept_signals():
    net, once = two(), two()
    x, y = arrays(net, 5)
    once.loss_and_grad(x, y)
    output = net.forward(x, keep_signals=True, training=True)
    grads = net.backward(2 * (output - y), input_grad=True)
    assert grads.keys() == {"x", "z"}
    for a, b in zip(net.parameters, once.parameters):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    before = net.tensors["y.weight"].grad
    net.backward(2 * (output - y), accumulate=True)
    np.testing.assert_allclose(net.tensors["y.weight"].grad, 2 * before)
    with pytest.raises(ValueError, match="grad_output must have the shape"):
        net.backward(output[:2])
    net.forward(x)
    with pytest.raises(RuntimeError, match="no signals are kept"):
        net.backward(output)


def test_kept_signals_are_every_nodes():
    net = two()
    x, y = arrays(net, 5)
    net.loss_and_grad(x, y, keep_signals=True)
    for node in net.nodes:
        assert net.signals[node.name].data.shape == (5, node.width)
        wanted = node.name not in x
        assert (net.signals[node.name].grad is not None) == wanted
    net.loss_and_grad(x, y)
    assert net.signals["y"].data is None


def test_losses_targets_weights_and_reductions_are_those_of_a_net():
    graph = GraphNet({"x": Input(3), "t": (Linear(4), "x")}, rng=0, loss="softmax_cross_entropy", reduction="mean")
    net = Net((3, 4), ("identity",), "softmax_cross_entropy", True, rng=0, reduction="mean")
    random = np.random.default_rng(0)
    x, y, weight = random.normal(size=(6, 3)), random.integers(0, 4, 6), random.uniform(size=6)
    assert graph.loss_and_grad(x, y, sample_weight=weight) == net.loss_and_grad(x, y, sample_weight=weight)
    assert graph.loss_and_grad(x[0], y[0]) == pytest.approx(net.loss_and_grad(x[0], y[0]))
    with pytest.raises(ValueError, match="class indices must be from 0 to 3"):
        graph.loss_and_grad(x, y + 4)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(6,\)"):
        graph.loss_and_grad(x, y, sample_weight=weight[:2])
    assert len(net.parameters) == len(graph.parameters) == 2


class Cubed(Loss):
    needs_target = False
    scope = "sample"

    def __call__(self, z):
        return (z**3).sum()

    def grad(self, z):
        return 3 * z**2


@pytest.mark.parametrize("engine", ["auto", "layered", "tiled"])
def test_a_loss_of_the_users(engine):
    net = GraphNet({"x": Input(3), "t": (Linear(4), "x")}, rng=0, loss=Cubed(), engine=engine)
    x = np.ones((5, 3))
    assert net.loss_and_grad(x) == pytest.approx(float((net.forward(x) ** 3).sum()))


@pytest.mark.parametrize("samples", [0, 1, 1023, 1025])
def test_every_batch_size(samples, engine):
    net = two(engine=engine)
    x, y = arrays(net, samples)
    expected, output, gradients = in_torch(net, x, y)
    assert net.loss_and_grad(x, y, training=False) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(net.forward(x), output, rtol=1e-9, atol=1e-12)
    for name, tensor in net.tensors.items():
        np.testing.assert_allclose(tensor.grad, gradients[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 3)), TypeError, "the inputs are 'x', 'z': x must map their names to arrays"),
        ({"x": np.ones((2, 3))}, ValueError, "x must hold the inputs 'x', 'z', got 'x'"),
        ({"x": np.ones((2, 3)), "z": np.ones((3, 2))}, ValueError, r"equally many samples, got 'x' \(2, 3\), 'z' \(3, 2\)"),
        ({"x": np.ones(3), "z": np.ones((3, 2))}, ValueError, "equally many samples"),
        ({"x": np.ones((2, 4)), "z": np.ones((2, 2))}, ValueError, "input 'x' must have 3 features, got 4"),
    ],
)  # fmt: skip
def test_inputs_are_checked(x, error, message):
    with pytest.raises(error, match=message):
        two().forward(x)


def test_what_the_user_does_to_parameters_is_seen_and_checked():
    net = two()
    x, y = arrays(net, 5)
    before = net.loss_and_grad(x, y, training=False)
    net.tensors["h.weight"].data[0, 0] += 1
    assert net.loss_and_grad(x, y, training=False) != before
    net.tensors["h.weight"].data = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"tensors\['h.weight'\].data must have shape \(2, 3\), got \(2, 2\)"):
        net.forward(x)


def test_initialisers_and_their_mistakes():
    net = two(init=lambda rng, shape: np.full(shape, 0.5))
    assert (net.tensors["h.weight"].data == 0.5).all()
    assert (net.tensors["n.gain"].data == 1).all()
    with pytest.raises(ValueError, match=r"the initialiser must return shape \(2, 3\), got \(3,\)"):
        two(init=lambda rng, shape: np.ones(3))


def test_copies_are_independent_and_equal():
    net = two()
    x, y = arrays(net, 5)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.loss_and_grad(x, y) == two().loss_and_grad(x, y)
        other.tensors["h.weight"].data[:] = 0
    assert net.loss_and_grad(x, y) == two().loss_and_grad(x, y)


def test_gradients_that_were_handed_out_stay_as_they_are():
    net = two()
    x, y = arrays(net, 5)
    net.loss_and_grad(x, y, training=False)
    first = net.tensors["h.weight"].grad
    kept = first.copy()
    net.loss_and_grad(x, y, training=False, accumulate=True)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(net.tensors["h.weight"].grad, 2 * kept)


def test_plan_and_repr_say_what_is_there():
    net = GraphNet({"x": Input(8), "y": (Residual(Linear(8), "tanh"), "x")}, rng=0, engine="tiled")
    plan = net.plan(np.ones((10, 8)))
    assert plan.engine == "tiled"
    assert plan.flops == 2 * 10 * 2 * 64  # nothing is asked about x
    assert repr(net) == "GraphNet(x 8 -> y 8, 4 nodes, half_sum_sq, float64, numpy)"


def test_an_engine_of_chains_alone_is_refused():
    net = two(engine="cooperative")
    with pytest.raises(ValueError, match="the cooperative engine can't run this call: it runs on a CUDA device"):
        net.forward(arrays(net, 3)[0])
