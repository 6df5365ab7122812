"""How large signals and gradients are, as numbers, as a sentence, and drawn."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from backprop_xp import BatchNorm, Dropout, Graph, Net
from backprop_xp.pictures import GradientFlow

OPTIONS = {"backend": "numpy", "bias": True, "rng": 0, "reduction": "mean"}


def deep(activation, init, depth=12, backend="numpy"):
    options = OPTIONS | {"backend": backend, "loss": "mse", "init": init}
    return Net((4, *(20,) * depth, 2), (activation,) * depth + (None,), **options)


def batch(random):
    return random.normal(size=(30, 4)), random.normal(size=(30, 2))


def rms(array):
    return np.sqrt(np.mean(np.square(array)))


def test_sizes_are_those_of_the_signals_that_a_call_keeps(random):
    net, (x, y) = deep("tanh", "glorot_uniform", 2), batch(random)
    flow = GradientFlow(net, x, y)
    assert all(w.grad is None for w in net.parameters) and net.linear_outputs[0].grad is None
    _, grad = net.loss_and_grad(x, y, keep_signals=True, input_grad=True)
    assert flow.nodes == ["x", "t0", "z0", "t1", "z1", "t2", "z2"] and flow.epochs == [0]
    signals = [s for pair in zip(net.linear_outputs, net.nonlinear_outputs) for s in pair]
    np.testing.assert_allclose(flow.signals[0], [rms(x), *(rms(s.data) for s in signals)], rtol=1e-12)
    np.testing.assert_allclose(flow.gradients[0], [rms(grad), *(rms(s.grad) for s in signals)], rtol=1e-12)
    assert flow.left == pytest.approx(rms(signals[0].grad) / rms(signals[-1].grad))


def test_every_epoch_of_a_run_and_every_call(random):
    net, (x, y) = deep("tanh", "glorot_uniform", 2), batch(random)
    alone = deep("tanh", "glorot_uniform", 2)
    flow = GradientFlow(net, x, y)
    history = net.fit(x, y, epochs=3, callbacks=[flow], seed=1)
    assert flow.epochs == [0, 1, 2, 3] and flow.signals.shape == flow.gradients.shape == (4, 7)
    assert not history.stopped and (flow.gradients[0] != flow.gradients[-1]).all()
    np.testing.assert_array_equal(flow.gradients[-1], GradientFlow(net, x, y).gradients[0])
    alone.fit(x, y, epochs=3, seed=1)  # looking changes nothing
    for ours, theirs in zip(net.parameters, alone.parameters):
        np.testing.assert_array_equal(ours.data, theirs.data)
    flow(net)
    assert flow.epochs[-1] == 4
    with pytest.raises(ValueError, match="the net must have the nodes x, t0, z0, t1, z1, t2, z2, got x, t0"):
        flow(deep("tanh", "glorot_uniform", 1))


@pytest.mark.parametrize(("activation", "init", "said"), [
    ("sigmoid", "glorot_uniform", "gradients vanish: t_0 has "),
    ("relu", "normal", "gradients explode: t_0 has "),
    ("tanh", "glorot_uniform", "gradients arrive: t_0 has "),
])  # fmt: skip
def test_vanishing_and_exploding_are_said(activation, init, said, random):
    flow = GradientFlow(deep(activation, init), *batch(random))
    assert flow.verdict.startswith(said) and flow.verdict.endswith(" times that of z_12")
    assert str(flow).splitlines()[-1] == flow.verdict and len(str(flow).splitlines()) == 2 + len(flow.nodes)
    assert repr(flow) == f"GradientFlow(27 nodes, 1 look, {flow.verdict})"


def test_what_is_no_size_is_said_and_drawn(random, pyplot):
    x, y = batch(random)
    dead = deep("relu", "he_normal", 3)
    dead.biases[1].data[:] = -1e9
    flow = GradientFlow(dead, x, y)
    assert flow.verdict == "no gradient arrives in t_0"
    axes = flow.plot()
    assert [text.get_text() for text in axes[0].texts] == ["0"] * 5  # from z1 on, as biases are 0
    assert len(axes[1].texts) == 6  # in all but z2 and what is above
    infinite = deep("identity", "glorot_uniform", 3)
    infinite.weights[1].data[0, 0] = np.inf
    with np.errstate(all="ignore"):
        flow = GradientFlow(infinite, x, y)
    assert flow.verdict == "the signal is not finite from t_1 on"
    assert {text.get_text() for text in flow.plot()[0].texts} <= {"inf", "nan"}
    still = deep("tanh", "normal", 1)
    still.weights[-1].data[:] = 0
    right = GradientFlow(still, x, np.zeros((30, 2)))
    assert right.verdict == "the gradient in z_1 is 0"
    right.plot()[0].figure.canvas.draw()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    net = Net((2, 2), ("identity",), rng=0, backend="numpy")
    x = np.full((3, 2), scale)
    assert GradientFlow(net, x * 1e-100 if scale > 1 else x).signals[0, 0] > 0
    with np.errstate(over="ignore"):
        assert GradientFlow(net, x).signals[0, 0] == pytest.approx(scale)


def test_graphs_normalisation_and_dropout(random, pyplot):
    g = Graph()
    h = g.input(4, "a name that is long, with a $ in it")
    for _ in range(3):
        h = g.apply("relu", g.linear(h, 4)) + h
    net = g.net(g.linear(h, 2), loss="softmax_cross_entropy", rng=0, backend="numpy")
    flow = GradientFlow(net, random.normal(size=(9, 4)), np.arange(9) % 2)
    assert flow.first == next(n.name for n in net._plan().nodes if n.operation.name == "linear")
    flow.plot()[0].figure.canvas.draw()
    net = Net((4, 8, 2), [[BatchNorm(), "relu", Dropout(0.5)], None], **OPTIONS)
    running = {name: tensor.data.copy() for name, tensor in net.buffers.items()}
    GradientFlow(net, random.normal(size=(9, 4)))(net)
    assert net.draws == 0
    for name, tensor in net.buffers.items():
        np.testing.assert_array_equal(tensor.data, running[name])


def test_a_line_for_every_look(random, pyplot, tmp_path):
    net, (x, y) = deep("tanh", "glorot_uniform", 2), batch(random)
    flow = GradientFlow(net, x, y)
    one = flow.plot()
    assert len(one[0].figure.axes) == 2 and [len(each.get_lines()) for each in one] == [1, 1]
    net.fit(x, y, epochs=2, callbacks=[flow])
    axes = flow.plot()
    assert len(axes[0].figure.axes) == 3  # and the bar of colours
    for each, sizes in zip(axes, (flow.signals, flow.gradients)):
        assert each.get_yscale() == "log"
        low, high = each.get_ylim()
        assert high / low > 99  # what is nearly alike looks so
        np.testing.assert_array_equal([line.get_ydata() for line in each.get_lines()], sizes)
        symbols = ["x", *(f"{name[0]}_{name[1:]}" for name in flow.nodes[1:])]
        assert [label.get_text() for label in each.get_xticklabels()] == symbols
    assert flow.verdict in axes[1].get_title()
    given = pyplot.subplots(1, 2)[1]
    assert flow.plot(given) is given
    for kind in ("svg", "png"):
        axes[0].figure.savefig(tmp_path / f"flow.{kind}")
        assert (tmp_path / f"flow.{kind}").stat().st_size > 1000


def test_one_sample(random):
    flow = GradientFlow(Net(rng=0, backend="numpy"), np.ones(5))
    assert flow.signals.shape == (1, 7) and flow.signals[0, 0] == 1


def test_without_matplotlib(random, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"a gradient flow needs matplotlib: pip install 'backprop-xp\[data\]'"):
        GradientFlow(Net(rng=0, backend="numpy"), np.ones(5)).plot()


@pytest.mark.gpu
def test_on_a_device(random):
    x, y = batch(random)
    there = GradientFlow(deep("tanh", "glorot_uniform", 2, "cupy"), x, y)
    here = GradientFlow(deep("tanh", "glorot_uniform", 2), x, y)
    np.testing.assert_allclose(there.gradients, here.gradients, rtol=1e-9)
